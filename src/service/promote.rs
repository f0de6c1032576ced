//! Making another model the active one, while the present one serves; and back.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;
use utoipa::ToSchema;

use super::scheduler::EmbeddedAll;
use super::{Loaded, ServiceError, Services};
use crate::evaluation::GateOutcome;
use crate::registry::{Actor, Model, ModelState, Purpose, Ready, RegistryError};
use crate::types::ModelId;

/// A promotion to be done.
#[derive(Debug, Clone, Copy)]
pub struct Promotion {
    pub model: ModelId,
    /// Whether what the gate or the enrolled people refuse is promoted all the same, and faces without chips may be left behind.
    pub force: bool,
    pub actor: Actor,
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

impl Services {
    /// Fails if a promotion of this model would be refused now.
    pub async fn check_promotion(&self, promotion: &Promotion) -> Result<GateState, ServiceError> {
        let model = self.0.registry.model(promotion.model).await?;
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
    pub(super) async fn require_chips(&self, model: ModelId, force: bool) -> Result<(), ServiceError> {
        match self.0.registry.count_without_chip(model).await? {
            faces @ 1.. if !force => Err(ServiceError::FacesWithoutChips { faces }),
            _ => Ok(()),
        }
    }

    /// Embeds all enrolled faces by the model, then makes it the active one, unless they show that it is worthless. `progress`
    /// hears how many faces are done of how many. Meanwhile the active model serves, and new faces are embedded by both. Broken
    /// off, it leaves everything as it was but for the embeddings that were made; begun again, it goes on from there.
    pub async fn promote(
        &self,
        promotion: Promotion,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Promoted, ServiceError> {
        let Promotion { model: id, force, actor } = promotion;
        let gate = self.check_promotion(&promotion).await?;
        let model = self.0.registry.model(id).await?;
        if model.state == ModelState::Active {
            self.follow().await?;
            let left_behind = self.0.registry.count_without_chip(id).await?;
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
        self.0.registry.set_target(id, Purpose::Promotion, actor, begun).await?;
        // Loads it, so that new faces need no second look.
        self.follow().await?;
        let loaded = self.load(&model).await?;
        let first = self.embed_missing(&loaded, &mut progress).await?;
        // Before it is calibrated on the same people, which would make it keep any promise.
        let (enrolled, figures) = match gate {
            GateState::NotNeeded => (GateState::NotNeeded, Value::Null),
            _ => self.require_worth(&model, force).await?,
        };
        let former = self.0.registry.active().await?.name;
        let details = json!({"force": force, "gate": gate, "enrolled": enrolled});
        let switch = || self.0.registry.switch(id, actor, details.clone());
        let before = first.embedded + first.set_aside;
        let (more, _) = self
            .embed_until_ready(&loaded, actor, switch, |done, total| progress(before + done, before + total))
            .await?;
        let EmbeddedAll { embedded, set_aside } = first + more;
        self.follow().await?;
        let left_behind = self.0.registry.count_without_chip(id).await?;
        info!(model = %model.name, %former, embedded, set_aside, "promoted");
        let (model, former) = (model.name, Some(former));
        Ok(Promoted { model, former, embedded, set_aside, left_behind, gate, enrolled, figures })
    }

    /// Embeds by a model, which is calibrated if it was not, until `attempt` finds that no face lacks an embedding; how many
    /// it embedded and set aside, and what came of it.
    pub(super) async fn embed_until_ready<T, F: Future<Output = Result<Ready<T>, RegistryError>>>(
        &self,
        loaded: &Loaded,
        actor: Actor,
        attempt: impl Fn() -> F,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(EmbeddedAll, T), ServiceError> {
        let mut all = self.embed_missing(loaded, &mut progress).await?;
        self.calibrate(loaded.model.id, actor).await?;
        loop {
            match attempt().await? {
                Ready::Done(done) => return Ok((all, done)),
                Ready::Missing(faces) => {
                    info!(faces, model = %loaded.model.name, "more faces came; embedding them as well");
                }
            }
            let before = all.embedded + all.set_aside;
            let more = self.embed_missing(loaded, |done, total| progress(before + done, before + total)).await?;
            all = all + more;
        }
    }

    /// The model that was active before the present one.
    pub async fn rollback_target(&self) -> Result<Model, ServiceError> {
        Ok(self.0.registry.rollback_target().await?)
    }
}
