//! Answers about galleries, subjects and faces as collections.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{FoundFace, Strangers};
use crate::gallery::{self, Policy, Revision};
use crate::types::{ErasureId, FaceId, GalleryId, JobId, SubjectId};

/// A gallery or a subject, and the state that this is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Revised<T> {
    pub revision: Revision,
    pub answer: T,
}

/// A gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GalleryEntry {
    pub id: GalleryId,
    pub name: String,
    /// By what a face is called known here; null: as the server is configured.
    #[schema(required)]
    pub policy: Option<Policy>,
    /// How many subjects it may have; null: any number.
    #[serde(default)]
    #[schema(required)]
    pub max_subjects: Option<u64>,
    /// How long what is in it is kept; null: until it is deleted.
    #[schema(required)]
    pub retention: Option<KeptFor>,
    pub created_at: DateTime<Utc>,
}

/// How long a gallery keeps what is in it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct KeptFor {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub faces_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subjects_days: Option<u32>,
    /// An hour after it was changed last. Until then nothing is erased for it.
    pub holds_from: DateTime<Utc>,
}

/// What has been in a gallery for longer than its `retention` says: subjects by `subjects_days`, who go with all their faces, and faces
/// by `faces_days`. It is erased as soon as that holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct DueNow {
    pub subjects: u64,
    pub faces: u64,
}

/// What has expired in a gallery and was erased, so far.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct Expired {
    pub subjects: u64,
    /// Those of subjects that had expired as well.
    pub faces: u64,
    /// When something last was; null: never.
    #[schema(required)]
    pub last_at: Option<DateTime<Utc>>,
}

/// A gallery that was changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChangedGallery {
    #[serde(flatten)]
    pub entry: GalleryEntry,
    /// Of one that has a `retention`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub due_now: Option<DueNow>,
}

/// A gallery, its size and how it is searched.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Gallery {
    #[serde(flatten)]
    pub entry: GalleryEntry,
    pub subjects: u64,
    pub faces: u64,
    pub search: GallerySearch,
    pub review: ReviewState,
    pub strangers: Strangers,
    /// Of one that has a `retention`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub due_now: Option<DueNow>,
    #[serde(default)]
    #[schema(required)]
    pub expired: Expired,
}

/// How a gallery is searched.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GallerySearch {
    pub place: SearchPlace,
    /// Subjects with faces of the active model: the templates that a probe is compared with.
    pub templates: u64,
    /// Of `index`: how widely it is searched.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ef_search: Option<u32>,
    /// Of `index`: share of probes whose best match was the one of an exact search, as measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recall: Option<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchPlace {
    /// In memory, exactly.
    Resident,
    /// In Postgres, exactly.
    Exact,
    /// In Postgres by an HNSW index.
    Index,
}

/// How far the search for duplicates and anomalies is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReviewState {
    /// Subjects that were looked at since they last changed.
    pub reviewed: u64,
    /// Subjects with faces.
    pub total: u64,
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
    /// When it is erased by itself, unless its gallery's `retention` does it earlier; null: not by a time of its own.
    #[serde(default)]
    #[schema(required)]
    pub expires_at: Option<DateTime<Utc>>,
    pub faces: u64,
}

/// An enrolled face.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnrolledFace {
    pub id: FaceId,
    pub subject: String,
    pub subject_id: SubjectId,
    pub gallery: String,
    /// Absent from a face that was imported as an embedding alone.
    #[serde(flatten)]
    pub face: Option<FoundFace>,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    pub created_at: DateTime<Utc>,
    /// When it is erased by itself, unless its subject, or its gallery's `retention`, does it earlier; null: not by a time of its own.
    #[serde(default)]
    #[schema(required)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a deletion erased, for good.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Erased {
    pub subjects: u64,
    pub faces: u64,
    pub embeddings: u64,
    /// Of the receipt: GET /erasures/{erasure}.
    pub erasure: ErasureId,
}

/// What a deletion of many erased, for good.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ErasedMany {
    pub subjects: u64,
    pub faces: u64,
    pub embeddings: u64,
    /// Of those that were listed: who, or what, was not there.
    pub not_found: Vec<String>,
    /// Of the receipts, of which there may be several: GET /erasures/{erasure}.
    pub erasures: Vec<ErasureId>,
    /// The jobs that delete the rest of what nobody can find any more. There are none if all of it is deleted.
    pub jobs: Vec<JobId>,
    /// Whether there are more that match: a request erases 10,000 subjects at most, so send it again. Never of a list.
    pub more: bool,
}

impl ErasedMany {
    pub(in crate::service) fn add(&mut self, more: gallery::Erased, erasures: impl IntoIterator<Item = ErasureId>) {
        self.subjects += more.subjects;
        self.faces += more.faces;
        self.embeddings += more.embeddings;
        self.erasures.extend(erasures);
    }
}
