//! Working on jobs, in the background of a server.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::{JoinError, JoinSet};
use tracing::{error, info, warn};

use super::{ServiceError, Services};
use crate::engine::EngineError;
use crate::gallery::GalleryError;
use crate::jobs::{JobError, JobKind, Lane, Lease, Stop};
use crate::registry::RegistryError;

/// How often a free server looks for a job without being told to.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// How long a job may take to end when it is asked to; then it is dropped as it is.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often finished jobs are tidied up after.
const TIDY_INTERVAL: Duration = Duration::from_secs(3600);

/// Why an attempt did not do the job.
#[derive(Debug)]
pub(super) enum Failure {
    /// It will not be done by trying again.
    Final(String),
    /// It may be done another time.
    Passing(String),
    /// The lease said that work must end.
    Stopped,
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        match error {
            JobError::LeaseLost => Self::Stopped,
            error => Self::Passing(error.to_string()),
        }
    }
}

/// The settings of a job, as they were written down when it was submitted.
pub(super) fn settings_of<T: DeserializeOwned>(lease: &Lease) -> Result<T, Failure> {
    serde_json::from_value(lease.job().settings.clone())
        .map_err(|error| Failure::Final(format!("the settings of this job cannot be read: {error}")))
}

/// Whether it is worth another try.
impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::GateRefused { .. }
            | ServiceError::FacesWithoutChips { .. }
            | ServiceError::NoModelFile { .. }
            | ServiceError::InvalidModel(_)
            | ServiceError::InvalidDataset(_)
            | ServiceError::ModelTooLarge { .. }
            | ServiceError::CodeRefused
            | ServiceError::Engine(EngineError::Embedder(_))
            | ServiceError::Gallery(GalleryError::GalleryNotFound(_))
            | ServiceError::Registry(
                RegistryError::ModelNotFound(_)
                | RegistryError::NotTheTarget
                | RegistryError::ModelInUse { .. }
                | RegistryError::DuplicateModel(_)
                | RegistryError::ModelExists { .. }
                | RegistryError::InvalidDimension(_),
            ) => Self::Final(error.to_string()),
            error => Self::Passing(error.to_string()),
        }
    }
}

impl Services {
    /// Works on the database's jobs of these lanes until the server stops, and returns when what it works on is given back.
    pub async fn work_on_jobs(self, lanes: &'static [Lane]) {
        let mut tasks = JoinSet::new();
        for lane in lanes {
            tasks.spawn(self.clone().work_in(*lane));
        }
        let jobs = self.0.jobs.clone();
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => (),
            () = jobs.listen() => (),
            () = self.tidy_jobs() => (),
        }
    }

    /// Lets go of jobs and of those who follow them: the server is about to stop.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// Forgets what nobody needs of finished jobs; never returns.
    async fn tidy_jobs(&self) {
        loop {
            if let Err(error) = self.0.jobs.prune().await {
                warn!(%error, "cannot delete old events of jobs; trying again");
            }
            if let Err(error) = self.tidy_job_folders().await {
                warn!(?error, "cannot delete what finished jobs left; trying again");
            }
            if let Err(error) = self.tidy_datasets().await {
                warn!(%error, "cannot delete the archives of finished jobs; trying again");
            }
            tokio::time::sleep(TIDY_INTERVAL).await;
        }
    }

    async fn work_in(self, lane: Lane) {
        let (mut bell, mut closing) = (self.0.jobs.bell().subscribe(), self.0.closing.subscribe());
        while !*closing.borrow() {
            bell.mark_unchanged();
            let pause = match self.0.jobs.claim(lane).await {
                Ok(Some(lease)) => {
                    self.attempt(lease).await;
                    continue;
                }
                Ok(None) => INTERVAL,
                Err(error) => {
                    warn!(%error, "cannot look for jobs; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                _ = bell.changed() => (),
                _ = closing.wait_for(|closing| *closing) => (),
            }
        }
    }

    /// Works on a job until it is done, or must be left.
    async fn attempt(&self, lease: Lease) {
        let job = lease.job();
        info!(job = %job.id, kind = job.kind.name(), attempt = job.attempts, "working on a job");
        let mut closing = self.0.closing.subscribe();
        let mut work = tokio::spawn(self.clone().run(lease.clone()));
        let keeper = lease.keep();
        tokio::pin!(keeper);
        let too_long = async {
            lease.stopped().await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::pin!(too_long);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                // Whatever it does now, another server may be doing as well.
                () = &mut keeper => {
                    work.abort();
                    return;
                }
                () = &mut too_long => {
                    warn!(job = %job.id, "a job does not stop; dropping it");
                    work.abort();
                    break Ok(Err(Failure::Stopped));
                }
                _ = closing.wait_for(|closing| *closing), if lease.stop().is_none() => lease.ask_to_stop(Stop::Shutdown),
            }
        };
        // The lease lasts meanwhile; if it does not, the database says so.
        let concluding = conclude(&lease, outcome);
        tokio::pin!(concluding);
        tokio::select! {
            () = &mut concluding => (),
            () = &mut keeper => concluding.await,
        }
        if job.kind == JobKind::Import {
            self.forget_finished(job.id).await;
        }
    }

    /// What each kind of job does.
    async fn run(self, lease: Lease) -> Result<Value, Failure> {
        match lease.job().kind {
            JobKind::Retrain => self.run_retrain(&lease).await,
            JobKind::Evaluate => self.run_evaluation(&lease).await,
            JobKind::Promote => self.run_promotion(&lease).await,
            JobKind::Shadow => self.run_shadow(&lease).await,
            JobKind::Import => self.run_import(&lease).await,
        }
    }
}

/// Writes down what became of an attempt, as soon as the database can be reached.
async fn conclude(lease: &Lease, outcome: Result<Result<Value, Failure>, JoinError>) {
    let outcome = outcome.unwrap_or_else(|panic| {
        error!(job = %lease.job().id, %panic, "work on a job panicked");
        Err(Failure::Passing("the server failed at this job; its log says why".to_owned()))
    });
    loop {
        let written = match (&outcome, lease.stop()) {
            (Ok(result), _) => lease.succeed(result.clone()).await,
            (Err(Failure::Final(error)), _) => lease.fail(error.clone()).await,
            (Err(_), Some(Stop::Cancelled)) => lease.cancel().await,
            (Err(Failure::Passing(error)), Some(Stop::Lost) | None) => lease.set_back(error.clone()).await,
            (Err(_), _) => lease.give_back().await,
        };
        match written {
            Ok(()) => break,
            Err(JobError::LeaseLost) => {
                warn!(job = %lease.job().id, "the lease on a job was lost before it ended");
                break;
            }
            Err(error) => warn!(%error, job = %lease.job().id, "cannot note the end of a job; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
    info!(job = %lease.job().id, outcome = ?outcome.as_ref().map(|_| "done"), "left a job");
}
