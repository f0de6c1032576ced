//! Receipts for what was erased.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gallery;
use crate::types::{ErasureId, FaceId, GalleryId, ModelId, SubjectId};

/// A receipt: what was erased, and how far that is. It holds ids and numbers, no names.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Erasure {
    pub id: ErasureId,
    /// From then on nobody found it.
    pub erased_at: DateTime<Utc>,
    pub gallery_id: GalleryId,
    /// Null with null `faces`: the gallery as a whole.
    #[schema(required)]
    pub subjects: Option<Vec<SubjectId>>,
    /// Faces whose subjects stayed.
    #[schema(required)]
    pub faces: Option<Vec<FaceId>>,
    /// What was deleted so far.
    pub erased: ErasedCounts,
    pub state: ErasureState,
    /// When the last row was deleted.
    #[schema(required)]
    pub rows_gone_at: Option<DateTime<Utc>>,
    /// When the bytes were gone from the files of the database, except where `elsewhere` says.
    #[schema(required)]
    pub bytes_gone_at: Option<DateTime<Utc>>,
    /// Where bytes may be left that the server cannot reach: `log`, `log_archive`, `standbys`, `leftovers`, `statistics`, `plain_chips`.
    /// Backups and exports that you made are not known to it.
    pub elsewhere: Vec<String>,
    /// The position of its entry in the audit, which has the same id. Null: the entry is not sealed yet, `--audit-retention` has dropped it,
    /// or there is none, as the erasure is older than the audit.
    #[schema(required)]
    pub audit_position: Option<i64>,
    /// Models that were trained in the gallery while some of it was enrolled, and so may have been trained on it.
    pub models: Vec<ModelId>,
}

/// A receipt, signed if the server has a key for it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErasureReceipt {
    #[serde(flatten)]
    pub receipt: Erasure,
    /// By the server's `--signing-key`, as the receipt is now; null: it has none.
    #[schema(required)]
    pub signed: Option<Signed>,
}

/// A text, and by whose key it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signed {
    /// The receipt as JSON, byte by byte as it was signed.
    pub text: String,
    /// Ed25519, of the bytes of `text`, in base64.
    pub signature: String,
}

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureState {
    /// Nobody finds it; a job deletes the rows.
    RowsLeft,
    /// The rows are deleted; what stood there may still be in the files of the database.
    BytesLeft,
    /// The bytes are gone as well, except where `elsewhere` says.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErasedCounts {
    pub subjects: u64,
    pub faces: u64,
    pub embeddings: u64,
}

impl Erasure {
    pub(in crate::service) fn new(erasure: gallery::Erasure, models: Vec<ModelId>) -> Self {
        let gallery::Erased { subjects, faces, embeddings } = erasure.erased;
        let state = match (erasure.rows_gone_at, erasure.bytes_gone_at) {
            (None, _) => ErasureState::RowsLeft,
            (Some(_), None) => ErasureState::BytesLeft,
            (Some(_), Some(_)) => ErasureState::Gone,
        };
        Self {
            id: erasure.id,
            erased_at: erasure.erased_at,
            gallery_id: erasure.gallery,
            subjects: erasure.subjects.map(|ids| ids.into_iter().map(SubjectId).collect()),
            faces: erasure.faces.map(|ids| ids.into_iter().map(FaceId).collect()),
            erased: ErasedCounts { subjects, faces, embeddings },
            state,
            rows_gone_at: erasure.rows_gone_at,
            bytes_gone_at: erasure.bytes_gone_at,
            elsewhere: erasure.elsewhere,
            audit_position: erasure.audit_position,
            models,
        }
    }
}
