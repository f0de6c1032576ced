//! Long tasks as rows of the database: submitted, claimed, held by a lease, cancelled, taken over. All SQL about them is
//! here; what a job does is the service's.
//!
//! A server that works on a job holds a [`Lease`], which it renews. All that it writes is checked against the lease in the
//! same statement, so that a server that lost it, because it was stopped or cut off for too long, changes nothing any more.
//! Notifications only save waiting: what they announce is in the tables, which are polled as well.

mod events;
mod lease;
mod noting;
mod queue;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use thiserror::Error;
use tokio::sync::watch;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::{DbError, Notifications, PageError, Pool, Pools, Topic};
use crate::types::{Actor, Caller, GalleryId, JobId, Scope};

pub use events::{EventKind, JobEvent, KEPT_FOR};
pub use lease::{Lease, Saved, Stop};
pub use queue::{MOST_SETBACKS, NewJob};

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
    /// Erases a gallery or a subject that is hidden from everybody already.
    Erase,
    /// Gives the faces of one subject to another.
    Merge,
    /// Deletes the embeddings of a retired model.
    Retire,
    /// Embeds faces that came without an embedding. Never ends.
    Embed,
    /// Compares subjects that changed with all others. Never ends.
    Review,
    /// Measures how often strangers are taken for somebody of a gallery. Never ends.
    Measure,
    /// Builds and measures the search indexes of large galleries. Never ends.
    Index,
    /// Makes the bytes of what was erased go from the files of the database. Never ends.
    Reclaim,
    /// Erases what has expired. Never ends.
    Expire,
    /// Encrypts chips of before there were keys, and wraps the keys of chips by the newest master key. Never ends.
    Encrypt,
}

/// What may run side by side: one job of each lane at a time in a database, but for those that erase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    Training,
    Models,
    Data,
    Indexes,
    Erasure,
    Embedding,
    Review,
    Measuring,
    Reclaiming,
    Retention,
    Encryption,
}

impl Lane {
    pub const ALL: [Self; 11] = [
        Self::Training,
        Self::Models,
        Self::Data,
        Self::Indexes,
        Self::Erasure,
        Self::Embedding,
        Self::Review,
        Self::Measuring,
        Self::Reclaiming,
        Self::Retention,
        Self::Encryption,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Models => "models",
            Self::Data => "data",
            Self::Indexes => "indexes",
            Self::Erasure => "erasure",
            Self::Embedding => "embedding",
            Self::Review => "review",
            Self::Measuring => "measuring",
            Self::Reclaiming => "reclaiming",
            Self::Retention => "retention",
            Self::Encryption => "encryption",
        }
    }

    /// Whether several of its jobs may run at a time; the schema knows it as well.
    fn is_shared(self) -> bool {
        self == Self::Erasure
    }

    /// Whether its jobs are short steps, which take turns with those of other such lanes.
    pub fn is_stepped(self) -> bool {
        matches!(
            self,
            Self::Erasure | Self::Embedding | Self::Review | Self::Measuring | Self::Retention | Self::Encryption
        )
    }

    /// Attempts in a row that may end badly before a job fails. What is to be erased, and what never ends, is tried for ever.
    fn most_setbacks(self) -> i32 {
        match self {
            Self::Training | Self::Models | Self::Data => MOST_SETBACKS.cast_signed(),
            _ => i32::MAX,
        }
    }
}

impl JobKind {
    const ALL: [Self; 15] = [
        Self::Retrain,
        Self::Evaluate,
        Self::Promote,
        Self::Shadow,
        Self::Import,
        Self::Erase,
        Self::Merge,
        Self::Retire,
        Self::Embed,
        Self::Review,
        Self::Measure,
        Self::Index,
        Self::Reclaim,
        Self::Expire,
        Self::Encrypt,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Retrain => "retrain",
            Self::Evaluate => "evaluate",
            Self::Promote => "promote",
            Self::Shadow => "shadow",
            Self::Import => "import",
            Self::Erase => "erase",
            Self::Merge => "merge",
            Self::Retire => "retire",
            Self::Embed => "embed",
            Self::Review => "review",
            Self::Measure => "measure",
            Self::Index => "index",
            Self::Reclaim => "reclaim",
            Self::Expire => "expire",
            Self::Encrypt => "encrypt",
        }
    }

    fn lane(self) -> Lane {
        match self {
            Self::Retrain | Self::Evaluate => Lane::Training,
            Self::Promote | Self::Shadow => Lane::Models,
            Self::Import => Lane::Data,
            Self::Erase | Self::Merge | Self::Retire => Lane::Erasure,
            Self::Embed => Lane::Embedding,
            Self::Review => Lane::Review,
            Self::Measure => Lane::Measuring,
            Self::Index => Lane::Indexes,
            Self::Reclaim => Lane::Reclaiming,
            Self::Expire => Lane::Retention,
            Self::Encrypt => Lane::Encryption,
        }
    }

    /// Whether there is always one such job, which works whenever something is due.
    pub fn is_recurring(self) -> bool {
        matches!(
            self,
            Self::Embed | Self::Review | Self::Measure | Self::Index | Self::Reclaim | Self::Expire | Self::Encrypt
        )
    }

    /// The kinds of which there is always one job.
    pub(super) fn recurring() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kind| kind.is_recurring())
    }

    /// Whether it can be ended before it is done. What was accepted to be erased is erased.
    pub fn can_be_cancelled(self) -> bool {
        self.lane() != Lane::Erasure && !self.is_recurring()
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
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
    /// The galleries that it concerns; `None`: all that there are.
    pub galleries: Option<Vec<GalleryId>>,
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

/// The jobs of a scope in one database: those that concern no gallery outside of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs {
    scope: Scope,
    /// Whom the audit names.
    actor: Actor,
    pool: Pool,
    /// For the leases: requests that fill the other pool must not cost one.
    beside: PgPool,
    notifications: Notifications,
    lease_for: Duration,
}

impl Jobs {
    /// A lease lasts for `lease_for` from when it was last renewed.
    pub fn new(pools: &Pools, lease_for: Duration) -> Self {
        let Pools { requests: pool, beside, notifications } = pools.clone();
        let actor = Caller::server().actor();
        Self { scope: Scope::All, actor, pool, beside, notifications, lease_for }
    }

    /// As somebody sees and changes them. Whoever works on jobs sees all.
    pub fn for_caller(&self, caller: &Caller) -> Self {
        Self { scope: caller.scope().clone(), actor: caller.actor(), ..self.clone() }
    }

    /// The ids of the scope, for a statement; null: of all galleries.
    fn scope(&self) -> Option<Vec<Uuid>> {
        self.scope.galleries().map(|galleries| galleries.iter().map(|gallery| gallery.0).collect())
    }

    /// Sees a change whenever something happened to a job, if [`Pools::listen`] runs.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.notifications.subscribe(Topic::Jobs)
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
            galleries: row
                .try_get::<Option<Vec<Uuid>>, _>("galleries")?
                .map(|galleries| galleries.into_iter().map(GalleryId).collect()),
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

#[derive(Debug, Error)]
pub enum JobError {
    #[error("there is no job {0}")]
    JobNotFound(JobId),
    #[error("the job {0} is finished, so that nothing is left to cancel")]
    JobFinished(JobId),
    #[error("the job {id} cannot be cancelled: a job of kind `{}` ends by itself or not at all", kind.name())]
    NotCancellable { id: JobId, kind: JobKind },
    /// Another server may work on the job now.
    #[error("the lease on the job ran out")]
    LeaseLost,
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}
