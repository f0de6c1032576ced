//! The write-ahead log, which holds what was written, and so what was erased, until its files are gone.

use sqlx::PgPool;

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
}

impl Elsewhere {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::LogArchive => "log_archive",
            Self::Standbys => "standbys",
        }
    }
}

/// Files of the log that are gone through at most, of 16 MB each as a rule.
const MOST_FILES: usize = 1000;

/// Begins another file of the log and makes what is before it superfluous, so that PostgreSQL deletes it (`wal_recycle = off`, as the
/// private one has it) rather than writing over it some time. Says where bytes may be left.
pub async fn begin_log_anew(pool: &PgPool) -> Result<Vec<Elsewhere>, DbError> {
    let may = match drop_log(pool).await {
        Ok(()) => true,
        Err(error) if is_forbidden(&error) => false,
        Err(error) => return Err(error.into()),
    };
    let (recycles, archives, standbys): (bool, bool, bool) = sqlx::query_as(
        "select current_setting('wal_recycle')::bool or current_setting('wal_keep_size') <> '0', \
         current_setting('archive_mode') <> 'off', \
         exists (select from pg_stat_replication) or exists (select from pg_replication_slots)",
    )
    .fetch_one(pool)
    .await?;
    let found =
        [(recycles || !may, Elsewhere::Log), (archives, Elsewhere::LogArchive), (standbys, Elsewhere::Standbys)];
    Ok(found.into_iter().filter(|(is_left, _)| *is_left).map(|(_, place)| place).collect())
}

async fn drop_log(pool: &PgPool) -> Result<(), sqlx::Error> {
    for _ in 0..MOST_FILES {
        // Something has to be in a file for another one to be begun.
        sqlx::raw_sql("select pg_logical_emit_message(false, 'faceid', ''), pg_switch_wal()").execute(pool).await?;
        // Files that were kept to be written over, as a server does that has `wal_recycle = on`, have names that are still to come.
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
