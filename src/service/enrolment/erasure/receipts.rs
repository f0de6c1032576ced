//! Receipts for what was erased.

use crate::db::{Page, PageRequest};
use crate::gallery;
use crate::jobs::{Job, JobKind};
use crate::service::ServiceError;
use crate::service::answers;
use crate::service::enrolment::Enrolment;
use crate::signing::PrivateKey;
use crate::types::{ErasureId, GalleryId, ModelId};

impl Enrolment {
    /// Signs receipts from now on; the first key stays.
    pub fn sign_receipts_by(&self, key: PrivateKey) {
        let _ = self.parts.signing_key.set(key);
    }

    /// What was erased, latest first.
    pub async fn list_erasures(&self, page: PageRequest) -> Result<answers::Page<answers::Erasure>, ServiceError> {
        let Page { items, next_cursor } = self.galleries().list_erasures(page).await?;
        let galleries: Vec<GalleryId> = items.iter().map(|erasure| erasure.gallery).collect();
        let trainings = self.trainings(&galleries).await?;
        let items = items.into_iter().map(|erasure| receipt(erasure, &trainings)).collect();
        Ok(Page { items, next_cursor }.into())
    }

    pub async fn get_erasure(&self, id: ErasureId) -> Result<answers::ErasureReceipt, ServiceError> {
        let erasure = self.galleries().erasure(id).await?;
        let trainings = self.trainings(&[erasure.gallery]).await?;
        let receipt = receipt(erasure, &trainings);
        let signed = self.parts.signing_key.get().map(|key| signed(&receipt, key)).transpose()?;
        Ok(answers::ErasureReceipt { receipt, signed })
    }

    /// The trainings that saw one of these galleries, be they of other callers.
    async fn trainings(&self, galleries: &[GalleryId]) -> Result<Vec<Job>, ServiceError> {
        Ok(self.jobs().succeeded_on(JobKind::Retrain, galleries).await?)
    }
}

/// The receipt as a line of JSON, and a signature of that line.
fn signed(receipt: &answers::Erasure, key: &PrivateKey) -> Result<answers::Signed, ServiceError> {
    let text = serde_json::to_string(receipt).map_err(|error| ServiceError::Internal(error.to_string()))?;
    Ok(answers::Signed { signature: key.sign(&text), text })
}

fn receipt(erasure: gallery::Erasure, trainings: &[Job]) -> answers::Erasure {
    let models = trainings.iter().filter(|job| may_have_seen(job, &erasure)).filter_map(trained_model).collect();
    answers::Erasure::new(erasure, models)
}

/// Whether a training took place in the gallery while some of it was enrolled.
fn may_have_seen(training: &Job, erasure: &gallery::Erasure) -> bool {
    training.galleries.as_ref().is_none_or(|galleries| galleries.contains(&erasure.gallery))
        && training.created_at <= erasure.erased_at
        && training.finished_at.is_none_or(|finished| finished >= erasure.since)
}

fn trained_model(training: &Job) -> Option<ModelId> {
    training.result.as_ref()?.pointer("/model/id")?.as_str()?.parse().ok().map(ModelId)
}
