//! One face, compared with each of some others: with all faces of a photo, or with embeddings.

use super::decisions::decide_pair;
use super::stored::of_numbers;
use super::{Enrolled, Photo, Recognition, Serving};
use crate::gallery::Known;
use crate::service::ServiceError;
use crate::service::answers::FoundFace;
use crate::service::requests::FileBytes;
use crate::types::{Embedding, FaceId, Name, SimilarityScale, StoredEmbedding};
use crate::vision::Wanted;

/// The face with which others are compared.
pub enum Reference {
    /// An enrolled one, in this gallery.
    Face(FaceId, Name),
    /// The only one of a photo.
    Photo(FileBytes),
    /// Of one that was embedded before.
    Embedding(Vec<f32>),
}

/// What is compared with it.
pub enum Each {
    /// Those faces of a photo that are wanted.
    Photo(FileBytes),
    Embeddings(Vec<Vec<f32>>),
}

pub struct CompareEach {
    pub reference: Reference,
    pub each: Each,
    /// Of every photo.
    pub wanted: Wanted,
}

pub struct ComparedEach {
    /// Whose face the reference is, if it is enrolled.
    pub subject: Option<String>,
    /// The reference, if it is a face of a photo.
    pub reference: Option<SeenFace>,
    /// In the order in which they came, or the largest first.
    pub each: Vec<EachSimilarity>,
}

/// A face of a photo.
pub struct SeenFace {
    pub face: FoundFace,
    pub embedding: Embedding,
}

/// How much a face resembles the reference.
pub struct EachSimilarity {
    /// `None`: an embedding was sent.
    pub face: Option<FoundFace>,
    pub embedding: Embedding,
    /// Cosine, -1..=1.
    pub similarity: f32,
    /// That both are one person, 0..=1, if the model is calibrated.
    pub probability: Option<f32>,
}

/// The reference by its embedding.
enum Against {
    Stored(Known),
    Seen(Embedding),
}

impl Against {
    fn similarity(&self, other: &Embedding) -> f32 {
        match self {
            // Rounding to 16 bits can take a vector's length a little past 1.
            Self::Stored(known) => (StoredEmbedding::from(other).similarity(&known.embedding) as f32).clamp(-1.0, 1.0),
            Self::Seen(embedding) => embedding.similarity(other),
        }
    }
}

impl Recognition {
    /// The similarities of the model that answers, as CompreFace's clients read them.
    pub fn similarity_scale(&self) -> SimilarityScale {
        SimilarityScale::around(self.serving().calibration().threshold.get())
    }

    /// Compares one face with each of some others. What is wrong with a photo is said before what is wrong with an id.
    pub async fn compare_each(&self, request: CompareEach) -> Result<ComparedEach, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let CompareEach { reference, each, wanted } = request;
        let mut seen = None;
        let (against, each) = match reference {
            Reference::Face(face, gallery) => {
                let each = self.each(&serving, each, wanted).await?;
                let known = self.known(&serving, Enrolled::Face(face), Some(&gallery)).await?;
                (Against::Stored(known), each)
            }
            Reference::Embedding(numbers) => {
                (Against::Seen(of_numbers(&serving, numbers)?), self.each(&serving, each, wanted).await?)
            }
            Reference::Photo(image) => {
                let (only, each) =
                    tokio::join!(self.only_face(&serving, image, wanted), self.each(&serving, each, wanted));
                let only = only?;
                let embedding = only.embedding.clone();
                seen = Some(only);
                (Against::Seen(embedding), each?)
            }
        };
        let each = each.into_iter().map(|(face, embedding)| {
            let similarity = against.similarity(&embedding);
            let probability = serving.calibration().probability(similarity, 1);
            EachSimilarity { face, embedding, similarity, probability }
        });
        let each: Vec<EachSimilarity> = each.collect();
        let best = each.iter().map(|one| one.similarity).max_by(f32::total_cmp);
        let threshold = decide_pair(&serving, None)?.threshold;
        let known = match &against {
            Against::Stored(known) => Some(known),
            Against::Seen(_) => None,
        };
        self.note_compared_each(serving.id(), known, (each.len(), best), threshold);
        Ok(ComparedEach { subject: known.map(|known| known.subject.clone()), reference: seen, each })
    }

    async fn only_face(&self, serving: &Serving, image: FileBytes, wanted: Wanted) -> Result<SeenFace, ServiceError> {
        let face = self.photo(image, wanted).await?.only()?;
        let embedding = self.embedding(&serving.loaded, face.chip.clone()).await?;
        Ok(SeenFace { face: face.found(), embedding })
    }

    async fn each(
        &self,
        serving: &Serving,
        each: Each,
        wanted: Wanted,
    ) -> Result<Vec<(Option<FoundFace>, Embedding)>, ServiceError> {
        match each {
            Each::Embeddings(all) => all.into_iter().map(|one| Ok((None, of_numbers(serving, one)?))).collect(),
            Each::Photo(image) => {
                let faces = self.photo(image, wanted).await?.not_empty()?.faces;
                let chips = faces.iter().map(|face| face.chip.clone()).collect();
                let embeddings = self.embeddings(&serving.loaded, chips).await?;
                Ok(faces.iter().map(|face| Some(face.found())).zip(embeddings).collect())
            }
        }
    }

    async fn photo(&self, image: FileBytes, wanted: Wanted) -> Result<Photo, ServiceError> {
        self.parts.photos.read("image", image.0, wanted, wanted.faces, &self.bill()).await
    }
}
