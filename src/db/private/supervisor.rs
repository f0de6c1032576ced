//! Starts Postgres until it answers, and again whenever it dies, until it is told to stop.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::postmaster::{Postmaster, end_leftovers};
use super::{DbError, ROLE};

/// How long Postgres may take until it answers; recovery after a crash replays its log.
const READY_WITHIN: Duration = Duration::from_secs(60);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Starts Postgres and waits until our database in it answers.
pub(super) async fn start(cluster: &Cluster) -> Result<Postmaster, DbError> {
    end_leftovers(&cluster.path()).await?;
    let mut postmaster = Postmaster::spawn(cluster)?;
    match timeout(READY_WITHIN, ready(cluster, &mut postmaster)).await {
        Ok(Ok(())) => Ok(postmaster),
        Ok(Err(error)) => {
            postmaster.stop().await;
            Err(error)
        }
        Err(_) => {
            postmaster.stop().await;
            let reason = format!("no answer within {} seconds", READY_WITHIN.as_secs());
            Err(DbError::NotStarted { reason, log: cluster.log_tail() })
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
async fn ready(cluster: &Cluster, postmaster: &mut Postmaster) -> Result<(), DbError> {
    let maintenance = cluster.connect_options("postgres");
    let mut connection = loop {
        match PgConnection::connect_with(&maintenance).await {
            Ok(connection) => break connection,
            Err(_) => sleep(Duration::from_millis(25)).await,
        }
        if let Some(end) = postmaster.has_ended().await {
            return Err(DbError::NotStarted { reason: end, log: cluster.log_tail() });
        }
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
