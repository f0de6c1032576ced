//! Galleries in memory: filled from the database, kept true by its change log.
//!
//! The database is the truth. What is in memory is fresh while the state of the database that it shows is at most two seconds old
//! and holds every write of this server. When the database is slow or away it grows old: up to a bound that is configured it
//! answers all the same, and says how old it is; beyond that, and while it is filled, searches go to the database.

mod keeper;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::config::{SearchChoice, SearchConfig};
use crate::engine::Device;
use crate::gallery::Galleries;
use crate::index::Index;
use crate::registry::Model;
use crate::types::{GalleryId, SubjectId};
use keeper::Keeper;
use state::Shared;
pub use view::View;

/// How old the state in memory may be without anybody being told, and how long a write waits to be in it.
const FRESH: Duration = Duration::from_secs(2);

/// How often is looked whether the memory is filled.
const FILL_POLL: Duration = Duration::from_millis(20);

/// What is in memory, and whether it is old.
#[derive(Clone)]
pub struct Held {
    pub view: Arc<View>,
    /// The age of the state that it shows; `None` while it is fresh.
    pub stale: Option<Duration>,
}

/// A handle to what is in memory. Cloning is cheap; the last one ends the task that keeps it true.
#[derive(Clone)]
pub struct Resident(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// How old the state in memory may be that answers, if it is not fresh; 0: then it does not answer.
    max_staleness: Duration,
    task: Option<AbortHandle>,
    /// Ends the task when it is dropped.
    _end: oneshot::Sender<()>,
}

impl Resident {
    /// Starts to fill the memory with the templates of `model`, unless the configuration says otherwise.
    /// Large galleries are then searched by `device`, if there is one.
    pub fn start(galleries: &Galleries, model: &Model, config: &SearchConfig, device: Option<Device>) -> Self {
        let shared = Arc::new(Shared::default());
        let (_end, ended) = oneshot::channel();
        let task = (config.place != SearchChoice::Pgvector).then(|| {
            let dimension = model.dimension as usize;
            let budget = (config.place == SearchChoice::Auto).then_some(config.resident_memory);
            let most = budget.map(|bytes| bytes / Index::bytes_per_subject(dimension));
            let keeper = Keeper {
                shared: Arc::clone(&shared),
                galleries: galleries.clone(),
                feed: galleries.feed(model.id),
                model: model.id,
                dimension,
                device,
                most,
                answers_for: config.max_staleness.max(FRESH),
                pruned: Instant::now(),
            };
            tokio::spawn(keeper.run(ended)).abort_handle()
        });
        Self(Arc::new(Handle { shared, max_staleness: config.max_staleness, task, _end }))
    }

    /// What is in memory, if it may answer now: fresh, or as old as the configuration allows.
    pub fn current(&self) -> Option<Held> {
        let (view, age, is_whole) = self.0.shared.look()?;
        if is_whole && age <= FRESH {
            return Some(Held { view, stale: None });
        }
        let most = self.0.max_staleness;
        (!most.is_zero() && age <= most).then_some(Held { view, stale: Some(age) })
    }

    /// What is in memory, if it is fresh: for what must not rest on an older state.
    pub fn fresh(&self) -> Option<Arc<View>> {
        self.current().filter(|held| held.stale.is_none()).map(|held| held.view)
    }

    /// The age of the state in memory, whether or not it may answer.
    pub fn age(&self) -> Option<Duration> {
        self.0.shared.look().map(|(_, age, _)| age)
    }

    /// Whether galleries are in memory at all, or will be.
    pub fn is_on(&self) -> bool {
        self.0.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Whether everything is in memory, be it late.
    pub fn is_filled(&self) -> bool {
        self.0.shared.look().is_some()
    }

    /// Waits until everything is in memory, or will not be.
    pub async fn filled(&self) {
        while self.is_on() && self.0.shared.look().is_none() {
            tokio::time::sleep(FILL_POLL).await;
        }
    }

    /// Waits until everything that was committed before this call is in memory, or the memory is not fresh for want of it.
    pub async fn catch_up(&self) {
        if self.is_on() {
            self.0.shared.catch_up(FRESH).await;
        }
    }

    /// Takes a gallery out of memory that has been deleted from the database, for good and at once, whatever is being read.
    pub fn forget_gallery(&self, gallery: GalleryId) {
        self.0.shared.view().iter().for_each(|view| view.forget_gallery(gallery));
    }

    /// Takes a subject out of memory that has been deleted from the database, for good and at once, whatever is being read.
    pub fn forget_subject(&self, gallery: GalleryId, subject: SubjectId) {
        self.0.shared.view().iter().for_each(|view| view.forget_subject(gallery, subject));
    }
}
