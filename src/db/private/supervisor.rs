//! Starts Postgres until it answers, and again whenever it dies, until it is told to stop.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::postmaster::{Postmaster, end_leftovers, work_of_recovery};
use super::{DbError, ROLE};

/// How long Postgres may go without a sign of progress until it answers. After a crash it replays its log first, which
/// takes as long as there is log.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often is said that it is waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Starts Postgres and waits until our database in it answers.
pub(super) async fn start(cluster: &Cluster) -> Result<Postmaster, DbError> {
    start_patiently(cluster, PATIENCE).await
}

/// As [`start`]; gives up when there was no progress for `patience`.
pub(super) async fn start_patiently(cluster: &Cluster, patience: Duration) -> Result<Postmaster, DbError> {
    end_leftovers(&cluster.path()).await?;
    let mut postmaster = Postmaster::spawn(cluster)?;
    match ready(cluster, &mut postmaster, patience).await {
        Ok(()) => Ok(postmaster),
        Err(error) => {
            postmaster.stop().await;
            Err(error)
        }
    }
}

/// Restarts Postgres, later each time, when it ends without being told to. Owns the cluster and so its lock:
/// nobody else gets the data directory before Postgres has stopped.
pub(super) async fn supervise(cluster: Cluster, postmaster: Postmaster, mut stop: oneshot::Receiver<()>) {
    let mut running = Some(postmaster);
    let mut backoff = BACKOFF_FIRST;
    loop {
        if let Some(mut postmaster) = running.take() {
            let started = Instant::now();
            let end = tokio::select! {
                _ = &mut stop => return postmaster.stop().await,
                end = postmaster.ended() => end,
            };
            if started.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF_FIRST;
            }
            tracing::error!(log = cluster.log_tail(), "the private Postgres died ({end}); starting it again");
        }
        tokio::select! {
            _ = &mut stop => return,
            () = sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
        let restarted = tokio::select! {
            _ = &mut stop => None,
            restarted = start(&cluster) => Some(restarted),
        };
        match restarted {
            Some(Ok(postmaster)) => {
                tracing::info!("the private Postgres answers again");
                running = Some(postmaster);
            }
            Some(Err(error)) => tracing::error!(%error, "the private Postgres cannot be started; trying again"),
            None => {
                // The start was given up half-way; its guard is stopping what it had begun.
                if let Err(error) = end_leftovers(&cluster.path()).await {
                    tracing::error!(%error, "the private Postgres did not stop");
                }
                return;
            }
        }
    }
}

/// Polls until a connection succeeds, then makes sure that our database exists.
async fn ready(cluster: &Cluster, postmaster: &mut Postmaster, patience: Duration) -> Result<(), DbError> {
    let maintenance = cluster.connect_options("postgres");
    let mut wait = Wait::new(patience, Instant::now());
    let mut connection = loop {
        match timeout(patience, PgConnection::connect_with(&maintenance)).await {
            Ok(Ok(connection)) => break connection,
            // Each attempt is a line in its log.
            Ok(Err(_)) | Err(_) => sleep(wait.pause(Instant::now())).await,
        }
        if let Some(end) = postmaster.has_ended().await {
            return Err(DbError::NotStarted { reason: end, log: cluster.log_tail() });
        }
        wait.go_on(Instant::now(), || work_of_recovery(&cluster.path()))
            .map_err(|reason| DbError::NotStarted { reason, log: cluster.log_tail() })?;
    };
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(ROLE)
        .fetch_one(&mut connection)
        .await?;
    if !exists {
        // Not inside initdb: a kill between the two would leave a cluster without its database.
        sqlx::query("create database faceid template template0").execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

/// A wait that lasts for as long as something moves.
struct Wait {
    patience: Duration,
    began: Instant,
    /// What was done when something last moved.
    done: u64,
    moved: Instant,
    looked: Instant,
    said: Instant,
}

impl Wait {
    /// Looks for progress in the time that may pass without any; each costs more than a connection.
    const LOOKS: u32 = 20;

    fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, began: now, done: 0, moved: now, looked: now, said: now }
    }

    /// Until the next attempt: a start takes a fraction of a second, a recovery may take minutes.
    fn pause(&self, now: Instant) -> Duration {
        (now.duration_since(self.began) / 10).clamp(Duration::from_millis(25), Duration::from_millis(500))
    }

    /// `done` says how much has been done so far. An error once nothing has moved for too long.
    fn go_on(&mut self, now: Instant, done: impl FnOnce() -> u64) -> Result<(), String> {
        if now.duration_since(self.looked) >= self.patience / Self::LOOKS {
            self.looked = now;
            let done = done();
            if done != self.done {
                (self.done, self.moved) = (done, self.looked);
            }
        }
        if now.duration_since(self.said) >= SAY_EVERY {
            self.said = now;
            tracing::info!("waiting for the private Postgres, which recovers from its log after it was killed");
        }
        if now.duration_since(self.moved) < self.patience {
            return Ok(());
        }
        Err(format!("no answer, and no progress for {} seconds", self.patience.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lasts_for_as_long_as_something_moves() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut wait = Wait::new(Duration::from_secs(60), began);
        // An hour, in which something happens every 50 seconds.
        for second in (0..3600).step_by(5) {
            wait.go_on(at(second), || 1 + second / 50).unwrap();
        }
        wait.go_on(at(3600), || 73).unwrap();
        wait.go_on(at(3655), || 73).unwrap();
        let gave_up = wait.go_on(at(3661), || 73).unwrap_err();
        assert!(gave_up.contains("no progress for 60 seconds"), "{gave_up}");
        // One that moves after all is waited for on.
        wait.go_on(at(3665), || 74).unwrap();
    }
}
