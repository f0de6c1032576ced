//! The memory that images may take, all together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::EngineError;

/// Bytes per permit of the semaphore: fine enough for thumbnails, and the largest budget fits it.
const PAGE: u64 = 4096;

/// A number of bytes that images share. Cloning gives another handle on the same.
#[derive(Clone)]
pub struct MemoryBudget {
    pages: Arc<Semaphore>,
    total: u64,
}

impl MemoryBudget {
    /// A budget of `total` bytes, rounded down to whole pages of 4096.
    pub fn new(total: u64) -> Self {
        let pages = u32::try_from(total / PAGE).unwrap_or(u32::MAX);
        Self { pages: Arc::new(Semaphore::new(pages as usize)), total: u64::from(pages) * PAGE }
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Takes the bytes if they are free and nobody waits for them.
    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        Arc::clone(&self.pages).try_acquire_many_owned(pages(bytes)).ok().map(Held)
    }

    /// Waits for the bytes, in the order of asking; for ever if they are more than the total.
    pub async fn take(&self, bytes: u64) -> Result<Held, EngineError> {
        let permit = Arc::clone(&self.pages).acquire_many_owned(pages(bytes)).await;
        permit.map(Held).map_err(|_| EngineError::Stopped)
    }
}

/// Bytes of a budget. They are given back when this is dropped: keep it beside what they were taken for, and below it,
/// since fields are dropped in the order in which they stand.
#[derive(Debug)]
pub struct Held(OwnedSemaphorePermit);

impl Held {
    /// Gives back all but `bytes`.
    pub fn keep(&mut self, bytes: u64) {
        let more = self.0.num_permits().saturating_sub(pages(bytes) as usize);
        drop(self.0.split(more));
    }

    /// Hands over `bytes`, or as many as there are.
    pub fn split(&mut self, bytes: u64) -> Option<Held> {
        let part = (pages(bytes) as usize).min(self.0.num_permits());
        self.0.split(part).map(Held)
    }
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_given_back_one_by_one() {
        let budget = MemoryBudget::new(10 * PAGE + 5);
        assert_eq!(budget.total(), 10 * PAGE);
        let mut held = budget.try_take(9 * PAGE + 1).unwrap();
        assert!(budget.try_take(1).is_none());
        held.keep(6 * PAGE);
        let part = held.split(2 * PAGE).unwrap();
        drop(held);
        assert!(budget.try_take(8 * PAGE + 1).is_none());
        assert!(budget.try_take(8 * PAGE).is_some());
        drop(part);
        assert!(budget.try_take(10 * PAGE).is_some());
    }

    #[tokio::test]
    async fn nobody_overtakes_who_waits() {
        let budget = MemoryBudget::new(10 * PAGE);
        let held = budget.try_take(8 * PAGE).unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(10 * PAGE).await.map(drop) }
        });
        while budget.try_take(PAGE).is_some() {
            tokio::task::yield_now().await;
        }
        drop(held);
        waiting.await.unwrap().unwrap();
        assert!(budget.try_take(10 * PAGE).is_some());
    }
}
