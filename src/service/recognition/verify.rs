//! Do two photos show one person?

use super::Recognition;
use super::decisions::decide_pair;
use crate::service::ServiceError;
use crate::service::answers::{ComparedFace, Verified};
use crate::service::requests::VerifyRequest;

impl Recognition {
    /// Compares the largest faces of two photos.
    pub async fn verify(&self, request: VerifyRequest) -> Result<Verified, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let decision = decide_pair(&serving, request.policy()?)?;
        let (photos, wanted, bill) = (&self.parts.photos, request.wanted(), self.bill());
        let (a, b) = (request.image_a.0, request.image_b.0);
        let (a, b) =
            tokio::try_join!(photos.read("image_a", a, wanted, 1, &bill), photos.read("image_b", b, wanted, 1, &bill))?;
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
        let same_person = similarity >= decision.threshold;
        self.note_verified(serving.id(), same_person, similarity, decision.threshold);
        Ok(Verified {
            same_person,
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
