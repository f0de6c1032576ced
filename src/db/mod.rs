//! The way to Postgres: checked connection pools, the embedded migrations, and the server's own private Postgres.

mod database;
mod error;
mod page;
mod pools;
pub mod private;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{Connection, PgConnection};

pub use database::Database;
pub use error::{DbError, NoPgvector, OnConstraint, violates};
pub use page::{Page, PageError, PageRequest};
pub use pools::{PoolSettings, Pools};

/// The first pgvector whose iterative index scans and parallel HNSW builds we rely on.
pub const MIN_PGVECTOR: &str = "0.8.4";

/// The first PostgreSQL that we test with, as `server_version_num` counts.
const MIN_SERVER: i32 = 140_000;

/// Advisory lock that serialises servers creating the extension in one database. Any constant of ours serves.
const EXTENSION_LOCK: i64 = 0x6661_6365_6964;

/// Advisory lock that every enrolment shares and that whoever changes which model is active holds alone. Any constant of
/// ours serves.
pub const MODELS_LOCK: i64 = 0x6d6f_6465_6c73;

/// Channel of the notifications that models changed, or that faces came without an embedding.
pub const MODELS_CHANNEL: &str = "faceid_models";

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Brings the schema up to date. Safe when several servers start at once: one migrates, the others wait.
pub async fn migrate(pool: &PgPool) -> Result<(), DbError> {
    // Detached, because a failed migration leaves the connection holding the migrator's lock.
    let mut connection = pool.acquire().await?.detach();
    // `run` is this with an `Acquire` that the compiler cannot prove `Send` for (sqlx 0.9).
    match MIGRATOR.run_direct(None, &mut connection, false).await {
        Ok(()) => Ok(connection.close().await?),
        Err(MigrateError::VersionMissing(version)) if MIGRATOR.iter().all(|known| known.version < version) => {
            Err(DbError::NewerSchema { version })
        }
        Err(MigrateError::Execute(error)) => Err(error.into()),
        Err(MigrateError::ExecuteMigration(error, _)) if error::is_unavailable(&error) => Err(error.into()),
        Err(error) => Err(DbError::Migration(error)),
    }
}

/// Whether the database answers at all; for readiness.
pub async fn ping(pool: &PgPool) -> Result<(), DbError> {
    sqlx::query("select 1").execute(pool).await?;
    Ok(())
}

async fn check(options: &PgConnectOptions) -> Result<(), DbError> {
    let mut connection = PgConnection::connect_with(options).await?;
    let (number, version, encoding): (i32, String, String) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version'), \
         current_setting('server_encoding')",
    )
    .fetch_one(&mut connection)
    .await?;
    if number < MIN_SERVER {
        return Err(DbError::OldServer { version });
    }
    if encoding != "UTF8" {
        return Err(DbError::Encoding { encoding });
    }
    ensure_pgvector(&mut connection, number / 10_000).await?;
    Ok(connection.close().await?)
}

/// Creates the extension if the server offers a good one and the database does not have it yet.
async fn ensure_pgvector(connection: &mut PgConnection, major: i32) -> Result<(), DbError> {
    let mut transaction = connection.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(EXTENSION_LOCK).execute(&mut *transaction).await?;
    let found: Option<(Option<String>, String)> =
        sqlx::query_as("select installed_version, default_version from pg_available_extensions where name = 'vector'")
            .fetch_optional(&mut *transaction)
            .await?;
    match found {
        None => return Err(NoPgvector::Missing { major }.into()),
        Some((Some(installed), _)) if version_reaches(&installed, MIN_PGVECTOR) => {}
        Some((_, available)) if !version_reaches(&available, MIN_PGVECTOR) => {
            return Err(NoPgvector::TooOld { found: available, major }.into());
        }
        Some((Some(installed), available)) => {
            return Err(NoPgvector::NotUpdated { found: installed, available }.into());
        }
        Some((None, _)) => create_extension(&mut transaction).await?,
    }
    Ok(transaction.commit().await?)
}

async fn create_extension(connection: &mut PgConnection) -> Result<(), DbError> {
    match sqlx::query("create extension vector").execute(connection).await {
        Ok(_) => Ok(()),
        // insufficient_privilege
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
            Err(NoPgvector::NotAllowed.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Compares dotted version numbers by their numeric parts; a part that is no number counts as 0.
fn version_reaches(version: &str, minimum: &str) -> bool {
    let parts = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    parts(version) >= parts(minimum)
}
