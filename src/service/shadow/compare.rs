//! What the candidate would have answered: a share of the probes waits here for it, as long as requests leave it room.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, mpsc};
use tracing::warn;

use super::super::identify::opinion;
use super::super::scheduler::patiently;
use super::super::serving::{Serving, Target};
use super::super::{ServiceError, Services};
use crate::gallery::{Gallery, GalleryError, Policy};
use crate::registry::{Comparison, Opinion};
use crate::types::{Chip, ModelId, StoredEmbedding};

/// Photos that wait for the candidate; more are left out.
const WAITING: usize = 64;

/// A photo that was answered by the active model.
pub(in super::super) struct Seen {
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
pub(in super::super) struct Sampler {
    /// Photos that were there to be chosen.
    offered: AtomicU64,
    sender: mpsc::Sender<(Target, Seen)>,
    receiver: Mutex<mpsc::Receiver<(Target, Seen)>>,
}

impl Sampler {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { offered: AtomicU64::new(0), sender, receiver: Mutex::new(receiver) }
    }

    /// Whether the next photo belongs to the share: evenly spread, without a lot.
    fn chooses(&self, share: f64) -> bool {
        let before = self.offered.fetch_add(1, Ordering::Relaxed) as f64;
        ((before + 1.0) * share).floor() > (before * share).floor()
    }
}

impl Services {
    /// Hands a photo that was answered to the candidate, if there is one in the shadow and the lot falls on the photo.
    pub(in super::super) fn offer(&self, serving: &Serving, seen: impl FnOnce() -> Seen) {
        let Some((target, share)) = self.0.stage.target().and_then(|target| target.shadow.map(|share| (target, share)))
        else {
            return;
        };
        if target.serving.id() == serving.id() || !self.0.sampler.chooses(share) {
            return;
        }
        let seen = seen();
        let faces = seen.chips.len();
        if faces > 0 && self.0.sampler.sender.try_send((target, seen)).is_err() {
            count("left_out", faces);
        }
    }

    /// Lets the candidate see what was chosen, for as long as the service lives.
    pub(in super::super) async fn keep_comparing(self) {
        let mut receiver = self.0.sampler.receiver.lock().await;
        while let Some((target, seen)) = receiver.recv().await {
            let faces = seen.chips.len();
            match self.compare(&target.serving, seen).await {
                Ok(()) => {}
                // Its gallery was deleted, or the candidate has no rates to decide by.
                Err(ServiceError::Gallery(GalleryError::GalleryNotFound(_)) | ServiceError::Uncalibrated { .. }) => {
                    count("left_out", faces);
                }
                Err(error) => {
                    count("failed", faces);
                    warn!(%error, model = %target.serving.name(), "the candidate in the shadow did not answer");
                }
            }
        }
    }

    async fn compare(&self, candidate: &Serving, seen: Seen) -> Result<(), ServiceError> {
        let Seen { gallery, policy, unique_subjects, chips, opinions, by } = seen;
        let embeddings = patiently(|| self.embeddings(&candidate.loaded, chips.clone())).await?;
        let decision = self.decide(candidate, &gallery, policy).await?;
        let probes: Vec<StoredEmbedding> = embeddings.iter().map(StoredEmbedding::from).collect();
        let found = self.best_subjects(candidate, gallery.id, &probes, 1, unique_subjects, decision.threshold).await?;
        for (by_active, hits) in opinions.into_iter().zip(found.hits) {
            let by_candidate = opinion(&hits, decision.threshold);
            let comparison =
                Comparison { candidate: candidate.id(), against: by, gallery: gallery.id, by_active, by_candidate };
            self.0.registry.note_comparison(&comparison).await?;
            count(comparison.disagreement().map_or("agreed", |kind| kind.name()), 1);
        }
        Ok(())
    }
}

fn count(outcome: &'static str, faces: usize) {
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
