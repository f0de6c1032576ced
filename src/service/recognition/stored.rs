//! What is enrolled, compared: a photo with a subject or a face, a subject or a face with everybody else.

use super::decisions::decide_pair;
use super::identify::Probe;
use super::{Recognition, Serving};
use crate::audit::Action;
use crate::gallery::{DEFAULT_GALLERY_NAME, GalleryError, Known};
use crate::service::ServiceError;
use crate::service::answers::{ComparedFace, IdentifiedEmbedding, VerifiedStored};
use crate::service::requests::{Among, Given, IdentifyStoredRequest, VerifyStoredRequest};
use crate::types::{Embedding, FaceId, Name, StoredEmbedding};

/// What is compared: the template of a subject, or one face.
#[derive(Clone, Copy)]
pub enum Enrolled<'a> {
    /// By name or id.
    Subject(&'a str),
    Face(FaceId),
}

impl Recognition {
    /// Whether a photo, or the embedding of one, shows somebody who is enrolled.
    pub async fn verify_stored(
        &self,
        enrolled: Enrolled<'_>,
        mut request: VerifyStoredRequest,
    ) -> Result<VerifiedStored, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let decision = decide_pair(&serving, request.policy()?)?;
        let known = self.known(&serving, enrolled, request.gallery.as_ref()).await?;
        let wanted = request.wanted();
        let (embedding, face) = match request.probe()? {
            Given::Photo(image) => {
                let face = self.parts.photos.read("image", image.0, wanted, 1, &self.bill()).await?.largest()?;
                let embedding = self.embedding(&serving.loaded, face.chip.clone()).await?;
                let usability = serving.usability(&face, &embedding, decision.threshold);
                (embedding, Some(ComparedFace { face: face.found(), usability }))
            }
            Given::Embedding(numbers) => (of_numbers(&serving, numbers)?, None),
        };
        let similarity = StoredEmbedding::from(&embedding).similarity(&known.embedding) as f32;
        // Rounding to 16 bits can take a vector's length a little past 1.
        let similarity = similarity.clamp(-1.0, 1.0);
        let verified = VerifiedStored {
            same_person: similarity >= decision.threshold,
            similarity,
            probability: serving.calibration().probability(similarity, 1),
            threshold: decision.threshold,
            decision,
            model: serving.name().to_owned(),
            subject: known.subject,
            subject_id: known.subject_id,
            face_id: match enrolled {
                Enrolled::Face(face) => Some(face),
                Enrolled::Subject(_) => None,
            },
            anomaly: face.as_ref().and_then(|_| serving.anomaly(&embedding)),
            face,
        };
        self.note_verified_stored(serving.id(), known.gallery, &verified);
        Ok(verified)
    }

    /// Whom somebody who is enrolled resembles, apart from themselves.
    pub async fn identify_stored(
        &self,
        enrolled: Enrolled<'_>,
        request: IdentifyStoredRequest,
    ) -> Result<IdentifiedEmbedding, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let policy = request.policy()?;
        let known = self.known(&serving, enrolled, request.gallery.as_ref()).await?;
        let gallery = known.gallery.to_string();
        let places = self.places(&serving, Among::One(&gallery), policy).await?;
        let probe = Probe { embedding: known.embedding, except: Some(known.subject_id) };
        self.identify_probe((&serving, places), probe, request.top_k, Action::IdentifyStored).await
    }

    /// Who or what was enrolled, by the model that answers.
    pub(super) async fn known(
        &self,
        serving: &Serving,
        enrolled: Enrolled<'_>,
        gallery: Option<&Name>,
    ) -> Result<Known, ServiceError> {
        let (galleries, model) = (&self.galleries(), serving.id());
        match enrolled {
            Enrolled::Subject(subject) => {
                let gallery = gallery.map_or(DEFAULT_GALLERY_NAME, Name::as_str);
                let known = galleries.known_subject(gallery, subject, model).await?;
                known.ok_or(ServiceError::NotEmbedded { what: "subject" })
            }
            Enrolled::Face(face) => {
                let known =
                    galleries.known_face(face, model).await?.ok_or(ServiceError::NotEmbedded { what: "face" })?;
                match gallery {
                    Some(gallery) if galleries.gallery_id(gallery.as_str()).await? != known.gallery => {
                        Err(GalleryError::FaceNotFound(face).into())
                    }
                    _ => Ok(known),
                }
            }
        }
    }
}

/// An embedding that was computed elsewhere, by the same model.
pub(super) fn of_numbers(serving: &Serving, numbers: Vec<f32>) -> Result<Embedding, ServiceError> {
    let (expected, found) = (serving.loaded.embedder.dimension(), numbers.len());
    if expected != found {
        return Err(ServiceError::EmbeddingDimension { expected, found });
    }
    Embedding::normalised(numbers).map_err(ServiceError::Embedding)
}
