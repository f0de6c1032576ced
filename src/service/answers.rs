//! What the service answers with: the JSON of the HTTP surface and of the command line.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::types::{BoundingBox, FaceId, GalleryId, Landmarks, Quality, SubjectId};

/// A face that was found in a photo.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FoundFace {
    /// Pixels of the upright image.
    #[serde(rename = "box")]
    pub bounding_box: BoundingBox,
    pub landmarks: Landmarks,
    /// The detector's confidence, 0..1.
    pub detection_score: f32,
    pub quality: Quality,
}

/// POST /detect
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Detected {
    /// Width of the upright image.
    pub width: u32,
    /// Height of the upright image.
    pub height: u32,
    /// Largest first.
    pub faces: Vec<FoundFace>,
}

/// POST /embed
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Embedded {
    pub model: String,
    /// Components of each embedding.
    pub dimension: usize,
    /// Largest first.
    pub faces: Vec<EmbeddedFace>,
}

/// A face with its embedding.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmbeddedFace {
    #[serde(flatten)]
    pub face: FoundFace,
    /// L2-normalised: the cosine of two faces is their dot product.
    pub embedding: Vec<f32>,
}

/// POST /enroll
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    pub face_id: FaceId,
    pub subject: String,
    pub subject_id: SubjectId,
    pub gallery: String,
    pub model: String,
    #[serde(flatten)]
    pub face: FoundFace,
    /// Other subjects of the gallery that look like the same person, most similar first.
    pub duplicates: Vec<Duplicate>,
}

/// Another subject that looks like the same person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Duplicate {
    pub subject: String,
    pub subject_id: SubjectId,
    /// Cosine, -1..1.
    pub similarity: f32,
}

/// POST /identify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Identified {
    pub model: String,
    /// The similarity from which on a face is `known`.
    pub threshold: f32,
    /// Largest first.
    pub faces: Vec<IdentifiedFace>,
}

/// A face of a photo and whom it resembles.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifiedFace {
    #[serde(flatten)]
    pub face: FoundFace,
    /// Whether the best match reaches the threshold.
    pub known: bool,
    /// The most similar subjects, best first, whether or not they reach the threshold.
    pub matches: Vec<Match>,
}

/// A subject that a probe resembles.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Match {
    pub subject: String,
    pub subject_id: SubjectId,
    /// The subject's face that is most similar.
    pub face_id: FaceId,
    /// Cosine, -1..1.
    pub similarity: f32,
    /// Probability that both are one person, 0..1, if the model is calibrated.
    #[schema(required)]
    pub probability: Option<f32>,
}

/// POST /verify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// Whether the similarity reaches the threshold.
    pub same_person: bool,
    /// Cosine, -1..1.
    pub similarity: f32,
    /// Probability that both are one person, 0..1, if the model is calibrated.
    #[schema(required)]
    pub probability: Option<f32>,
    pub threshold: f32,
    pub model: String,
    /// The faces that were compared: that of `image_a`, that of `image_b`.
    pub faces: [FoundFace; 2],
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Send it as `cursor` to get the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

/// A gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GalleryEntry {
    pub id: GalleryId,
    pub name: String,
    pub created_at: DateTime<Utc>,
}

/// A gallery and its size.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Gallery {
    #[serde(flatten)]
    pub entry: GalleryEntry,
    pub subjects: u64,
    pub faces: u64,
}

/// A subject of a gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    pub id: SubjectId,
    pub name: String,
    pub gallery: String,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    pub created_at: DateTime<Utc>,
    pub faces: u64,
}

/// An enrolled face.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnrolledFace {
    pub id: FaceId,
    pub subject: String,
    pub subject_id: SubjectId,
    pub gallery: String,
    #[serde(flatten)]
    pub face: FoundFace,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    pub created_at: DateTime<Utc>,
}

/// What a deletion erased, for good.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Erased {
    pub subjects: u64,
    pub faces: u64,
    pub embeddings: u64,
}

/// An embedder that the database knows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModelEntry {
    pub id: uuid::Uuid,
    pub name: String,
    /// Of the weights file, in hexadecimal.
    pub sha256: String,
    pub dimension: u32,
    /// `active`, `candidate` or `retired`.
    pub state: String,
    pub created_at: DateTime<Utc>,
}
