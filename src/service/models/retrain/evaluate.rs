//! Evaluating a model on enrolled faces, as retraining does with what it trained: the gate's verdict is kept with the model.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::gate::{MOST_FACES, MOST_OF_ONE, Sample};
use super::{GalleryRef, LEAST_PROTECTED, job_of, looked_at, too_few};
use crate::audit::Action;
use crate::jobs::{JobKind, Lease, NewJob};
use crate::service::ServiceError;
use crate::service::answers::Job;
use crate::service::models::Models;
use crate::service::once::{Once, once};
use crate::service::requests::EvaluateRequest;
use crate::service::work::{Failure, JobReporter, settings_of, submit};
use crate::types::{ModelId, RequestKey};

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct EvaluationSettings {
    model: ModelId,
    /// For people.
    name: String,
    gallery: GalleryRef,
    protected: Vec<GalleryRef>,
    /// Whether there are more that nobody named.
    #[serde(default)]
    by_lot: bool,
}

impl Models {
    /// Submits a job that asks the gate. `false`: there is such a job already.
    pub async fn submit_evaluation(
        &self,
        model: &str,
        request: &EvaluateRequest,
        key: Option<&RequestKey>,
    ) -> Result<Once<(Job, bool)>, ServiceError> {
        once(&self.parts.answers, key, async {
            let settings = self.evaluation_settings(model, request).await?;
            let galleries = looked_at(&settings.gallery, &settings.protected, settings.by_lot);
            let new = NewJob { galleries, ..job_of(JobKind::Evaluate, &settings, self.caller.name())? };
            submit(&self.jobs(), &new, key).await
        })
        .await
    }

    /// Refuses what cannot be compared, and decides what was left open.
    async fn evaluation_settings(
        &self,
        model: &str,
        request: &EvaluateRequest,
    ) -> Result<EvaluationSettings, ServiceError> {
        let model = self.find_model(model).await?;
        if model.file.is_none() {
            return Err(ServiceError::NoModelFile { model: model.name });
        }
        let gallery = self.gallery_ref(&request.gallery).await?;
        let stock = self.galleries().training_stock(gallery.id).await?;
        if stock.mated < LEAST_PROTECTED {
            return Err(too_few("gallery", &gallery.name, LEAST_PROTECTED, stock));
        }
        let (protected, by_lot) = self.protected(request.protected.as_deref(), gallery.id).await?;
        Ok(EvaluationSettings { model: model.id, name: model.name, gallery, protected, by_lot })
    }

    /// Works on such a job.
    pub(in crate::service) async fn run_evaluation(&self, lease: &Lease) -> Result<Value, Failure> {
        let settings: EvaluationSettings = settings_of(lease)?;
        let model = self.parts.registry.model(settings.model).await.map_err(ServiceError::from)?;
        let candidate = self.load(&model).await?;
        let subjects = MOST_FACES as u32 / MOST_OF_ONE;
        let target = self.galleries().sample_of_faces(settings.gallery.id, subjects, MOST_OF_ONE).await;
        let others = self.protected_faces(&settings.protected).await?;
        let mut report = JobReporter::new(lease);
        let target = Sample { gallery: settings.gallery.clone(), faces: target.map_err(ServiceError::from)? };
        let verdict = self.judge_faces(&candidate, &target, &others, settings.by_lot, &mut report).await?;
        self.set_verdict(model.id, &verdict).await?;
        let details = json!({
            "job": lease.job().id, "gate": verdict.outcome,
            "gate_passed": verdict.passed,
        });
        let actor = &self.caller.actor();
        let noted =
            self.parts.registry.note(actor, Action::ModelEvaluate, model.id, settings.gallery.id, details).await;
        noted.map_err(ServiceError::from)?;
        let stock = self.galleries().training_stock(settings.gallery.id).await.map_err(ServiceError::from)?;
        Ok(json!({
            "model": {"id": model.id, "name": model.name}, "gate": verdict, "copies_left_out": stock.copies,
        }))
    }
}
