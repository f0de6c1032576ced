//! The steps of a retraining. Each can be repeated: an attempt goes on where the last one was.

use std::io::ErrorKind;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::chips::{Faces, on_disk, remove};
use super::folder::Folder;
use super::gate::MOST_KEPT;
use super::{RetrainBase, RetrainSettings};
use crate::audit::Action;
use crate::evaluation::Gate;
use crate::jobs::{JobError, Lease, Stop};
use crate::registry::{GateVerdict, Manifest, Model, ModelSource};
use crate::service::ServiceError;
use crate::service::models::{Models, NewModelFile};
use crate::service::once::Once;
use crate::service::work::{Failure, JobReporter, settings_of};
use crate::types::{JobId, ModelId, SubjectId, hex};

/// The name under which attempts keep what they agree on.
const PLAN: &str = "plan";

/// What all attempts of a job agree on, wherever they run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TrainingPlan {
    pub(super) faces: Faces,
    /// Faces of the protected galleries on which the base is kept; the gate looks at others.
    pub(super) kept: Faces,
    /// The model to begin with.
    pub(super) base: Option<ModelId>,
    /// Part of what makes a training repeatable.
    pub(super) threads: usize,
    /// Faces of the gallery that are not trained on: their subject has another one of the same photo.
    #[serde(default)]
    pub(super) copies: u64,
}

impl Models {
    /// Trains a candidate and says what it is worth.
    pub(in crate::service) async fn run_retrain(&self, lease: &Lease) -> Result<Value, Failure> {
        let folder = Folder::new(&self.parts.config.folder, lease.job().id);
        let outcome = self.retrain_in(&folder, lease).await;
        // Nobody's chips stay on disk for longer than it takes; each attempt writes them anew. The rest an attempt goes on from.
        let goes_on = matches!(outcome, Err(Failure::Passing(_) | Failure::Stopped));
        let done_with = match !goes_on || lease.stop() == Some(Stop::Cancelled) {
            true => vec![folder.path().to_owned()],
            false => vec![folder.chips(), folder.kept()],
        };
        for path in done_with {
            if let Err(failure) = remove(path).await {
                warn!(?failure, job = %lease.job().id, "cannot delete the files of a job; trying again later");
            }
        }
        outcome
    }

    async fn retrain_in(&self, folder: &Folder, lease: &Lease) -> Result<Value, Failure> {
        let settings: RetrainSettings = settings_of(lease)?;
        let plan = self.plan(&settings, lease).await?;
        let mut report = JobReporter::new(lease);
        self.write_chips(&folder.chips(), &plan.faces, &mut report).await?;
        self.write_chips(&folder.kept(), &plan.kept, &mut report).await?;
        let base = match plan.base {
            Some(base) => Some(self.write_base(folder, base).await?),
            None => None,
        };
        let card = self.train_in(folder, &settings, &plan, &mut report).await?;
        report.stage("import").await?;
        let candidate = self.import_candidate(folder, &settings, base.as_ref(), lease.job().id).await?;
        let loaded = self.load(&candidate).await?;
        let held_out = held_out(&card)?;
        let verdict = self.judge(&loaded, &plan, &held_out, &settings, &mut report).await?;
        self.set_verdict(candidate.id, &verdict).await?;
        let details = json!({
            "job": lease.job().id, "gate": verdict.outcome,
            "gate_passed": verdict.passed,
        });
        self.parts
            .registry
            .note(&self.caller.actor(), Action::ModelRetrain, candidate.id, settings.gallery.id, details)
            .await
            .map_err(ServiceError::from)?;
        self.concluded(&settings, &candidate, &verdict, &plan, card).await
    }

    /// What the first attempt decided, or decides now.
    async fn plan(&self, settings: &RetrainSettings, lease: &Lease) -> Result<TrainingPlan, Failure> {
        if let Some(saved) = lease.saved(PLAN).await?
            && let Ok(plan) = serde_json::from_slice(&saved.content)
        {
            return Ok(plan);
        }
        let seed = settings.recipe["seed"].as_u64().unwrap_or_default();
        let kept = match settings.base {
            RetrainBase::Active => {
                let samples = self.protected_faces(&settings.protected).await?;
                let each = (MOST_KEPT / samples.len().max(1)).max(Gate::LEAST_MATED);
                Faces::half_of(&samples.into_iter().flat_map(|sample| sample.faces).collect::<Vec<_>>(), each)
            }
            RetrainBase::Scratch => Faces::default(),
        };
        if settings.keeps && kept.is_empty() {
            let reason = "no protected gallery has four people with two photos any more, on whom the model would be kept; \
                          submit the retraining again";
            return Err(Failure::Final(reason.to_owned()));
        }
        let plan = TrainingPlan {
            kept,
            faces: self.faces_to_train(settings.gallery.id, seed).await?,
            base: (settings.base == RetrainBase::Active).then(|| self.active_model().id),
            threads: self.parts.config.train_threads,
            copies: self.galleries().training_stock(settings.gallery.id).await.map_err(ServiceError::from)?.copies,
        };
        let text = serde_json::to_vec(&plan).map_err(|error| Failure::Final(error.to_string()))?;
        lease.save(PLAN, &text).await?;
        Ok(plan)
    }

    /// Puts the file of the model to begin with where the training finds it, with its manifest.
    async fn write_base(&self, folder: &Folder, base: ModelId) -> Result<Model, Failure> {
        let model = self.parts.registry.model(base).await.map_err(ServiceError::from)?;
        let Some(manifest) = &model.manifest else {
            return Err(ServiceError::NoModelFile { model: model.name }.into());
        };
        let manifest = manifest.to_toml().map_err(|error| Failure::Final(error.to_string()))?;
        let content = self.parts.files.content(&model).await?;
        let path = folder.base();
        on_disk(move || {
            std::fs::write(path.with_extension("toml"), manifest)?;
            std::fs::write(path, content)
        })
        .await?;
        Ok(model)
    }

    /// Registers the network that was trained.
    async fn import_candidate(
        &self,
        folder: &Folder,
        settings: &RetrainSettings,
        base: Option<&Model>,
        job: JobId,
    ) -> Result<Model, Failure> {
        let path = folder.network();
        let (content, manifest) =
            on_disk(move || Ok((std::fs::read(&path)?, std::fs::read_to_string(path.with_extension("toml"))?))).await?;
        let broken = |error: &dyn std::fmt::Display| Failure::Final(format!("the trained network: {error}"));
        let content = Bytes::from(content);
        // The end of an id is what is random of it.
        let id = job.0.simple().to_string();
        let name = settings.name.clone().unwrap_or_else(|| format!("{}-{}", settings.gallery.name, &id[24..]));
        let manifest = Manifest::from_toml(&manifest).and_then(|manifest| manifest.named(name));
        // The same training may have been done before: it gives the same file, which is known by another name then.
        let manifest = self.parts.files.manifest_for(&content, manifest.map_err(|error| broken(&error))?).await?;
        let (source, parent) = (ModelSource::Retrain, base.map(|base| base.id));
        let file = NewModelFile { content, manifest, source, parent, allow_code: false };
        Ok(self.parts.files.import(file, &self.caller.actor()).await?.0.model)
    }

    /// The result of the job; promotes if that was asked for and the gate allows it.
    async fn concluded(
        &self,
        settings: &RetrainSettings,
        candidate: &Model,
        verdict: &GateVerdict,
        plan: &TrainingPlan,
        card: Value,
    ) -> Result<Value, Failure> {
        let (mut promotion, mut refused) = (None, None);
        if settings.promote && verdict.passed {
            match self.submit_promotion(&candidate.id.to_string(), false, None).await {
                Ok(Once { answer: (job, _), .. }) => promotion = Some(job.id),
                // The candidate is there all the same.
                Err(error @ (ServiceError::FacesWithoutChips { .. } | ServiceError::GateRefused { .. })) => {
                    refused = Some(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        info!(model = %candidate.name, gate = ?verdict.outcome, "trained a candidate");
        Ok(json!({
            "model": {
                "id": candidate.id,
                "name": candidate.name,
                "sha256": hex(&candidate.sha256),
                "dimension": candidate.dimension,
            },
            "gate": verdict,
            "promotion": promotion,
            "promotion_refused": refused,
            "copies_left_out": plan.copies,
            "card": card,
        }))
    }

    /// Deletes the files of jobs that are finished: a server that died left them.
    pub(in crate::service) async fn tidy_job_folders(&self) -> Result<(), Failure> {
        let root = self.parts.config.folder.clone();
        let names = on_disk(move || match std::fs::read_dir(root) {
            Ok(entries) => Ok(entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        })
        .await?;
        for name in names {
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()).map(JobId) else { continue };
            let goes_on = match self.jobs().job(id).await {
                Ok(job) => !job.state.is_final(),
                Err(JobError::JobNotFound(_)) => false,
                Err(error) => return Err(error.into()),
            };
            if !goes_on {
                info!(job = %id, "deleting the files that a job left");
                remove(self.parts.config.folder.join(&name)).await?;
            }
        }
        Ok(())
    }
}

/// The subjects whom the training was not allowed to see, by the names of their folders.
fn held_out(card: &Value) -> Result<Vec<SubjectId>, Failure> {
    serde_json::from_value(card["data"]["test_subjects"].clone())
        .map_err(|error| Failure::Final(format!("the model card does not say who was held out: {error}")))
}
