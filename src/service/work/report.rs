//! Saying how far a job is.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

use super::Failure;
use crate::jobs::{EventKind, JobError, Lease};

/// Least time from one report to the next.
const INTERVAL: Duration = Duration::from_millis(500);

/// Says how far a job is, not too often.
pub(in crate::service) struct JobReporter<'a> {
    lease: &'a Lease,
    stage: String,
    reported: Option<Instant>,
    /// Whether this attempt got farther than those before it.
    has_stepped: bool,
}

impl<'a> JobReporter<'a> {
    pub(in crate::service) fn new(lease: &'a Lease) -> Self {
        Self { lease, stage: String::new(), reported: None, has_stepped: false }
    }

    pub(in crate::service) fn lease(&self) -> &'a Lease {
        self.lease
    }

    /// Fails when work must end.
    pub(in crate::service) fn check(&self) -> Result<(), Failure> {
        if self.lease.stop().is_some() { Err(Failure::Stopped) } else { Ok(()) }
    }

    pub(in crate::service) async fn stage(&mut self, stage: &str) -> Result<(), Failure> {
        self.progress(json!({"stage": stage})).await?;
        Ok(())
    }

    /// Notes progress if it is a new stage, or the last report was a while ago; whether it did.
    pub(in crate::service) async fn progress(&mut self, progress: Value) -> Result<bool, Failure> {
        let stage = progress["stage"].as_str().unwrap_or_default();
        let is_new = stage != self.stage;
        if !is_new && self.reported.is_some_and(|at| at.elapsed() < INTERVAL) {
            return Ok(false);
        }
        stage.clone_into(&mut self.stage);
        self.reported = Some(Instant::now());
        self.tolerate(self.lease.report(&progress).await)?;
        Ok(true)
    }

    /// A line of `faceid train --events`.
    pub(in crate::service) async fn event(&mut self, event: Value) -> Result<(), Failure> {
        match event["event"].as_str().unwrap_or_default() {
            "stage" => self.stage(event["stage"].as_str().unwrap_or_default()).await,
            "step" => self.step(&event).await,
            "validation" => self.tolerate(self.lease.tell(EventKind::Metrics, &event).await),
            "saved" if self.has_stepped => self.tolerate(self.lease.advance().await),
            "collapsed" | "stopped_early" | "restarted" => {
                self.tolerate(self.lease.tell(EventKind::Note, &event).await)
            }
            _ => Ok(()),
        }
    }

    async fn step(&mut self, event: &Value) -> Result<(), Failure> {
        self.has_stepped = true;
        let seconds_left = event["seconds_left"].as_f64().map(f64::ceil);
        let progress = json!({
            "stage": "training", "done": event["step"], "total": event["steps"], "seconds_left": seconds_left,
        });
        if self.progress(progress).await? {
            self.tolerate(self.lease.tell(EventKind::Metrics, event).await)?;
        }
        Ok(())
    }

    /// That the database is away for a moment is no reason to stop.
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
