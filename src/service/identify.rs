//! Whom do the faces of a photo resemble?

use std::time::Instant;

use tracing::{Instrument, debug_span};

use super::answers::{Identified, IdentifiedFace, Match};
use super::{PhotoBytes, ServiceError, Services};
use crate::gallery::SubjectMatch;
use crate::types::{Name, Threshold};

pub struct IdentifyRequest {
    pub image: PhotoBytes,
    pub gallery: Name,
    /// Subjects per face.
    pub top_k: u32,
    /// Only so many faces, the largest.
    pub most_faces: usize,
    pub threshold: Option<Threshold>,
}

impl Services {
    pub async fn identify(&self, request: IdentifyRequest) -> Result<Identified, ServiceError> {
        let _admitted = self.admit()?;
        // Before any inference: is there such a gallery at all?
        let gallery = self.0.galleries.gallery_id(request.gallery.as_str()).await?;
        let photo = self.0.photos.read(request.image, request.most_faces).await?;
        let threshold = self.threshold(request.threshold);
        let probes = self.embeddings(photo.faces.iter().map(|face| face.chip.clone()).collect()).await?;
        let search = self.0.galleries.search(gallery, self.0.model.id, &probes, request.top_k as usize, None);
        let began = Instant::now();
        let found = search.instrument(debug_span!("search")).await?;
        metrics::histogram!("faceid_stage_seconds", "stage" => "search").record(began.elapsed());
        let faces = photo.faces.iter().zip(found).map(|(face, found)| IdentifiedFace {
            face: face.found(),
            known: found.first().is_some_and(|best| best.similarity >= threshold.get()),
            matches: found.into_iter().map(|found| self.match_answer(found)).collect(),
        });
        let faces = faces.collect();
        Ok(Identified { model: self.model_name().to_owned(), threshold: threshold.get(), faces })
    }

    fn match_answer(&self, found: SubjectMatch) -> Match {
        Match {
            subject: found.subject,
            subject_id: found.subject_id,
            face_id: found.face_id,
            similarity: found.similarity,
            probability: self.0.calibration.probability(found.similarity),
        }
    }
}
