//! Who reads the log: how far each reader is, who waits for all of them, and what may be deleted when nobody needs it.

use std::time::{Duration, Instant};

use super::Feed;
use crate::db::{Topic, notify};
use crate::gallery::{Galleries, GalleryError};

/// Changes are kept for this long, and until every reader has seen them.
pub const CHANGES_KEPT: Duration = Duration::from_secs(3600);

/// How often a reader says that it is there, if nothing else happens.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(2);

/// A reader relies on being waited for if it said within this time that it is there.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// A reader that was not seen for this long, and does not answer from memory any more, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// How often whoever waits for readers looks at how far they are.
const POLL: Duration = Duration::from_millis(10);

impl Galleries {
    /// Waits until what a transaction changed, which has been committed, is in the memory of every server, `patience` at most; a
    /// transaction knows its id by `select pg_current_xact_id()`. Gives the number of readers that may still answer without
    /// it: 0, unless some do not get at the database or are too slow.
    ///
    /// A server that does not get at it counts for as long as it may answer from memory all the same, and ten seconds more;
    /// so does one that was killed. Nobody waits for one that has not been seen for ten seconds.
    pub async fn await_readers(&self, transaction: u64, patience: Duration) -> Result<u64, GalleryError> {
        let began = Instant::now();
        notify(&self.pool, Topic::Changes).await?;
        loop {
            let (behind, alive): (i64, i64) = sqlx::query_as(
                "select count(*), count(*) filter (where seen_at > now() - $2::float8 * interval '1 second') \
                 from readers where seen_at > now() - (answers_for + $2::float8) * interval '1 second' \
                 and not pg_visible_in_snapshot($1::text::xid8, snapshot)",
            )
            .bind(transaction.to_string())
            .bind(SEEN_WITHIN.as_secs_f64())
            .fetch_one(&self.pool)
            .await?;
            if alive == 0 || began.elapsed() >= patience {
                return Ok(behind.unsigned_abs());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Feed {
    /// Tells the database that all that was read is in memory, for those who erase, if there is anything to tell. From then on they
    /// wait for this reader for as long as it may answer without reading on: `answers_for` after the last time.
    ///
    /// Called after [`Self::load`] and after each [`Self::next`] whose changes were applied.
    pub async fn confirm(&mut self, answers_for: Duration) -> Result<(), GalleryError> {
        let is_due = self.confirmed.is_none_or(|confirmed| confirmed.elapsed() >= CONFIRM_INTERVAL);
        if !(is_due || self.is_news || !self.is_counted) {
            return Ok(());
        }
        let now = Instant::now();
        // The first time it must last: a reader that was forgotten in a crash would not be waited for. Later it costs no more
        // than it must, as an older state of a row only makes others wait.
        sqlx::query(
            "insert into readers (id, seen_at, answers_for, snapshot) \
             select $1, clock_timestamp(), $2, $3::text::pg_snapshot from set_config('synchronous_commit', \
               case when $4 then 'off' else current_setting('synchronous_commit') end, true) as mode \
             where mode is not null \
             on conflict on constraint reader_pkey do update \
             set seen_at = excluded.seen_at, answers_for = excluded.answers_for, snapshot = excluded.snapshot",
        )
        .bind(self.id)
        .bind(answers_for.as_secs_f64())
        .bind(&self.snapshot)
        .bind(self.is_counted)
        .execute(&self.pool)
        .await?;
        (self.confirmed, self.is_news) = (Some(now), false);
        Ok(())
    }

    /// Whether those who erase have been waiting for this reader since before it read last. If not, what it read may not be relied
    /// upon: somebody may have erased meanwhile and found nobody to wait for.
    pub fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// Tells those who erase to wait for this reader no longer: nothing of what it read is in use.
    pub async fn leave(&mut self) -> Result<(), GalleryError> {
        (self.confirmed, self.is_counted) = (None, false);
        sqlx::query("delete from readers where id = $1").bind(self.id).execute(&self.pool).await?;
        Ok(())
    }

    /// Deletes changes that are old and that every reader has seen, and says so in the same transaction: whoever has been away
    /// for so long that it does not count as a reader finds out.
    pub async fn prune(&self) -> Result<(), GalleryError> {
        sqlx::query(
            "delete from readers \
             where seen_at < now() - greatest($1::float8, answers_for + $2::float8) * interval '1 second'",
        )
        .bind(FORGOTTEN_AFTER.as_secs_f64())
        .bind(SEEN_WITHIN.as_secs_f64())
        .execute(&self.pool)
        .await?;
        sqlx::query(
            // Nothing of a transaction that is later than one still running: whoever starts over now begins there.
            "with reach as materialized (select least(pg_snapshot_xmin(pg_current_snapshot()), \
               (select pg_snapshot_xmin(snapshot) from readers order by pg_snapshot_xmin(snapshot) limit 1)) as oldest \
             ), gone as ( \
               delete from changes where changed_at < now() - $1::float8 * interval '1 second' \
               and transaction < (select oldest from reach) returning transaction \
             ) \
             update change_log set pruned_to = greatest(pruned_to, (select \
               ((transaction::text::bigint + 1)::text)::xid8 from gone order by transaction desc limit 1)) \
             where exists (select from gone)",
        )
        .bind(CHANGES_KEPT.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
