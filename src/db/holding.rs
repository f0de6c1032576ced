//! Waiting for locks without holding a connection that others could use.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use super::{DbError, Pool, Transaction};

/// How long an attempt that is not to wait for locks waits for those of rows, which cannot all be asked for without
/// waiting.
pub(super) const HARDLY: Duration = Duration::from_millis(10);

/// How often whoever waits for a place among the waiting tries again: what others wait for may be something else.
const PAUSE: Duration = Duration::from_millis(200);

/// An error that may say that others hold a lock.
pub trait MayBeLocked {
    /// Whether somebody else holds a lock that was needed.
    fn is_locked(&self) -> bool;
}

impl MayBeLocked for DbError {
    fn is_locked(&self) -> bool {
        matches!(self, Self::Locked(_))
    }
}

impl Pool {
    /// Begins a transaction and has `hold` take its locks in it, by [`Transaction::lock`], [`Transaction::lock_shared`] and
    /// those of rows. The first attempt waits for none: if somebody has one of them, all is rolled back and the connection
    /// given back. Then it is done anew as one of few that wait, a quarter of the connections at most, so that the others
    /// stay free for what waits for nothing.
    ///
    /// `hold` must do nothing that a rollback does not undo. What it found comes with the transaction. Waits for a place,
    /// and then for each lock, for [`PoolSettings::lock_timeout`](super::PoolSettings::lock_timeout) at most.
    pub async fn begin_holding<'h, T, E>(
        &self,
        hold: impl Fn(Transaction) -> BoxFuture<'h, Result<(Transaction, T), E>>,
    ) -> Result<(Transaction, T), E>
    where
        E: From<DbError> + MayBeLocked,
    {
        let mut place = pin!(self.waiters().acquire());
        let patience = self.lock_timeout();
        let deadline = Instant::now() + patience;
        let place = loop {
            let locked = match self.begin_without_waiting().await {
                Ok(transaction) => match hold(transaction).await {
                    Err(error) if error.is_locked() => error,
                    Err(error) => return Err(error),
                    Ok((mut transaction, found)) => {
                        transaction.wait_for_locks().await.map_err(DbError::from)?;
                        return Ok((transaction, found));
                    }
                },
                Err(error) => return Err(DbError::from(error).into()),
            };
            tokio::select! {
                biased;
                place = &mut place => break place,
                () = sleep_until(deadline), if !patience.is_zero() => return Err(locked),
                () = sleep(PAUSE) => {}
            }
        };
        let held = hold(self.begin().await.map_err(DbError::from)?).await;
        // From here on it waits for nobody.
        drop(place);
        held
    }
}
