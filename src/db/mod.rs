//! The way to Postgres: checked connection pools, the embedded migrations, and the server's own private Postgres.

mod access;
mod answers;
mod check;
mod database;
mod error;
mod holding;
mod notifications;
mod page;
mod pgvector;
mod pool;
mod pooler;
mod pools;
pub mod private;
mod scope;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod traces;
mod transaction;

use sqlx::Connection;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPool;

pub use access::Access;
pub use answers::Answers;
pub use database::Database;
pub use error::{DbError, NoPgvector, OnConstraint, is_lock_timeout, violates};
pub use holding::MayBeLocked;
pub use notifications::{Notifications, Topic};
pub use page::{ListTag, Page, PageError, PageRequest};
pub use pgvector::has_sound_hnsw;
pub use pool::Pool;
pub use pools::{PoolSettings, Pools};
pub use scope::{lock, lock_shared, notify, try_lock};
pub use traces::{Elsewhere, begin_log_anew, forget_samples};
pub use transaction::Transaction;

/// Advisory lock that every enrolment shares and that whoever changes which model is active holds alone. Any constant of
/// ours serves.
pub const MODELS_LOCK: i64 = 0x6d6f_6465_6c73;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Brings the schema up to date, by sessions of their own ([`Pools::beside`]). Safe when several servers start at once: one
/// migrates, the others wait.
pub async fn migrate(pool: &PgPool) -> Result<(), DbError> {
    // Detached, because a failed migration leaves the connection holding the migrator's lock.
    let mut connection = pool.acquire().await?.detach();
    // `run` is this with an `Acquire` that the compiler cannot prove `Send` for (sqlx 0.9).
    match MIGRATOR.run_direct(None, &mut connection, false).await {
        Ok(()) => Ok(connection.close().await?),
        Err(MigrateError::VersionMissing(version)) if MIGRATOR.iter().all(|known| known.version < version) => {
            Err(DbError::NewerSchema { version })
        }
        Err(MigrateError::Execute(error)) if error::is_forbidden(&error) => Err(forbidden(&error)),
        Err(MigrateError::Execute(error)) => Err(error.into()),
        Err(MigrateError::ExecuteMigration(error, _)) if error::is_passing(&error) => Err(error.into()),
        Err(MigrateError::ExecuteMigration(error, _)) if error::is_forbidden(&error) => Err(forbidden(&error)),
        Err(error) => Err(DbError::Migration(error)),
    }
}

fn forbidden(error: &sqlx::Error) -> DbError {
    DbError::MayNotCreate { reason: error.as_database_error().map_or_else(String::new, |it| it.message().to_owned()) }
}

/// Whether the database answers at all; for readiness.
pub async fn ping(pool: &Pool) -> Result<(), DbError> {
    sqlx::query("select 1").execute(pool).await?;
    Ok(())
}
