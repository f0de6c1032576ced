//! Everything that is held of a person, as one document.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{EnrolledFace, Subject};
use crate::jobs::{JobKind, JobState};
use crate::registry::DisagreementKind;
use crate::types::{FaceId, GalleryId, JobId, SubjectId};

/// Everything that is held of a person in one gallery. Others are named by their ids at most.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Person {
    pub exported_at: DateTime<Utc>,
    pub subject: Subject,
    pub gallery_id: GalleryId,
    /// What is not in here, and why: for people.
    pub not_included: Vec<String>,
    pub faces: Vec<PersonFace>,
    /// What the person is recognised by: for each model the mean of the faces' embeddings, at a length of 1.
    pub templates: Vec<PersonTemplate>,
    /// What the review of the gallery found about the person.
    pub findings: Vec<PersonFinding>,
    /// Photos that a candidate in the shadow took for the person and the active model did not, or the other way round.
    pub disagreements: Vec<PersonDisagreement>,
    /// What work in the background could not be done on.
    pub set_aside: Vec<PersonSetAside>,
    /// Jobs that name the person: merges, and erasures under way.
    pub jobs: Vec<PersonJob>,
}

/// An enrolled face with all that is stored of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonFace {
    #[serde(flatten)]
    pub face: EnrolledFace,
    /// Of the photo, in hexadecimal digits. The photo itself is not stored.
    #[schema(required)]
    pub image_sha256: Option<String>,
    /// The aligned crop of 112x112 pixels, a JPEG in base64; null for a face that was imported as an embedding alone.
    #[schema(required, content_encoding = "base64", content_media_type = "image/jpeg")]
    pub chip: Option<String>,
    /// By all models that have embedded it.
    pub embeddings: Vec<PersonEmbedding>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonEmbedding {
    pub model: String,
    /// As stored: at a length of 1.
    pub embedding: Vec<f32>,
    /// Its length before.
    #[schema(required)]
    pub norm: Option<f32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonTemplate {
    pub model: String,
    pub embedding: Vec<f32>,
    /// Of how many faces.
    pub faces: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonFinding {
    /// `duplicate`, `mislabelled`, `two_people` or `not_a_face`.
    pub kind: String,
    pub model: String,
    pub subject_id: SubjectId,
    #[schema(required)]
    pub face_id: Option<FaceId>,
    /// Whom else it is about.
    #[schema(required)]
    pub other_id: Option<SubjectId>,
    pub score: f32,
    #[schema(value_type = Object)]
    pub evidence: Value,
    pub found_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonDisagreement {
    pub at: DateTime<Utc>,
    /// The candidate.
    pub model: String,
    /// The model that was active.
    pub against: String,
    pub kind: DisagreementKind,
    /// How similar the active model found the photo to the person; null if somebody else, or nobody, was nearest for it.
    #[schema(required)]
    pub active_similarity: Option<f32>,
    /// The same for the candidate.
    #[schema(required)]
    pub candidate_similarity: Option<f32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonSetAside {
    pub work: String,
    pub model: String,
    #[schema(required)]
    pub face_id: Option<FaceId>,
    pub reason: String,
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonJob {
    pub id: JobId,
    pub kind: JobKind,
    pub state: JobState,
    pub created_at: DateTime<Utc>,
    #[schema(required)]
    pub finished_at: Option<DateTime<Utc>>,
}
