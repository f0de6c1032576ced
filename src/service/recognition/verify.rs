//! Do two photos show one person?

use super::decisions::decide_pair;
use super::{PhotoBytes, Recognition};
use crate::gallery::Policy;
use crate::service::ServiceError;
use crate::service::answers::{ComparedFace, Verified};
use crate::vision::Wanted;

pub struct VerifyRequest {
    pub image_a: PhotoBytes,
    pub image_b: PhotoBytes,
    /// By what they count as one person, if not by what the server says.
    pub policy: Option<Policy>,
    /// One face of each photo.
    pub wanted: Wanted,
}

impl Recognition {
    /// Compares the largest faces of two photos.
    pub async fn verify(&self, request: VerifyRequest) -> Result<Verified, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let decision = decide_pair(&serving, request.policy)?;
        let (photos, wanted) = (&self.0.photos, request.wanted);
        let (a, b) =
            tokio::try_join!(photos.read(request.image_a, wanted, 1), photos.read(request.image_b, wanted, 1))?;
        let (a, b) = (a.largest()?, b.largest()?);
        let embeddings = self.embeddings(&serving.loaded, vec![a.chip.clone(), b.chip.clone()]).await?;
        let [of_a, of_b] = embeddings.as_slice() else {
            return Err(ServiceError::Internal("the engine gave no embedding for a chip".to_owned()));
        };
        let faces = [(a, of_a), (b, of_b)].map(|(face, embedding)| ComparedFace {
            usability: serving.usability(&face, embedding, decision.threshold),
            face: face.found(),
        });
        let similarity = of_a.similarity(of_b);
        Ok(Verified {
            same_person: similarity >= decision.threshold,
            similarity,
            probability: serving.calibration().probability(similarity, 1),
            threshold: decision.threshold,
            decision,
            model: serving.name().to_owned(),
            anomalies: [serving.anomaly(of_a), serving.anomaly(of_b)],
            faces,
        })
    }
}
