//! Adding a face to a gallery.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::Enrolment;
use crate::db::Transaction;
use crate::engine::Step;
use crate::gallery::{self, GalleryError, NewFace, OnDoubt};
use crate::service::ServiceError;
use crate::service::answers::{Enrolled, Mismatch, Usability};
use crate::service::once::{Once, keep, once};
use crate::service::recognition::{PhotoFace, Serving};
use crate::service::requests::{EnrollRequest, Expiry, FaceChoice, QualityDemand};
use crate::types::{Chip, Embedding, ModelId, RequestKey};
use crate::vision;

/// How often an enrolment starts over because another model became active under way.
const ATTEMPTS: usize = 3;

/// What is known of a face before it is embedded.
struct Sighting {
    face: PhotoFace,
    /// As JPEG.
    chip: Vec<u8>,
    image_sha256: [u8; 32],
}

/// A face with all that decides about it.
struct Embedded<'a> {
    serving: &'a Serving,
    sighting: &'a Sighting,
    embedding: Embedding,
    others: Vec<(ModelId, Embedding)>,
    duplicate_threshold: f32,
    mismatch_threshold: f32,
}

impl Embedded<'_> {
    fn to_store<'a>(&'a self, request: &'a EnrollRequest) -> NewFace<'a> {
        let found = self.sighting.face.found();
        NewFace {
            gallery: request.gallery.as_str(),
            subject: &request.subject,
            metadata: &request.metadata,
            subject_expires_at: request.expires_at.map(Expiry::get),
            expires_at: request.face_expires_at.map(Expiry::get),
            chip: &self.sighting.chip,
            image_sha256: self.sighting.image_sha256,
            bounding_box: found.bounding_box,
            landmarks: found.landmarks,
            detection_score: found.detection_score,
            quality: found.quality,
            model: self.serving.id(),
            embedding: &self.embedding,
            others: &self.others,
            on_duplicate: request.on_duplicate,
            duplicate_threshold: self.duplicate_threshold,
            on_mismatch: request.on_mismatch,
            mismatch_threshold: self.mismatch_threshold,
        }
    }

    fn answer(&self, stored: gallery::Enrolled, usability: Usability) -> Enrolled {
        let mismatch = |found: gallery::Mismatch| Mismatch { similarity: found.similarity, threshold: found.threshold };
        Enrolled {
            face_id: stored.face_id,
            subject: stored.subject,
            subject_id: stored.subject_id,
            gallery: stored.gallery,
            model: self.serving.name().to_owned(),
            face: self.sighting.face.found(),
            usability,
            anomaly: self.serving.anomaly(&self.embedding),
            duplicates: stored.duplicates.into_iter().map(Into::into).collect(),
            mismatch: stored.mismatch.map(mismatch),
        }
    }
}

impl Enrolment {
    /// Enrolls the face of a photo; when this returns, the face is stored for good.
    pub async fn enroll(
        &self,
        request: EnrollRequest,
        key: Option<&RequestKey>,
    ) -> Result<Once<Enrolled>, ServiceError> {
        let _admitted = self.recognition().admit()?;
        let enrolling = async {
            // Before any inference: is there such a gallery at all?
            self.recognition().find_gallery(&self.recognition().serving(), request.gallery.as_str()).await?;
            self.enroll_admitted(request, key).await
        };
        let enrolled = once(&self.parts.answers, key, enrolling).await?;
        if enrolled.repeated {
            // It may have been another server that stored it.
            self.recognition().catch_up().await;
        }
        Ok(enrolled)
    }

    /// As [`Self::enroll`], for who has a place among the requests or, as work in the background, needs none.
    pub(in crate::service) async fn enroll_admitted(
        &self,
        mut request: EnrollRequest,
        key: Option<&RequestKey>,
    ) -> Result<Enrolled, ServiceError> {
        // Its bytes are freed once its face is found.
        let image = std::mem::take(&mut request.image.0);
        let sighting = self.look(image, &request).await?;
        for _ in 0..ATTEMPTS {
            let serving = self.recognition().serving();
            match self.enroll_by(&serving, &request, &sighting, key).await {
                Err(ServiceError::Gallery(GalleryError::OtherModel { .. })) => {
                    self.models().follow().await.map_err(|error| {
                        warn!(%error, "cannot follow the active model");
                        ServiceError::ModelChanges
                    })?;
                }
                done => return done,
            }
        }
        Err(ServiceError::ModelChanges)
    }

    async fn look(&self, image: Bytes, request: &EnrollRequest) -> Result<Sighting, ServiceError> {
        let bytes = image.clone();
        let (recognition, wanted) = (self.recognition(), request.wanted());
        let (photos, bill) = (recognition.photos(), recognition.bill());
        let face = match request.face {
            FaceChoice::Only => photos.read("image", image, wanted, usize::MAX, &bill).await?.only()?,
            FaceChoice::Largest => photos.read("image", image, wanted, 1, &bill).await?.largest()?,
        };
        let pixels = face.chip.clone();
        let encoding = move || (vision::encode_chip(&pixels), Sha256::digest(&bytes).into());
        let (chip, image_sha256) = self.parts.engine.on_cpu(Step::Chips, encoding).await?;
        let chip = chip.map_err(|error| ServiceError::Internal(error.to_string()))?;
        Ok(Sighting { face, chip, image_sha256 })
    }

    /// Enrolls by the model that answers, and by the secondary one.
    async fn enroll_by(
        &self,
        serving: &Arc<Serving>,
        request: &EnrollRequest,
        sighting: &Sighting,
        key: Option<&RequestKey>,
    ) -> Result<Enrolled, ServiceError> {
        let recognition = self.recognition();
        let gallery = recognition.find_gallery(serving, request.gallery.as_str()).await?.id;
        let authority = recognition.authority(serving, gallery).await?;
        let chip = sighting.face.chip.clone();
        let (embedding, others) =
            tokio::try_join!(recognition.embedding(&serving.loaded, chip.clone()), self.by_secondary(serving, chip))?;
        let mismatch_threshold = authority.own_subject().threshold;
        let duplicate_threshold = authority.new_subject(recognition.config().duplicate_rate).threshold;
        let usability = serving.usability(&sighting.face, &embedding, mismatch_threshold);
        let usability = if request.quality == QualityDemand::Any { usability } else { usability.accepted("image")? };
        let face = Embedded { serving, sighting, embedding, others, duplicate_threshold, mismatch_threshold };
        let (stored, mut transaction) = self.store(serving, &face.to_store(request)).await?;
        let answer = face.answer(stored, usability);
        let named = answer.duplicates.iter().map(|duplicate| duplicate.subject_id).chain([answer.subject_id]);
        keep(&mut transaction, key, &answer, &named.collect::<Vec<_>>()).await?;
        transaction.commit().await.map_err(GalleryError::from)?;
        recognition.catch_up().await;
        Ok(answer)
    }

    /// The embedding by the secondary model. Where that is not loaded, the embedding is made of the chip later.
    async fn by_secondary(&self, serving: &Serving, chip: Chip) -> Result<Vec<(ModelId, Embedding)>, ServiceError> {
        match self.recognition().served().secondary().filter(|secondary| secondary.serving.id() != serving.id()) {
            Some(secondary) => {
                Ok(vec![(secondary.serving.id(), self.recognition().embedding(&secondary.serving.loaded, chip).await?)])
            }
            None => Ok(Vec::new()),
        }
    }

    /// Looks for duplicates, then stores the face, for good when the transaction commits.
    async fn store(
        &self,
        serving: &Serving,
        face: &NewFace<'_>,
    ) -> Result<(gallery::Enrolled, Transaction), ServiceError> {
        let galleries = self.galleries();
        let mut enrolment = galleries.begin_enrolment(face).await?;
        let similar = match enrolment.duplicates_query(face) {
            None => Vec::new(),
            Some(query) => {
                if face.on_duplicate == OnDoubt::Reject {
                    // The enrolment holds the gallery, so this sees every other that came before it.
                    serving.resident.catch_up().await;
                }
                match serving.resident.fresh() {
                    Some(view) => {
                        let gallery = enrolment.gallery_id();
                        let found = self.recognition().search_in(Some(view), serving, gallery, vec![query]).await?;
                        found.into_iter().flatten().collect()
                    }
                    None => enrolment.search(face.model, &query).await?,
                }
            }
        };
        Ok(enrolment.finish(face, similar).await?)
    }
}
