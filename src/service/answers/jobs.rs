//! Answers about jobs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::jobs::{self, JobKind, JobState};
use crate::types::JobId;

/// A long task.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Job {
    pub id: JobId,
    pub kind: JobKind,
    pub state: JobState,
    /// As it was asked for, with the defaults that were taken.
    #[schema(value_type = Object)]
    pub settings: Value,
    /// How far it is: `stage` and, where they are known, `done` of `total` and `seconds_left`.
    #[schema(value_type = Option<Object>)]
    pub progress: Option<Value>,
    /// Of a job that succeeded.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
    /// Why it failed or, while it is queued or running, why its last attempt did.
    pub error: Option<String>,
    /// Whether it was asked to stop.
    pub cancel_requested: bool,
    /// How often a server began or went on with it.
    pub attempts: u32,
    pub requested_by: String,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
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
            cancel_requested: job.cancel_requested,
            attempts: job.attempts,
            requested_by: job.requested_by,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
        }
    }
}
