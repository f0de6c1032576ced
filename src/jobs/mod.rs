//! Long tasks as rows of the database: submitted, claimed, held by a lease, cancelled, taken over. All SQL about them is
//! here; what a job does is the service's.
//!
//! A server that works on a job holds a [`Lease`], which it renews. All that it writes is checked against the lease in the
//! same statement, so that a server that lost it, because it was stopped or cut off for too long, changes nothing any more.
//! Notifications only save waiting: what they announce is in the tables, which are polled as well.

mod bell;
mod error;
mod events;
mod lease;
mod queue;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use utoipa::ToSchema;

pub use bell::Bell;
pub use error::JobError;
pub use events::{EventKind, JobEvent, KEPT_FOR};
pub use lease::{Lease, Saved, Stop};
pub use queue::{MOST_SETBACKS, NewJob};

use crate::db::{Pool, Pools};
use crate::types::JobId;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Trains an embedder on the faces of a gallery.
    Retrain,
    /// Compares a model with the active one.
    Evaluate,
    /// Makes a model the active one.
    Promote,
    /// Lets a model answer in the shadow.
    Shadow,
    /// Enrolls the photos of a data set that was uploaded.
    Import,
}

/// Jobs of one lane run one after the other in a database, those of different lanes side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    Training,
    Models,
    Data,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::Training, Self::Models, Self::Data];

    fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Models => "models",
            Self::Data => "data",
        }
    }
}

impl JobKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Retrain => "retrain",
            Self::Evaluate => "evaluate",
            Self::Promote => "promote",
            Self::Shadow => "shadow",
            Self::Import => "import",
        }
    }

    fn lane(self) -> Lane {
        match self {
            Self::Retrain | Self::Evaluate => Lane::Training,
            Self::Promote | Self::Shadow => Lane::Models,
            Self::Import => Lane::Data,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let all = [Self::Retrain, Self::Evaluate, Self::Promote, Self::Shadow, Self::Import];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a server that is free, or, after a setback, for a while.
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing happens to the job any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// A long task.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub kind: JobKind,
    pub settings: Value,
    pub state: JobState,
    pub progress: Option<Value>,
    /// Of one that succeeded.
    pub result: Option<Value>,
    /// Of one that failed; of one that is queued or running, why the last attempt did.
    pub error: Option<String>,
    pub requested_by: String,
    pub cancel_requested: bool,
    /// How often a server began or went on with it.
    pub attempts: u32,
    /// Of them in a row, to the last, those that ended badly and got nowhere.
    pub setbacks: u32,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// When the server that works on it last said so.
    pub heartbeat_at: Option<DateTime<Utc>>,
}

/// All jobs of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs {
    pool: Pool,
    /// For the leases: requests that fill the other pool must not cost one.
    beside: PgPool,
    bell: Bell,
    lease_for: Duration,
}

impl Jobs {
    /// A lease lasts for `lease_for` from when it was last renewed.
    pub fn new(pools: &Pools, lease_for: Duration) -> Self {
        let Pools { requests: pool, beside } = pools.clone();
        Self { pool, beside, bell: Bell::default(), lease_for }
    }

    /// Rings when something happened to a job, if [`Self::listen`] runs.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

impl FromRow<'_, PgRow> for Job {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (kind, state): (&str, &str) = (row.try_get("kind")?, row.try_get("state")?);
        let count = |column| Ok::<_, sqlx::Error>(row.try_get::<i32, _>(column)?.unsigned_abs());
        Ok(Self {
            id: JobId(row.try_get("id")?),
            kind: JobKind::parse(kind).ok_or_else(|| unknown("kind", kind))?,
            settings: row.try_get("settings")?,
            state: JobState::parse(state).ok_or_else(|| unknown("state", state))?,
            progress: row.try_get("progress")?,
            result: row.try_get("result")?,
            error: row.try_get("error")?,
            requested_by: row.try_get("requested_by")?,
            cancel_requested: row.try_get("cancel_requested")?,
            attempts: count("attempts")?,
            setbacks: count("setbacks")?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            heartbeat_at: row.try_get("heartbeat_at")?,
        })
    }
}

fn unknown(column: &str, value: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: format!("unknown {column} {value:?}").into() }
}
