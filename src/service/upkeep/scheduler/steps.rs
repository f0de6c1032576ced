//! Jobs in steps: those that this server holds, and a step of one of them.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::closed;
use super::fairness::Fairness;
use crate::jobs::{JobError, JobKind, Lane, Lease};
use crate::service::upkeep::Upkeep;
use crate::service::upkeep::embed::Embedding;
use crate::service::upkeep::encrypt::Encrypting;
use crate::service::upkeep::erase::Erasing;
use crate::service::upkeep::expire::Expiring;
use crate::service::upkeep::measure::Measuring;
use crate::service::upkeep::retire::Retiring;
use crate::service::upkeep::review::Reviewing;
use crate::service::work::{Failure, rest_after};

/// Jobs of a lane that a server holds at most: as many erasures go on side by side, each with a lease to be renewed.
const MOST_OF_LANE: usize = 16;

/// Least time from one report of a job to the next.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait after a step failed; twice as long after each further one, up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How long a step may take to end when the server stops.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of a step.
pub(in crate::service) enum Step {
    /// There is more to do. `done` of `total`, and how many seconds that takes, where it can be told.
    More(Progress),
    /// Nothing is due for so long.
    Idle(Duration),
    /// The job is done, with this result.
    Done(Value),
}

/// How far a job is.
pub(in crate::service) struct Progress {
    pub stage: &'static str,
    pub done: u64,
    /// If it is known.
    pub total: Option<u64>,
    /// What there was in all when the first attempt began, for later ones.
    pub totals: Option<Value>,
}

impl Progress {
    pub fn new(stage: &'static str, done: u64, total: Option<u64>) -> Self {
        Self { stage, done, total, totals: None }
    }

    /// What the first attempt at a job counted, if this is a later one.
    pub fn totals_of<T: DeserializeOwned>(lease: &Lease) -> Option<T> {
        let totals = lease.job().progress.as_ref()?.get("totals")?;
        serde_json::from_value(totals.clone()).ok()
    }
}

/// A job, where it is.
enum Task {
    Erase(Erasing),
    Retire(Retiring),
    Embed(Box<Embedding>),
    Review(Reviewing),
    Measure(Measuring),
    Expire(Expiring),
    Encrypt(Encrypting),
}

impl Task {
    fn begin(lease: &Lease) -> Result<Self, Failure> {
        Ok(match lease.job().kind {
            JobKind::Erase | JobKind::Merge => Self::Erase(Erasing::begin(lease)?),
            JobKind::Retire => Self::Retire(Retiring::begin(lease)?),
            JobKind::Embed => Self::Embed(Box::default()),
            JobKind::Review => Self::Review(Reviewing::new()),
            JobKind::Measure => Self::Measure(Measuring::default()),
            JobKind::Expire => Self::Expire(Expiring::default()),
            JobKind::Encrypt => Self::Encrypt(Encrypting::default()),
            kind => return Err(Failure::Final(format!("a job of kind {} has no steps", kind.name()))),
        })
    }

    async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, Failure> {
        match self {
            Self::Erase(erasing) => erasing.step(upkeep).await,
            Self::Retire(retiring) => retiring.step(upkeep).await,
            Self::Embed(embedding) => Ok(embedding.step(upkeep).await?),
            Self::Review(reviewing) => Ok(reviewing.step(upkeep).await?),
            Self::Measure(measuring) => Ok(measuring.step(upkeep).await?),
            Self::Expire(expiring) => Ok(expiring.step(upkeep).await?),
            Self::Encrypt(encrypting) => Ok(encrypting.step(upkeep).await?),
        }
    }

    /// What its progress says beside how far it is, also while nothing is due.
    fn state(&self) -> Option<Value> {
        match self {
            Self::Encrypt(encrypting) => Some(encrypting.state()),
            _ => None,
        }
    }
}

/// A job that this server holds.
struct Held {
    lease: Lease,
    /// Renews the lease.
    keeper: AbortHandle,
    lane: Lane,
    task: Task,
    stepped_at: Instant,
    ready_at: Instant,
    /// When the work in hand began, and how far it was then.
    began: Option<(Instant, u64)>,
    reported: Option<Instant>,
    /// [`Task::state`], as it was told when nothing was due.
    state: Option<Value>,
    /// Steps in a row that failed.
    failures: u32,
}

impl Held {
    fn new(lease: Lease, lane: Lane, task: Task) -> Self {
        let now = Instant::now();
        let keeping = lease.clone();
        let keeper = tokio::spawn(async move { keeping.keep().await }).abort_handle();
        let (stepped_at, ready_at) = (now, now);
        Self { lease, keeper, lane, task, stepped_at, ready_at, began: None, reported: None, state: None, failures: 0 }
    }

    fn kind(&self) -> JobKind {
        self.lease.job().kind
    }

    /// Says how far it is, now and then.
    async fn report(&mut self, progress: &Progress) -> Result<(), JobError> {
        let (began, at_first) = *self.began.get_or_insert((Instant::now(), progress.done));
        if self.reported.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
            return Ok(());
        }
        self.reported = Some(Instant::now());
        let done = progress.done.saturating_sub(at_first);
        let left = progress.total.map(|total| total.saturating_sub(progress.done));
        let seconds_left = left.filter(|_| done > 0);
        let seconds_left = seconds_left.map(|left| (began.elapsed().as_secs_f64() / done as f64 * left as f64).ceil());
        let total = progress.total.map(|total| total.max(progress.done));
        let mut told = json!({
            "stage": progress.stage, "done": progress.done, "total": total, "seconds_left": seconds_left,
        });
        if let Some(totals) = &progress.totals {
            told["totals"] = totals.clone();
        }
        if let Some(state) = self.task.state() {
            told["state"] = state;
        }
        self.lease.report(&told).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// All jobs in steps that this server holds.
pub(super) struct Steps {
    upkeep: Upkeep,
    lanes: Vec<Lane>,
    held: Vec<Held>,
    fairness: Fairness,
    /// No step is taken before then, so that requests have their share of the time.
    rests_until: Instant,
}

impl Steps {
    pub fn new(upkeep: &Upkeep, lanes: impl Iterator<Item = Lane>) -> Self {
        let (upkeep, fairness) = (upkeep.clone(), Fairness::default());
        Self { upkeep, lanes: lanes.collect(), held: Vec::new(), fairness, rests_until: Instant::now() }
    }

    /// Takes jobs of these lanes that are to be had, and drops those whose lease was lost.
    pub async fn claim(&mut self, lanes: &[Lane]) {
        self.held.retain(|held| held.lease.stop().is_none());
        for lane in lanes.iter().copied().filter(|lane| self.lanes.contains(lane)).collect::<Vec<_>>() {
            while self.held.iter().filter(|held| held.lane == lane).count() < MOST_OF_LANE {
                match self.upkeep.jobs().claim(lane).await {
                    Ok(Some(lease)) => self.take(lease, lane).await,
                    Ok(None) => break,
                    Err(error) => {
                        warn!(%error, "cannot look for jobs; trying again");
                        return;
                    }
                }
            }
        }
    }

    async fn take(&mut self, lease: Lease, lane: Lane) {
        let job = lease.job();
        info!(job = %job.id, kind = job.kind.name(), attempt = job.attempts, "working on a job in steps");
        match Task::begin(&lease) {
            Ok(task) => self.held.push(Held::new(lease, lane, task)),
            Err(Failure::Final(reason)) => {
                if let Err(error) = lease.fail(reason).await {
                    warn!(%error, job = %lease.job().id, "cannot note the end of a job");
                }
            }
            Err(_) => {}
        }
    }

    pub fn has_ready(&self) -> bool {
        let now = Instant::now();
        self.rests_until <= now && self.held.iter().any(|held| held.ready_at <= now)
    }

    /// When the next step may be taken.
    pub fn ready_at(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.ready_at.max(self.rests_until)).min()
    }

    /// Faces may have come without an embedding.
    pub fn wake_embedding(&mut self) {
        let embedding = self.held.iter_mut().filter(|held| held.kind() == JobKind::Embed);
        embedding.for_each(|held| held.ready_at = Instant::now());
    }

    /// Takes a step of the job whose turn it is.
    pub async fn step(&mut self, closing: &mut watch::Receiver<bool>) {
        let now = Instant::now();
        let ready: Vec<usize> = (0..self.held.len()).filter(|place| self.held[*place].ready_at <= now).collect();
        let turns = ready.iter().map(|place| (self.held[*place].kind(), self.held[*place].stepped_at));
        let Some(place) = self.fairness.next(turns).map(|turn| ready[turn]) else { return };
        let held = &mut self.held[place];
        let began = Instant::now();
        let upkeep = self.upkeep.clone();
        let outcome = tokio::select! {
            outcome = AssertUnwindSafe(held.task.step(&upkeep)).catch_unwind() => {
                // A defect in one kind of work stops no other.
                outcome.unwrap_or_else(|_| Err(Failure::Passing("the step panicked: see the log".to_owned())))
            }
            _ = held.lease.stopped() => Err(Failure::Stopped),
            () = async { closed(closing).await; sleep(PATIENCE).await } => Err(Failure::Stopped),
        };
        held.stepped_at = Instant::now();
        self.fairness.charge(held.kind(), began.elapsed());
        if conclude(held, outcome).await {
            self.held.swap_remove(place);
        }
        self.rests_until = Instant::now() + rest_after(began.elapsed(), self.upkeep.parts.config.share);
    }

    /// Leaves all jobs to other servers.
    pub async fn give_back(self) {
        for held in &self.held {
            match timeout(PATIENCE, held.lease.give_back()).await {
                Ok(Ok(()) | Err(JobError::LeaseLost)) => {}
                Ok(Err(error)) => {
                    warn!(%error, job = %held.lease.job().id, "cannot give a job back; its lease runs out")
                }
                Err(_) => warn!(job = %held.lease.job().id, "cannot give a job back; its lease runs out"),
            }
        }
    }
}

/// Notes what came of a step; whether nothing is left to do.
async fn conclude(held: &mut Held, outcome: Result<Step, Failure>) -> bool {
    let went_well = outcome.is_ok();
    let noted = match outcome {
        Ok(Step::More(progress)) => held.report(&progress).await,
        Ok(Step::Idle(pause)) => {
            held.ready_at = Instant::now() + pause;
            idle(held).await
        }
        Ok(Step::Done(result)) => return ended(held, held.lease.succeed(result).await),
        Err(Failure::Final(reason)) => return ended(held, held.lease.fail(reason).await),
        Err(Failure::Stopped) => return held.lease.stop().is_some(),
        Err(Failure::Passing(reason)) => {
            let pause = (RETRY * 2_u32.saturating_pow(held.failures.min(10))).min(LONGEST_RETRY);
            held.failures += 1;
            held.ready_at = Instant::now() + pause;
            let seconds = pause.as_secs();
            warn!(job = %held.lease.job().id, kind = held.kind().name(), %reason, seconds, "a step of a job failed; trying again");
            held.lease.explain(Some(&reason)).await
        }
    };
    let noted = match noted {
        Ok(()) if went_well && held.failures > 0 => {
            held.failures = 0;
            held.lease.explain(None).await
        }
        noted => noted,
    };
    match noted {
        Err(JobError::LeaseLost) => true,
        Err(error) => {
            warn!(%error, job = %held.lease.job().id, "cannot note the progress of a job");
            false
        }
        Ok(()) => false,
    }
}

/// Says once that nothing is due.
async fn idle(held: &mut Held) -> Result<(), JobError> {
    let state = held.task.state();
    if held.began.take().is_none() && held.reported.is_some() && state == held.state {
        return Ok(());
    }
    held.reported = Some(Instant::now());
    held.state = state;
    let mut told = json!({"stage": "idle"});
    if let Some(state) = &held.state {
        told["state"] = state.clone();
    }
    held.lease.report(&told).await
}

fn ended(held: &Held, noted: Result<(), JobError>) -> bool {
    let job = held.lease.job();
    match noted {
        Ok(()) => info!(job = %job.id, kind = job.kind.name(), "left a job"),
        // It is found done by the next attempt.
        Err(error) => warn!(%error, job = %job.id, "cannot note the end of a job"),
    }
    true
}
