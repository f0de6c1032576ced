//! Naming the face that a hit's probe resembles most. It is in the database alone where a subject has several faces, and no answer
//! of the memory waits for a slow database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::debug;

use super::search::Found;
use super::{Recognition, Serving};
use crate::service::ServiceError;
use crate::types::{GalleryId, StoredEmbedding};

/// Naming that takes longer shows that the database is slow. It takes 1 to 3 ms as a rule.
const SLOW: Duration = Duration::from_millis(50);

/// How long naming may take before an answer goes without.
const NAMED_WITHIN: Duration = Duration::from_millis(500);

/// Who asks the database for faces: everybody while it is fast, else one request at a time, which finds out when it is fast again.
pub(super) struct FaceNaming {
    slow: AtomicBool,
    one: Semaphore,
}

impl FaceNaming {
    pub(super) fn new() -> Self {
        Self { slow: AtomicBool::new(false), one: Semaphore::new(1) }
    }

    /// Runs `naming` if the database is fast, or if nobody else does. What fails or takes too long is counted, and is no error.
    async fn run<E: std::fmt::Display>(&self, stale: bool, naming: impl Future<Output = Result<(), E>>) {
        let began = Instant::now();
        let named = if stale || self.slow.load(Ordering::Relaxed) {
            match self.one.try_acquire() {
                Ok(_only) => tokio::time::timeout(NAMED_WITHIN, naming).await,
                Err(_) => return unnamed("somebody else asks a slow database"),
            }
        } else {
            tokio::time::timeout(NAMED_WITHIN, naming).await
        };
        self.slow.store(began.elapsed() > SLOW, Ordering::Relaxed);
        match named {
            Ok(Ok(())) => {}
            Ok(Err(error)) => unnamed(&error.to_string()),
            Err(_) => unnamed("the database is slow"),
        }
    }
}

fn unnamed(why: &str) {
    debug!(why, "faces are not named");
    metrics::counter!("faceid_unnamed_answers_total").increment(1);
}

impl Recognition {
    /// Names the faces of the hits, as far as the database does so in time; if there is no memory of galleries, whatever it takes.
    pub(super) async fn fill_faces(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        probes: &[StoredEmbedding],
        found: &mut Found,
    ) -> Result<(), ServiceError> {
        if found.hits.iter().flatten().all(|hit| hit.about.face_id.is_some()) {
            return Ok(());
        }
        let naming = self.0.galleries.fill_faces(gallery, serving.id(), probes, &mut found.hits);
        if !serving.resident.is_on() {
            return Ok(naming.await?);
        }
        self.0.naming.run(found.stale.is_some(), naming).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicU32;

    use super::*;

    async fn ask(naming: &FaceNaming, asked: &AtomicU32, takes: Duration) {
        let query = async {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(takes).await;
            Ok::<(), Infallible>(())
        };
        naming.run(false, query).await;
    }

    #[tokio::test]
    async fn a_slow_database_is_asked_by_one_at_a_time_until_it_is_fast() {
        let (naming, asked) = (FaceNaming::new(), AtomicU32::new(0));
        let slow = 2 * NAMED_WITHIN;
        tokio::join!(ask(&naming, &asked, slow), ask(&naming, &asked, slow));
        assert_eq!(asked.load(Ordering::Relaxed), 2, "nobody knew");
        let all = (0..5).map(|_| ask(&naming, &asked, slow));
        futures_util::future::join_all(all).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3, "one found out");
        ask(&naming, &asked, Duration::ZERO).await;
        let all = (0..5).map(|_| ask(&naming, &asked, Duration::ZERO));
        futures_util::future::join_all(all).await;
        assert_eq!(asked.load(Ordering::Relaxed), 9, "fast again");
    }
}
