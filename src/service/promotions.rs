//! Promotions as jobs: one at a time in a database, taken over when a server dies.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::warn;

use super::answers::Job;
use super::promote::{Promoted, Promotion};
use super::work::{Failure, settings_of};
use super::{ServiceError, Services};
use crate::jobs::{JobError, JobKind, Lease, NewJob, Stop};
use crate::registry::{Actor, Model, Purpose};
use crate::types::ModelId;

/// How often a job says how far it is.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Settings {
    model: ModelId,
    /// For people.
    name: String,
    force: bool,
    actor: String,
}

impl Services {
    /// Submits a job that makes a model active, if it would not be refused now. `false`: there is such a job already.
    pub async fn submit_promotion(&self, model: &str, force: bool, actor: Actor) -> Result<(Job, bool), ServiceError> {
        let model = self.find_model(model).await?;
        self.submit(&model, force, actor).await
    }

    /// Submits a job that makes the model active that was before the present one.
    pub async fn submit_rollback(&self, actor: Actor) -> Result<(Job, bool), ServiceError> {
        let model = self.rollback_target().await?;
        self.submit(&model, false, actor).await
    }

    /// Submits the promotion of the embedder that the configuration names.
    pub async fn promote_configured(&self, model: ModelId) -> Result<(), ServiceError> {
        let model = self.0.registry.model(model).await?;
        self.submit(&model, false, Actor::Server).await?;
        Ok(())
    }

    async fn submit(&self, model: &Model, force: bool, actor: Actor) -> Result<(Job, bool), ServiceError> {
        self.check_promotion(&Promotion { model: model.id, force, actor }).await?;
        let settings = Settings { model: model.id, name: model.name.clone(), force, actor: actor.as_str().to_owned() };
        let new = NewJob {
            kind: JobKind::Promote,
            key: model.id.to_string(),
            settings: serde_json::to_value(settings).map_err(|error| ServiceError::Internal(error.to_string()))?,
            requested_by: actor.as_str().to_owned(),
        };
        let (job, is_new) = self.0.jobs.submit(&new).await?;
        Ok((job.into(), is_new))
    }

    /// Works on such a job.
    pub(super) async fn run_promotion(&self, lease: &Lease) -> Result<Value, Failure> {
        let settings: Settings = settings_of(lease)?;
        let actor = Actor::parse(&settings.actor).unwrap_or(Actor::Server);
        let promotion = Promotion { model: settings.model, force: settings.force, actor };
        let (progress, seen) = watch::channel((0, 0));
        let promoting = self.promote(promotion, |done, total| _ = progress.send_replace((done, total)));
        let outcome = tokio::select! {
            outcome = promoting => outcome.map_err(Failure::from),
            error = report(lease, seen) => Err(error),
            why = lease.stopped() => {
                if why == Stop::Cancelled {
                    self.abandon(settings.model, Purpose::Promotion, actor, "cancelled").await;
                }
                return Err(Failure::Stopped);
            }
        };
        if let Err(Failure::Final(reason)) = &outcome {
            self.abandon(settings.model, Purpose::Promotion, actor, reason).await;
        }
        let promoted: Promoted = outcome?;
        serde_json::to_value(promoted).map_err(|error| Failure::Final(error.to_string()))
    }

    /// New faces need not be embedded by the model any more. If the database is away, [`Self::end_orphaned`] does it.
    pub(super) async fn abandon(&self, model: ModelId, purpose: Purpose, actor: Actor, reason: &str) {
        if let Err(error) = self.0.registry.clear_target(model, purpose, actor, reason).await {
            warn!(%error, "cannot note that a promotion ended; trying again");
        }
    }

    /// Ends what no job works on any more, and is no shadow: whether it was so.
    pub(super) async fn end_orphaned(&self, target: &Model) -> Result<bool, ServiceError> {
        if target.shadow.is_some() {
            return Ok(false);
        }
        let key = target.id.to_string();
        let is_needed = self.0.jobs.unfinished(JobKind::Promote, &key).await?.is_some()
            || self.0.jobs.unfinished(JobKind::Shadow, &key).await?.is_some();
        if !is_needed {
            self.0.registry.clear_target(target.id, Purpose::Promotion, Actor::Server, "its job has ended").await?;
        }
        Ok(!is_needed)
    }
}

/// Says how far it is, now and then; returns if that must not go on.
pub(super) async fn report(lease: &Lease, mut seen: watch::Receiver<(u64, u64)>) -> Failure {
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
