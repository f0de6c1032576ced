//! Advisory locks and notifications, which Postgres has for a whole database, kept apart by the schema of our tables:
//! two faceids in two schemas of one database neither wait for each other nor wake each other.
//!
//! In the schema `public` keys and names are the plain ones, as they were before there were others.

use sqlx::postgres::PgPool;
use sqlx::{PgConnection, PgExecutor};

use super::Topic;

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

/// Wakes who waits for such announcements, once the transaction has committed.
pub async fn notify<'e>(executor: impl PgExecutor<'e>, topic: Topic) -> Result<(), sqlx::Error> {
    let sql = concat!("select pg_notify(", channel!(), ", '')");
    sqlx::query(sql).bind(topic.channel()).execute(executor).await.map(drop)
}

/// What channels are called in this schema, in their order.
pub(super) async fn channel_names(pool: &PgPool, channels: &[&'static str]) -> Result<Vec<String>, sqlx::Error> {
    let mut names = Vec::with_capacity(channels.len());
    for channel in channels {
        names.push(sqlx::query_scalar(concat!("select ", channel!())).bind(channel).fetch_one(pool).await?);
    }
    Ok(names)
}
