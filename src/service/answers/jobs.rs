//! Answers about jobs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::gallery;
use crate::jobs::{self, JobKind, JobState};
use crate::types::{FaceId, JobId, SubjectId};

/// A long task.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Job {
    pub id: JobId,
    pub kind: JobKind,
    pub state: JobState,
    /// As it was asked for, with the defaults that were taken.
    #[schema(value_type = Object)]
    pub settings: Value,
    /// How far it is: `stage` and, where they are known, `done` of `total` and `seconds_left`; of `encrypt` also `state`: how many
    /// keys of chips are under which master key.
    #[schema(value_type = Option<Object>)]
    pub progress: Option<Value>,
    /// Of a job that succeeded.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
    /// Why it failed or, while it is queued or running, why its last attempt did.
    pub error: Option<String>,
    /// Whether it never ends: it works whenever something is due.
    pub recurring: bool,
    /// Whether it was asked to stop.
    pub cancel_requested: bool,
    /// How often a server began or went on with it.
    pub attempts: u32,
    pub requested_by: String,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// Something that work in the background could not be done on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SetAside {
    pub id: uuid::Uuid,
    /// What was being done: `embed`, `review`, `measure` or `index`; `chips`: reading a chip or its key.
    pub work: String,
    /// The name of the model.
    pub model: String,
    /// The name of the gallery.
    pub gallery: String,
    /// Null: it is about the gallery.
    #[schema(required)]
    pub subject: Option<String>,
    #[schema(required)]
    pub subject_id: Option<SubjectId>,
    /// Null: it is about the subject or the gallery.
    #[schema(required)]
    pub face_id: Option<FaceId>,
    pub reason: String,
    pub at: DateTime<Utc>,
}

impl From<gallery::SetAside> for SetAside {
    fn from(item: gallery::SetAside) -> Self {
        let (subject_id, subject) = item.subject.unzip();
        Self {
            id: item.id,
            work: item.work,
            model: item.model,
            gallery: item.gallery,
            subject,
            subject_id,
            face_id: item.face,
            reason: item.reason,
            at: item.at,
        }
    }
}

impl From<jobs::Job> for Job {
    fn from(job: jobs::Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            state: job.state,
            settings: job.settings,
            progress: job.progress,
            result: job.result,
            error: job.error,
            recurring: job.kind.is_recurring(),
            cancel_requested: job.cancel_requested,
            attempts: job.attempts,
            requested_by: job.requested_by,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
        }
    }
}
