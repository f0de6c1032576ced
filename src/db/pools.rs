//! The connections of a process.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::{DbError, check};

/// A connection that was idle for longer is asked whether it still works before it is used: less than a server that
/// died needs to come back, so that nobody gets a connection to the one before.
const TRUSTED_IDLE: Duration = Duration::from_millis(50);

/// Connections of [`Pools::beside`]: as many as its users hold at once, so that none of them waits for another.
///
/// - 4 listen: for jobs, for models, and for changes of the templates of two models, that which serves and that which is
///   about to take its place;
/// - 2 read those templates;
/// - 4 hold a [`Turn`](crate::gallery::Turn) each;
/// - 6 are for a job in each of three [lanes](crate::jobs::Lane): one renews its lease while another writes.
const BESIDE: u32 = 16;

/// How the pool of the requests behaves; the time-out is that of the other pool as well.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Connections at most; the private Postgres allows 100 in all.
    pub max_connections: u32,
    /// How long a caller waits for a connection, at the first check as well, before [`DbError::Unavailable`].
    pub acquire_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { max_connections: 16, acquire_timeout: Duration::from_secs(5) }
    }
}

/// Two pools on one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pools {
    pub requests: PgPool,
    /// For what is held for long, and for what must not wait until requests, which may be waiting for it, let go of their
    /// connections.
    pub beside: PgPool,
}

impl Pools {
    /// Checks that the database can serve us (version, encoding, pgvector; creates the extension when it is missing),
    /// then opens pools on it. Does not migrate.
    pub async fn connect(options: PgConnectOptions, settings: PoolSettings) -> Result<Self, DbError> {
        let timeout = settings.acquire_timeout;
        // A connection of its own, because the pool hides why it cannot connect behind a time-out.
        tokio::time::timeout(timeout, check(&options))
            .await
            .map_err(|_| DbError::Unavailable(format!("no answer within {} seconds", timeout.as_secs())))??;
        Ok(Self {
            requests: pool(settings.max_connections, timeout, options.clone()),
            beside: pool(BESIDE, timeout, options),
        })
    }

    /// Waits until all connections are given back, and closes them.
    pub async fn close(&self) {
        tokio::join!(self.requests.close(), self.beside.close());
    }
}

fn pool(connections: u32, acquire_timeout: Duration, options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        // A round trip for each request is much beside a search that takes as long; a connection that was used a
        // moment ago is there.
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        // Galleries differ in size by orders of magnitude, so that a plan for all of them is wrong for most: an index
        // scan for a small one, a parallel scan for one that fills the table.
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::query("set plan_cache_mode = force_custom_plan").execute(connection).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options)
}
