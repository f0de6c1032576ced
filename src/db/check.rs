//! Whether a database can serve us, and where in it our tables and pgvector are.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::access::{Access, Way};
use super::{DbError, pgvector, pooler};

/// The first PostgreSQL that we test with, as `server_version_num` counts.
const MIN_SERVER: i32 = 140_000;

/// Advisory lock that serialises servers creating schema and extension in one database. Any constant of ours serves.
const CREATION_LOCK: i64 = 0x6661_6365_6964;

/// Checks the way to the database and the database; creates schema and extension if they are missing. Returns the
/// `search_path` of our connections, as SQL: the schema of our tables first, and pgvector's among the rest.
pub(super) async fn check(access: &Access) -> Result<String, DbError> {
    if !access.is_direct && pooler::lends_by_transaction(access, Way::Sessions).await? {
        return Err(if access.sessions.is_some() { DbError::PooledSession } else { DbError::Pooler });
    }
    let connected = PgConnection::connect_with(access.by(Way::Sessions)).await;
    let mut connection = connected.map_err(|error| access.explain(Way::Sessions, error))?;
    if access.sessions.is_some() {
        check_same_database(access, &mut connection).await?;
    }
    let major = check_server(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(CREATION_LOCK).execute(&mut *transaction).await?;
    if let Some(schema) = &access.schema {
        enter_schema(&mut transaction, schema).await?;
    }
    let pgvector = pgvector::ensure(&mut transaction, major).await?;
    let search_path = search_path(&mut transaction, &pgvector.schema).await?;
    transaction.commit().await?;
    if let Some(advice) = pgvector.advice() {
        tracing::warn!("{advice}");
    }
    connection.close().await?;
    Ok(search_path)
}

/// Version, state and encoding; returns the major version.
async fn check_server(connection: &mut PgConnection) -> Result<i32, DbError> {
    let (number, version, encoding, is_standby): (i32, String, String, bool) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version'), \
         current_setting('server_encoding'), pg_is_in_recovery()",
    )
    .fetch_one(connection)
    .await?;
    if number < MIN_SERVER {
        return Err(DbError::OldServer { version });
    }
    if encoding != "UTF8" {
        return Err(DbError::Encoding { encoding });
    }
    if is_standby {
        return Err(DbError::Standby);
    }
    Ok(number / 10_000)
}

/// Two URLs that led to two databases would show each request a half of the truth.
async fn check_same_database(access: &Access, sessions: &mut PgConnection) -> Result<(), DbError> {
    let connected = PgConnection::connect_with(access.by(Way::Requests)).await;
    let mut requests = connected.map_err(|error| access.explain(Way::Requests, error))?;
    let (theirs, ours) = (identity(&mut requests).await?, identity(sessions).await?);
    // Its end is all that is wanted.
    let _ = requests.close().await;
    if theirs == ours { Ok(()) } else { Err(DbError::OtherDatabase { requests: theirs, sessions: ours }) }
}

/// The name of the database, and when its server was started, which tells servers apart. In one message, for poolers.
async fn identity(connection: &mut PgConnection) -> Result<String, DbError> {
    let sql = "select current_database() || ' on the server started at ' || pg_postmaster_start_time()::timestamptz(6) \
               at time zone 'UTC'";
    Ok(connection.fetch_one(sql).await?.try_get(0)?)
}

/// Makes the schema the only one in the path, and creates it if need be.
async fn enter_schema(connection: &mut PgConnection, schema: &str) -> Result<(), DbError> {
    let exists: bool = sqlx::query_scalar("select exists (select from pg_namespace where nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        let create = format!("create schema {}", quoted(schema));
        match sqlx::query(AssertSqlSafe(create)).execute(&mut *connection).await {
            Ok(_) => {}
            Err(error) if super::error::is_forbidden(&error) => {
                return Err(DbError::SchemaNotAllowed(schema.to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let path = format!("set local search_path = {}", quoted(schema));
    sqlx::query(AssertSqlSafe(path)).execute(connection).await?;
    Ok(())
}

async fn search_path(connection: &mut PgConnection, extension: &str) -> Result<String, DbError> {
    let mut schemas: Vec<String> =
        sqlx::query_scalar("select unnest(current_schemas(false))::text").fetch_all(connection).await?;
    if schemas.is_empty() {
        return Err(DbError::NoSchema);
    }
    if !schemas.iter().any(|schema| schema == extension) {
        schemas.push(extension.to_owned());
    }
    Ok(schemas.iter().map(|schema| quoted(schema)).collect::<Vec<_>>().join(", "))
}

/// A name as SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
