//! The connections of a process.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, Row};

use super::access::{Access, Way};
use super::check::check;
use super::transaction::limits_are;
use super::{DbError, Notifications, Pool};

/// A connection that was idle for longer is asked whether it still works before it is used: less than a server that
/// died needs to come back, so that nobody gets a connection to the one before.
const TRUSTED_IDLE: Duration = Duration::from_millis(50);

/// Connections of [`Pools::beside`]: as many as its users hold at once, so that none of them waits for another.
///
/// - 1 hears what other servers announce;
/// - 2 read templates: those of the model that serves and of one that is about to take its place;
/// - 10 are for a job in each of the five [lanes](crate::jobs::Lane) whose jobs are worked on as a whole: one renews its lease
///   while another writes;
/// - 3 are for jobs in steps: one works on a step, the others renew leases and say how far the jobs are;
/// - 1 builds and measures an index, 1 reclaims the bytes of what was erased;
/// - 1 asks for a model's dimension, for what others measured, or for keys, now and then;
/// - 2 are for the audit: one writes what was gathered while the other seals;
/// - 1 cancels what requests left behind.
const BESIDE: u32 = 22;

/// Connections that the check opens one after the other: each may take as long as one of a pool.
const CHECK_CONNECTIONS: u32 = 4;

/// How the pool of the requests behaves. That beside it has the same time-out for connections, and no limits for
/// statements.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Connections at most; the private Postgres allows 100 in all.
    pub max_connections: u32,
    /// How long a caller waits for a connection before [`DbError::Unavailable`]; the check waits four times as long.
    pub acquire_timeout: Duration,
    /// How long a statement of a request waits for a lock before [`DbError::Locked`].
    pub lock_timeout: Duration,
    /// How long a statement of a request may take before [`DbError::TooSlow`].
    pub statement_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        let (waiting, working) = (Duration::from_secs(5), Duration::from_secs(30));
        Self { max_connections: 16, acquire_timeout: waiting, lock_timeout: waiting, statement_timeout: working }
    }
}

/// Two pools on one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pools {
    pub requests: Pool,
    /// For what needs a session or is held for long, and for what must not wait until requests, which may be waiting for
    /// it, let go of their connections.
    pub beside: PgPool,
    /// What other servers announce, while [`Self::listen`] runs.
    pub notifications: Notifications,
}

impl Pools {
    /// Checks that the database can serve us (the way to it, version, encoding, pgvector; creates schema and extension
    /// when they are missing), then opens pools on it. Does not migrate.
    pub async fn connect(access: impl Into<Access>, settings: PoolSettings) -> Result<Self, DbError> {
        let access = access.into();
        let timeout = settings.acquire_timeout;
        // A connection of its own, because the pool hides why it cannot connect behind a time-out.
        let patience = timeout * CHECK_CONNECTIONS;
        let search_path = tokio::time::timeout(patience, check(&access))
            .await
            .map_err(|_| DbError::Unavailable(format!("no answer within {} seconds", patience.as_secs())))??;
        let settings_of = |limits: &[String]| statements(limits.iter().cloned().chain(session_settings(&search_path)));
        let beside = sessions(pool(BESIDE, timeout), access.by(Way::Sessions).clone(), settings_of(&[]));
        let connections = pool(settings.max_connections, timeout);
        let requests = match &access.sessions {
            None => {
                let limited = settings_of(&limits_are(&settings));
                Pool::direct(sessions(connections, access.requests.clone(), limited), &beside, settings)
            }
            Some(_) => {
                let options = access.requests.clone().statement_cache_capacity(0);
                Pool::behind_pooler(connections.connect_lazy_with(options), &beside, settings, &search_path)
            }
        };
        Ok(Self { requests, beside, notifications: Notifications::default() })
    }

    /// Hears what other servers announce; never returns.
    pub async fn listen(&self) {
        self.notifications.listen(&self.beside).await;
    }

    /// Waits until all connections are given back, and closes them.
    pub async fn close(&self) {
        tokio::join!(self.requests.close(), self.beside.close());
    }
}

/// What pools have in common.
fn pool(connections: u32, acquire_timeout: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        // A round trip for each request is much beside a search that takes as long; a connection that was used a
        // moment ago is there.
        .test_before_acquire(false)
        // One to a server that has become a standby is given up for one to whoever is the primary now.
        .before_acquire(|connection, about| {
            Box::pin(async move { Ok(about.idle_for <= TRUSTED_IDLE || !is_standby(connection).await?) })
        })
}

/// What every session is set to, each as `set` takes it.
pub(super) fn session_settings(search_path: &str) -> [String; 2] {
    // Galleries differ in size by orders of magnitude, so that a plan for all of them is wrong for most: an index scan for
    // a small one, a parallel scan for one that fills the table.
    ["plan_cache_mode = force_custom_plan".to_owned(), format!("search_path = {search_path}")]
}

fn statements(settings: impl Iterator<Item = String>) -> String {
    settings.map(|setting| format!("set {setting};")).collect()
}

/// A pool of sessions, each of which keeps its settings.
fn sessions(pool: PgPoolOptions, options: PgConnectOptions, settings: String) -> PgPool {
    pool.after_connect(move |connection, _| {
        let settings = settings.clone();
        Box::pin(async move {
            if is_standby(connection).await? {
                return Err(sqlx::Error::Protocol("the server is a standby".to_owned()));
            }
            connection.execute(AssertSqlSafe(settings)).await?;
            Ok(())
        })
    })
    .connect_lazy_with(options)
}

/// Whether the server cannot be written to, as it follows another. Asked in one message, for poolers.
async fn is_standby(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    connection.fetch_one("select pg_is_in_recovery()").await?.try_get(0)
}
