//! Work on the secondary model: the one that faces are embedded by beside the active one, by jobs that promote it or let it answer in
//! the shadow.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tracing::warn;

use super::Models;
use crate::jobs::{JobError, JobKind, Lease, Stop};
use crate::registry::{Model, Purpose};
use crate::service::ServiceError;
use crate::service::work::Failure;
use crate::types::{Actor, Caller, ModelId};

/// How often a job says how far it is.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How many faces are embedded, of how many.
pub(in crate::service) type Progress = watch::Sender<(u64, u64)>;

impl Models {
    /// Does the work of a job that embeds faces by a model, and says how far it is. If it is cancelled, or cannot be done, new
    /// faces are not embedded by the model any more.
    pub(in crate::service) async fn embed_for<T, F: Future<Output = Result<T, ServiceError>>>(
        &self,
        lease: &Lease,
        (model, purpose, actor): (ModelId, Purpose, &Actor),
        work: impl FnOnce(Progress) -> F,
    ) -> Result<T, Failure> {
        let (progress, seen) = watch::channel((0, 0));
        let outcome = tokio::select! {
            outcome = work(progress) => outcome.map_err(Failure::from),
            error = report(lease, seen) => Err(error),
            why = lease.stopped() => {
                if why == Stop::Cancelled {
                    self.abandon(model, purpose, actor, "cancelled").await;
                }
                return Err(Failure::Stopped);
            }
        };
        if let Err(Failure::Final(_)) = &outcome {
            // The job says why.
            self.abandon(model, purpose, actor, "failed").await;
        }
        outcome
    }

    /// New faces need not be embedded by the model any more. If the database is away, [`Self::end_orphaned`] does it.
    async fn abandon(&self, model: ModelId, purpose: Purpose, actor: &Actor, reason: &str) {
        if let Err(error) = self.parts.registry.clear_secondary(model, purpose, actor, reason).await {
            warn!(%error, "cannot note that a model is given up; trying again");
        }
    }

    /// Ends what no job works on any more, and is no shadow: whether it was so.
    pub(in crate::service) async fn end_orphaned(&self, secondary: &Model) -> Result<bool, ServiceError> {
        if secondary.shadow.is_some() {
            return Ok(false);
        }
        let key = secondary.id.to_string();
        let is_needed = self.jobs().unfinished(JobKind::Promote, &key).await?.is_some()
            || self.jobs().unfinished(JobKind::Shadow, &key).await?.is_some();
        if !is_needed {
            self.parts
                .registry
                .clear_secondary(secondary.id, Purpose::Promotion, &Caller::server().actor(), "its job has ended")
                .await?;
        }
        Ok(!is_needed)
    }
}

/// Says how far it is, now and then; returns if that must not go on.
async fn report(lease: &Lease, mut seen: watch::Receiver<(u64, u64)>) -> Failure {
    let began = Instant::now();
    loop {
        let (done, total) = *seen.borrow_and_update();
        let seconds_left = (done > 0).then(|| began.elapsed().as_secs_f64() / done as f64 * (total - done) as f64);
        let progress = json!({
            "stage": "embedding", "done": done, "total": total, "seconds_left": seconds_left.map(f64::ceil),
        });
        match lease.report(&progress).await {
            Ok(()) => {}
            Err(JobError::LeaseLost) => return Failure::Stopped,
            Err(error) => warn!(%error, "cannot note the progress of a job"),
        }
        // The sender lives as long as the work does.
        let _ = seen.changed().await;
        tokio::time::sleep(REPORT_INTERVAL).await;
    }
}
