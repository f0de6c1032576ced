//! What a request spent at the engine, for its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

tokio::task_local! {
    static SPENT: Arc<Spent>;
}

/// Times of what one request gave the engine to do, added up: photos of one request wait and run side by side.
#[derive(Debug, Default)]
pub struct Spent {
    waited: AtomicU64,
    detected: AtomicU64,
    embedded: AtomicU64,
}

impl Spent {
    /// Notes what `work` spends at the engine, in as far as it asks from its own task.
    pub async fn by<T>(work: impl Future<Output = T>) -> (T, Arc<Self>) {
        let spent = Arc::new(Self::default());
        (SPENT.scope(Arc::clone(&spent), work).await, spent)
    }

    /// That of the request which this task works on, if it is noted.
    pub fn current() -> Option<Arc<Self>> {
        SPENT.try_with(Arc::clone).ok()
    }

    pub(super) fn add_wait(&self, time: Duration) {
        add(&self.waited, time);
    }

    pub(super) fn add_detection(&self, time: Duration) {
        add(&self.detected, time);
    }

    pub(super) fn add_embedding(&self, time: Duration) {
        add(&self.embedded, time);
    }

    /// How long its work waited.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// How long the passes of networks took that its photos were in, whoever shared them.
    pub fn inferred(&self) -> Duration {
        self.detected() + self.embedded()
    }

    /// Of that, the detector.
    pub fn detected(&self) -> Duration {
        Duration::from_nanos(self.detected.load(Ordering::Relaxed))
    }

    /// Of that, embedders.
    pub fn embedded(&self) -> Duration {
        Duration::from_nanos(self.embedded.load(Ordering::Relaxed))
    }
}

fn add(sum: &AtomicU64, time: Duration) {
    sum.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
