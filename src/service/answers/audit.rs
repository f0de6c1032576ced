//! Answers about the record of what was asked and changed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// Something that was asked or changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    pub id: Uuid,
    /// Its place in the chain; null: it will get one within a moment.
    #[schema(required)]
    pub position: Option<i64>,
    pub at: DateTime<Utc>,
    /// The name of a key, or `client key`, `admin key` (of the configuration), `anyone` (a server without keys), `command` (on the
    /// database) or `server` (its configuration, a job).
    pub actor: String,
    /// The key, if it is one of the database.
    #[schema(required)]
    pub key_id: Option<Uuid>,
    /// `x-request-id` of the answer, if it came by HTTP. Of one that the client chose, and that is no UUID: `sha256:` and the first 32
    /// digits of its SHA-256.
    #[schema(required)]
    pub request_id: Option<String>,
    /// Such as `identify`, `face.enroll`, `subject.erase`, `key.create`, `model.activate`.
    pub action: String,
    /// What came of it, such as `known`, `unknown`, `no_face`, or the code of a problem.
    #[schema(required)]
    pub outcome: Option<String>,
    /// The galleries that it concerns.
    pub galleries: Vec<Uuid>,
    /// The subjects that it concerns: of an identification, those that were recognised; of a verification, the one that was compared with.
    pub subjects: Vec<Uuid>,
    #[schema(required)]
    pub model_id: Option<Uuid>,
    /// The name of the model.
    #[schema(required)]
    pub model: Option<String>,
    #[schema(value_type = Object)]
    pub details: Value,
    /// The SHA-256 that chains it to the entry before; null as long as it has no place.
    #[schema(required)]
    pub hash: Option<String>,
}

/// GET /admin/audit/head
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditHead {
    /// Of the last entry of the chain; 0: there is none.
    pub position: i64,
    /// Of that entry: whoever keeps it can hold the chain against it later.
    pub hash: String,
    /// When it was so.
    pub at: DateTime<Utc>,
}
