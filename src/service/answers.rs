//! What the service answers with: the JSON of the HTTP surface and of the command line.

mod audit;
mod compare;
mod decision;
mod erasures;
mod findings;
mod galleries;
mod info;
mod jobs;
mod keys;
mod models;
mod person;
mod shadow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use audit::{AuditEntry, AuditHead};
pub use compare::{CandidateMatch, Compared, ComparedFace, ProbeMatches, Verified, VerifiedStored};
pub use decision::{Basis, Decision, DecisionIn, FpirThreshold, Strangers};
pub use erasures::{ErasedCounts, Erasure, ErasureReceipt, ErasureState, Signed};
pub use findings::{Anomalies, Anomaly, AnomalyKind, DuplicatePair, DuplicatePairs};
pub use galleries::{
    ChangedGallery, DueNow, EnrolledFace, Erased, ErasedMany, Expired, Gallery, GalleryEntry, GallerySearch, KeptFor,
    ReviewState, Revised, SearchPlace, Subject,
};
pub use info::{Info, ModelInfo, RequestLimits, ThresholdAt, Version};
pub use jobs::{Job, SetAside};
pub use keys::{CreatedKey, KeyEntry, KeyGallery, KeyState};
pub use models::{ModelDetails, ModelEntry, Retired, Verdict};
pub use person::{
    Person, PersonDisagreement, PersonEmbedding, PersonFace, PersonFinding, PersonJob, PersonSetAside, PersonTemplate,
};
pub use shadow::{Disagreement, ShadowOpinion, ShadowReport, ShadowTally};

use crate::types::{BoundingBox, FaceId, GalleryId, Landmarks, Quality, SubjectId};
use crate::vision::{self, Weakness};

/// A face that was found in a photo.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FoundFace {
    /// Pixels of the upright image.
    #[serde(rename = "box")]
    pub bounding_box: BoundingBox,
    pub landmarks: Landmarks,
    /// The detector's confidence, 0..1.
    pub detection_score: f32,
    /// By how many degrees the face stands turned clockwise in the photo, in quarter turns: 0, 90, 180 or 270.
    pub turned: u16,
    pub quality: Quality,
}

impl FoundFace {
    pub fn new(bounding_box: BoundingBox, landmarks: Landmarks, detection_score: f32, quality: Quality) -> Self {
        let quarters = (quality.pose.roll / 90.0).round() as i16;
        let turned = quarters.rem_euclid(4) as u16 * 90;
        Self { bounding_box, landmarks, detection_score, turned, quality }
    }
}

/// Whether a face can be recognised by its embedding.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Usability {
    /// False if nothing is to be expected of it: a photo of the same person would hardly be found by it.
    pub usable: bool,
    /// The chance that a good photo of the same person is missed at the threshold of this answer, 0..1, if the model is
    /// calibrated for it. 0.11: one time in nine.
    #[schema(required)]
    pub missed: Option<f32>,
    /// What is wrong with a face that is not usable.
    pub reasons: Vec<Weakness>,
}

/// What a photo was searched for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Searched {
    /// Width, in pixels of the upright image, of the smallest faces that were looked for. Smaller ones may be on the
    /// photo; `min_face` and `detail=full` look for them.
    pub min_face_pixels: u32,
    /// Images that the detector was shown: the whole photo, parts of it, and second looks at what was doubtful.
    pub looks: u32,
}

impl From<vision::Searched> for Searched {
    fn from(searched: vision::Searched) -> Self {
        let vision::Searched { min_face_pixels, looks } = searched;
        Self { min_face_pixels, looks }
    }
}

/// POST /detect
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Detected {
    /// Width of the upright image.
    pub width: u32,
    /// Height of the upright image.
    pub height: u32,
    pub searched: Searched,
    /// Largest first.
    pub faces: Vec<DetectedFace>,
}

/// A face of a photo in which faces were looked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DetectedFace {
    #[serde(flatten)]
    pub face: FoundFace,
    /// The aligned crop of 112x112 pixels that the embedder sees, a JPEG in base64; only if `return=chip` asks for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(content_encoding = "base64", content_media_type = "image/jpeg")]
    pub chip: Option<String>,
    /// L2-normalised; only if `return=embedding` asks for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub embedding: Option<Vec<f32>>,
}

/// POST /embed
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Embedded {
    pub model: String,
    /// Components of each embedding.
    pub dimension: usize,
    pub searched: Searched,
    /// Largest first.
    pub faces: Vec<EmbeddedFace>,
}

/// A face with its embedding.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmbeddedFace {
    #[serde(flatten)]
    pub face: FoundFace,
    #[serde(flatten)]
    pub usability: Usability,
    /// L2-normalised: the cosine of two faces is their dot product.
    pub embedding: Vec<f32>,
    /// The aligned crop of 112x112 pixels that the embedder sees, a JPEG in base64; only if `return=chip` asks for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(content_encoding = "base64", content_media_type = "image/jpeg")]
    pub chip: Option<String>,
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
    #[serde(flatten)]
    pub usability: Usability,
    /// How unlike any face it is, 0..1, if the model is calibrated for it.
    #[schema(required)]
    pub anomaly: Option<f32>,
    /// Subjects of the gallery who look like the same person: same images first, then most similar first.
    pub duplicates: Vec<Duplicate>,
    /// Set when the face does not resemble those that the subject has: it may be filed under the wrong name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mismatch: Option<Mismatch>,
}

/// A face that does not resemble the subject that it is filed under.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Mismatch {
    /// Cosine, -1..1, of the face and the subject's template.
    pub similarity: f32,
    /// What it would have to be.
    pub threshold: f32,
}

/// A subject that looks like the same person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Duplicate {
    pub subject: String,
    pub subject_id: SubjectId,
    /// Cosine, -1..1.
    pub similarity: f32,
    /// Whether the very same image was enrolled before; then it can be the subject itself.
    pub same_image: bool,
}

/// POST /identify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Identified {
    pub model: String,
    /// The answer shows the gallery as it was so many seconds ago: the server has not got at its database since, or not in
    /// time, and whoever came or changed later is missing. Absent from an answer that is up to date.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stale_seconds: Option<f64>,
    /// The similarity from which on a face is one of the gallery.
    pub threshold: f32,
    pub decision: Decision,
    /// What decides in each of `galleries`, of which `threshold` and `decision` are those of the lowest threshold; absent if one
    /// `gallery` was searched.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub decisions: Vec<DecisionIn>,
    pub searched: Searched,
    /// Largest first.
    pub faces: Vec<IdentifiedFace>,
}

/// POST /identify/embedding
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifiedEmbedding {
    pub model: String,
    /// The answer shows the gallery as it was so many seconds ago: the server has not got at its database since, or not in
    /// time, and whoever came or changed later is missing. Absent from an answer that is up to date.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stale_seconds: Option<f64>,
    /// The similarity from which on it is one of the gallery.
    pub threshold: f32,
    pub decision: Decision,
    /// What decides in each of `galleries`, of which `threshold` and `decision` are those of the lowest threshold; absent if one
    /// `gallery` was searched.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub decisions: Vec<DecisionIn>,
    /// Whether it is the first of `matches`.
    pub known: bool,
    /// Whether it is one of the first of `matches`, but nobody can say which: two or more reach the threshold and are too near to
    /// one another. Then `known` is false.
    pub ambiguous: bool,
    /// The most similar subjects, best first, whether or not they reach the threshold. Of several galleries those who reach the
    /// threshold of theirs come first.
    pub matches: Vec<Match>,
}

/// A face of a photo and whom it resembles.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifiedFace {
    #[serde(flatten)]
    pub face: FoundFace,
    #[serde(flatten)]
    pub usability: Usability,
    /// Whether it is the first of `matches`.
    pub known: bool,
    /// Whether it is one of the first of `matches`, but nobody can say which: two or more reach the threshold and are too near to
    /// one another. Then `known` is false.
    pub ambiguous: bool,
    /// How unlike any face it is, 0..1, if the model is calibrated for it.
    #[schema(required)]
    pub anomaly: Option<f32>,
    /// The most similar subjects, best first, whether or not they reach the threshold. Of several galleries those who reach the
    /// threshold of theirs come first.
    pub matches: Vec<Match>,
    /// The aligned crop of 112x112 pixels that the embedder sees, a JPEG in base64; only if `return=chip` asks for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(content_encoding = "base64", content_media_type = "image/jpeg")]
    pub chip: Option<String>,
    /// L2-normalised; only if `return=embedding` asks for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub embedding: Option<Vec<f32>>,
}

/// A subject that a probe resembles.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Match {
    pub subject: String,
    pub subject_id: SubjectId,
    /// The gallery of the subject, if several were searched.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gallery: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gallery_id: Option<GalleryId>,
    /// The subject's face that is most similar; null if it was deleted at this moment, or if the subject has several and the
    /// database is slow.
    #[schema(required)]
    pub face_id: Option<FaceId>,
    /// Cosine, -1..1, of the face and the subject's template.
    pub similarity: f32,
    /// Probability that the subject is the person, 0..1, if every second probe is of somebody of the gallery; null if the model is
    /// not calibrated.
    #[schema(required)]
    pub probability: Option<f32>,
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Send it as `cursor` to get the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}
