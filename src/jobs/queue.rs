//! Submitting, finding, claiming and cancelling jobs.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor};
use tokio::time::Instant;
use uuid::Uuid;

use super::events::{EventKind, add};
use super::noting::note;
use super::{Job, JobError, JobKind, JobState, Jobs, Lane, Lease};
use crate::audit::Action;
use crate::db::{Page, PageRequest, Transaction, violates};
use crate::types::{Actor, GalleryId, JobId, SubjectId};

/// A job fails after as many attempts in a row that ended badly and got nowhere.
pub const MOST_SETBACKS: u32 = 5;

/// How long a job waits after a setback; twice as long after each further one.
const PAUSE_AFTER_SETBACK: Duration = Duration::from_secs(1);

/// A job to submit.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub kind: JobKind,
    /// A job of this kind and key that is not finished is the same job.
    pub key: String,
    pub settings: Value,
    /// Who wants it.
    pub requested_by: String,
    /// The galleries that it concerns: who sees them sees it. `None`: all that there are.
    pub galleries: Option<Vec<GalleryId>>,
}

impl Jobs {
    /// Queues a job. If there is one of its kind and key that is not finished, that one; then the flag is `false`.
    pub async fn submit(&self, new: &NewJob) -> Result<(Job, bool), JobError> {
        let (job, is_new, transaction) = self.begin_submission(new).await?;
        transaction.commit().await?;
        Ok((job, is_new))
    }

    /// As [`Self::submit`], when the transaction commits.
    pub async fn begin_submission(&self, new: &NewJob) -> Result<(Job, bool, Transaction), JobError> {
        loop {
            let mut transaction = self.pool.begin().await?;
            if let Some(job) = insert(&mut transaction, &self.actor, new).await? {
                return Ok((job, true, transaction));
            }
            if let Some(job) = find_unfinished(&mut *transaction, new.kind, &new.key).await? {
                return Ok((job, false, transaction));
            }
            // Finished since: then there is room for a new one.
        }
    }

    /// Queues a job when a transaction commits that does something else as well. `None`: there is one of its kind and key.
    pub async fn submit_within(&self, transaction: &mut Transaction, new: &NewJob) -> Result<Option<Job>, JobError> {
        Ok(insert(transaction, &self.actor, new).await?)
    }

    /// Sees to it that there is a job of each kind that never ends.
    pub async fn ensure_recurring(&self) -> Result<(), JobError> {
        for kind in JobKind::recurring() {
            let (key, settings, requested_by) = (String::new(), json!({}), "server".to_owned());
            self.submit(&NewJob { kind, key, settings, requested_by, galleries: None }).await?;
        }
        Ok(())
    }

    /// Whether a server works on a job of a kind.
    pub async fn is_running(&self, kind: JobKind) -> Result<bool, JobError> {
        let running = sqlx::query_scalar("select exists (select from jobs where kind = $1 and state = 'running')");
        Ok(running.bind(kind.name()).fetch_one(&self.beside).await?)
    }

    /// What the running job of a kind that never ends is at.
    pub async fn stage_of(&self, kind: JobKind) -> Result<Option<String>, JobError> {
        let stage = sqlx::query_scalar("select progress ->> 'stage' from jobs where kind = $1 and state = 'running'");
        Ok(stage.bind(kind.name()).fetch_optional(&self.beside).await?.flatten())
    }

    /// The jobs of a kind that succeeded and concerned one of these galleries, whoever asks.
    pub async fn succeeded_on(&self, kind: JobKind, galleries: &[GalleryId]) -> Result<Vec<Job>, JobError> {
        let galleries: Vec<Uuid> = galleries.iter().map(|gallery| gallery.0).collect();
        let jobs = sqlx::query_as(
            "select * from jobs where kind = $1 and state = 'succeeded' and (galleries is null or galleries && $2)",
        );
        Ok(jobs.bind(kind.name()).bind(galleries).fetch_all(&self.pool).await?)
    }

    /// The job of a kind and key that is not finished.
    pub async fn unfinished(&self, kind: JobKind, key: &str) -> Result<Option<Job>, JobError> {
        Ok(find_unfinished(&self.pool, kind, key).await?)
    }

    pub async fn job(&self, id: JobId) -> Result<Job, JobError> {
        let job = sqlx::query_as("select * from jobs where id = $1 and ($2::uuid[] is null or galleries <@ $2)")
            .bind(id.0)
            .bind(self.scope())
            .fetch_optional(&self.pool)
            .await?;
        job.ok_or(JobError::JobNotFound(id))
    }

    /// Those that name a subject: what erases it, or gives faces to or from it. The latest thousand, newest first.
    pub async fn about(&self, subject: SubjectId) -> Result<Vec<Job>, JobError> {
        Ok(sqlx::query_as(
            "select * from jobs where $1 in (settings ->> 'subject', settings ->> 'into') \
             and ($2::uuid[] is null or galleries <@ $2) order by id desc limit 1000",
        )
        .bind(subject.to_string())
        .bind(self.scope())
        .fetch_all(&self.pool)
        .await?)
    }

    /// Newest first.
    pub async fn list(&self, request: PageRequest) -> Result<Page<Job>, JobError> {
        let rows: Vec<Job> = sqlx::query_as(
            "select * from jobs where id < $1 and ($3::uuid[] is null or galleries <@ $3) order by id desc limit $2",
        )
        .bind(request.before())
        .bind(request.rows_to_fetch())
        .bind(self.scope())
        .fetch_all(&self.pool)
        .await?;
        Ok(request.page(rows, |job| job.id.0))
    }

    /// Cancels a job: at once if it is queued; one that is running is asked to stop. To ask twice does no harm.
    pub async fn cancel(&self, id: JobId) -> Result<Job, JobError> {
        let mut transaction = self.pool.begin().await?;
        let job: Option<Job> =
            sqlx::query_as("select * from jobs where id = $1 and ($2::uuid[] is null or galleries <@ $2) for update")
                .bind(id.0)
                .bind(self.scope())
                .fetch_optional(&mut *transaction)
                .await?;
        let job = job.ok_or(JobError::JobNotFound(id))?;
        if !job.kind.can_be_cancelled() && !job.state.is_final() {
            return Err(JobError::NotCancellable { id, kind: job.kind });
        }
        let cancelled = match job.state {
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => return Err(JobError::JobFinished(id)),
            JobState::Running if job.cancel_requested => job,
            JobState::Running => {
                let asked = sqlx::query_as("update jobs set cancel_requested = true where id = $1 returning *");
                let asked = asked.bind(id.0).fetch_one(&mut *transaction).await?;
                let data = json!({"state": "running", "cancel_requested": true});
                add(&mut transaction, id, EventKind::State, &data).await?;
                note(&mut transaction, &self.actor, Action::JobCancel, &asked).await?;
                asked
            }
            JobState::Queued => {
                let asked: Job = sqlx::query_as("update jobs set cancel_requested = true where id = $1 returning *")
                    .bind(id.0)
                    .fetch_one(&mut *transaction)
                    .await?;
                note(&mut transaction, &self.actor, Action::JobCancel, &asked).await?;
                finish(&mut transaction, id, &End::Cancelled, &self.actor).await?
            }
        };
        transaction.commit().await?;
        Ok(cancelled)
    }

    /// The lanes that have a job to claim, or one whose lease ran out.
    pub async fn lanes_with_work(&self) -> Result<Vec<Lane>, JobError> {
        let names: Vec<String> = sqlx::query_scalar(
            "select distinct lane from jobs where (state = 'running' and lease_until < now()) \
             or (state = 'queued' and not_before <= now())",
        )
        .fetch_all(&self.beside)
        .await?;
        Ok(Lane::ALL.into_iter().filter(|lane| names.iter().any(|name| name == lane.name())).collect())
    }

    /// Takes the next job of a lane, unless one is running and that excludes others: one whose lease ran out before one that
    /// is queued.
    pub async fn claim(&self, lane: Lane) -> Result<Option<Lease>, JobError> {
        self.bury(lane).await?;
        let (lease, asked_at) = (Uuid::now_v7(), Instant::now());
        let mut transaction = self.beside.begin().await?;
        let claimed: Result<Option<Job>, sqlx::Error> = sqlx::query_as(
            "update jobs set state = 'running', lease = $2, lease_until = now() + $3::float8 * interval '1 second', \
             heartbeat_at = now(), started_at = coalesce(started_at, now()), attempts = attempts + 1, \
             setbacks = setbacks + (state = 'running')::int \
             where id = (select id from jobs where lane = $1 and (state = 'running' and lease_until < now() \
                 and not (cancel_requested or setbacks >= $4 - 1) \
               or state = 'queued' and not_before <= now() \
                 and ($5 or not exists (select from jobs where lane = $1 and state = 'running'))) \
               order by state = 'running' desc, id limit 1 for update skip locked) \
             returning *",
        )
        .bind(lane.name())
        .bind(lease)
        .bind(self.lease_for.as_secs_f64())
        .bind(lane.most_setbacks())
        .bind(lane.is_shared())
        .fetch_optional(&mut *transaction)
        .await;
        let job = match claimed {
            // Another server claimed another job of the lane at the same moment.
            Err(error) if is_lane_taken(&error) => return Ok(None),
            claimed => claimed?,
        };
        let Some(job) = job else { return Ok(None) };
        let data = json!({"state": "running", "attempt": job.attempts});
        add(&mut transaction, job.id, EventKind::State, &data).await?;
        transaction.commit().await?;
        Ok(Some(Lease::new(self.clone(), job, lease, asked_at)))
    }

    /// Ends what nobody should take over: jobs whose lease ran out and who were to be cancelled, or failed too often.
    async fn bury(&self, lane: Lane) -> Result<(), JobError> {
        let mut transaction = self.beside.begin().await?;
        let dead: Vec<Job> = sqlx::query_as(
            "select * from jobs where lane = $1 and state = 'running' and lease_until < now() \
             and (cancel_requested or setbacks >= $2 - 1) for update skip locked",
        )
        .bind(lane.name())
        .bind(lane.most_setbacks())
        .fetch_all(&mut *transaction)
        .await?;
        for job in dead {
            let end = match job.cancel_requested {
                true => End::Cancelled,
                false => {
                    End::Failed(format!("{MOST_SETBACKS} attempts in a row ended badly; at the last, the server died"))
                }
            };
            finish(&mut transaction, job.id, &end, &self.actor).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

async fn find_unfinished(executor: impl PgExecutor<'_>, kind: JobKind, key: &str) -> Result<Option<Job>, sqlx::Error> {
    sqlx::query_as("select * from jobs where kind = $1 and key = $2 and state in ('queued', 'running')")
        .bind(kind.name())
        .bind(key)
        .fetch_optional(executor)
        .await
}

/// Adds a job, unless there is one of its kind and key that is not finished.
async fn insert(connection: &mut PgConnection, actor: &Actor, new: &NewJob) -> Result<Option<Job>, sqlx::Error> {
    let inserted: Option<Job> = sqlx::query_as(
        "insert into jobs (id, kind, lane, key, settings, requested_by, galleries) values ($1, $2, $3, $4, $5, $6, $7) \
         on conflict (kind, key) where state in ('queued', 'running') do nothing returning *",
    )
    .bind(JobId::new().0)
    .bind(new.kind.name())
    .bind(new.kind.lane().name())
    .bind(&new.key)
    .bind(&new.settings)
    .bind(&new.requested_by)
    .bind(new.galleries.as_ref().map(|galleries| galleries.iter().map(|gallery| gallery.0).collect::<Vec<_>>()))
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(job) = &inserted {
        add(&mut *connection, job.id, EventKind::State, &json!({"state": "queued"})).await?;
        note(connection, actor, Action::JobSubmit, job).await?;
    }
    Ok(inserted)
}

fn is_lane_taken(error: &sqlx::Error) -> bool {
    violates(error, "job_one_running")
}

/// How a job ends.
pub(super) enum End {
    Succeeded(Value),
    Failed(String),
    Cancelled,
}

/// Ends a job. The caller holds its row and knows that it may.
pub(super) async fn finish(
    connection: &mut PgConnection,
    id: JobId,
    end: &End,
    actor: &Actor,
) -> Result<Job, sqlx::Error> {
    let (state, result, error) = match end {
        End::Succeeded(result) => (JobState::Succeeded, Some(result), None),
        End::Failed(error) => (JobState::Failed, None, Some(error.as_str())),
        End::Cancelled => (JobState::Cancelled, None, None),
    };
    let job: Job = sqlx::query_as(
        "update jobs set state = $2, result = $3, error = $4, lease = null, lease_until = null, finished_at = now() \
         where id = $1 returning *",
    )
    .bind(id.0)
    .bind(state.name())
    .bind(result)
    .bind(error)
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query("delete from job_files where job_id = $1").bind(id.0).execute(&mut *connection).await?;
    let data = json!({"state": state.name(), "result": result, "error": error});
    add(&mut *connection, id, EventKind::State, &data).await?;
    note(connection, actor, Action::JobEnd, &job).await?;
    metrics::counter!("faceid_jobs_total", "kind" => job.kind.name(), "state" => state.name()).increment(1);
    Ok(job)
}

/// When a job may be tried again after its `setbacks`th setback in a row.
pub(super) fn pause_after(setbacks: u32) -> Duration {
    PAUSE_AFTER_SETBACK * 2_u32.saturating_pow(setbacks.saturating_sub(1).min(10))
}
