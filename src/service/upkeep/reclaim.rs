//! The job that makes the bytes of what was erased go.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Timelike, Utc};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Upkeep;
use super::indexes::BUILDING;
use crate::gallery::ReclaimState;
use crate::jobs::{JobKind, Lease};
use crate::service::ServiceError;
use crate::service::work::Failure;

/// The stage of the job while it writes tables anew.
pub(super) const WRITING: &str = "writing";

/// How often it is looked whether something is due.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked whether older readers have ended, and how long they are waited for; then all is begun again.
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(3600);

/// Enrolments wait while tables are written anew, and while it is waited for a table: for no more than this share of the time.
const SHARE: u32 = 20;

/// How often a table is asked for that others hold, each time for two seconds, and the pause between; then all is begun again.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_secs(2 * SHARE as u64);

/// How long after a failure it is tried again, at least; twice as long after each further one, up to 64 times.
const RETRY: Duration = Duration::from_secs(60);

/// Where templates are searched by an index in Postgres, that is dropped and built again, which takes long: so it is done once in so
/// many days.
const INDEXED_EVERY: TimeDelta = TimeDelta::days(7);

impl Upkeep {
    pub(in crate::service) async fn run_reclaim(&self, lease: &Lease) -> Result<Value, Failure> {
        // Whoever was at it before may have been killed at any stage.
        lease.report(&json!({"stage": "idle"})).await?;
        let mut failures = 0;
        loop {
            let mut wrote = Duration::ZERO;
            let pause = match self.reclaim(lease, &mut wrote).await {
                Ok(()) => {
                    failures = 0;
                    INTERVAL
                }
                Err(error) => {
                    failures = (failures + 1).min(6);
                    warn!(%error, "cannot reclaim the bytes of what was erased; trying again later");
                    // No index is built while the stage is another one.
                    if let Err(error) = lease.report(&json!({"stage": "idle"})).await {
                        warn!(%error, "cannot note the progress of a job");
                    }
                    RETRY * 2_u32.pow(failures - 1)
                }
            };
            let pause = pause.max(wrote * SHARE);
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                _ = lease.stopped() => return Err(Failure::Stopped),
            }
        }
    }

    /// Reclaims what is due. Adds how long tables were written anew, whether all were or not.
    async fn reclaim(&self, lease: &Lease, wrote: &mut Duration) -> Result<(), ServiceError> {
        let galleries = &self.galleries();
        if !self.may_rewrite() {
            return Ok(());
        }
        let Some(state) = galleries.reclaim_state().await? else { return Ok(()) };
        if !is_due(&state) || self.is_in_the_way().await? {
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
                return Ok(lease.report(&json!({"stage": "idle"})).await?);
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => (),
                _ = lease.stopped() => return Ok(()),
            }
        }
        lease.report(&json!({"stage": WRITING})).await?;
        if state.has_index {
            galleries.drop_indexes().await?;
        }
        for table in reclaim.tables() {
            lease.report(&json!({"stage": WRITING, "table": table})).await?;
            if !self.rewrite(table, lease, wrote).await? {
                return Ok(lease.report(&json!({"stage": "idle"})).await?);
            }
        }
        let took = std::mem::take(wrote);
        let (erasures, elsewhere) = galleries.finish_reclaim(&reclaim, took).await?;
        info!(erasures, ?took, ?elsewhere, "the bytes of what was erased are gone from the tables");
        lease.report(&json!({"stage": "idle", "erasures": erasures, "seconds": took.as_secs_f64()})).await?;
        Ok(())
    }

    /// Writes a table anew, and adds how long that took. False: it is not to be done now, or others hold the table.
    async fn rewrite(&self, table: &'static str, lease: &Lease, wrote: &mut Duration) -> Result<bool, ServiceError> {
        for _ in 0..TRIES {
            if !self.may_rewrite() || lease.stop().is_some() {
                return Ok(false);
            }
            let began = Instant::now();
            let written = self.galleries().rewrite(table).await;
            if !matches!(written, Ok(false)) {
                *wrote += began.elapsed();
            }
            if written? {
                return Ok(true);
            }
            tokio::select! {
                () = tokio::time::sleep(BETWEEN_TRIES) => (),
                _ = lease.stopped() => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Whether this is an hour for it.
    fn may_rewrite(&self) -> bool {
        self.parts.config.reclaim.allows(Utc::now().hour())
    }

    /// Whether a training goes on, whose folder holds chips, or an index is being built, which holds its table.
    async fn is_in_the_way(&self) -> Result<bool, ServiceError> {
        let jobs = self.jobs();
        Ok(jobs.is_running(JobKind::Retrain).await?
            || jobs.stage_of(JobKind::Index).await?.as_deref() == Some(BUILDING))
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
