//! Retraining: an embedder is trained on the faces of a gallery, in a process of its own, and becomes a candidate.

mod chips;
mod evaluate;
mod folder;
mod gate;
mod process;
mod recipe;
mod run;
mod train;

pub use process::training_exit;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::evaluation::Gate;
use crate::gallery::TrainingStock;
use crate::jobs::{JobKind, NewJob};
use crate::registry::ModelFormat;
use crate::service::ServiceError;
use crate::service::answers::Job;
use crate::service::models::Models;
use crate::service::once::{Once, once};
use crate::service::requests::{RetrainBase, RetrainRequest};
use crate::service::work::{new_job, submit};
use crate::types::{GalleryId, Name, RequestKey, hex};

/// Subjects with two photos or more that it takes to train on some and test on others.
const LEAST_SUBJECTS: u64 = 4;

/// Subjects with two photos or more that it takes to compare anything. For an answer the gate needs more.
const LEAST_PROTECTED: u64 = 2;

/// Protected galleries at most if none are named: as many of the largest, and the rest by lot. Each costs embedding of some
/// hundred faces by two networks.
const MOST_PROTECTED: usize = 30;
const LARGEST: usize = 15;

/// Subjects with two photos or more from which on a protected gallery gives some of them to be kept in training.
const LEAST_KEPT: usize = 4;

/// Share of the subjects that the candidate is tested on, if nothing else is said.
const TEST_SHARE: f64 = 0.25;

/// A gallery, by what it was called when the job was submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct GalleryRef {
    id: GalleryId,
    name: String,
}

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RetrainSettings {
    gallery: GalleryRef,
    base: RetrainBase,
    protected: Vec<GalleryRef>,
    /// Whether there are more that nobody named.
    #[serde(default)]
    by_lot: bool,
    /// All settings of the training but those that the server decides.
    recipe: Value,
    /// Whether the recipe counts on people of protected galleries, on whom the model is kept as it is.
    #[serde(default)]
    keeps: bool,
    name: Option<String>,
    promote: bool,
}

impl Models {
    /// Submits a job that retrains. `false`: the same is queued or running already, and is that job.
    pub async fn retrain(
        &self,
        request: RetrainRequest,
        key: Option<&RequestKey>,
    ) -> Result<Once<(Job, bool)>, ServiceError> {
        once(&self.parts.answers, key, async {
            let settings = self.retrain_settings(request).await?;
            let galleries = looked_at(&settings.gallery, &settings.protected, settings.by_lot);
            let new = NewJob { galleries, ..job_of(JobKind::Retrain, &settings, self.caller.name())? };
            submit(&self.jobs(), &new, key).await
        })
        .await
    }

    /// Refuses what cannot be trained, and decides what was left open.
    async fn retrain_settings(&self, request: RetrainRequest) -> Result<RetrainSettings, ServiceError> {
        let active = self.active_model();
        if request.base == RetrainBase::Active && !matches!(active.file, Some((ModelFormat::Onnx, _))) {
            let reason = format!("the active model {} is not an ONNX file, which is what can be adapted", active.name);
            return Err(ServiceError::InvalidField { field: "base", reason });
        }
        let gallery = self.gallery_ref(&request.gallery).await?;
        let stock = self.galleries().training_stock(gallery.id).await?;
        if stock.mated < LEAST_SUBJECTS {
            return Err(too_few("gallery", &gallery.name, LEAST_SUBJECTS, stock));
        }
        let (protected, by_lot) = self.protected(request.protected.as_deref(), gallery.id).await?;
        let keeps = request.base == RetrainBase::Active && self.any_is_kept(&protected).await?;
        let recipe = recipe::of(&request, keeps)?;
        let name = request.name.map(|name| name.to_string());
        let RetrainRequest { base, promote, .. } = request;
        Ok(RetrainSettings { gallery, base, protected, by_lot, recipe, keeps, name, promote })
    }

    /// Whether people of one of these galleries are shown to a training, so that the model is kept on them.
    async fn any_is_kept(&self, protected: &[GalleryRef]) -> Result<bool, ServiceError> {
        for gallery in protected {
            let people = self.galleries().training_stock(gallery.id).await?.mated;
            if chips::kept_of(people as usize) > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The galleries that must not suffer: those that are named, else those in which the gate can tell, but the target; and
    /// whether there may be more of these.
    async fn protected(
        &self,
        named: Option<&[Name]>,
        target: GalleryId,
    ) -> Result<(Vec<GalleryRef>, bool), ServiceError> {
        if let Some(names) = named {
            return Ok((self.protected_by_name(names, target).await?, false));
        }
        let least = Gate::LEAST_MATED as u32;
        let mut some = self.galleries().some_with_mated(least, LARGEST, MOST_PROTECTED + 1).await?;
        let more = some.len() > MOST_PROTECTED;
        some.retain(|other| other.id != target);
        some.truncate(MOST_PROTECTED);
        Ok((some.into_iter().map(|other| GalleryRef { id: other.id, name: other.name }).collect(), more))
    }

    async fn protected_by_name(&self, names: &[Name], target: GalleryId) -> Result<Vec<GalleryRef>, ServiceError> {
        let mut protected: Vec<GalleryRef> = Vec::with_capacity(names.len());
        for name in names {
            let gallery = self.gallery_ref(name).await?;
            if gallery.id == target {
                let reason = format!("{:?} is the gallery to train on", gallery.name);
                return Err(ServiceError::InvalidField { field: "protected", reason });
            }
            let stock = self.galleries().training_stock(gallery.id).await?;
            if stock.mated < LEAST_PROTECTED {
                return Err(too_few("protected", &gallery.name, LEAST_PROTECTED, stock));
            }
            if !protected.contains(&gallery) {
                protected.push(gallery);
            }
        }
        Ok(protected)
    }

    async fn gallery_ref(&self, gallery: &Name) -> Result<GalleryRef, ServiceError> {
        let found = self.galleries().find_gallery(gallery.as_str()).await?;
        Ok(GalleryRef { id: found.id, name: found.name })
    }
}

/// The galleries that such a job tells of. If others were chosen by lot, it tells that there are more.
fn looked_at(gallery: &GalleryRef, protected: &[GalleryRef], by_lot: bool) -> Option<Vec<GalleryId>> {
    (!by_lot).then(|| std::iter::once(gallery).chain(protected).map(|looked_at| looked_at.id).collect())
}

/// A job that is told from others by all of its settings.
fn job_of(kind: JobKind, settings: &impl Serialize, requested_by: &str) -> Result<NewJob, ServiceError> {
    let new = new_job(kind, String::new(), settings, requested_by)?;
    // Members are sorted by name, so that the same settings are the same text.
    Ok(NewJob { key: hex(&Sha256::digest(new.settings.to_string())), ..new })
}

fn too_few(field: &'static str, gallery: &str, least: u64, stock: TrainingStock) -> ServiceError {
    let TrainingStock { mated, without_chip, copies } = stock;
    let mut reason = match without_chip {
        0 => String::new(),
        faces => format!("; {faces} faces were imported without a chip, and cannot be trained on"),
    };
    if copies > 0 {
        reason += &format!("; {copies} faces are of a photo that their subject has another face of");
    }
    ServiceError::TooFewSubjects {
        field,
        reason: format!("{gallery:?} has {mated} subjects with two photos or more, {least} are needed{reason}"),
    }
}
