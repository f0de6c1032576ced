//! Whom do the faces of a photo resemble?

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::search::{Found, one_face_per_subject};
use super::stored::of_numbers;
use super::{Answered, Recognition, Serving};
use crate::gallery::{Gallery, Policy};
use crate::index::{Hit, Query};
use crate::registry::Opinion;
use crate::service::ServiceError;
use crate::service::answers::{Decision, Identified, IdentifiedEmbedding, IdentifiedFace, Match};
use crate::service::requests::{FileBytes, IdentifyBatchRequest, IdentifyEmbeddingRequest, IdentifyRequest, TopK};
use crate::types::{Embedding, GalleryId, StoredEmbedding, SubjectId};

/// Faces of one photo whose lists are made longer, so that what others take away can be filled up again.
const MOST_SPARE: usize = 64;

/// Photos of a batch that are in work at once: as many as keep the engine's queues filled.
pub(super) const BATCHED: usize = 16;

/// Where faces are searched for, and what decides.
struct Prepared {
    serving: Arc<Serving>,
    gallery: Gallery,
    policy: Option<Policy>,
    decision: Decision,
}

/// An embedding to look for, and whom not to find.
pub(super) struct Probe {
    pub embedding: StoredEmbedding,
    pub except: Option<SubjectId>,
}

/// The best subject and the next: whether it is clear which of them a probe shows.
const RIVALS: usize = 2;

impl Recognition {
    /// Searches for an embedding, such as POST /embed gives.
    pub async fn identify_embedding(
        &self,
        request: IdentifyEmbeddingRequest,
    ) -> Result<IdentifiedEmbedding, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let policy = request.policy()?;
        let embedding = of_numbers(&serving, request.embedding)?;
        let gallery = self.find_gallery(&serving, request.gallery.as_str()).await?;
        let probe = Probe { embedding: StoredEmbedding::from(&embedding), except: None };
        self.identify_probe(&serving, &gallery, probe, request.top_k, policy).await
    }

    /// Searches for an embedding.
    pub(super) async fn identify_probe(
        &self,
        serving: &Serving,
        gallery: &Gallery,
        probe: Probe,
        top_k: TopK,
        policy: Option<Policy>,
    ) -> Result<IdentifiedEmbedding, ServiceError> {
        let decision = self.decide(serving, gallery, policy).await?;
        let (top_k, Probe { embedding: probe, except }) = (top_k.get(), probe);
        let query = Query { probe: probe.clone(), top_k: top_k.max(RIVALS), min_similarity: None, except };
        let mut found = self.search(serving, gallery.id, vec![query]).await?;
        let standing = standing(serving, found.hits.first().map_or(&[], Vec::as_slice), &decision);
        found.hits.iter_mut().for_each(|hits| hits.truncate(top_k));
        self.fill_faces(serving, gallery.id, std::slice::from_ref(&probe), &mut found).await?;
        let stale_seconds = stale_seconds(&found);
        let hits = found.hits.pop().unwrap_or_default();
        Ok(IdentifiedEmbedding {
            model: serving.name().to_owned(),
            stale_seconds,
            threshold: decision.threshold,
            known: standing == Standing::Known,
            ambiguous: standing == Standing::Ambiguous,
            matches: hits.into_iter().map(|hit| match_answer(serving, &decision, hit)).collect(),
            decision,
        })
    }

    pub async fn identify(&self, mut request: IdentifyRequest) -> Result<Identified, ServiceError> {
        let _admitted = self.admit()?;
        let search = self.prepare(&request).await?;
        // Its bytes are freed once it is decoded.
        let image = std::mem::take(&mut request.image.0);
        self.identify_photo(&search, &request, "image", image).await
    }

    /// Identifies the faces of several photos, all by one model and in one gallery; one that fails does not fail the rest.
    pub async fn identify_batch(
        &self,
        request: IdentifyBatchRequest,
    ) -> Result<Vec<Result<Identified, ServiceError>>, ServiceError> {
        let _admitted = self.admit()?;
        let (images, request) = request.split();
        let search = self.prepare(&request).await?;
        let each = |image: FileBytes| self.identify_photo(&search, &request, "images", image.0);
        Ok(stream::iter(images).map(each).buffered(BATCHED).collect().await)
    }

    /// Before any inference: is there such a gallery, and such a policy?
    async fn prepare(&self, request: &IdentifyRequest) -> Result<Prepared, ServiceError> {
        let serving = self.serving();
        let gallery = self.find_gallery(&serving, request.gallery.as_str()).await?;
        let policy = request.policy()?;
        let decision = self.decide(&serving, &gallery, policy).await?;
        Ok(Prepared { serving, gallery, policy, decision })
    }

    async fn identify_photo(
        &self,
        Prepared { serving, gallery, policy, decision }: &Prepared,
        request: &IdentifyRequest,
        field: &'static str,
        image: Bytes,
    ) -> Result<Identified, ServiceError> {
        let wanted = request.wanted();
        let photo = self.0.photos.read(field, image, wanted, wanted.faces).await?;
        let embeddings =
            self.embeddings(&serving.loaded, photo.faces.iter().map(|face| face.chip.clone()).collect()).await?;

        let probes: Vec<StoredEmbedding> = embeddings.iter().map(StoredEmbedding::from).collect();
        let (top_k, unique) = (request.top_k.get(), request.unique_subjects);
        let wanted = top_k.max(RIVALS);
        let mut found = self.best_subjects(serving, gallery.id, &probes, wanted, unique, decision.threshold).await?;
        self.offer(serving, || Answered {
            gallery: gallery.clone(),
            policy: *policy,
            unique_subjects: unique,
            chips: photo.faces.iter().map(|face| face.chip.clone()).collect(),
            opinions: found.hits.iter().map(|hits| opinion(hits, decision.threshold)).collect(),
            by: serving.id(),
        });
        let standings: Vec<Standing> = found.hits.iter().map(|hits| standing(serving, hits, decision)).collect();
        found.hits.iter_mut().for_each(|hits| hits.truncate(top_k));
        self.fill_faces(serving, gallery.id, &probes, &mut found).await?;
        let stale_seconds = stale_seconds(&found);
        let chips = self.shown_chips(&photo.faces, &request.returned).await?;
        let found = standings.into_iter().zip(found.hits).zip(chips);
        let faces =
            photo.faces.iter().zip(&embeddings).zip(found).map(|((face, embedding), ((standing, hits), chip))| {
                IdentifiedFace {
                    face: face.found(),
                    usability: serving.usability(face, embedding, decision.threshold),
                    known: standing == Standing::Known,
                    ambiguous: standing == Standing::Ambiguous,
                    anomaly: serving.anomaly(embedding),
                    matches: hits.into_iter().map(|hit| match_answer(serving, decision, hit)).collect(),
                    chip,
                }
            });
        let faces = faces.collect();
        Ok(Identified {
            model: serving.name().to_owned(),
            stale_seconds,
            threshold: decision.threshold,
            decision: decision.clone(),
            searched: photo.searched.into(),
            faces,
        })
    }

    /// The subjects that each probe of one photo resembles most. `unique` leaves each that reaches `threshold` to one probe.
    pub(in crate::service) async fn best_subjects(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        probes: &[StoredEmbedding],
        top_k: usize,
        unique: bool,
        threshold: f32,
    ) -> Result<Found, ServiceError> {
        let unique = unique && probes.len() > 1;
        let spare = if unique { (probes.len() - 1).min(MOST_SPARE) } else { 0 };
        let query = |probe: &StoredEmbedding| Query {
            probe: probe.clone(),
            top_k: top_k + spare,
            min_similarity: None,
            except: None,
        };
        let mut found = self.search(serving, gallery, probes.iter().map(query).collect()).await?;
        if unique {
            one_face_per_subject(&mut found.hits, threshold);
        }
        found.hits.iter_mut().for_each(|hits| hits.truncate(top_k));
        Ok(found)
    }
}

impl Serving {
    /// How unlike any face a probe is, 0..=1, if the model is calibrated for it.
    pub(in crate::service) fn anomaly(&self, embedding: &Embedding) -> Option<f32> {
        self.calibration().anomaly(embedding.norm())
    }
}

/// How old the answer is, if it is not fresh; counted.
fn stale_seconds(found: &Found) -> Option<f64> {
    let stale = found.stale?;
    metrics::counter!("faceid_stale_answers_total").increment(1);
    Some((stale.as_secs_f64() * 1000.0).round() / 1000.0)
}

fn match_answer(serving: &Serving, decision: &Decision, hit: Hit) -> Match {
    let similarity = similarity(&hit);
    Match {
        subject: hit.about.name.into(),
        subject_id: hit.about.subject_id,
        face_id: hit.about.face_id,
        similarity,
        probability: serving.calibration().probability(similarity, decision.subjects),
    }
}

/// What the best hits of a face say of it.
pub(in crate::service) fn opinion(hits: &[Hit], threshold: f32) -> Opinion {
    Opinion { best: hits.first().map(|best| (best.about.subject_id, similarity(best))), threshold }
}

/// Whether a probe is somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Known,
    /// One of several subjects.
    Ambiguous,
    Unknown,
}

/// Two subjects that both reach the threshold, as twins do or one person under two names, are told apart only if one is nearer
/// by the margin.
fn standing(serving: &Serving, hits: &[Hit], decision: &Decision) -> Standing {
    let reaching = hits.iter().map(similarity).filter(|similarity| *similarity >= decision.threshold);
    match reaching.take(2).collect::<Vec<f32>>()[..] {
        [] => Standing::Unknown,
        [best, second] if best - second < serving.margin() => Standing::Ambiguous,
        _ => Standing::Known,
    }
}

/// Rounding to 16 bits can take a vector's length a little past 1.
fn similarity(hit: &Hit) -> f32 {
    (hit.similarity as f32).clamp(-1.0, 1.0)
}
