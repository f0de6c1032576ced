//! The lanes, shared by threads that wait for work.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::EngineError;
pub(super) use super::lanes::Role;
use super::lanes::{Depth, DetectEntry, EmbedEntry, Lanes, Limits, SearchEntry, Step, Task, Work};

pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    limits: Limits,
    /// Not every thread takes from every lane.
    has_roles: bool,
}

struct State {
    lanes: Lanes,
    idle: Idle,
    open: bool,
}

/// Threads that may take work.
struct Idle {
    /// Those that run the networks of a GPU.
    gpu: usize,
    /// All others.
    cpu: usize,
}

impl Idle {
    fn of(&mut self, role: Role) -> &mut usize {
        match role {
            Role::Networks => &mut self.gpu,
            Role::Everything | Role::Pixels => &mut self.cpu,
        }
    }
}

impl Pool {
    /// Lanes for `cpu_threads` threads, which do everything unless there are `gpu_threads` for the networks.
    pub fn new(limits: Limits, cpu_threads: usize, gpu_threads: usize) -> Self {
        let idle = Idle { gpu: gpu_threads, cpu: cpu_threads };
        let state = State { lanes: Lanes::default(), idle, open: true };
        Self { state: Mutex::new(state), work: Condvar::new(), limits, has_roles: gpu_threads > 0 }
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

    pub fn push_search(&self, entry: SearchEntry) -> Result<(), EngineError> {
        self.push(|lanes, limits| lanes.push_search(entry, limits))
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

    /// Waits for work, and for the threads of scans that take the place of this one; `None` when there is no work and
    /// never will be. Call [`Pool::done`] after it with what [`Work::takes`].
    pub fn take(&self, role: Role) -> Option<(Work, usize)> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let (abandoned, late) = state.lanes.sweep(&self.limits, now);
            count("abandoned", abandoned);
            count("late", late);
            let idle = *state.idle.of(role);
            if idle > 0 {
                if let Some((work, threads)) = state.lanes.take(role, idle, &self.limits, now) {
                    *state.idle.of(role) -= work.takes(threads);
                    return Some((work, threads));
                }
                if !state.open {
                    return None;
                }
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends what [`Pool::take`] began and `taken` threads were needed for.
    pub fn done(&self, role: Role, taken: usize) {
        *self.lock().idle.of(role) += taken;
        if taken > 1 {
            // Others may have found work and had to leave it.
            self.work.notify_all();
        }
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
