//! Answers about one face and others that were named.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Decision, FoundFace, Usability};
use crate::types::{FaceId, SubjectId};

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
    pub decision: Decision,
    pub model: String,
    /// How unlike any face each of them is, 0..1, if the model is calibrated for it.
    pub anomalies: [Option<f32>; 2],
    /// The faces that were compared: that of `image_a`, that of `image_b`.
    pub faces: [ComparedFace; 2],
}

/// POST /subjects/{subject}/verify and POST /faces/{face}/verify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifiedStored {
    /// Whether the similarity reaches the threshold.
    pub same_person: bool,
    /// Cosine, -1..1.
    pub similarity: f32,
    /// Probability that both are one person, 0..1, if the model is calibrated.
    #[schema(required)]
    pub probability: Option<f32>,
    pub threshold: f32,
    pub decision: Decision,
    pub model: String,
    /// With whom it was compared.
    pub subject: String,
    pub subject_id: SubjectId,
    /// With which face; null: with the template of all faces of the subject.
    #[schema(required)]
    pub face_id: Option<FaceId>,
    /// How unlike any face the one of the photo is, 0..1, if the model is calibrated for it.
    #[schema(required)]
    pub anomaly: Option<f32>,
    /// The face of the photo; null if an embedding was sent.
    #[schema(required)]
    pub face: Option<ComparedFace>,
}

/// POST /compare
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Compared {
    pub model: String,
    /// The similarity from which on two faces are one person.
    pub threshold: f32,
    pub decision: Decision,
    /// Of `image`, largest first; or the one of `embedding`.
    pub faces: Vec<ProbeMatches>,
}

/// A face and which of the candidates it resembles.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProbeMatches {
    /// Null if an embedding was sent.
    #[schema(required)]
    pub face: Option<ComparedFace>,
    /// How unlike any face the one of the photo is, 0..1, if the model is calibrated for it.
    #[schema(required)]
    pub anomaly: Option<f32>,
    /// All candidates that could be compared, most similar first, whether or not they reach the threshold.
    pub matches: Vec<CandidateMatch>,
}

/// How much a candidate resembles a face.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CandidateMatch {
    /// Which candidate: its place in the request, from 0 on.
    pub candidate: usize,
    /// Whether the similarity reaches the threshold.
    pub same_person: bool,
    /// Cosine, -1..1.
    pub similarity: f32,
    /// Probability that both are one person, 0..1, if the model is calibrated.
    #[schema(required)]
    pub probability: Option<f32>,
}

/// A face that was compared with another.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ComparedFace {
    #[serde(flatten)]
    pub face: FoundFace,
    #[serde(flatten)]
    pub usability: Usability,
}
