//! A share of the photos that were answered waits here for the candidate in the shadow, as long as requests leave it room.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard, mpsc};

use super::Recognition;
use super::serving::{Secondary, Serving};
use crate::gallery::{Gallery, Policy};
use crate::registry::Opinion;
use crate::types::{Chip, ModelId};

/// Photos that wait for the candidate; more are left out.
const WAITING: usize = 64;

/// A photo that was answered by the active model.
pub(in crate::service) struct Answered {
    pub gallery: Gallery,
    /// By what its faces were to be known, if the request said so.
    pub policy: Option<Policy>,
    /// Whether a subject was to be named once at most.
    pub unique_subjects: bool,
    /// Its faces.
    pub chips: Vec<Chip>,
    /// What the active model said of each.
    pub opinions: Vec<Opinion>,
    /// The active model.
    pub by: ModelId,
}

/// Chooses among the probes, and keeps those that were chosen until the candidate has seen them.
pub(in crate::service) struct Sampler {
    /// Photos that were there to be chosen.
    offered: AtomicU64,
    sender: mpsc::Sender<(Secondary, Answered)>,
    receiver: Mutex<mpsc::Receiver<(Secondary, Answered)>>,
}

impl Sampler {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { offered: AtomicU64::new(0), sender, receiver: Mutex::new(receiver) }
    }

    /// What was chosen, as it comes; for one at a time.
    pub async fn chosen(&self) -> MutexGuard<'_, mpsc::Receiver<(Secondary, Answered)>> {
        self.receiver.lock().await
    }

    /// Whether the next photo belongs to the share: evenly spread, without a lot.
    fn chooses(&self, share: f64) -> bool {
        let before = self.offered.fetch_add(1, Ordering::Relaxed) as f64;
        ((before + 1.0) * share).floor() > (before * share).floor()
    }
}

impl Recognition {
    /// Hands a photo that was answered to the candidate, if there is one in the shadow and the lot falls on the photo.
    pub(super) fn offer(&self, serving: &Serving, answered: impl FnOnce() -> Answered) {
        let Some(secondary) = self.parts.served.secondary().filter(|secondary| secondary.serving.id() != serving.id())
        else {
            return;
        };
        if !secondary.shadow.is_some_and(|share| self.parts.sampler.chooses(share)) {
            return;
        }
        let answered = answered();
        let faces = answered.chips.len();
        if faces > 0 && self.parts.sampler.sender.try_send((secondary, answered)).is_err() {
            count_shadow("left_out", faces);
        }
    }
}

/// Counts faces by what became of them in the shadow.
pub(in crate::service) fn count_shadow(outcome: &'static str, faces: usize) {
    metrics::counter!("faceid_shadow_faces_total", "outcome" => outcome).increment(faces as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_photos_is_chosen() {
        for (share, expected) in [(1.0, 1000), (0.25, 250), (0.1, 100), (0.001, 1)] {
            let sampler = Sampler::new();
            assert_eq!((0..1000).filter(|_| sampler.chooses(share)).count(), expected, "{share}");
        }
    }
}
