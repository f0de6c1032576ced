//! Adding a face to a gallery.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::answers::Enrolled;
use super::{PhotoBytes, ServiceError, Services};
use crate::engine::Step;
use crate::gallery::{self, Metadata, NewFace, OnDuplicate};
use crate::types::Name;
use crate::vision;

pub struct EnrollRequest {
    pub image: PhotoBytes,
    pub subject: Name,
    pub gallery: Name,
    /// Kept with the face.
    pub metadata: Metadata,
    pub on_duplicate: OnDuplicate,
    pub face: FaceChoice,
}

/// Which face of a photo is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaceChoice {
    /// The only one; several are an error.
    #[default]
    Only,
    /// The largest.
    Largest,
}

impl Services {
    /// Enrolls the face of a photo; when this returns, the face is stored for good.
    pub async fn enroll(&self, request: EnrollRequest) -> Result<Enrolled, ServiceError> {
        let _admitted = self.admit()?;
        // Before any inference: is there such a gallery at all?
        self.find_gallery(request.gallery.as_str()).await?;
        let image_sha256: [u8; 32] = Sha256::digest(&request.image.bytes).into();
        let photos = &self.0.photos;
        let face = match request.face {
            FaceChoice::Only => photos.read(request.image, usize::MAX).await?.only()?,
            FaceChoice::Largest => photos.read(request.image, 1).await?.largest()?,
        };
        let found = face.found();
        let embedding = self.embedding(face.chip.clone()).await?;
        let chip = self.0.engine.on_cpu(Step::Chips, move || vision::encode_chip(&face.chip)).await?;
        let chip = chip.map_err(|error| ServiceError::Internal(error.to_string()))?;
        let new = NewFace {
            gallery: request.gallery.as_str(),
            subject: &request.subject,
            metadata: &request.metadata,
            chip: &chip,
            image_sha256,
            bounding_box: found.bounding_box,
            landmarks: found.landmarks,
            detection_score: found.detection_score,
            quality: found.quality,
            model: self.0.model.id,
            embedding: &embedding,
            on_duplicate: request.on_duplicate,
            duplicate_threshold: self.0.threshold,
        };
        let stored = self.store(&new).await?;
        Ok(Enrolled {
            face_id: stored.face_id,
            subject: stored.subject,
            subject_id: stored.subject_id,
            gallery: stored.gallery,
            model: self.model_name().to_owned(),
            face: found,
            anomaly: self.anomaly(&embedding),
            duplicates: stored.duplicates.into_iter().map(Into::into).collect(),
        })
    }

    /// Looks for duplicates, then stores the face.
    async fn store(&self, face: &NewFace<'_>) -> Result<gallery::Enrolled, ServiceError> {
        let mut enrolment = self.0.galleries.begin_enrolment(face).await?;
        let similar = match enrolment.duplicates_query(face) {
            None => Vec::new(),
            Some(query) => {
                if face.on_duplicate == OnDuplicate::Reject {
                    // The enrolment holds the gallery, so this sees every other that came before it.
                    self.settle().await;
                }
                match self.0.resident.current() {
                    Some(_) => self.search(enrolment.gallery_id(), vec![query]).await?.into_iter().flatten().collect(),
                    None => enrolment.search(face.model, &query).await?,
                }
            }
        };
        let stored = enrolment.finish(face, similar).await?;
        self.settle().await;
        Ok(stored)
    }
}
