//! Promotions as jobs: one at a time in a database, taken over when a server dies.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answers::Job;
use super::promote::{Promoted, Promotion};
use super::scheduler::{Failure, settings_of};
use super::{ServiceError, Services};
use crate::jobs::{JobKind, Lease, NewJob};
use crate::registry::{Actor, Model, Purpose};
use crate::types::ModelId;

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
        let promoting = self.embed_for(lease, (settings.model, Purpose::Promotion, actor), |progress| {
            self.promote(promotion, move |done, total| _ = progress.send_replace((done, total)))
        });
        let promoted: Promoted = promoting.await?;
        serde_json::to_value(promoted).map_err(|error| Failure::Final(error.to_string()))
    }
}
