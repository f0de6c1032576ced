//! A candidate in the shadow: it embeds what is enrolled, answers a share of the live probes out of sight, and where it
//! would have answered otherwise than the active model is listed before anybody promotes it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::warn;

use crate::db::PageRequest;
use crate::gallery::GalleryError;
use crate::jobs::{JobKind, Lease, NewJob};
use crate::registry::{self, Comparison, DisagreementAbout, Model, Purpose};
use crate::service::ServiceError;
use crate::service::answers::{Disagreement, Job, Page, PersonDisagreement, ShadowOpinion, ShadowReport, ShadowTally};
use crate::service::models::{EmbeddedFaces, Models};
use crate::service::once::{Once, once};
use crate::service::recognition::{Answered, Probes, Serving, count_shadow, opinion};
use crate::service::requests::ShadowRequest;
use crate::service::work::{Failure, new_job, patiently, settings_of, submit};
use crate::types::{Actor, ModelId, RequestKey, StoredEmbedding, SubjectId};

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ShadowSettings {
    model: ModelId,
    /// For people.
    name: String,
    share: f64,
    actor: String,
}

impl Models {
    /// Photos that one model of two took for a subject.
    pub(in crate::service) async fn disagreements_about(
        &self,
        subject: SubjectId,
    ) -> Result<Vec<PersonDisagreement>, ServiceError> {
        let found = self.registry().disagreements_about(subject).await?;
        let about = |found: DisagreementAbout| PersonDisagreement {
            at: found.at,
            model: found.model,
            against: found.against,
            kind: found.kind,
            active_similarity: found.active_similarity,
            candidate_similarity: found.candidate_similarity,
        };
        Ok(found.into_iter().map(about).collect())
    }

    /// Submits a job that embeds all enrolled faces by a model and then lets it answer in the shadow, until that is ended
    /// or another model is promoted. `false`: there is such a job already.
    pub async fn submit_shadow(
        &self,
        model: &str,
        request: ShadowRequest,
        key: Option<&RequestKey>,
    ) -> Result<Once<(Job, bool)>, ServiceError> {
        once(&self.parts.answers, key, async {
            let new = self.new_shadow(model, request).await?;
            submit(&self.jobs(), &new, key).await
        })
        .await
    }

    async fn new_shadow(&self, model: &str, request: ShadowRequest) -> Result<NewJob, ServiceError> {
        let (ShadowRequest { share, force }, actor) = (request, self.caller.name());
        if !(share > 0.0 && share <= 1.0) {
            let reason = "it is more than 0, and 1 at most".to_owned();
            return Err(ServiceError::InvalidField { field: "share", reason });
        }
        let model = self.find_model(model).await?;
        model.not_active()?;
        if !model.is_loadable() {
            return Err(ServiceError::NoModelFile { model: model.name });
        }
        self.require_chips(model.id, force).await?;
        let settings = ShadowSettings { model: model.id, name: model.name.clone(), share, actor: actor.to_owned() };
        new_job(JobKind::Shadow, model.id.to_string(), &settings, actor)
    }

    /// Works on such a job.
    pub(in crate::service) async fn run_shadow(&self, lease: &Lease) -> Result<Value, Failure> {
        let settings: ShadowSettings = settings_of(lease)?;
        let actor = &Actor::from(settings.actor.as_str());
        let beginning = self.embed_for(lease, (settings.model, Purpose::Shadow, actor), |progress| {
            self.begin_shadow(&settings, move |done, total| _ = progress.send_replace((done, total)))
        });
        let EmbeddedFaces { embedded, set_aside } = beginning.await?;
        Ok(json!({
            "model": settings.name, "share": settings.share, "embedded": embedded, "set_aside": set_aside,
        }))
    }

    /// How many faces were embedded, and how many could not be.
    async fn begin_shadow(
        &self,
        settings: &ShadowSettings,
        progress: impl FnMut(u64, u64),
    ) -> Result<EmbeddedFaces, ServiceError> {
        let actor = &Actor::from(settings.actor.as_str());
        let model = self.parts.registry.model(settings.model).await?;
        model.not_active()?;
        let details = json!({"share": settings.share});
        self.parts.registry.set_secondary(model.id, Purpose::Shadow, actor, details).await?;
        self.follow().await?;
        let loaded = self.load(&model).await?;
        let (embedded, held) = self.embed_until_ready(&loaded, actor, progress).await?;
        self.parts.registry.begin_shadow(held, model.id, settings.share, actor).await?;
        self.follow().await?;
        Ok(embedded)
    }

    /// Ends the shadow of a model, if it is in it. What came of it can still be read.
    pub async fn end_shadow(&self, model: &str) -> Result<(), ServiceError> {
        let model = self.find_model(model).await?;
        let is_promoted = self.jobs().unfinished(JobKind::Promote, &model.id.to_string()).await?.is_some();
        if !self.parts.registry.end_shadow(model.id, is_promoted, &self.caller.actor()).await? {
            return Err(ServiceError::NoShadow { model: model.name });
        }
        self.follow().await
    }

    /// What came of the probes that a model was asked about in the shadow.
    pub async fn shadow_report(&self, model: &str) -> Result<ShadowReport, ServiceError> {
        let model = self.shadowed(model).await?;
        let tallies = self.parts.registry.shadow_tallies(model.id).await?;
        Ok(ShadowReport {
            model: model.name,
            share: model.shadow,
            against: tallies.into_iter().map(ShadowTally::from).collect(),
        })
    }

    /// The probes about which a model and the active one differed, latest first.
    pub async fn disagreements(&self, model: &str, page: PageRequest) -> Result<Page<Disagreement>, ServiceError> {
        let model = self.shadowed(model).await?;
        Ok(self.parts.registry.disagreements(model.id, page).await?.into())
    }

    /// A model that is, or was, in the shadow.
    async fn shadowed(&self, model: &str) -> Result<Model, ServiceError> {
        let model = self.find_model(model).await?;
        if model.shadow.is_none() && self.parts.registry.shadow_tallies(model.id).await?.is_empty() {
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

impl Models {
    /// Lets the candidate see what was chosen, for as long as the service lives.
    pub(in crate::service) async fn keep_comparing(self) {
        let recognition = self.recognition();
        let mut chosen = recognition.sampler().chosen().await;
        while let Some((secondary, answered)) = chosen.recv().await {
            let faces = answered.chips.len();
            match self.compare(&secondary.serving, answered).await {
                Ok(()) => {}
                // Its gallery was deleted, or the candidate has no rates to decide by.
                Err(ServiceError::Gallery(GalleryError::GalleryNotFound(_)) | ServiceError::Uncalibrated { .. }) => {
                    count_shadow("left_out", faces);
                }
                Err(error) => {
                    count_shadow("failed", faces);
                    warn!(%error, model = %secondary.serving.name(), "the candidate in the shadow did not answer");
                }
            }
        }
    }

    async fn compare(&self, candidate: &Serving, answered: Answered) -> Result<(), ServiceError> {
        let Answered { gallery, policy, unique_subjects, chips, opinions, by } = answered;
        let recognition = self.recognition();
        let embeddings = patiently(|| recognition.embeddings(&candidate.loaded, chips.clone())).await?;
        let decision = recognition.decide(candidate, &gallery, policy, 1).await?;
        let probes: Vec<StoredEmbedding> = embeddings.iter().map(StoredEmbedding::from).collect();
        let probes = Probes { embeddings: &probes, except: None, top_k: 1, unique: unique_subjects };
        let found = recognition.best_subjects(candidate, gallery.id, probes, decision.threshold).await?;
        for (by_active, hits) in opinions.into_iter().zip(found.hits) {
            let by_candidate = opinion(&hits, decision.threshold);
            let comparison =
                Comparison { candidate: candidate.id(), against: by, gallery: gallery.id, by_active, by_candidate };
            self.parts.registry.note_comparison(&comparison).await?;
            count_shadow(comparison.disagreement().map_or("agreed", |kind| kind.name()), 1);
        }
        Ok(())
    }
}
