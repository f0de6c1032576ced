//! Where PostgreSQL keeps what was deleted beside its tables: the write-ahead log until its files are gone, samples of columns, files of
//! statements that were cut off.

use sqlx::{AssertSqlSafe, PgPool};

use super::DbError;
use super::error::is_forbidden;

/// Where bytes of what was deleted may be left that this server cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// The log of the server of the database: the role may not begin it anew, or its files are used again as they are.
    Log,
    /// The archive of that log.
    LogArchive,
    /// Servers that follow this one.
    Standbys,
    /// Files that a server of the database left which was killed while it wrote a table anew.
    Leftovers,
    /// Samples of columns, which the role may not delete.
    Statistics,
    /// Chips of before these were encrypted, until they are.
    PlainChips,
}

impl Elsewhere {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::LogArchive => "log_archive",
            Self::Standbys => "standbys",
            Self::Leftovers => "leftovers",
            Self::Statistics => "statistics",
            Self::PlainChips => "plain_chips",
        }
    }
}

/// Files of the log that are gone through at most, of 16 MB each as a rule.
const MOST_FILES: usize = 1000;

/// Begins another file of the log and makes what is before it superfluous, so that PostgreSQL deletes it (`wal_recycle = off`, as the
/// private one has it) rather than writing over it some time. Says where bytes may be left.
pub async fn begin_log_anew(pool: &PgPool) -> Result<Vec<Elsewhere>, DbError> {
    let (recycles, archives, standbys): (bool, bool, bool) = sqlx::query_as(
        "select current_setting('wal_recycle')::bool or current_setting('wal_keep_size') <> '0', \
         current_setting('archive_mode') <> 'off', \
         exists (select from pg_stat_replication) or exists (select from pg_replication_slots)",
    )
    .fetch_one(pool)
    .await?;
    // While files are written over in the end, each checkpoint keeps others for it: going through them is of no use.
    let may = match drop_log(pool, if recycles { 1 } else { MOST_FILES }).await {
        Ok(()) => true,
        Err(error) if is_forbidden(&error) => false,
        Err(error) => return Err(error.into()),
    };
    let found = [
        (recycles || !may, Elsewhere::Log),
        (archives, Elsewhere::LogArchive),
        (standbys, Elsewhere::Standbys),
        (has_leftovers(pool).await?, Elsewhere::Leftovers),
    ];
    Ok(found.into_iter().filter(|(is_left, _)| *is_left).map(|(_, place)| place).collect())
}

async fn drop_log(pool: &PgPool, most_files: usize) -> Result<(), sqlx::Error> {
    for _ in 0..most_files {
        // Something has to be in a file for another one to be begun.
        sqlx::raw_sql("select pg_logical_emit_message(false, 'faceid', ''), pg_switch_wal()").execute(pool).await?;
        // Files that were kept before `wal_recycle` was turned off have names that are still to come; they are written over once.
        let has_old_files: bool = sqlx::query_scalar(
            "select exists (select from pg_ls_waldir() \
             where name ~ '^[0-9A-F]{24}$' and name > pg_walfile_name(pg_current_wal_lsn()))",
        )
        .fetch_one(pool)
        .await?;
        if !has_old_files {
            break;
        }
    }
    sqlx::raw_sql("checkpoint").execute(pool).await?;
    Ok(())
}

/// Whether there are files of tables that no table has any more and nobody writes: of a statement that was cut off by a crash. Where the
/// role may not look, none are seen.
async fn has_leftovers(pool: &PgPool) -> Result<bool, DbError> {
    let found = sqlx::query_scalar(
        "select exists (select from pg_ls_dir('base/' || d.oid) f (name) \
           cross join lateral pg_stat_file('base/' || d.oid || '/' || f.name, true) s \
           where f.name ~ '^[0-9]+([._]|$)' and s.size > 0 \
           and pg_filenode_relation(0, substring(f.name from '^[0-9]+')::oid) is null \
           and s.modification < greatest(pg_postmaster_start_time(), now() - interval '6 hours')) \
         from pg_database d where d.datname = current_database()",
    )
    .fetch_one(pool)
    .await;
    match found {
        Ok(found) => Ok(found),
        Err(error) if is_forbidden(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Deletes what PostgreSQL sampled of columns that are not to be sampled (`set statistics 0`), which an earlier version let it. Whether
/// nothing of it is left.
pub async fn forget_samples(pool: &PgPool, tables: &[&str]) -> Result<bool, DbError> {
    let sampled = "exists (select from pg_attribute a where a.attrelid = s.starelid and a.attnum = s.staattnum \
        and a.attstattarget = 0 and s.starelid = any($1::text[]::regclass[]))";
    let may: bool = sqlx::query_scalar("select has_table_privilege('pg_statistic', 'delete')").fetch_one(pool).await?;
    if !may {
        // Nobody is told of samples but the owner of a table, by this view.
        let left = sqlx::query_scalar(
            "select exists (select from pg_stats p join pg_attribute a on a.attname = p.attname \
               and a.attrelid = to_regclass(quote_ident(p.schemaname) || '.' || quote_ident(p.tablename)) \
               where a.attstattarget = 0 and a.attrelid = any($1::text[]::regclass[]))",
        );
        let left: bool = left.bind(tables).fetch_one(pool).await?;
        return Ok(!left);
    }
    let deleted = sqlx::query(AssertSqlSafe(format!("delete from pg_statistic s where {sampled}")))
        .bind(tables)
        .execute(pool)
        .await?
        .rows_affected();
    if deleted > 0 {
        sqlx::raw_sql("vacuum (full) pg_statistic").execute(pool).await?;
    }
    Ok(true)
}
