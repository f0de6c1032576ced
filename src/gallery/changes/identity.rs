//! Which database this is, as far as transaction ids are concerned.
//!
//! They mean something in one cluster, and there only as long as it forgets none that somebody has seen: a server that crashed,
//! and a standby that took over, may give the last ones again. And what changed is written down only by the triggers of these
//! very tables: not when they are dropped and made anew, or truncated, as a dump is restored.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tracing::{info, warn};

use super::super::GalleryError;
use crate::db::DbError;

/// A cluster, and the history that it follows, which a standby that takes over leaves for one of its own. Not every database
/// lets everybody ask for these, and the others tell nearly as much.
const CLUSTER: &str = "(select system_identifier from pg_control_system())";
const TIMELINE: &str = "left(pg_walfile_name(pg_current_wal_lsn()), 8)";

/// A database of the cluster.
const DATABASE: &str = "(select oid from pg_database where datname = current_database())";

/// A run of the server, which a crash ends even if the server does not stop; and whether stored ids were set anew.
const RUN: &str = "extract(epoch from pg_postmaster_start_time()), (select id from change_run), \
    (select concat_ws(' ', cluster, resets) from change_log)";

/// Tables that are gone when they are dropped, and whose files are others once they were truncated.
const TABLES: [&str; 5] = ["changes", "change_log", "templates", "subjects", "galleries"];

/// What a reader compares each time that it reads.
#[derive(Default)]
pub(super) struct Identity {
    /// The text that gives it, in SQL.
    pub sql: String,
    /// What it was.
    pub is: String,
}

/// Sees to it that the transaction ids which the database stores are of this cluster, and that a crash will show. Gives the
/// SQL of the [`Identity`].
pub(super) async fn adopt_ids(connection: &mut PgConnection) -> Result<String, GalleryError> {
    let mut parts = Vec::new();
    for part in [CLUSTER, TIMELINE] {
        if is_answered(connection, part).await? {
            parts.push(part);
        }
    }
    let cluster = parts.first().filter(|part| **part == CLUSTER).copied();
    let cluster =
        cluster.map_or(format!("{DATABASE}::text"), |cluster| format!("concat_ws('/', {cluster}, {DATABASE})"));
    claim(connection, &cluster).await?;
    sqlx::query("insert into change_run default values on conflict do nothing").execute(connection).await?;
    let tables =
        TABLES.map(|table| format!("to_regclass('{table}')::oid, pg_relation_filenode(to_regclass('{table}'))"));
    parts.extend([DATABASE, RUN]);
    Ok(format!("concat_ws(' ', {}, {})", parts.join(", "), tables.join(", ")))
}

/// Whether the server answers a question.
async fn is_answered(connection: &mut PgConnection, question: &str) -> Result<bool, GalleryError> {
    match sqlx::query(AssertSqlSafe(format!("select {question}"))).execute(connection).await.map_err(DbError::from) {
        Ok(_) => Ok(true),
        Err(error) if error.may_pass() => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// Sets transaction ids anew that are stored and were given by another cluster than `cluster`, which is SQL: no change is left to
/// be read, everything that waits for a review changed just now, and everything reviewed was reviewed before.
async fn claim(connection: &mut PgConnection, cluster: &str) -> Result<(), GalleryError> {
    let sql = format!("select {cluster}, (select cluster from change_log)");
    let (present, stored): (String, Option<String>) =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
    if stored.as_ref() == Some(&present) {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "insert into change_log (pruned_to, cluster) values (pg_snapshot_xmin(pg_current_snapshot()), '') \
         on conflict do nothing",
    )
    .execute(&mut *transaction)
    .await?;
    let stored: String =
        sqlx::query_scalar("select cluster from change_log for update").fetch_one(&mut *transaction).await?;
    if stored == present {
        // Another was faster.
        return Ok(transaction.rollback().await?);
    }
    for sql in [
        // Whoever fills the queue does so in an order of its own.
        "lock table reviewed, review_queue in share row exclusive mode",
        "delete from changes",
        "delete from readers",
        "update review_queue set transaction = pg_current_xact_id()",
        "update reviewed set seen = pg_snapshot_xmin(pg_current_snapshot())",
        "update change_log set pruned_to = pg_snapshot_xmin(pg_current_snapshot()), resets = resets + 1",
    ] {
        sqlx::query(sql).execute(&mut *transaction).await?;
    }
    sqlx::query("update change_log set cluster = $1").bind(&present).execute(&mut *transaction).await?;
    transaction.commit().await?;
    if stored.is_empty() {
        info!(cluster = present, "the log of changes begins");
    } else {
        warn!(from = stored, to = present, "the database comes from another cluster: transaction ids were set anew");
    }
    Ok(())
}
