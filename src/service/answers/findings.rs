//! Answers about what the review of a gallery found.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::ReviewState;
use crate::types::{FaceId, SubjectId};

/// GET /duplicates
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DuplicatePairs {
    /// Most similar first.
    pub items: Vec<DuplicatePair>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
    /// The least similarity that is listed.
    pub min_similarity: f32,
    pub review: ReviewState,
}

/// Two subjects that look like one person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DuplicatePair {
    pub subject: String,
    pub subject_id: SubjectId,
    pub other: String,
    pub other_id: SubjectId,
    /// Cosine of the two templates, -1..1.
    pub similarity: f32,
    /// Probability that both are one person, 0..1, if the model is calibrated.
    #[schema(required)]
    pub probability: Option<f32>,
    pub found_at: DateTime<Utc>,
}

/// GET /anomalies
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Anomalies {
    /// Highest score first.
    pub items: Vec<Anomaly>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
    pub review: ReviewState,
}

/// A face or a subject that looks wrong.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Anomaly {
    pub kind: AnomalyKind,
    pub subject: String,
    pub subject_id: SubjectId,
    /// Of `mislabelled` and `not_a_face`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub face_id: Option<FaceId>,
    /// Of `mislabelled`: whom the face resembles more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub other: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub other_id: Option<SubjectId>,
    /// `mislabelled`: by how much the other is more similar. `two_people`: 1 - similarity of the groups. `not_a_face`: the
    /// anomaly score.
    pub score: f32,
    /// The numbers behind it.
    #[schema(value_type = Object)]
    pub evidence: Value,
    pub found_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyKind {
    /// A face that is nearer to another subject than to the other faces of its own.
    Mislabelled,
    /// A subject whose faces fall into two groups that do not look alike.
    TwoPeople,
    /// A face that is unlike any face, such as a bad crop.
    NotAFace,
}
