//! A pool of connections for the requests, straight to Postgres or through a pooler that lends its own connections for a
//! transaction at a time (PgBouncer's `pool_mode = transaction` and its like).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, TryFutureExt, TryStreamExt, stream};
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr};
use tokio::sync::Semaphore;

use super::PoolSettings;
use super::holding::HARDLY;
use super::pools::session_settings;
use super::transaction::{Canceller, Transaction, limits_are, lock_timeout_is};

/// Runs single statements and transactions. Cheap to clone.
///
/// Statements have limits of time ([`PoolSettings`]). A transaction that is dropped ends in the database, too; a single
/// statement then goes on until it is done, but for [`Pool::cancellable`].
///
/// Behind a pooler the two messages of a statement, to prepare and to run it, may reach two connections of the pooler
/// unless a transaction holds one; and what is set for a session stays with whoever comes next. So there every statement
/// is a transaction, which sets what it needs for itself.
#[derive(Debug, Clone)]
pub struct Pool {
    connections: PgPool,
    canceller: Canceller,
    settings: Arc<PoolSettings>,
    /// Places of those who wait for locks.
    waiters: Arc<Semaphore>,
    /// Behind a pooler: what a transaction begins with.
    preamble: Option<Arc<str>>,
    manner: Manner,
}

/// How statements are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Single ones by themselves, unless a pooler is in between.
    Plain,
    /// Each in a transaction.
    Cancellable,
    /// Each in a transaction, for as long as it takes.
    Unlimited,
}

impl Pool {
    /// `connections` have the limits of `settings`.
    pub(super) fn direct(connections: PgPool, beside: &PgPool, settings: PoolSettings) -> Self {
        Self {
            connections,
            canceller: Canceller::new(beside.clone()),
            waiters: Arc::new(Semaphore::new((settings.max_connections / 4).max(1) as usize)),
            settings: Arc::new(settings),
            preamble: None,
            manner: Manner::Plain,
        }
    }

    /// `connections` lead to a pooler and keep no statements. `search_path` is SQL.
    pub(super) fn behind_pooler(
        connections: PgPool,
        beside: &PgPool,
        settings: PoolSettings,
        search_path: &str,
    ) -> Self {
        // sqlx names the statements that it prepares, on every connection alike, so those of whoever had this one
        // before must go.
        let mut preamble = "deallocate all".to_owned();
        for setting in limits_are(&settings).into_iter().chain(session_settings(search_path)) {
            preamble = format!("{preamble}; set local {setting}");
        }
        Self { preamble: Some(preamble.into()), ..Self::direct(connections, beside, settings) }
    }

    /// The same connections, for statements that may take long on behalf of a request: each is a transaction, which ends in
    /// the database when the caller leaves. That takes two more round trips.
    pub fn cancellable(&self) -> Self {
        Self { manner: Manner::Cancellable, ..self.clone() }
    }

    /// As [`Self::cancellable`], without limits of time: for what rightly takes longer than a request may.
    pub fn without_limits(&self) -> Self {
        Self { manner: Manner::Unlimited, ..self.clone() }
    }

    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        self.begin_by("begin", None).await
    }

    /// A transaction that reads, all of it in the state in which it begins.
    pub async fn begin_snapshot(&self) -> Result<Transaction, sqlx::Error> {
        self.begin_by("begin transaction isolation level repeatable read, read only", None).await
    }

    /// One that waits for no lock, until [`Transaction::wait_for_locks`].
    pub(super) async fn begin_without_waiting(&self) -> Result<Transaction, sqlx::Error> {
        self.begin_by("begin", Some(self.lock_timeout())).await
    }

    async fn begin_by(&self, begin: &str, waits_later: Option<Duration>) -> Result<Transaction, sqlx::Error> {
        let mut sql = begin.to_owned();
        if let Some(preamble) = &self.preamble {
            sql = format!("{sql}; {preamble}");
        }
        if self.manner == Manner::Unlimited {
            sql.push_str("; set local lock_timeout = 0; set local statement_timeout = 0");
        }
        if waits_later.is_some() {
            sql = format!("{sql}; set local {}", lock_timeout_is(HARDLY));
        }
        Transaction::begin(self.connections.acquire().await?, self.canceller.clone(), sql, waits_later).await
    }

    /// How long a statement may wait for a lock; 0: for as long as it takes.
    pub(super) fn lock_timeout(&self) -> Duration {
        if self.manner == Manner::Unlimited { Duration::ZERO } else { self.settings.lock_timeout }
    }

    pub(super) fn waiters(&self) -> &Semaphore {
        &self.waiters
    }

    /// Whether a single statement is a transaction.
    fn is_by_transaction(&self) -> bool {
        self.preamble.is_some() || self.manner != Manner::Plain
    }

    /// Waits until all connections are given back, and closes them.
    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    #[cfg(test)]
    pub(crate) async fn acquire(&self) -> Result<sqlx::pool::PoolConnection<Postgres>, sqlx::Error> {
        self.connections.acquire().await
    }
}

impl<'p> Executor<'p> for &'_ Pool {
    type Database = Postgres;

    /// In a transaction, nothing comes before all of it has been read and committed.
    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.is_by_transaction() {
            return self.connections.fetch_many(query);
        }
        let pool = self.clone();
        let found = async move {
            let mut transaction = pool.begin().await?;
            let found: Vec<_> = transaction.fetch_many(query).try_collect().await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(stream::iter(found.into_iter().map(Ok)))
        };
        Box::pin(found.try_flatten_stream())
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.is_by_transaction() {
            return self.connections.fetch_optional(query);
        }
        let pool = self.clone();
        async move {
            let mut transaction = pool.begin().await?;
            let found = transaction.fetch_optional(query).await?;
            transaction.commit().await?;
            Ok(found)
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        self.connections.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        self.connections.describe(sql)
    }
}
