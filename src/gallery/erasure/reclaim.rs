//! The bytes of what was erased. A deleted row stays in its page of the file, and in the log, until something else is written there:
//! so the tables with embeddings and templates are written anew, without what was deleted, and the log is begun anew.
//!
//! `vacuum full` writes a table anew. Enrolments and deletions wait meanwhile; searches in memory go on. A plain `vacuum` would not
//! do: it frees the space in a page, but leaves what stood there until other rows take the place. See `heap_page_prune` and
//! `PageRepairFragmentation` of PostgreSQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, Postgres};
use uuid::Uuid;

use super::super::{Galleries, GalleryError};
use crate::db::{Elsewhere, begin_log_anew, forget_samples, is_lock_timeout};

/// Tables that hold templates, embeddings, and the keys of chips, without which these are unreadable. Templates come first: an index by
/// which they are searched is gone then, and not built again yet.
const REWRITTEN: [&str; 3] = ["templates", "embeddings", "chip_keys"];

/// Where chips lie.
const OF_CHIPS: &str = "faces";

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
    plain_chips: PlainChips,
}

impl Reclaim {
    /// The tables to be written anew.
    pub fn tables(&self) -> impl Iterator<Item = &'static str> + use<> {
        let of_chips = (self.plain_chips == PlainChips::InFiles).then_some(OF_CHIPS);
        REWRITTEN.into_iter().chain(of_chips)
    }
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

/// Chips of before they were encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlainChips {
    /// Nowhere.
    None,
    /// All are encrypted, but the files may hold them as they were.
    InFiles,
    /// Some are still to be encrypted.
    Stored,
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
        let since: Option<DateTime<Utc>> =
            sqlx::query_scalar("select min(rows_gone_at) from erasures where bytes_gone_at is null")
                .fetch_one(&self.beside)
                .await?;
        let Some(since) = since else { return Ok(None) };
        let (now, finished_at, seconds, has_index): (_, Option<_>, Option<f64>, bool) = sqlx::query_as(
            "select now(), finished_at, seconds, \
               exists (select from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam \
                 where i.indrelid = 'templates'::regclass and a.amname = 'hnsw') \
             from reclaims",
        )
        .fetch_one(&self.beside)
        .await?;
        let last = finished_at.zip(seconds).map(|(finished_at, seconds)| LastReclaim {
            finished_at,
            took: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        });
        Ok(Some(ReclaimState { since, now, last, has_index }))
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
        let (in_files, stored): (bool, bool) = sqlx::query_as(
            "select plain_chips, plain_chips and exists (select from faces f where chip is not null \
               and not exists (select from chip_keys k where k.face_id = f.id)) from reclaims",
        )
        .fetch_one(&self.beside)
        .await?;
        let plain_chips = match (in_files, stored) {
            (false, _) => PlainChips::None,
            (true, false) => PlainChips::InFiles,
            (true, true) => PlainChips::Stored,
        };
        Ok(Reclaim { erasures, horizon, plain_chips })
    }

    /// Whether the rows may still be needed, so that they would be written anew as well: by a transaction that writes, or was prepared, in
    /// any database; by a reader of this one, or a standby, whose snapshot is older; by a replication slot.
    pub async fn is_held_back(&self, reclaim: &Reclaim) -> Result<bool, GalleryError> {
        Ok(sqlx::query_scalar(
            "select pg_snapshot_xmin(pg_current_snapshot()) <= $1::text::xid8 \
             or exists (select from pg_stat_activity where (datname = current_database() or datname is null) \
                and pid <> pg_backend_pid() and age(backend_xmin) >= age($1::text::xid8::xid)) \
             or exists (select from pg_replication_slots where age(xmin) >= age($1::text::xid8::xid))",
        )
        .bind(&reclaim.horizon)
        .fetch_one(&self.beside)
        .await?)
    }

    /// Writes a table anew. False: others held it for too long.
    pub async fn rewrite(&self, table: &'static str) -> Result<bool, GalleryError> {
        let mut connection: PoolConnection<Postgres> = self.beside.acquire().await?;
        // What is set here, and a statement that goes on after nobody waits for it any more, are for nobody else.
        connection.close_on_drop();
        sqlx::raw_sql(AssertSqlSafe(format!("set lock_timeout = '{PATIENCE}'"))).execute(&mut *connection).await?;
        let before = file_of(&mut connection, table).await?;
        match sqlx::raw_sql(AssertSqlSafe(format!("vacuum (full) {table}"))).execute(&mut *connection).await {
            // Whoever may not is only warned.
            Ok(_) if file_of(&mut connection, table).await? == before => {
                Err(GalleryError::Inconsistent("a table was not written anew: its owner alone may do that"))
            }
            Ok(_) => Ok(true),
            Err(error) if is_lock_timeout(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins the log anew, and notes that no bytes are left, but for where this server cannot reach them. Of how many erasures, and
    /// where that is.
    pub async fn finish_reclaim(
        &self,
        reclaim: &Reclaim,
        took: Duration,
    ) -> Result<(u64, Vec<Elsewhere>), GalleryError> {
        let sampled: Vec<&str> = REWRITTEN.into_iter().chain([OF_CHIPS]).collect();
        let samples = forget_samples(&self.beside, &sampled).await?;
        let mut elsewhere = begin_log_anew(&self.beside).await?;
        elsewhere.extend((!samples).then_some(Elsewhere::Statistics));
        elsewhere.extend((reclaim.plain_chips == PlainChips::Stored).then_some(Elsewhere::PlainChips));
        let mut transaction = self.beside.begin().await?;
        let done = sqlx::query("update erasures set bytes_gone_at = now(), elsewhere = $2 where id = any($1)")
            .bind(&reclaim.erasures)
            .bind(elsewhere.iter().map(|place| place.as_str()).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        sqlx::query("update reclaims set finished_at = now(), seconds = $1, plain_chips = $2")
            .bind(took.as_secs_f64())
            .bind(reclaim.plain_chips == PlainChips::Stored)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok((done, elsewhere))
    }
}

async fn file_of(connection: &mut PgConnection, table: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("select pg_relation_filenode($1::text::regclass)::bigint")
        .bind(table)
        .fetch_one(connection)
        .await
}
