//! Answers about a candidate in the shadow.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::registry::DisagreementKind;
use crate::types::SubjectId;

/// GET /admin/models/{model}/shadow
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShadowReport {
    /// The name of the candidate.
    pub model: String,
    /// Share of the photos that it is asked about now; null: its shadow has ended.
    #[schema(required)]
    pub share: Option<f64>,
    /// What came of them, by the model that was active; the latest first.
    pub against: Vec<ShadowTally>,
}

/// How often a candidate and an active model agreed about a face.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShadowTally {
    /// The name of the model that was active.
    pub model: String,
    /// Faces that both were asked about.
    pub faces: u64,
    /// Both knew the same person, or neither knew the face.
    pub agreed: u64,
    /// Both knew the face, as different people.
    pub other_subject: u64,
    /// The active model alone knew the face.
    pub only_active: u64,
    /// The candidate alone knew the face.
    pub only_candidate: u64,
    pub since: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
}

/// A face about which a candidate and the active model differed. The photo was not kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Disagreement {
    pub id: uuid::Uuid,
    pub at: DateTime<Utc>,
    pub gallery: String,
    /// The name of the model that was active, and answered.
    pub active_model: String,
    pub kind: DisagreementKind,
    pub by_active: ShadowOpinion,
    pub by_candidate: ShadowOpinion,
}

/// What a model says of a face: it is known if `similarity` reaches `threshold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShadowOpinion {
    /// Whom it resembles most, by the name they have now; null in a gallery without faces.
    #[schema(required)]
    pub subject: Option<String>,
    #[schema(required)]
    pub subject_id: Option<SubjectId>,
    #[schema(required)]
    pub similarity: Option<f32>,
    pub threshold: f32,
}
