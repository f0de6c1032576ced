//! Working on a job as a whole.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinError;
use tracing::{error, info, warn};

use crate::jobs::{JobError, JobKind, Lease, Stop};
use crate::service::upkeep::Upkeep;
use crate::service::work::Failure;

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// How long a job may take to end when it is asked to; then it is dropped as it is.
const PATIENCE: Duration = Duration::from_secs(20);

impl Upkeep {
    /// Works on a job until it is done, or must be left.
    pub(super) async fn attempt(&self, lease: Lease) {
        let job = lease.job();
        info!(job = %job.id, kind = job.kind.name(), attempt = job.attempts, "working on a job");
        let mut closing = self.parts.closing.subscribe();
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
            self.enrolment().forget_finished(job.id).await;
        }
    }

    /// What each kind of job does.
    async fn run(self, lease: Lease) -> Result<Value, Failure> {
        match lease.job().kind {
            JobKind::Retrain => self.models().run_retrain(&lease).await,
            JobKind::Evaluate => self.models().run_evaluation(&lease).await,
            JobKind::Promote => self.models().run_promotion(&lease).await,
            JobKind::Shadow => self.models().run_shadow(&lease).await,
            JobKind::Import => self.enrolment().run_import(&lease).await,
            JobKind::Index => self.run_indexes(&lease).await,
            JobKind::Reclaim => self.run_reclaim(&lease).await,
            // Of lanes that are worked on in steps.
            kind => Err(Failure::Final(format!("a job of kind {} is not worked on as a whole", kind.name()))),
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
