//! The lanes, shared by threads that wait for work.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::EngineError;
pub(super) use super::lanes::Role;
use super::lanes::{Depth, DetectEntry, EmbedEntry, Lanes, Limits, Step, Task, Work};

pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    limits: Limits,
    /// Threads that run networks.
    network_threads: usize,
    /// Not every thread takes from every lane.
    has_roles: bool,
}

struct State {
    lanes: Lanes,
    /// Threads that run networks and are at work.
    busy: usize,
    open: bool,
}

impl Pool {
    pub fn new(limits: Limits, network_threads: usize, has_roles: bool) -> Self {
        let state = State { lanes: Lanes::default(), busy: 0, open: true };
        Self { state: Mutex::new(state), work: Condvar::new(), limits, network_threads, has_roles }
    }

    pub fn max_batch(&self) -> usize {
        self.limits.max_batch
    }

    pub fn depth(&self) -> Depth {
        self.lock().lanes.depth()
    }

    pub fn push_task(&self, step: Step, task: Task) -> Result<(), EngineError> {
        self.push(|lanes, limits| lanes.push_task(step, task, limits))
    }

    pub fn push_detect(&self, entry: DetectEntry) -> Result<(), EngineError> {
        self.push(|lanes, limits| lanes.push_detect(entry, limits))
    }

    pub fn push_embed(&self, entry: EmbedEntry) -> Result<(), EngineError> {
        self.push(|lanes, limits| lanes.push_embed(entry, limits))
    }

    fn push(&self, push: impl FnOnce(&mut Lanes, &Limits) -> Result<(), EngineError>) -> Result<(), EngineError> {
        push(&mut self.lock().lanes, &self.limits)?;
        // A single one could wake a thread that has no use for this lane.
        if self.has_roles {
            self.work.notify_all()
        } else {
            self.work.notify_one()
        }
        Ok(())
    }

    /// Takes no more work than there is: threads end when the lanes are empty.
    pub fn close(&self) {
        self.lock().open = false;
        self.work.notify_all();
    }

    /// Waits for work; `None` when there is none and never will be. Call [`Pool::done`] after it.
    pub fn take(&self, role: Role) -> Option<(Work, usize)> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let (abandoned, late) = state.lanes.sweep(&self.limits, now);
            count("abandoned", abandoned);
            count("late", late);
            let idle = self.network_threads.saturating_sub(state.busy);
            if let Some(taken) = state.lanes.take(role, idle, &self.limits, now) {
                state.busy += usize::from(role != Role::Pixels);
                return Some(taken);
            }
            if !state.open {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends what [`Pool::take`] began.
    pub fn done(&self, role: Role) {
        self.lock().busy -= usize::from(role != Role::Pixels);
    }

    /// Nothing that holds the lock can leave the lanes half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts entries that left their lane without inference.
fn count(reason: &'static str, entries: usize) {
    if entries > 0 {
        metrics::counter!("faceid_dropped_total", "reason" => reason).increment(entries as u64);
    }
}
