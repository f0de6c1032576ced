//! Jobs as they are asked about: listing, following, cancelling.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::watch;
use tracing::debug;
use uuid::Uuid;

use super::Upkeep;
use crate::db::PageRequest;
use crate::gallery::GalleryError;
use crate::jobs::{JobEvent, JobState};
use crate::service::ServiceError;
use crate::service::answers::{Job, Page, SetAside};
use crate::types::JobId;

/// Events that are read at once.
const CHUNK: u32 = 500;

/// How often events are looked for without being told to.
const INTERVAL: Duration = Duration::from_secs(1);

impl Upkeep {
    pub async fn list_jobs(&self, page: PageRequest) -> Result<Page<Job>, ServiceError> {
        Ok(self.jobs().list(page).await?.into())
    }

    pub async fn get_job(&self, job: JobId) -> Result<Job, ServiceError> {
        Ok(self.jobs().job(job).await?.into())
    }

    /// Cancels a job: at once if it is queued; one that is running is asked to stop.
    pub async fn cancel_job(&self, job: JobId) -> Result<Job, ServiceError> {
        let job = self.jobs().cancel(job).await?;
        if job.state.is_final() {
            self.enrolment().forget_dataset(&job).await;
        }
        Ok(job.into())
    }

    /// What work in the background could not be done on, latest first.
    pub async fn list_set_aside(&self, page: PageRequest) -> Result<Page<SetAside>, ServiceError> {
        Ok(self.galleries().list_set_aside(page).await?.into())
    }

    /// Has it tried again.
    pub async fn retry_set_aside(&self, item: Uuid) -> Result<(), ServiceError> {
        match self.galleries().try_again(item).await? {
            true => Ok(()),
            false => Err(GalleryError::SetAsideNotFound(item).into()),
        }
    }

    /// The events of a job after the one of the number `after`, those to come as well; ends after the last one, or when
    /// the server stops.
    pub async fn follow_job(
        &self,
        job: JobId,
        after: i64,
    ) -> Result<impl Stream<Item = JobEvent> + Send + use<>, ServiceError> {
        self.jobs().job(job).await?;
        let (told, closing) = (self.jobs().subscribe(), self.parts.closing.subscribe());
        let follower = Follower { upkeep: self.clone(), job, after, read: VecDeque::new(), told, closing };
        Ok(futures_util::stream::unfold(follower, |mut follower| async {
            let event = follower.next().await?;
            Some((event, follower))
        }))
    }
}

/// Reads the events of a job as they come.
struct Follower {
    upkeep: Upkeep,
    job: JobId,
    after: i64,
    read: VecDeque<JobEvent>,
    told: watch::Receiver<()>,
    closing: watch::Receiver<bool>,
}

impl Follower {
    async fn next(&mut self) -> Option<JobEvent> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.after = event.sequence;
                return Some(event);
            }
            self.told.mark_unchanged();
            match self.read_more().await {
                Ok(true) => return None,
                Ok(false) if !self.read.is_empty() => continue,
                Ok(false) => {}
                // Whoever follows is told what happened when the database is back.
                Err(error) => debug!(%error, "cannot read the events of a job; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => (),
                _ = self.told.changed() => (),
                _ = self.closing.wait_for(|closing| *closing) => return None,
            }
        }
    }

    /// Whether there will be no more events.
    async fn read_more(&mut self) -> Result<bool, ServiceError> {
        let jobs = &self.upkeep.jobs();
        // In this order: a job that is finished has all its events.
        let state: JobState = jobs.job(self.job).await?.state;
        self.read.extend(jobs.events(self.job, self.after, CHUNK).await?);
        Ok(state.is_final() && self.read.is_empty())
    }
}
