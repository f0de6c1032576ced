//! Do the faces of a photo show somebody of those who come with it? Nobody is looked up, and nothing is stored.

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::decisions::decide_pair;
use super::stored::of_numbers;
use super::{Recognition, Serving};
use crate::service::ServiceError;
use crate::service::answers::{CandidateMatch, Compared, ComparedFace, ProbeMatches};
use crate::service::requests::{Batch, CompareRequest, EmbeddingList, FileBytes, Given};
use crate::types::Embedding;
use crate::vision::Wanted;

/// One side of a comparison; of a photo with the face that it shows.
struct Side {
    embedding: Embedding,
    face: Option<ComparedFace>,
}

/// What a request compares by: one model and one threshold.
struct By<'a> {
    serving: &'a Serving,
    threshold: f32,
    /// Candidates that are in work at once.
    at_once: usize,
}

/// For each candidate the face that was compared, if a photo was sent, or why none was.
pub type Candidates = Vec<Result<Option<ComparedFace>, ServiceError>>;

impl Recognition {
    /// Compares the faces of a photo with candidates; one that cannot be read does not fail the rest.
    pub async fn compare(&self, mut request: CompareRequest) -> Result<(Compared, Candidates), ServiceError> {
        let (probe, candidates) = (request.probe()?, request.candidates()?);
        let of_probe = usize::from(matches!(probe, Given::Photo(_)));
        let admitted = self.admit_batch(match &candidates {
            Given::Photo(Batch(images)) => images.len() + of_probe,
            Given::Embedding(_) => 1,
        })?;
        let serving = self.serving();
        let decision = decide_pair(&serving, request.policy()?)?;
        let by = By {
            serving: &serving,
            threshold: decision.threshold,
            at_once: (admitted.num_permits() - of_probe).max(1),
        };
        let wanted = request.wanted();
        // Without a probe nobody needs the candidates.
        let candidates = async { Ok(self.candidates(&by, candidates, wanted).await) };
        let (probes, candidates) = tokio::try_join!(self.probes(&by, probe, wanted), candidates)?;
        let faces = probes.into_iter().map(|probe| by.matches(probe, &candidates)).collect();
        let candidates: Candidates = candidates.into_iter().map(|candidate| candidate.map(|side| side.face)).collect();
        let model = serving.name().to_owned();
        let compared = Compared { model, threshold: decision.threshold, decision, faces };
        let failed = candidates.iter().filter(|candidate| candidate.is_err()).count();
        self.note_compared(serving.id(), &compared, candidates.len(), failed);
        Ok((compared, candidates))
    }

    async fn probes(
        &self,
        by: &By<'_>,
        probe: Given<FileBytes, Vec<f32>>,
        wanted: Wanted,
    ) -> Result<Vec<Side>, ServiceError> {
        match probe {
            Given::Photo(image) => self.sides(by, "image", image.0, wanted).await,
            Given::Embedding(numbers) => Ok(vec![Side { embedding: of_numbers(by.serving, numbers)?, face: None }]),
        }
    }

    async fn candidates(
        &self,
        by: &By<'_>,
        candidates: Given<Batch, EmbeddingList>,
        wanted: Wanted,
    ) -> Vec<Result<Side, ServiceError>> {
        let wanted = Wanted { faces: 1, ..wanted };
        let of_photo = async |image: FileBytes| {
            let side = self.sides(by, "candidates", image.0, wanted).await?.into_iter().next();
            side.ok_or(ServiceError::NoFace { field: "candidates" })
        };
        let of_embedding = |numbers: Vec<f32>| match of_numbers(by.serving, numbers) {
            Ok(embedding) => Ok(Side { embedding, face: None }),
            Err(error) => Err(ServiceError::InvalidField { field: "candidate_embeddings", reason: error.to_string() }),
        };
        match candidates {
            Given::Photo(Batch(images)) => stream::iter(images).map(of_photo).buffered(by.at_once).collect().await,
            Given::Embedding(EmbeddingList(embeddings)) => embeddings.into_iter().map(of_embedding).collect(),
        }
    }

    /// The faces of a photo that are wanted; none is an error.
    async fn sides(
        &self,
        by: &By<'_>,
        field: &'static str,
        image: Bytes,
        wanted: Wanted,
    ) -> Result<Vec<Side>, ServiceError> {
        let photo = self.parts.photos.read(field, image, wanted, wanted.faces, &self.bill()).await?.not_empty()?;
        let chips = photo.faces.iter().map(|face| face.chip.clone()).collect();
        let embeddings = self.embeddings(&by.serving.loaded, chips).await?;
        let sides = photo.faces.iter().zip(embeddings).map(|(face, embedding)| {
            let usability = by.serving.usability(face, &embedding, by.threshold);
            Side { face: Some(ComparedFace { face: face.found(), usability }), embedding }
        });
        Ok(sides.collect())
    }
}

impl By<'_> {
    /// Compares one face with all candidates that there are.
    fn matches(&self, probe: Side, candidates: &[Result<Side, ServiceError>]) -> ProbeMatches {
        let there =
            candidates.iter().enumerate().filter_map(|(candidate, side)| Some((candidate, side.as_ref().ok()?)));
        let matches = there.map(|(candidate, side)| {
            let similarity = probe.embedding.similarity(&side.embedding);
            CandidateMatch {
                candidate,
                same_person: similarity >= self.threshold,
                similarity,
                probability: self.serving.calibration().probability(similarity, 1),
            }
        });
        let mut matches: Vec<CandidateMatch> = matches.collect();
        matches.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        let anomaly = probe.face.as_ref().and_then(|_| self.serving.anomaly(&probe.embedding));
        ProbeMatches { face: probe.face, anomaly, matches }
    }
}
