//! Indexes for large galleries that are searched in Postgres.

use std::time::Duration;

use half::f16;
use tracing::warn;

use super::serving::Serving;
use super::{ServiceError, Services};
use crate::evaluation::Random;
use crate::gallery::{IndexDue, Turn};
use crate::types::{Embedding, StoredEmbedding};

/// How often galleries are looked at.
const INTERVAL: Duration = Duration::from_secs(60);

/// Probes with which an index is measured: enough to tell 99.9 % from less.
const PROBES: u32 = 1000;

/// What a probe's similarity to its mate is made to be, about: that of two photos of one person at their worst.
const MATE_SIMILARITY: f32 = 0.6;

impl Services {
    /// Builds and measures the indexes that are due, for as long as the service lives. With galleries in memory none
    /// is.
    pub(super) async fn keep_indexes(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if self.serving().resident.is_on() {
                continue;
            }
            if let Err(error) = self.build_indexes().await {
                warn!(%error, "cannot build the index of a gallery; it is searched exactly");
            }
        }
    }

    async fn build_indexes(&self) -> Result<(), ServiceError> {
        let galleries = &self.0.galleries;
        let Some(_turn) = galleries.take_turn(Turn::Indexes).await? else { return Ok(()) };
        let serving = self.serving();
        galleries.drop_stale_indexes().await?;
        for due in galleries.indexes_due(serving.id()).await? {
            let probes = self.probes(&serving, &due).await?;
            galleries.build_index(due, serving.id(), &probes).await?;
        }
        Ok(())
    }

    /// Faces of the gallery, moved away from themselves as far as another photo of the person would be.
    async fn probes(&self, serving: &Serving, due: &IndexDue) -> Result<Vec<StoredEmbedding>, ServiceError> {
        let faces = self.0.galleries.sample_faces(due.gallery, serving.id(), PROBES).await?;
        Ok(faces.iter().enumerate().filter_map(|(number, (_, face))| moved(face, number as u64)).collect())
    }
}

/// `face` turned towards a direction that looks random but is the same for each `seed`.
fn moved(face: &StoredEmbedding, seed: u64) -> Option<StoredEmbedding> {
    let mut random = Random::new(seed, 0);
    let direction = Embedding::normalised((0..face.dimension()).map(|_| random.normal() as f32).collect()).ok()?;
    let aside = (1.0 - MATE_SIMILARITY * MATE_SIMILARITY).sqrt();
    let mixed = face.as_slice().iter().zip(direction.as_slice());
    let mixed = mixed.map(|(own, other)| f16::to_f32(*own) * MATE_SIMILARITY + other * aside).collect();
    Some(StoredEmbedding::from(&Embedding::normalised(mixed).ok()?))
}
