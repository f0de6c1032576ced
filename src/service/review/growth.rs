//! Whether a gallery is being filled: whoever is reviewed before the end must be compared with everybody who comes after.

use std::time::{Duration, Instant};

use crate::types::GalleryId;

/// Subjects that wait from which on it is worth waiting for more.
const MANY: u64 = 1000;

/// Subjects a second by which a gallery grows that is being imported.
const FAST: f64 = 100.0;

/// Least time between two looks: counts of shorter times say little.
const LOOK: Duration = Duration::from_millis(500);

/// The longest that a gallery is left alone.
const PATIENCE: Duration = Duration::from_secs(600);

/// How the queue of a gallery grows.
#[derive(Debug, Default)]
pub struct Growth(Option<Filling>);

#[derive(Debug)]
struct Filling {
    gallery: GalleryId,
    since: Instant,
    looked_at: Instant,
    waiting: u64,
}

impl Growth {
    /// Whether the gallery, of which so many subjects wait now, should be left alone for a moment.
    pub fn is_filling(&mut self, gallery: GalleryId, waiting: u64) -> bool {
        self.is_filling_at(gallery, waiting, Instant::now())
    }

    fn is_filling_at(&mut self, gallery: GalleryId, waiting: u64, now: Instant) -> bool {
        if waiting < MANY {
            self.0 = None;
            return false;
        }
        let Some(known) = self.0.as_mut().filter(|known| known.gallery == gallery) else {
            // More may be on their way.
            self.0 = Some(Filling { gallery, since: now, looked_at: now, waiting });
            return true;
        };
        let passed = now - known.looked_at;
        if passed < LOOK {
            return false;
        }
        let grown = waiting.saturating_sub(known.waiting) as f64;
        (known.looked_at, known.waiting) = (now, waiting);
        let is_fast = grown > FAST * passed.as_secs_f64();
        if !is_fast {
            // It is worth waiting again if it begins anew.
            known.since = now;
        }
        is_fast && now - known.since < PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gallery_is_left_alone_while_it_is_filled_but_not_for_ever() {
        let (gallery, other) = (GalleryId(uuid::Uuid::from_u128(1)), GalleryId(uuid::Uuid::from_u128(2)));
        let (start, mut growth) = (Instant::now(), Growth::default());
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert!(!growth.is_filling_at(gallery, 999, at(0.0)));
        assert!(growth.is_filling_at(gallery, 1000, at(0.0)));
        assert!(growth.is_filling_at(gallery, 3000, at(1.0)));
        // The import has ended; batches go off the queue.
        assert!(!growth.is_filling_at(gallery, 3000, at(2.0)));
        assert!(!growth.is_filling_at(gallery, 2936, at(2.1)));
        assert!(!growth.is_filling_at(gallery, 2872, at(3.0)));
        // Some come now and then.
        assert!(!growth.is_filling_at(gallery, 2900, at(4.0)));
        // Another import, of a gallery that never ends.
        let waiting = |second: u32| 3000 + u64::from(second) * 1000;
        let left_alone =
            (5..2000).take_while(|n| growth.is_filling_at(gallery, waiting(*n), at(f64::from(*n)))).count();
        assert_eq!(left_alone, 599);
        assert!(growth.is_filling_at(other, 5000, at(2001.0)));
    }
}
