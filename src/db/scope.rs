//! Advisory locks and notifications, which Postgres has for a whole database, kept apart by the schema of our tables:
//! two faceids in two schemas of one database neither wait for each other nor wake each other.
//!
//! In the schema `public` keys and names are the plain ones, as they were before there were others.

use sqlx::postgres::{PgListener, PgPool};
use sqlx::{PgConnection, PgExecutor};

/// What changes the key of a lock, in SQL. Another hash would part servers of different versions.
macro_rules! key {
    () => {
        "$1 # case current_schema() when 'public' then 0 else hashtextextended(current_schema(), 0) end"
    };
}

/// The name of the channel `$1`, in SQL.
macro_rules! channel {
    () => {
        "$1 || case current_schema() when 'public' then '' else '_' || md5(current_schema()) end"
    };
}

/// Waits until nobody else has the lock, and holds it until the transaction ends.
pub async fn lock(connection: &mut PgConnection, key: i64) -> Result<(), sqlx::Error> {
    let sql = concat!("select pg_advisory_xact_lock(", key!(), ")");
    sqlx::query(sql).bind(key).execute(connection).await.map(drop)
}

/// Waits until nobody has the lock alone, and shares it until the transaction ends.
pub async fn lock_shared(connection: &mut PgConnection, key: i64) -> Result<(), sqlx::Error> {
    let sql = concat!("select pg_advisory_xact_lock_shared(", key!(), ")");
    sqlx::query(sql).bind(key).execute(connection).await.map(drop)
}

/// As [`lock`], if nobody has it or waits for it; whether it was had.
pub async fn try_lock(connection: &mut PgConnection, key: i64) -> Result<bool, sqlx::Error> {
    let sql = concat!("select pg_try_advisory_xact_lock(", key!(), ")");
    sqlx::query_scalar(sql).bind(key).fetch_one(connection).await
}

/// As [`lock_shared`], if nobody has it alone or waits for that; whether it was had.
pub(super) async fn try_lock_shared(connection: &mut PgConnection, key: i64) -> Result<bool, sqlx::Error> {
    let sql = concat!("select pg_try_advisory_xact_lock_shared(", key!(), ")");
    sqlx::query_scalar(sql).bind(key).fetch_one(connection).await
}

/// Wakes who listens to the channel, once the transaction has committed.
pub async fn notify<'e>(executor: impl PgExecutor<'e>, channel: &'static str) -> Result<(), sqlx::Error> {
    let sql = concat!("select pg_notify(", channel!(), ", '')");
    sqlx::query(sql).bind(channel).execute(executor).await.map(drop)
}

/// Hears what is notified on a channel from now on. Keeps one connection of the pool.
pub async fn listen(pool: &PgPool, channel: &'static str) -> Result<PgListener, sqlx::Error> {
    let sql = concat!("select ", channel!());
    let name: String = sqlx::query_scalar(sql).bind(channel).fetch_one(pool).await?;
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(&name).await?;
    Ok(listener)
}
