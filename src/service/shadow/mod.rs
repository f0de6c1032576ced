//! A candidate in the shadow: it embeds what is enrolled, answers a share of the live probes out of sight, and where it
//! would have answered otherwise than the active model is listed before anybody promotes it.

mod compare;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(super) use compare::{Sampler, Seen};

use super::answers::{Disagreement, Job, Page, ShadowOpinion, ShadowReport, ShadowTally};
use super::scheduler::{EmbeddedAll, Failure, settings_of};
use super::{ServiceError, Services};
use crate::db::PageRequest;
use crate::jobs::{JobKind, Lease, NewJob};
use crate::registry::{self, Actor, Model, Purpose};
use crate::types::ModelId;

/// Which model is to answer in the shadow.
#[derive(Debug, Clone)]
pub struct ShadowRequest {
    /// Id, sha256 or name.
    pub model: String,
    /// Of the probes, more than 0, 1 at most.
    pub share: f64,
    /// Whether faces that have no chip may be left out, which it cannot know.
    pub force: bool,
}

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Settings {
    model: ModelId,
    /// For people.
    name: String,
    share: f64,
    actor: String,
}

impl Services {
    /// Submits a job that embeds all enrolled faces by a model and then lets it answer in the shadow, until that is ended
    /// or another model is promoted. `false`: there is such a job already.
    pub async fn submit_shadow(&self, request: ShadowRequest, actor: Actor) -> Result<(Job, bool), ServiceError> {
        let ShadowRequest { model, share, force } = request;
        if !(share > 0.0 && share <= 1.0) {
            let reason = "it is more than 0, and 1 at most".to_owned();
            return Err(ServiceError::InvalidField { field: "share", reason });
        }
        let model = self.find_model(&model).await?;
        model.not_active()?;
        if !model.is_loadable() {
            return Err(ServiceError::NoModelFile { model: model.name });
        }
        self.require_chips(model.id, force).await?;
        let settings = Settings { model: model.id, name: model.name.clone(), share, actor: actor.as_str().to_owned() };
        let new = NewJob {
            kind: JobKind::Shadow,
            key: model.id.to_string(),
            settings: serde_json::to_value(settings).map_err(|error| ServiceError::Internal(error.to_string()))?,
            requested_by: actor.as_str().to_owned(),
        };
        let (job, is_new) = self.0.jobs.submit(&new).await?;
        Ok((job.into(), is_new))
    }

    /// Works on such a job.
    pub(super) async fn run_shadow(&self, lease: &Lease) -> Result<Value, Failure> {
        let settings: Settings = settings_of(lease)?;
        let actor = Actor::parse(&settings.actor).unwrap_or(Actor::Server);
        let beginning = self.embed_for(lease, (settings.model, Purpose::Shadow, actor), |progress| {
            self.begin_shadow(&settings, actor, move |done, total| _ = progress.send_replace((done, total)))
        });
        let EmbeddedAll { embedded, set_aside } = beginning.await?;
        Ok(json!({
            "model": settings.name, "share": settings.share, "embedded": embedded, "set_aside": set_aside,
        }))
    }

    /// How many faces were embedded, and how many could not be.
    async fn begin_shadow(
        &self,
        settings: &Settings,
        actor: Actor,
        progress: impl FnMut(u64, u64),
    ) -> Result<EmbeddedAll, ServiceError> {
        let model = self.0.registry.model(settings.model).await?;
        model.not_active()?;
        let details = json!({"share": settings.share});
        self.0.registry.set_target(model.id, Purpose::Shadow, actor, details).await?;
        self.follow().await?;
        let loaded = self.load(&model).await?;
        let begin = || self.0.registry.begin_shadow(model.id, settings.share, actor);
        let (embedded, ()) = self.embed_until_ready(&loaded, actor, begin, progress).await?;
        self.follow().await?;
        Ok(embedded)
    }

    /// Ends the shadow of a model, if it is in it. What came of it can still be read.
    pub async fn end_shadow(&self, model: &str, actor: Actor) -> Result<(), ServiceError> {
        let model = self.find_model(model).await?;
        let is_promoted = self.0.jobs.unfinished(JobKind::Promote, &model.id.to_string()).await?.is_some();
        if !self.0.registry.end_shadow(model.id, is_promoted, actor).await? {
            return Err(ServiceError::NoShadow { model: model.name });
        }
        self.follow().await
    }

    /// What came of the probes that a model was asked about in the shadow.
    pub async fn shadow_report(&self, model: &str) -> Result<ShadowReport, ServiceError> {
        let model = self.shadowed(model).await?;
        let tallies = self.0.registry.shadow_tallies(model.id).await?;
        Ok(ShadowReport {
            model: model.name,
            share: model.shadow,
            against: tallies.into_iter().map(ShadowTally::from).collect(),
        })
    }

    /// The probes about which a model and the active one differed, latest first.
    pub async fn disagreements(&self, model: &str, page: PageRequest) -> Result<Page<Disagreement>, ServiceError> {
        let model = self.shadowed(model).await?;
        Ok(self.0.registry.disagreements(model.id, page).await?.into())
    }

    /// A model that is, or was, in the shadow.
    async fn shadowed(&self, model: &str) -> Result<Model, ServiceError> {
        let model = self.find_model(model).await?;
        if model.shadow.is_none() && self.0.registry.shadow_tallies(model.id).await?.is_empty() {
            return Err(ServiceError::NoShadow { model: model.name });
        }
        Ok(model)
    }
}

impl From<registry::ShadowTally> for ShadowTally {
    fn from(tally: registry::ShadowTally) -> Self {
        let registry::ShadowTally { against, agreed, other_subject, only_active, only_candidate, since, last_at } =
            tally;
        let faces = agreed + other_subject + only_active + only_candidate;
        Self { model: against, faces, agreed, other_subject, only_active, only_candidate, since, last_at }
    }
}

impl From<registry::Disagreement> for Disagreement {
    fn from(found: registry::Disagreement) -> Self {
        Self {
            id: found.id,
            at: found.at,
            gallery: found.gallery,
            active_model: found.against,
            kind: found.kind,
            by_active: found.by_active.into(),
            by_candidate: found.by_candidate.into(),
        }
    }
}

impl From<registry::NamedOpinion> for ShadowOpinion {
    fn from(opinion: registry::NamedOpinion) -> Self {
        let (subject_id, subject) = opinion.subject.unzip();
        Self { subject, subject_id, similarity: opinion.similarity, threshold: opinion.threshold }
    }
}
