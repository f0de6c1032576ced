//! Starts Postgres until it answers, and again whenever it dies, until it is told to stop.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::postmaster::{Postmaster, end_leftovers};
use super::{DbError, ROLE};

/// How long Postgres may say nothing until it lets us in. One that says that it is starting is waited for without an end:
/// after a crash it replays its log first, which takes as long as there is log.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// `cannot_connect_now`: it is starting, it recovers, or it does not accept connections yet (PostgreSQL manual, appendix A).
const STARTING: &str = "57P03";

/// How often is said that it is waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Starts Postgres and waits until our database in it answers.
pub(super) async fn start(cluster: &Cluster) -> Result<Postmaster, DbError> {
    start_patiently(cluster, PATIENCE).await
}

/// As [`start`]; gives up when Postgres has said nothing for `patience`.
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
        let attempt = timeout(ATTEMPT.min(patience), PgConnection::connect_with(&maintenance)).await;
        let refusal = match attempt {
            Ok(Ok(connection)) => break connection,
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        if let Some(end) = postmaster.has_ended().await {
            return Err(DbError::NotStarted { reason: end, log: cluster.log_tail() });
        }
        let starts =
            refusal.as_ref().is_some_and(says_that_it_starts) || postmaster.says_that_it_starts(&cluster.path());
        if let Err(silence) = wait.go_on(Instant::now(), starts) {
            let reason = match refusal {
                Some(refusal) => format!("{silence} ({refusal})"),
                None => silence,
            };
            return Err(DbError::NotStarted { reason, log: cluster.log_tail() });
        }
        // Each attempt is a line in its log.
        sleep(wait.pause(Instant::now())).await;
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

/// Whether Postgres refuses a connection because it is starting.
fn says_that_it_starts(refusal: &sqlx::Error) -> bool {
    refusal.as_database_error().is_some_and(|error| error.code().as_deref() == Some(STARTING))
}

/// A wait that lasts for as long as who is waited for says that it is starting.
struct Wait {
    patience: Duration,
    began: Instant,
    /// When it last said so.
    heard: Instant,
    /// When we last said that we wait.
    said: Instant,
}

impl Wait {
    fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, began: now, heard: now, said: now }
    }

    /// Until the next attempt: a start takes a fraction of a second, a recovery may take hours.
    fn pause(&self, now: Instant) -> Duration {
        (now.duration_since(self.began) / 10).clamp(Duration::from_millis(25), Duration::from_millis(500))
    }

    /// `starts`: whether it says now that it is starting. An error once it has not said so for too long.
    fn go_on(&mut self, now: Instant, starts: bool) -> Result<(), String> {
        if starts {
            self.heard = now;
        }
        if now.duration_since(self.said) >= SAY_EVERY {
            self.said = now;
            let seconds = now.duration_since(self.began).as_secs();
            tracing::info!(seconds, "waiting for the private Postgres; after a crash it replays its log first");
        }
        if now.duration_since(self.heard) < self.patience {
            return Ok(());
        }
        Err(format!("it has not answered for {} seconds, nor said that it is starting", self.patience.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lasts_for_as_long_as_it_is_said_to_start() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut wait = Wait::new(Duration::from_secs(60), began);
        // An hour, in which it says so every 50 seconds.
        for second in (0..3600).step_by(5) {
            wait.go_on(at(second), second % 50 == 0).unwrap();
        }
        wait.go_on(at(3600), true).unwrap();
        wait.go_on(at(3655), false).unwrap();
        let gave_up = wait.go_on(at(3661), false).unwrap_err();
        assert!(gave_up.contains("not answered for 60 seconds"), "{gave_up}");
        // One that says so after all is waited for on.
        wait.go_on(at(3665), true).unwrap();
    }
}
