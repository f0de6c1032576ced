//! Naming the face that a hit's probe resembles most. It is in the database alone where a subject has several faces, and no answer
//! of the memory waits for a slow database.

use std::fmt::Display;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::search::Found;
use super::{Recognition, Serving};
use crate::service::ServiceError;
use crate::types::{GalleryId, StoredEmbedding};

/// If naming takes longer than this, and than so much more for each hit, the database is slow.
const SLOW: Duration = Duration::from_millis(50);
const SLOW_EACH: Duration = Duration::from_millis(1);

/// How many times as long naming may take before an answer goes without.
const PATIENCE: u32 = 10;

/// Who asks the database for faces: everybody while it is fast, else one request at a time, which finds out when it is fast again.
pub(super) struct FaceNaming {
    slow: AtomicBool,
    one: Semaphore,
}

impl FaceNaming {
    pub(super) fn new() -> Self {
        Self { slow: AtomicBool::new(false), one: Semaphore::new(1) }
    }

    /// Runs `naming` of so many hits if the database is fast, or if nobody else does. What fails or takes too long is counted, and
    /// is no error. Says whether it came about.
    async fn run<E: Display>(&self, hits: usize, stale: bool, naming: impl Future<Output = Result<(), E>>) -> bool {
        let only = if stale || self.slow.load(Ordering::Relaxed) {
            match self.one.try_acquire() {
                Ok(only) => Some(only),
                Err(_) => return unnamed("somebody else asks a slow database"),
            }
        } else {
            None
        };
        let slow = SLOW + SLOW_EACH * u32::try_from(hits).unwrap_or(u32::MAX).min(100_000);
        let began = Instant::now();
        let mut naming = pin!(timeout(slow * PATIENCE, naming));
        let named = select! {
            named = &mut naming => named,
            () = sleep(slow) => {
                // Whoever comes now need not find out as well, even if this one is dropped.
                self.slow.store(true, Ordering::Relaxed);
                naming.await
            }
        };
        self.slow.store(began.elapsed() > slow, Ordering::Relaxed);
        drop(only);
        match named {
            Ok(Ok(())) => true,
            Ok(Err(error)) => unnamed(&error.to_string()),
            Err(_) => unnamed("the database is slow"),
        }
    }
}

fn unnamed(why: &str) -> bool {
    debug!(why, "faces are not named");
    metrics::counter!("faceid_unnamed_answers_total").increment(1);
    false
}

impl Recognition {
    /// Names the faces of the hits, as far as the database does so in time; if there is no memory of galleries, whatever it takes.
    /// Says whether it did.
    pub(super) async fn fill_faces(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        probes: &[StoredEmbedding],
        found: &mut Found,
    ) -> Result<bool, ServiceError> {
        let unknown = found.hits.iter().flatten().filter(|hit| hit.about.face_id.is_none()).count();
        if unknown == 0 {
            return Ok(true);
        }
        let galleries = self.galleries();
        let naming = galleries.fill_faces(gallery, serving.id(), probes, &mut found.hits);
        if !serving.resident.is_on() {
            naming.await?;
            return Ok(true);
        }
        Ok(self.parts.naming.run(unknown, found.stale.is_some(), naming).await)
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
        naming.run(1, false, query).await;
    }

    #[tokio::test]
    async fn a_slow_database_is_asked_by_one_at_a_time_until_it_is_fast() {
        let (naming, asked) = (FaceNaming::new(), AtomicU32::new(0));
        let slow = 20 * SLOW;
        tokio::join!(ask(&naming, &asked, slow), ask(&naming, &asked, slow));
        assert_eq!(asked.load(Ordering::Relaxed), 2, "nobody knew");
        let all = (0..5).map(|_| ask(&naming, &asked, slow));
        futures_util::future::join_all(all).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3, "one found out");
        // On a busy machine even these may be slow.
        let fast = Duration::from_millis(1);
        while naming.slow.load(Ordering::Relaxed) {
            ask(&naming, &asked, fast).await;
        }
        asked.store(0, Ordering::Relaxed);
        let all = (0..5).map(|_| ask(&naming, &asked, fast));
        futures_util::future::join_all(all).await;
        assert_eq!(asked.load(Ordering::Relaxed), 5, "fast again");
    }
}
