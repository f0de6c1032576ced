//! A pool of connections for the requests, straight to Postgres or through a pooler that lends its own connections for a
//! transaction at a time (PgBouncer's `pool_mode = transaction` and its like).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, TryFutureExt, TryStreamExt, stream};
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Describe, Either, Execute, Executor, Postgres, SqlStr, Transaction};

/// Runs single statements and transactions. Cheap to clone.
///
/// Behind a pooler the two messages of a statement, to prepare and to run it, may reach two connections of the pooler
/// unless a transaction holds one; and what is set for a session stays with whoever comes next. So there every statement
/// is a transaction, which sets what it needs for itself.
#[derive(Debug, Clone)]
pub struct Pool {
    connections: PgPool,
    /// Behind a pooler: what a transaction begins with.
    preamble: Option<Arc<str>>,
}

impl Pool {
    pub(super) fn direct(connections: PgPool) -> Self {
        Self { connections, preamble: None }
    }

    /// `connections` lead to a pooler and keep no statements. `search_path` is SQL.
    pub(super) fn behind_pooler(connections: PgPool, search_path: &str) -> Self {
        // sqlx names the statements that it prepares, on every connection alike, so those of whoever had this one
        // before must go.
        let preamble = format!(
            "deallocate all; set local search_path = {search_path}; set local plan_cache_mode = force_custom_plan"
        );
        Self { connections, preamble: Some(preamble.into()) }
    }

    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.begin_by("begin").await
    }

    /// A transaction that reads, all of it in the state of its first statement.
    pub async fn begin_snapshot(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.begin_by("begin transaction isolation level repeatable read, read only").await
    }

    async fn begin_by(&self, begin: &'static str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        match &self.preamble {
            None => self.connections.begin_with(begin).await,
            Some(preamble) => self.connections.begin_with(AssertSqlSafe(format!("{begin}; {preamble}"))).await,
        }
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

    /// Behind a pooler, nothing comes before all of it has been read and committed.
    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.preamble.is_none() {
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
        if self.preamble.is_none() {
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
