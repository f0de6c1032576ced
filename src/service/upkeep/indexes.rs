//! Indexes for large galleries that are searched in Postgres.

use std::time::Duration;

use half::f16;
use serde_json::{Value, json};
use tracing::warn;

use super::Upkeep;
use super::reclaim::WRITING;
use crate::db::DbError;
use crate::evaluation::Random;
use crate::gallery::{GalleryError, IndexDue, SetAsideFrom, SetAsideItem};
use crate::jobs::{JobKind, Lease};
use crate::service::ServiceError;
use crate::service::recognition::Serving;
use crate::service::work::Failure;
use crate::types::{Embedding, StoredEmbedding};

/// The stage of the job while it builds.
pub(super) const BUILDING: &str = "building";

/// How often galleries are looked at.
const INTERVAL: Duration = Duration::from_secs(60);

/// Probes with which an index is measured: enough to tell 99.9 % from less.
const PROBES: u32 = 1000;

/// What a probe's similarity to its mate is made to be, about: that of two photos of one person at their worst.
const MATE_SIMILARITY: f32 = 0.6;

impl Upkeep {
    /// Works on the job that builds and measures the indexes that are due. With galleries in memory none is.
    pub(in crate::service) async fn run_indexes(&self, lease: &Lease) -> Result<Value, Failure> {
        // Whoever was at it before may have been killed at any stage.
        lease.report(&json!({"stage": "idle"})).await?;
        loop {
            if !self.recognition().serving().resident.is_on()
                && let Err(error) = self.build_indexes(lease).await
            {
                warn!(%error, "cannot build the indexes of galleries; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => (),
                _ = lease.stopped() => return Err(Failure::Stopped),
            }
        }
    }

    async fn build_indexes(&self, lease: &Lease) -> Result<(), ServiceError> {
        // It would be in the way of a table that is written anew, and be built once more with it.
        if self.jobs().stage_of(JobKind::Reclaim).await?.as_deref() == Some(WRITING) {
            return Ok(());
        }
        let (galleries, serving) = (&self.galleries(), self.recognition().serving());
        galleries.drop_stale_indexes().await?;
        for due in galleries.indexes_due(serving.id()).await? {
            if lease.stop().is_some() {
                break;
            }
            let progress = json!({"stage": BUILDING, "gallery": due.gallery, "templates": due.templates});
            let told = lease.report(&progress).await;
            let probes = self.probes(&serving, &due).await?;
            match galleries.build_index(due, serving.id(), &probes).await {
                Ok(_) => {}
                // Whatever the matter is, it would be the same the next time.
                Err(GalleryError::Db(DbError::Statement(error))) => {
                    warn!(%error, gallery = %due.gallery, "cannot build an index; the gallery is searched exactly");
                    let (work, item) = (SetAsideFrom::Index, SetAsideItem::Gallery(due.gallery));
                    galleries.set_aside(work, serving.id(), item, &error.to_string()).await?;
                }
                Err(error) => return Err(error.into()),
            }
            if let Err(error) = told.and(lease.report(&json!({"stage": "idle"})).await) {
                warn!(%error, "cannot note the progress of a job");
            }
        }
        Ok(())
    }

    /// Faces of the gallery, moved away from themselves as far as another photo of the person would be.
    async fn probes(&self, serving: &Serving, due: &IndexDue) -> Result<Vec<StoredEmbedding>, ServiceError> {
        let faces = self.galleries().sample_faces(due.gallery, serving.id(), PROBES).await?;
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
