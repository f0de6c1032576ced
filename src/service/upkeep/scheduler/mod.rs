//! The one loop in which a server works on the jobs of its database.
//!
//! Jobs of some lanes are worked on as a whole, one of each lane at a time in a database, beside each other. Those of the others are
//! short steps: one step of one job at a time on each server, fairly among kinds and, within a kind, among jobs
//! (`fairness.rs`), for a share of the time. Whoever holds the lease on a job works on it; nothing else elects.

mod attempt;
mod fairness;
mod steps;

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::jobs::Lane;
use crate::service::upkeep::Upkeep;
use steps::Steps;
pub(in crate::service) use steps::{Progress, Step};

/// How often jobs are looked for without being told to, and how often at most.
const INTERVAL: Duration = Duration::from_secs(1);
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// How often finished jobs are tidied up after.
const TIDY_INTERVAL: Duration = Duration::from_secs(3600);

impl Upkeep {
    /// Works on the database's jobs of these lanes until the server stops, and returns when what it works on is given back.
    pub async fn work_on_jobs(self, lanes: &'static [Lane]) {
        tokio::select! {
            () = self.clone().schedule(lanes) => (),
            () = self.tidy_jobs() => (),
        }
    }

    /// The loop.
    async fn schedule(self, lanes: &'static [Lane]) {
        let (mut told, mut closing) = (self.jobs().subscribe(), self.parts.closing.subscribe());
        let mut steps = Steps::new(&self, lanes.iter().copied().filter(|lane| lane.is_stepped()));
        let mut attempts: JoinSet<Lane> = JoinSet::new();
        let mut free: HashSet<Lane> = lanes.iter().copied().filter(|lane| !lane.is_stepped()).collect();
        let models = self.models();
        let mut ensured = false;
        let mut looked: Option<Instant> = None;
        while !*closing.borrow() {
            let is_told = told.has_changed().unwrap_or(false);
            let next_look = looked.map(|at| at + if is_told { LEAST_INTERVAL } else { INTERVAL });
            if next_look.is_none_or(|at| Instant::now() >= at) {
                told.mark_unchanged();
                looked = Some(Instant::now());
                ensured = ensured || self.ensure_jobs().await;
                let lanes = self.lanes_with_work().await;
                self.claim_whole(&lanes, &mut free, &mut attempts).await;
                steps.claim(&lanes).await;
            }
            let next_look = looked.map_or_else(Instant::now, |at| at + INTERVAL);
            if steps.has_ready() {
                steps.step(&mut closing).await;
            } else {
                let ready = steps.ready_at().map_or(next_look, |at| at.min(next_look));
                tokio::select! {
                    () = sleep_until(ready) => (),
                    _ = told.changed() => told.mark_changed(),
                    () = models.faces_came() => steps.wake_embedding(),
                    Some(ended) = attempts.join_next() => free.extend(ended),
                    _ = closing.wait_for(|closing| *closing) => (),
                }
            }
            while let Some(ended) = attempts.try_join_next() {
                free.extend(ended);
            }
        }
        steps.give_back().await;
        while attempts.join_next().await.is_some() {}
    }

    /// Sees to it that there are the jobs that nobody asks for.
    async fn ensure_jobs(&self) -> bool {
        let ensured = async {
            self.jobs().ensure_recurring().await?;
            self.models().finish_retirements().await
        };
        ensured.await.inspect_err(|error| warn!(%error, "cannot submit the jobs of a server; trying again")).is_ok()
    }

    async fn lanes_with_work(&self) -> Vec<Lane> {
        let lanes = self.jobs().lanes_with_work().await;
        lanes.inspect_err(|error| warn!(%error, "cannot look for jobs; trying again")).unwrap_or_default()
    }

    /// Begins to work on jobs of lanes that are free.
    async fn claim_whole(&self, lanes: &[Lane], free: &mut HashSet<Lane>, attempts: &mut JoinSet<Lane>) {
        for lane in lanes.iter().copied().filter(|lane| free.contains(lane)).collect::<Vec<_>>() {
            match self.jobs().claim(lane).await {
                Ok(Some(lease)) => {
                    free.remove(&lane);
                    let upkeep = self.clone();
                    attempts.spawn(async move {
                        upkeep.attempt(lease).await;
                        lane
                    });
                }
                Ok(None) => {}
                Err(error) => warn!(%error, "cannot look for jobs; trying again"),
            }
        }
    }

    /// Forgets what nobody needs of finished jobs; never returns.
    async fn tidy_jobs(&self) {
        loop {
            if let Err(error) = self.jobs().prune().await {
                warn!(%error, "cannot delete old events of jobs; trying again");
            }
            if let Err(error) = self.models().tidy_job_folders().await {
                warn!(?error, "cannot delete what finished jobs left; trying again");
            }
            if let Err(error) = self.enrolment().tidy_datasets().await {
                warn!(%error, "cannot delete the archives of finished jobs; trying again");
            }
            if let Err(error) = self.enrolment().tidy_answers().await {
                warn!(%error, "cannot delete answers that are kept no longer; trying again");
            }
            tokio::time::sleep(TIDY_INTERVAL).await;
        }
    }
}

/// Waits until the server is about to stop.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // Whoever sends lives as long as the service does.
    let _ = closing.wait_for(|closing| *closing).await;
}
