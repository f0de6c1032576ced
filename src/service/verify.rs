//! Do two photos show one person?

use super::answers::Verified;
use super::{PhotoBytes, ServiceError, Services};
use crate::types::Threshold;

pub struct VerifyRequest {
    pub image_a: PhotoBytes,
    pub image_b: PhotoBytes,
    pub threshold: Option<Threshold>,
}

impl Services {
    /// Compares the largest faces of two photos.
    pub async fn verify(&self, request: VerifyRequest) -> Result<Verified, ServiceError> {
        let _admitted = self.admit()?;
        let photos = &self.0.photos;
        let (a, b) = tokio::try_join!(photos.read(request.image_a, 1), photos.read(request.image_b, 1))?;
        let (a, b) = (a.largest()?, b.largest()?);
        let embeddings = self.embeddings(vec![a.chip.clone(), b.chip.clone()]).await?;
        let [of_a, of_b] = embeddings.as_slice() else {
            return Err(ServiceError::Internal("the engine gave no embedding for a chip".to_owned()));
        };
        let similarity = of_a.similarity(of_b);
        let threshold = self.threshold(request.threshold).get();
        Ok(Verified {
            same_person: similarity >= threshold,
            similarity,
            probability: self.0.calibration.probability(similarity),
            threshold,
            model: self.model_name().to_owned(),
            faces: [a.found(), b.found()],
        })
    }
}
