//! The bytes of what was erased. A deleted row stays in its page of the file, and in the log, until something else is written there:
//! so the tables with embeddings and templates are written anew, without what was deleted, and the log is begun anew.
//!
//! `vacuum full` writes a table anew. Enrolments and deletions wait meanwhile; searches in memory go on. A plain `vacuum` would not
//! do: it frees the space in a page, but leaves what stood there until other rows take the place. See `heap_page_prune` and
//! `PageRepairFragmentation` of PostgreSQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Postgres};
use uuid::Uuid;

use super::super::{Galleries, GalleryError};
use crate::db::{begin_log_anew, is_lock_timeout};

/// Tables that hold embeddings, templates, and the keys of chips, without which these are unreadable.
pub const REWRITTEN: [&str; 3] = ["embeddings", "templates", "chip_keys"];

/// Erasures whose bytes are reclaimed at once, at most; the rest has its turn the next time.
const MOST: i64 = 100_000;

/// How long a table's lock is asked for: those who come meanwhile wait as long.
const PATIENCE: &str = "2s";

/// What is to be reclaimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaim {
    erasures: Vec<Uuid>,
    /// A transaction that began when all of them had committed: a snapshot from before may still need the rows.
    horizon: String,
}

/// When something is to be reclaimed, and when and how it last was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReclaimState {
    /// When the first rows were deleted whose bytes are left.
    pub since: DateTime<Utc>,
    pub now: DateTime<Utc>,
    pub last: Option<LastReclaim>,
    /// Whether templates have an index by which they are searched in Postgres, which would be built anew as well.
    pub has_index: bool,
}

/// The last time that the tables were written anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LastReclaim {
    pub finished_at: DateTime<Utc>,
    pub took: Duration,
}

impl Galleries {
    /// `None`: no bytes are left.
    pub async fn reclaim_state(&self) -> Result<Option<ReclaimState>, GalleryError> {
        let (since, now, finished_at, seconds, has_index): (Option<_>, _, Option<_>, Option<f64>, bool) = sqlx::query_as(
            "select (select min(rows_gone_at) from erasures where bytes_gone_at is null), now(), r.finished_at, r.seconds, \
               exists (select from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam \
                 where i.indrelid = 'templates'::regclass and a.amname = 'hnsw') \
             from (select) one left join reclaims r on true",
        )
        .fetch_one(&self.beside)
        .await?;
        let last = finished_at.zip(seconds);
        let last = last.map(|(finished_at, seconds)| LastReclaim {
            finished_at,
            took: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        });
        Ok(since.map(|since| ReclaimState { since, now, last, has_index }))
    }

    /// What can be reclaimed now: all whose rows are deleted.
    pub async fn begin_reclaim(&self) -> Result<Reclaim, GalleryError> {
        let erasures = sqlx::query_scalar(
            "select id from erasures where rows_gone_at is not null and bytes_gone_at is null order by id limit $1",
        )
        .bind(MOST)
        .fetch_all(&self.beside)
        .await?;
        // In a statement of its own, so that it is younger than all of them.
        let horizon = sqlx::query_scalar("select pg_current_xact_id()::text").fetch_one(&self.beside).await?;
        Ok(Reclaim { erasures, horizon })
    }

    /// Whether somebody may still need the rows: a reader whose snapshot is older, a transaction that was prepared, a replication
    /// slot that holds back. Who may not see others' sessions sees those of their own role.
    pub async fn is_held_back(&self, reclaim: &Reclaim) -> Result<bool, GalleryError> {
        Ok(sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() \
                and (age(backend_xmin) > age($1::text::xid8::xid) or age(backend_xid) > age($1::text::xid8::xid))) \
             or exists (select from pg_prepared_xacts where database = current_database() \
                and age(transaction) > age($1::text::xid8::xid)) \
             or exists (select from pg_replication_slots where age(xmin) > age($1::text::xid8::xid))",
        )
        .bind(&reclaim.horizon)
        .fetch_one(&self.beside)
        .await?)
    }

    /// Writes one of [`REWRITTEN`] anew. False: others held it for too long.
    pub async fn rewrite(&self, table: &'static str) -> Result<bool, GalleryError> {
        let mut connection: PoolConnection<Postgres> = self.beside.acquire().await?;
        // What is set here, and a statement that goes on after nobody waits for it any more, are for nobody else.
        connection.close_on_drop();
        sqlx::raw_sql(AssertSqlSafe(format!("set lock_timeout = '{PATIENCE}'"))).execute(&mut *connection).await?;
        match sqlx::raw_sql(AssertSqlSafe(format!("vacuum (full) {table}"))).execute(&mut *connection).await {
            Ok(_) => Ok(true),
            Err(error) if is_lock_timeout(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins the log anew, and notes that no bytes are left, but for where this server cannot reach them.
    pub async fn finish_reclaim(&self, reclaim: &Reclaim, took: Duration) -> Result<u64, GalleryError> {
        let elsewhere = begin_log_anew(&self.beside).await?;
        let mut transaction = self.beside.begin().await?;
        let done = sqlx::query("update erasures set bytes_gone_at = now(), elsewhere = $2 where id = any($1)")
            .bind(&reclaim.erasures)
            .bind(elsewhere.iter().map(|place| place.as_str()).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        sqlx::query(
            "insert into reclaims (finished_at, seconds) values (now(), $1) \
             on conflict on constraint reclaim_pkey do update set finished_at = excluded.finished_at, seconds = excluded.seconds",
        )
        .bind(took.as_secs_f64())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(done)
    }
}
