//! Old entries are dropped from the beginning of the chain. What is left follows on an anchor, so that it can be verified as before.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::seal::hold_head;
use super::{Action, Audit, AuditError, Entry, append};
use crate::types::Actor;

/// Entries that are dropped in one transaction at most.
const PIECE: i64 = 1000;

impl Audit {
    /// Drops a piece of those that are older, up to the first that is not; whether there may be more.
    pub async fn drop_before(&self, time: DateTime<Utc>) -> Result<bool, AuditError> {
        let mut transaction = self.beside.begin().await?;
        if hold_head(&mut transaction, false).await?.is_none() {
            return Ok(false);
        }
        // One of a clock that was wrong, of a day to come, keeps none that came after it, and goes with them.
        let last: Option<i64> = sqlx::query_scalar(
            "with oldest as (select position, at from audit where position is not null order by position limit $2) \
             select max(position) from oldest where at < $1 and position < coalesce((select min(position) from oldest \
                 where at >= $1 and at <= now() + interval '1 day'), 9223372036854775807)",
        )
        .bind(time)
        .bind(PIECE)
        .fetch_one(&mut *transaction)
        .await?;
        let Some(last) = last else { return Ok(false) };
        // The anchor first: without it the table keeps them.
        sqlx::query(
            "update audit_chain set dropped_position = a.position, dropped_hash = a.hash from audit a \
             where a.position = $1",
        )
        .bind(last)
        .execute(&mut *transaction)
        .await?;
        let dropped =
            sqlx::query("delete from audit where position <= $1").bind(last).execute(&mut *transaction).await?;
        let dropped = dropped.rows_affected();
        if dropped > 0 {
            let details = json!({"entries": dropped, "up_to": last});
            append(&mut transaction, &Entry::new(&Actor::from("server"), Action::AuditExpire).details(details)).await?;
        }
        transaction.commit().await?;
        Ok(dropped == PIECE.unsigned_abs())
    }
}
