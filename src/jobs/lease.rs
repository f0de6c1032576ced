//! Working on a job: renewing the lease, saying how far it is, ending it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;
use uuid::Uuid;

use super::events::{EventKind, add};
use super::queue::{End, finish, pause_after};
use super::{Job, JobError, Jobs};

/// Why work on a job must end before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Somebody cancelled it.
    Cancelled,
    /// The server is stopping; another one, or this one when it is back, goes on.
    Shutdown,
    /// The lease ran out: another server may work on it already.
    Lost,
}

/// A file that an attempt left for the next one.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Saved {
    pub content: Vec<u8>,
    pub saved_at: DateTime<Utc>,
}

/// The right to work on a job. Clones are the same right.
#[derive(Debug, Clone)]
pub struct Lease {
    jobs: Jobs,
    job: Arc<Job>,
    id: Uuid,
    stop: Arc<watch::Sender<Option<Stop>>>,
    /// Until when the lease lasts for sure: the database got the request to renew it after that was sent.
    until: Arc<watch::Sender<Instant>>,
    /// Whether this lease was given up on purpose, or is about to be.
    ended: Arc<AtomicBool>,
}

impl Lease {
    pub(super) fn new(jobs: Jobs, job: Job, id: Uuid, asked_at: Instant) -> Self {
        let until = watch::Sender::new(asked_at + jobs.lease_for);
        let stop = watch::Sender::new(job.cancel_requested.then_some(Stop::Cancelled));
        Self { jobs, job: Arc::new(job), id, stop: Arc::new(stop), until: Arc::new(until), ended: Arc::default() }
    }

    /// The job as it was when it was claimed.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Why work must end, if it must.
    pub fn stop(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    /// Waits until work must end.
    pub async fn stopped(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        // `self` holds the sender, so that waiting cannot fail.
        let stopped = stop.wait_for(Option::is_some).await;
        stopped.ok().and_then(|stop| *stop).unwrap_or(Stop::Lost)
    }

    /// Asks work to end. What was asked first counts, but for a lost lease.
    pub fn ask_to_stop(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            let changes = stop.is_none() || why == Stop::Lost;
            if changes {
                *stop = Some(why);
            }
            changes
        });
    }

    /// Renews the lease for as long as this is polled, hears of a cancellation, and returns when the lease is lost.
    pub async fn keep(&self) {
        let interval = self.jobs.lease_for / 4;
        let mut told = self.jobs.subscribe();
        loop {
            let asked_at = Instant::now();
            match tokio::time::timeout(interval, self.renew()).await {
                Ok(Ok(cancel_requested)) => {
                    self.until.send_replace(asked_at + self.jobs.lease_for);
                    if cancel_requested {
                        self.ask_to_stop(Stop::Cancelled);
                    }
                }
                Ok(Err(JobError::LeaseLost)) => break,
                Ok(Err(error)) => warn!(%error, job = %self.job.id, "cannot renew the lease on a job; trying again"),
                Err(_) => {
                    warn!(job = %self.job.id, "the database is too slow to renew the lease on a job; trying again")
                }
            }
            let until = *self.until.borrow();
            if Instant::now() >= until {
                break;
            }
            // A cancellation is announced, and so is much else: it is enough to look once in a while.
            let next = (asked_at + interval).min(until);
            tokio::select! {
                () = tokio::time::sleep_until(next) => (),
                _ = async { sleep(Duration::from_millis(200)).await; told.changed().await } => (),
            }
        }
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        warn!(job = %self.job.id, "the lease on a job is lost; leaving it to others");
        self.ask_to_stop(Stop::Lost);
    }

    /// Whether the job was asked to be cancelled.
    async fn renew(&self) -> Result<bool, JobError> {
        let cancel_requested: Option<bool> = sqlx::query_scalar(
            "update jobs set lease_until = now() + $3::float8 * interval '1 second', heartbeat_at = now() \
             where id = $1 and lease = $2 returning cancel_requested",
        )
        .bind(self.job.id.0)
        .bind(self.id)
        .bind(self.jobs.lease_for.as_secs_f64())
        .fetch_optional(&self.jobs.beside)
        .await?;
        cancel_requested.ok_or(JobError::LeaseLost)
    }

    /// A transaction that holds the job's row, and its lease for as long.
    async fn hold(&self) -> Result<Transaction<'static, Postgres>, JobError> {
        let mut transaction = self.jobs.beside.begin().await?;
        let held = sqlx::query("select from jobs where id = $1 and lease = $2 for update")
            .bind(self.job.id.0)
            .bind(self.id)
            .execute(&mut *transaction)
            .await?;
        if held.rows_affected() == 0 { Err(JobError::LeaseLost) } else { Ok(transaction) }
    }

    /// Says how far the job is. A job that never ends leaves no story of it.
    pub async fn report(&self, progress: &Value) -> Result<(), JobError> {
        let mut transaction = self.hold().await?;
        sqlx::query("update jobs set progress = $2 where id = $1")
            .bind(self.job.id.0)
            .bind(progress)
            .execute(&mut *transaction)
            .await?;
        if !self.job.kind.is_recurring() {
            add(&mut transaction, self.job.id, EventKind::Progress, progress).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Says why a step failed that will be tried again; `None`: it went well since.
    pub async fn explain(&self, error: Option<&str>) -> Result<(), JobError> {
        let mut transaction = self.hold().await?;
        sqlx::query("update jobs set error = $2 where id = $1")
            .bind(self.job.id.0)
            .bind(error)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Says what happened.
    pub async fn tell(&self, kind: EventKind, data: &Value) -> Result<(), JobError> {
        let mut transaction = self.hold().await?;
        add(&mut transaction, self.job.id, kind, data).await?;
        Ok(transaction.commit().await?)
    }

    /// Notes that the next attempt will begin farther on than this one did, so that what went wrong before was not for
    /// nothing.
    pub async fn advance(&self) -> Result<(), JobError> {
        let mut transaction = self.hold().await?;
        let advanced = sqlx::query("update jobs set setbacks = 0 where id = $1");
        advanced.bind(self.job.id.0).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Keeps a file for the next attempt, in place of an earlier one of its name.
    pub async fn save(&self, name: &str, content: &[u8]) -> Result<(), JobError> {
        // Under a name of its own first, without the job's row: megabytes must not keep the lease from being renewed.
        let arriving = format!("{name} {}", self.id);
        sqlx::query(
            "insert into job_files (job_id, name, content) values ($1, $2, $3) \
             on conflict on constraint job_file_pkey do update set content = excluded.content",
        )
        .bind(self.job.id.0)
        .bind(&arriving)
        .bind(content)
        .execute(&self.jobs.beside)
        .await?;
        let mut transaction = self.hold().await?;
        sqlx::query("delete from job_files where job_id = $1 and name = $2")
            .bind(self.job.id.0)
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("update job_files set name = $3, saved_at = now() where job_id = $1 and name = $2")
            .bind(self.job.id.0)
            .bind(&arriving)
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// The file that an attempt saved last under this name.
    pub async fn saved(&self, name: &str) -> Result<Option<Saved>, JobError> {
        let content = sqlx::query_as("select content, saved_at from job_files where job_id = $1 and name = $2")
            .bind(self.job.id.0)
            .bind(name)
            .fetch_optional(&self.jobs.beside)
            .await?;
        Ok(content)
    }

    /// The job is done.
    pub async fn succeed(&self, result: Value) -> Result<(), JobError> {
        self.end(&End::Succeeded(result)).await
    }

    /// The job cannot be done.
    pub async fn fail(&self, error: String) -> Result<(), JobError> {
        self.end(&End::Failed(error)).await
    }

    /// Work ended as somebody asked.
    pub async fn cancel(&self) -> Result<(), JobError> {
        self.end(&End::Cancelled).await
    }

    async fn end(&self, end: &End) -> Result<(), JobError> {
        let mut transaction = self.hold().await?;
        finish(&mut transaction, self.job.id, end, &self.jobs.actor).await?;
        self.commit_last(transaction).await
    }

    /// The attempt failed: the job is tried again after a while, or fails if this happened too often.
    pub async fn set_back(&self, error: String) -> Result<(), JobError> {
        let mut transaction = self.hold().await?;
        let setbacks: i32 =
            sqlx::query_scalar("update jobs set setbacks = setbacks + 1 where id = $1 returning setbacks")
                .bind(self.job.id.0)
                .fetch_one(&mut *transaction)
                .await?;
        if setbacks >= self.job.kind.lane().most_setbacks() {
            finish(&mut transaction, self.job.id, &End::Failed(error), &self.jobs.actor).await?;
        } else {
            self.requeue(&mut transaction, pause_after(setbacks.unsigned_abs()), Some(&error)).await?;
        }
        self.commit_last(transaction).await
    }

    /// Gives the job back: it can be claimed at once.
    pub async fn give_back(&self) -> Result<(), JobError> {
        let mut transaction = self.hold().await?;
        self.requeue(&mut transaction, Duration::ZERO, None).await?;
        self.commit_last(transaction).await
    }

    /// Commits what ends this lease.
    async fn commit_last(&self, transaction: Transaction<'static, Postgres>) -> Result<(), JobError> {
        self.ended.store(true, Ordering::Relaxed);
        Ok(transaction.commit().await?)
    }

    async fn requeue(
        &self,
        transaction: &mut Transaction<'static, Postgres>,
        pause: Duration,
        error: Option<&str>,
    ) -> Result<(), JobError> {
        sqlx::query(
            "update jobs set state = 'queued', lease = null, lease_until = null, error = coalesce($3, error), \
             not_before = now() + $2::float8 * interval '1 second' where id = $1",
        )
        .bind(self.job.id.0)
        .bind(pause.as_secs_f64())
        .bind(error)
        .execute(&mut **transaction)
        .await?;
        let data = json!({"state": "queued", "error": error, "seconds_until_retry": pause.as_secs()});
        Ok(add(transaction, self.job.id, EventKind::State, &data).await?)
    }
}
