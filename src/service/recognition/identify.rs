//! Whom do the faces of a photo resemble?

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::lookup::{Places, Probes, Resemblance, Standing};
use super::noting::Seen;
use super::stored::of_numbers;
use super::{Answered, Recognition, Serving};
use crate::audit::Action;
use crate::gallery::Policy;
use crate::service::ServiceError;
use crate::service::answers::{Identified, IdentifiedEmbedding, IdentifiedFace};
use crate::service::requests::{
    Extra, FileBytes, IdentifyBatchRequest, IdentifyEmbeddingRequest, IdentifyRequest, TopK,
};
use crate::types::{Embedding, StoredEmbedding, SubjectId};

/// Where faces are searched for, and what decides.
struct Prepared {
    serving: Arc<Serving>,
    places: Places,
    policy: Option<Policy>,
}

/// An embedding to look for, and whom not to find.
pub(super) struct Probe {
    pub embedding: StoredEmbedding,
    pub except: Option<SubjectId>,
}

impl Recognition {
    /// Searches for an embedding, such as POST /embed gives.
    pub async fn identify_embedding(
        &self,
        mut request: IdentifyEmbeddingRequest,
    ) -> Result<IdentifiedEmbedding, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let policy = request.policy()?;
        let embedding = of_numbers(&serving, std::mem::take(&mut request.embedding))?;
        let places = self.places(&serving, request.among()?, policy).await?;
        let probe = Probe { embedding: StoredEmbedding::from(&embedding), except: None };
        self.identify_probe((&serving, places), probe, request.top_k, Action::IdentifyEmbedding).await
    }

    /// Searches for an embedding, which is noted as `action`.
    pub(super) async fn identify_probe(
        &self,
        (serving, places): (&Serving, Places),
        probe: Probe,
        top_k: TopK,
        action: Action,
    ) -> Result<IdentifiedEmbedding, ServiceError> {
        let (embeddings, except) = (std::slice::from_ref(&probe.embedding), probe.except);
        let probes = Probes { embeddings, except, top_k: top_k.get(), unique: false };
        let mut found = self.look_up(serving, &places, probes).await?;
        let resemblance = found.resemblances.pop();
        let Resemblance { standing, matches } =
            resemblance.ok_or_else(|| ServiceError::Internal("a search answered nothing".to_owned()))?;
        let (known, ambiguous) = (standing == Standing::Known, standing == Standing::Ambiguous);
        let seen = Seen { known, ambiguous, matches: &matches };
        self.note_identified(action, (serving, &places), std::iter::once(seen), None);
        Ok(IdentifiedEmbedding {
            model: serving.name().to_owned(),
            stale_seconds: found.stale_seconds,
            threshold: places.decision.threshold,
            decisions: places.decisions(),
            decision: places.decision,
            known,
            ambiguous,
            matches,
        })
    }

    pub async fn identify(&self, mut request: IdentifyRequest) -> Result<Identified, ServiceError> {
        let _admitted = self.admit()?;
        let search = self.prepare(&request).await?;
        // Its bytes are freed once it is decoded.
        let image = std::mem::take(&mut request.image.0);
        let identified = self.identify_photo(&search, &request, "image", image).await?;
        let at = (&*search.serving, &search.places);
        self.note_identified(Action::Identify, at, identified.faces.iter().map(Seen::from), None);
        Ok(identified)
    }

    /// Identifies the faces of several photos, all by one model and in the same galleries; one that fails does not fail the rest.
    pub async fn identify_batch(
        &self,
        request: IdentifyBatchRequest,
    ) -> Result<Vec<Result<Identified, ServiceError>>, ServiceError> {
        let admitted = self.admit_batch(request.images.0.len())?;
        let (images, request) = request.split();
        let search = self.prepare(&request).await?;
        let each = |image: FileBytes| self.identify_photo(&search, &request, "images", image.0);
        let answers: Vec<_> = stream::iter(images).map(each).buffered(admitted.num_permits()).collect().await;
        let faces = answers.iter().flatten().flat_map(|identified| &identified.faces).map(Seen::from);
        let batch = Some((answers.len(), answers.iter().filter(|answer| answer.is_err()).count()));
        self.note_identified(Action::IdentifyBatch, (&*search.serving, &search.places), faces, batch);
        Ok(answers)
    }

    /// Before any inference: is there such a gallery, and such a policy?
    async fn prepare(&self, request: &IdentifyRequest) -> Result<Prepared, ServiceError> {
        let serving = self.serving();
        let policy = request.policy()?;
        let places = self.places(&serving, request.among()?, policy).await?;
        Ok(Prepared { serving, places, policy })
    }

    async fn identify_photo(
        &self,
        Prepared { serving, places, policy }: &Prepared,
        request: &IdentifyRequest,
        field: &'static str,
        image: Bytes,
    ) -> Result<Identified, ServiceError> {
        let wanted = request.wanted();
        let photo = self.parts.photos.read(field, image, wanted, wanted.faces, &self.bill()).await?;
        let embeddings =
            self.embeddings(&serving.loaded, photo.faces.iter().map(|face| face.chip.clone()).collect()).await?;

        let probes: Vec<StoredEmbedding> = embeddings.iter().map(StoredEmbedding::from).collect();
        let (top_k, unique) = (request.top_k.get(), request.unique_subjects);
        let probes = Probes { embeddings: &probes, except: None, top_k, unique };
        let found = self.look_up(serving, places, probes).await?;
        let threshold = places.decision.threshold;
        // A candidate in the shadow is tried on one gallery at a time.
        if let [place] = places.all.as_slice() {
            self.offer(serving, || Answered {
                gallery: place.gallery.clone(),
                policy: *policy,
                unique_subjects: unique,
                chips: photo.faces.iter().map(|face| face.chip.clone()).collect(),
                opinions: found.resemblances.iter().map(|resemblance| resemblance.opinion(threshold)).collect(),
                by: serving.id(),
            });
        }
        let chips = self.shown_chips(&photo.faces, &request.returned).await?;
        let shows_embedding = request.returned.contains(&Extra::Embedding);
        let shown = found.resemblances.into_iter().zip(chips);
        let faces = photo.faces.iter().zip(&embeddings).zip(shown);
        let faces = faces.map(|((face, embedding), (Resemblance { standing, matches }, chip))| IdentifiedFace {
            face: face.found(),
            usability: serving.usability(face, embedding, threshold),
            known: standing == Standing::Known,
            ambiguous: standing == Standing::Ambiguous,
            anomaly: serving.anomaly(embedding),
            matches,
            chip,
            embedding: shows_embedding.then(|| embedding.as_slice().to_vec()),
        });
        Ok(Identified {
            model: serving.name().to_owned(),
            stale_seconds: found.stale_seconds,
            threshold,
            decision: places.decision.clone(),
            decisions: places.decisions(),
            searched: photo.searched.into(),
            faces: faces.collect(),
        })
    }
}

impl Serving {
    /// How unlike any face a probe is, 0..=1, if the model is calibrated for it.
    pub(in crate::service) fn anomaly(&self, embedding: &Embedding) -> Option<f32> {
        self.calibration().anomaly(embedding.norm())
    }
}
