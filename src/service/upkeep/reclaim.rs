//! The job that makes the bytes of what was erased go.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Timelike};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Upkeep;
use crate::gallery::{REWRITTEN, ReclaimState};
use crate::jobs::{JobKind, Lease};
use crate::service::ServiceError;
use crate::service::work::Failure;

/// How often it is looked whether something is due.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked whether older readers have ended, and how long they are waited for; then all is begun again.
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(3600);

/// Enrolments wait while tables are written anew: for no more than this share of the time.
const SHARE: u32 = 20;

/// Where templates are searched by an index in Postgres, that is dropped and built again, which takes long: so it is done once in so
/// many days.
const INDEXED_EVERY: TimeDelta = TimeDelta::days(7);

impl Upkeep {
    pub(in crate::service) async fn run_reclaim(&self, lease: &Lease) -> Result<Value, Failure> {
        loop {
            if let Err(error) = self.reclaim(lease).await {
                warn!(%error, "cannot reclaim the bytes of what was erased; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => (),
                _ = lease.stopped() => return Err(Failure::Stopped),
            }
        }
    }

    async fn reclaim(&self, lease: &Lease) -> Result<(), ServiceError> {
        let galleries = &self.galleries();
        let Some(state) = galleries.reclaim_state().await? else { return Ok(()) };
        let hour = state.now.hour();
        // The chips of a training lie in a folder until it ends.
        if !self.parts.config.reclaim.allows(hour)
            || !is_due(&state)
            || self.jobs().is_running(JobKind::Retrain).await?
        {
            return Ok(());
        }
        let reclaim = galleries.begin_reclaim().await?;
        lease.report(&json!({"stage": "waiting"})).await?;
        let waiting = Instant::now();
        while galleries.is_held_back(&reclaim).await? {
            if waiting.elapsed() > PATIENCE {
                warn!(
                    "a transaction that began before the last erasure goes on, so that the bytes cannot be reclaimed yet"
                );
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => (),
                _ = lease.stopped() => return Ok(()),
            }
        }
        if state.has_index {
            galleries.drop_indexes().await?;
        }
        let began = Instant::now();
        for table in REWRITTEN {
            lease.report(&json!({"stage": "writing", "table": table})).await?;
            while !galleries.rewrite(table).await? {
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => (),
                    _ = lease.stopped() => return Ok(()),
                }
            }
        }
        let took = began.elapsed();
        let erasures = galleries.finish_reclaim(&reclaim, took).await?;
        info!(erasures, ?took, "the bytes of what was erased are gone from the database");
        lease.report(&json!({"stage": "idle", "erasures": erasures, "seconds": took.as_secs_f64()})).await?;
        Ok(())
    }
}

/// Whether it has been long enough since the last time.
fn is_due(state: &ReclaimState) -> bool {
    let Some(last) = state.last else { return true };
    let rest = TimeDelta::from_std(last.took * SHARE).unwrap_or(TimeDelta::MAX);
    let rest = if state.has_index { rest.max(INDEXED_EVERY) } else { rest };
    state.now - last.finished_at >= rest
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::gallery::LastReclaim;

    #[test]
    fn the_next_time_waits_for_twenty_times_as_long_as_the_last_took() {
        let now = Utc::now();
        let last = |seconds| {
            Some(LastReclaim { finished_at: now - TimeDelta::seconds(seconds), took: Duration::from_secs(10) })
        };
        let state = ReclaimState { since: now, now, last: None, has_index: false };
        assert!(is_due(&state));
        assert!(!is_due(&ReclaimState { last: last(199), ..state }));
        assert!(is_due(&ReclaimState { last: last(200), ..state }));
        let indexed = ReclaimState { has_index: true, ..state };
        assert!(is_due(&indexed));
        assert!(!is_due(&ReclaimState { last: last(6 * 24 * 3600), ..indexed }));
        assert!(is_due(&ReclaimState { last: last(7 * 24 * 3600), ..indexed }));
    }
}
