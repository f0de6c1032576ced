//! What happened to a job, in order.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{JobError, JobKind, Jobs};
use crate::db::{Topic, notify};
use crate::types::JobId;

/// For how long events are kept after the end of their job.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The job is in another state, or was asked to be.
    State,
    /// How far it is.
    Progress,
    /// Figures of a step of training.
    Metrics,
    /// Something to know, in words.
    Note,
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Progress => "progress",
            Self::Metrics => "metrics",
            Self::Note => "note",
        }
    }
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct JobEvent {
    /// Grows with each event of a job.
    pub sequence: i64,
    /// As [`EventKind::name`] says.
    pub kind: String,
    pub data: Value,
    pub at: DateTime<Utc>,
}

impl Jobs {
    /// Up to `limit` events of a job after the one of the number `after`.
    pub async fn events(&self, job: JobId, after: i64, limit: u32) -> Result<Vec<JobEvent>, JobError> {
        let events = sqlx::query_as(
            "select sequence, kind, data, at from job_events where job_id = $1 and sequence > $2 \
             and ($4::uuid[] is null or exists (select from jobs where id = $1 and galleries <@ $4)) \
             order by sequence limit $3",
        )
        .bind(job.0)
        .bind(after)
        .bind(i64::from(limit))
        .bind(self.scope())
        .fetch_all(&self.pool)
        .await?;
        Ok(events)
    }

    /// Forgets the events of jobs that were finished [`KEPT_FOR`] ago, and as old ones of jobs that never end; and files that came
    /// after their job had ended.
    pub async fn prune(&self) -> Result<(), JobError> {
        sqlx::query("delete from job_files f using jobs j where j.id = f.job_id and j.finished_at is not null")
            .execute(&self.beside)
            .await?;
        sqlx::query(
            "delete from job_events where job_id in \
             (select id from jobs where finished_at < now() - $1::float8 * interval '1 second' \
              or (kind = any($2) and at < now() - $1::float8 * interval '1 second'))",
        )
        .bind(KEPT_FOR.as_secs_f64())
        .bind(JobKind::recurring().map(JobKind::name).collect::<Vec<_>>())
        .execute(&self.beside)
        .await?;
        Ok(())
    }
}

/// Adds an event and announces it. The caller holds the job's row.
pub(super) async fn add(
    connection: &mut PgConnection,
    job: JobId,
    kind: EventKind,
    data: &Value,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into job_events (job_id, kind, data) values ($1, $2, $3)")
        .bind(job.0)
        .bind(kind.name())
        .bind(data)
        .execute(&mut *connection)
        .await?;
    notify(connection, Topic::Jobs).await
}
