//! Saying how far a retraining is.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tracing::warn;

use super::super::work::Failure;
use crate::jobs::{EventKind, JobError, Lease};

/// Least time from one report to the next.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Says how far a job is, not too often.
pub(super) struct Report<'a> {
    lease: &'a Lease,
    stage: String,
    reported: Option<Instant>,
}

impl<'a> Report<'a> {
    pub(super) fn new(lease: &'a Lease) -> Self {
        Self { lease, stage: String::new(), reported: None }
    }

    pub(super) fn lease(&self) -> &'a Lease {
        self.lease
    }

    /// Notes progress if it is a new stage, or the last report was a while ago.
    pub(super) async fn progress(&mut self, progress: Value) -> Result<(), Failure> {
        let stage = progress["stage"].as_str().unwrap_or_default();
        let is_new = stage != self.stage;
        if !is_new && self.reported.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
            return Ok(());
        }
        stage.clone_into(&mut self.stage);
        self.reported = Some(Instant::now());
        self.tolerate(self.lease.report(&progress).await)
    }

    /// An event of the training.
    pub(super) async fn event(&mut self, event: Value) -> Result<(), Failure> {
        self.tolerate(self.lease.tell(EventKind::Metrics, &event).await)
    }

    /// That the database is away for a moment is no reason to stop a training.
    fn tolerate(&self, told: Result<(), JobError>) -> Result<(), Failure> {
        match told {
            Err(JobError::Db(error)) => {
                warn!(%error, job = %self.lease.job().id, "cannot note the progress of a job");
                Ok(())
            }
            told => Ok(told?),
        }
    }
}
