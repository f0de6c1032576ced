//! Answers about models, and the record of who changed what.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::evaluation::GateOutcome;

/// An embedder that the database knows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModelEntry {
    pub id: uuid::Uuid,
    pub name: String,
    /// Of the weights file, in hexadecimal.
    pub sha256: String,
    pub dimension: u32,
    /// `active`, `candidate`, `former` (was active, and can be again at once) or `retired` (embeddings and file deleted).
    pub state: String,
    /// `configured`, `import`, `retrain`, or `embeddings`: known by imported embeddings alone.
    pub source: String,
    /// Of its file in the model store: `onnx` or `torchscript`; null if there is none.
    #[schema(required)]
    pub format: Option<String>,
    /// Length of its file; null if there is none.
    #[schema(required)]
    pub bytes: Option<u64>,
    /// The model that it was trained from.
    #[schema(required)]
    pub parent: Option<uuid::Uuid>,
    pub created_at: DateTime<Utc>,
    /// When it last became active.
    #[schema(required)]
    pub activated_at: Option<DateTime<Utc>>,
    /// Whether faces are embedded by it as well, so that it can become active or answer in the shadow.
    pub is_secondary: bool,
    /// Share of the identified photos that it is asked about in the shadow; null if it is not.
    #[schema(required)]
    pub shadow: Option<f64>,
    /// Whether a rollback would make it active.
    pub is_rollback: bool,
}

/// GET /admin/models/{model}
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModelDetails {
    #[serde(flatten)]
    pub entry: ModelEntry,
    /// What it was trained to read, and its calibration; null of a model of which only embeddings are known.
    #[schema(required, value_type = Option<Object>)]
    pub manifest: Option<Value>,
    /// What the gate said of it; null if nobody evaluated it.
    #[schema(required)]
    pub verdict: Option<Verdict>,
    /// Faces that have an embedding of it.
    pub embeddings: u64,
    /// Faces that have none, but a chip to make it from.
    pub missing: u64,
    /// Faces that have neither, so that a promotion would leave them behind.
    pub without_chip: u64,
}

/// What the gate said of a model.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// `refused` stops a promotion unless it is forced; `not_enough_evidence` does not, but nothing is promoted by itself.
    pub outcome: GateOutcome,
    /// Whether the outcome is `passed`.
    pub passed: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// The figures behind it.
    #[schema(value_type = Object)]
    pub figures: Value,
    pub at: DateTime<Utc>,
}

/// What retiring a model deleted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Retired {
    /// The name of the model.
    pub model: String,
    pub embeddings: u64,
    /// Faces of which nothing is left to find them by: they had no chip, and no embedding of another model.
    pub lost_faces: u64,
}
