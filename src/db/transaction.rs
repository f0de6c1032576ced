//! Transactions of the requests, which end with whoever began them: when the caller leaves, the database stops working for
//! it, and only then somebody else gets the connection.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Postgres, Row};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::{DbError, PoolSettings, scope};

#[cfg(test)]
mod tests;

/// How long a statement that nobody waits for may go on before it is cancelled: most are over by then.
const MOMENT: Duration = Duration::from_millis(10);

/// How long a cancelled statement may take to end before its connection is given up.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A transaction of a [`Pool`](super::Pool). Dropped without a commit it is rolled back, and what it is doing is cancelled in
/// the database.
#[derive(Debug)]
pub struct Transaction {
    /// There until the transaction ends.
    connection: Option<PoolConnection<Postgres>>,
    /// The process of Postgres whose statements may be cancelled, once it is known.
    backend: Option<i32>,
    canceller: Canceller,
    /// How long it may wait for a lock from when it may wait; `None`: it may already.
    waits_later: Option<Duration>,
}

impl Transaction {
    /// `begin` is all that it begins with, in SQL. With `waits_later`, that has it wait for no lock.
    pub(super) async fn begin(
        connection: PoolConnection<Postgres>,
        canceller: Canceller,
        begin: String,
        waits_later: Option<Duration>,
    ) -> Result<Self, sqlx::Error> {
        // First of all: a caller who leaves now may leave a transaction behind.
        let mut transaction = Self { connection: Some(connection), backend: None, canceller, waits_later };
        let begin = AssertSqlSafe(format!("{begin}; select pg_backend_pid()"));
        let row = sqlx::raw_sql(begin).fetch_one(&mut *transaction).await?;
        transaction.backend = Some(row.try_get(0)?);
        Ok(transaction)
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.end("commit").await
    }

    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.end("rollback").await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        // What has begun to end is not cancelled.
        self.backend = None;
        self.execute(statement).await?;
        drop(self.connection.take());
        Ok(())
    }

    /// Holds an advisory lock alone until the transaction ends. Waits for it, or is [`DbError::Locked`] at once in
    /// [`Pool::begin_holding`](super::Pool::begin_holding).
    pub async fn lock(&mut self, key: i64) -> Result<(), DbError> {
        match self.waits_later {
            None => Ok(scope::lock(self, key).await?),
            Some(_) => taken(scope::try_lock(self, key).await?),
        }
    }

    /// As [`Self::lock`], but shares it.
    pub async fn lock_shared(&mut self, key: i64) -> Result<(), DbError> {
        match self.waits_later {
            None => Ok(scope::lock_shared(self, key).await?),
            Some(_) => taken(scope::try_lock_shared(self, key).await?),
        }
    }

    /// From here on it waits for locks as others do.
    pub(super) async fn wait_for_locks(&mut self) -> Result<(), sqlx::Error> {
        if let Some(lock_timeout) = self.waits_later.take() {
            let set = format!("set local {}", lock_timeout_is(lock_timeout));
            self.execute(AssertSqlSafe(set)).await?;
        }
        Ok(())
    }
}

fn taken(was_free: bool) -> Result<(), DbError> {
    if was_free { Ok(()) } else { Err(DbError::Locked("an advisory lock is taken".to_owned())) }
}

/// A setting of Postgres, as `set` takes it.
pub(super) fn lock_timeout_is(limit: Duration) -> String {
    format!("lock_timeout = {}", limit.as_millis())
}

/// The settings of the limits, each as `set` takes it.
pub(super) fn limits_are(settings: &PoolSettings) -> [String; 2] {
    let statement_timeout = settings.statement_timeout.as_millis();
    [lock_timeout_is(settings.lock_timeout), format!("statement_timeout = {statement_timeout}")]
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("only its end takes the connection from a transaction")
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("only its end takes the connection from a transaction")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => {
                drop(runtime.spawn(give_back(connection, self.backend, self.canceller.clone())));
            }
            // There is nothing to wait by: the end of the connection ends the transaction.
            Err(_) => drop(connection.detach()),
        }
    }
}

/// Rolls back and gives the connection back to its pool; closes it if that fails.
async fn give_back(mut connection: PoolConnection<Postgres>, backend: Option<i32>, canceller: Canceller) {
    if let Err(error) = roll_back(&mut connection, backend, &canceller).await {
        warn!(%error, "cannot roll back what a caller left behind; closing the connection");
        connection.close_on_drop();
    }
}

async fn roll_back(
    connection: &mut PgConnection,
    backend: Option<i32>,
    canceller: &Canceller,
) -> Result<(), sqlx::Error> {
    match timeout(MOMENT, last_answer(connection)).await {
        Ok(answered) => answered?,
        Err(_) => {
            if let Some(backend) = backend {
                canceller.cancel(backend).await?;
            }
            timeout(LAST_WAIT, last_answer(connection)).await.map_err(|_| still_busy())??;
        }
    }
    // The transaction is open until here, so that even a pooler has given its process to nobody else whom the cancellation
    // could hit. The row shows that this is the answer to this, and not to something that was left behind.
    let ended = sqlx::raw_sql("rollback; select 1").fetch_one(connection);
    timeout(LAST_WAIT, ended).await.map_err(|_| still_busy())?.map(drop)
}

/// Reads and forgets what is still to come for the statement that the caller left.
async fn last_answer(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    loop {
        match connection.ping().await {
            // That of the statement.
            Err(sqlx::Error::Database(_)) => {}
            answered => return answered,
        }
    }
}

fn still_busy() -> sqlx::Error {
    sqlx::Error::Protocol("a cancelled statement does not end".to_owned())
}

/// Cancels statements, by connections that no request can take.
#[derive(Debug, Clone)]
pub(super) struct Canceller {
    beside: PgPool,
    /// One connection is enough, however many callers leave at once.
    turn: Arc<Semaphore>,
}

impl Canceller {
    pub fn new(beside: PgPool) -> Self {
        Self { beside, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Returns when the process has got the signal.
    async fn cancel(&self, backend: i32) -> Result<(), sqlx::Error> {
        // Nobody closes the semaphore.
        let _turn = self.turn.acquire().await;
        sqlx::query("select pg_cancel_backend($1)").bind(backend).execute(&self.beside).await.map(drop)
    }
}
