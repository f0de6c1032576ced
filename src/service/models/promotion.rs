//! Making another model the active one, while the present one serves; and back.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;
use utoipa::ToSchema;

use super::{EmbeddedFaces, Models};
use crate::db::Transaction;
use crate::evaluation::GateOutcome;
use crate::gallery::GalleryError;
use crate::jobs::{JobKind, Lease};
use crate::registry::{Model, ModelState, Purpose};
use crate::service::ServiceError;
use crate::service::answers::Job;
use crate::service::once::{Once, once};
use crate::service::recognition::Loaded;
use crate::service::work::{self, Failure, new_job, settings_of};
use crate::types::{Actor, ModelId, RequestKey};

/// A promotion to be done.
#[derive(Debug, Clone, Copy)]
pub struct Promotion<'a> {
    pub model: ModelId,
    /// Whether what the gate or the enrolled people refuse is promoted all the same, and faces without chips may be left behind.
    pub force: bool,
    /// Who wants it.
    pub actor: &'a Actor,
}

/// What a promotion did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Promoted {
    /// The name of the model that is active now.
    pub model: String,
    /// The name of the one before; null if the model was active already.
    #[schema(required)]
    pub former: Option<String>,
    /// Faces that were embedded, beside those that had an embedding.
    pub embedded: u64,
    /// Faces that cannot be found now, as their chips cannot be embedded: `GET /admin/quarantine` lists them.
    #[serde(default)]
    pub set_aside: u64,
    /// Faces that cannot be found now: they have neither a chip nor an embedding of the model.
    pub left_behind: u64,
    /// What the gate said of the model, which compares it with the one that was active.
    pub gate: GateState,
    /// Whether it is of use to the people who are enrolled, as their photos show.
    pub enrolled: GateState,
    /// The figures of that; null if it was not measured.
    #[schema(value_type = Option<Object>)]
    pub figures: Value,
}

/// What came of a look at a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    Passed,
    /// It refused, and was overruled.
    Overruled,
    /// The gate compared it, and too few people could tell.
    NotEnoughEvidence,
    /// Nobody evaluated the model, or too few enrolled people could tell whether it is of use.
    NotEvaluated,
    /// The model was active before, and needs none.
    NotNeeded,
}

impl Models {
    /// Fails if a promotion of this model would be refused now.
    pub async fn check_promotion(&self, promotion: &Promotion<'_>) -> Result<GateState, ServiceError> {
        let model = self.parts.registry.model(promotion.model).await?;
        if !model.is_loadable() {
            return Err(ServiceError::NoModelFile { model: model.name });
        }
        if matches!(model.state, ModelState::Active | ModelState::Former) {
            return Ok(GateState::NotNeeded);
        }
        self.require_chips(model.id, promotion.force).await?;
        let Some(verdict) = model.verdict else { return Ok(GateState::NotEvaluated) };
        match verdict.outcome {
            GateOutcome::Passed => Ok(GateState::Passed),
            GateOutcome::NotEnoughEvidence => Ok(GateState::NotEnoughEvidence),
            GateOutcome::Refused if promotion.force => Ok(GateState::Overruled),
            GateOutcome::Refused => Err(ServiceError::GateRefused { model: model.name, reasons: verdict.reasons }),
        }
    }

    /// Fails if faces can never be embedded by a model, unless they may be left behind.
    pub(in crate::service) async fn require_chips(&self, model: ModelId, force: bool) -> Result<(), ServiceError> {
        match self.galleries().count_without_chip(model).await? {
            faces @ 1.. if !force => Err(ServiceError::FacesWithoutChips { faces }),
            _ => Ok(()),
        }
    }

    /// Embeds all enrolled faces by the model, then makes it the active one, unless they show that it is worthless. `progress`
    /// hears how many faces are done of how many. Meanwhile the active model serves, and new faces are embedded by both. Broken
    /// off, it leaves everything as it was but for the embeddings that were made; begun again, it goes on from there.
    pub async fn promote(
        &self,
        promotion: Promotion<'_>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Promoted, ServiceError> {
        let Promotion { model: id, force, actor } = promotion;
        let gate = self.check_promotion(&promotion).await?;
        let model = self.parts.registry.model(id).await?;
        if model.state == ModelState::Active {
            self.follow().await?;
            let left_behind = self.galleries().count_without_chip(id).await?;
            let (enrolled, figures) = (GateState::NotNeeded, Value::Null);
            let (former, embedded, set_aside) = (None, 0, 0);
            return Ok(Promoted {
                model: model.name,
                former,
                embedded,
                set_aside,
                left_behind,
                gate,
                enrolled,
                figures,
            });
        }
        let begun = json!({"force": force, "gate": gate});
        self.parts.registry.set_secondary(id, Purpose::Promotion, actor, begun).await?;
        // Loads it, so that new faces need no second look.
        self.follow().await?;
        let loaded = self.load(&model).await?;
        let first = self.embed_missing(&loaded, &mut progress).await?;
        // Before it is calibrated on the same people, which would make it keep any promise.
        let (enrolled, figures) = match gate {
            GateState::NotNeeded => (GateState::NotNeeded, Value::Null),
            _ => self.require_worth(&model, force).await?,
        };
        let former = self.parts.registry.active().await?.name;
        let details = json!({"force": force, "gate": gate, "enrolled": enrolled});
        let before = first.embedded + first.set_aside;
        let (more, held) =
            self.embed_until_ready(&loaded, actor, |done, total| progress(before + done, before + total)).await?;
        self.parts.registry.switch(held, id, actor, details).await?;
        let EmbeddedFaces { embedded, set_aside } = first + more;
        self.follow().await?;
        let left_behind = self.galleries().count_without_chip(id).await?;
        info!(model = %model.name, %former, embedded, set_aside, "promoted");
        let (model, former) = (model.name, Some(former));
        Ok(Promoted { model, former, embedded, set_aside, left_behind, gate, enrolled, figures })
    }

    /// Embeds by the secondary model, which is calibrated if it was not, until no face lacks an embedding; how many it embedded and
    /// set aside, and the transaction that keeps it so.
    pub(super) async fn embed_until_ready(
        &self,
        loaded: &Loaded,
        actor: &Actor,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(EmbeddedFaces, Transaction), ServiceError> {
        let id = loaded.model.id;
        let mut all = self.embed_missing(loaded, &mut progress).await?;
        self.calibrate(id, actor).await?;
        loop {
            let mut held = self.parts.registry.hold_secondary(id).await?;
            match self.galleries().count_missing_within(&mut held, id).await? {
                0 => return Ok((all, held)),
                faces => info!(faces, model = %loaded.model.name, "more faces came; embedding them as well"),
            }
            held.rollback().await.map_err(GalleryError::from)?;
            let before = all.embedded + all.set_aside;
            let more = self.embed_missing(loaded, |done, total| progress(before + done, before + total)).await?;
            all = all + more;
        }
    }

    /// The model that was active before the present one.
    pub async fn rollback_model(&self) -> Result<Model, ServiceError> {
        Ok(self.parts.registry.rollback_model().await?)
    }
}

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PromotionSettings {
    model: ModelId,
    /// For people.
    name: String,
    force: bool,
    actor: String,
}

impl Models {
    /// Submits a job that makes a model active, if it would not be refused now. `false`: there is such a job already.
    pub async fn submit_promotion(
        &self,
        model: &str,
        force: bool,
        key: Option<&RequestKey>,
    ) -> Result<Once<(Job, bool)>, ServiceError> {
        once(&self.parts.answers, key, async {
            let model = self.find_model(model).await?;
            self.submit(&model, force, key).await
        })
        .await
    }

    /// Submits a job that makes the model active that was before the present one.
    pub async fn submit_rollback(&self, key: Option<&RequestKey>) -> Result<Once<(Job, bool)>, ServiceError> {
        once(&self.parts.answers, key, async {
            let model = self.rollback_model().await?;
            self.submit(&model, false, key).await
        })
        .await
    }

    /// Submits the promotion of the embedder that the configuration names.
    pub async fn promote_configured(&self, model: ModelId) -> Result<(), ServiceError> {
        let model = self.parts.registry.model(model).await?;
        self.submit(&model, false, None).await?;
        Ok(())
    }

    async fn submit(&self, model: &Model, force: bool, key: Option<&RequestKey>) -> Result<(Job, bool), ServiceError> {
        let (actor, by) = (&self.caller.actor(), self.caller.name());
        self.check_promotion(&Promotion { model: model.id, force, actor }).await?;
        let settings = PromotionSettings { model: model.id, name: model.name.clone(), force, actor: by.to_owned() };
        let new = new_job(JobKind::Promote, model.id.to_string(), &settings, by)?;
        work::submit(&self.jobs(), &new, key).await
    }

    /// Works on such a job.
    pub(in crate::service) async fn run_promotion(&self, lease: &Lease) -> Result<Value, Failure> {
        let settings: PromotionSettings = settings_of(lease)?;
        let actor = &Actor::from(settings.actor.as_str());
        let promotion = Promotion { model: settings.model, force: settings.force, actor };
        let promoting = self.embed_for(lease, (settings.model, Purpose::Promotion, actor), |progress| {
            self.promote(promotion, move |done, total| _ = progress.send_replace((done, total)))
        });
        let promoted: Promoted = promoting.await?;
        serde_json::to_value(promoted).map_err(|error| Failure::Final(error.to_string()))
    }
}
