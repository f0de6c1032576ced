//! What fills again by itself: so many units a second, up to a burst.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// Units for one caller.
pub struct Bucket<C: Clock = MonotonicClock> {
    limiter: RateLimiter<NotKeyed, Watched<InMemoryState>, C, NoOpMiddleware<C::Instant>>,
    state: Watched<InMemoryState>,
    clock: C,
    start: C::Instant,
    /// In which one unit comes.
    each: Duration,
    burst: NonZeroU32,
}

/// Why units are not given.
#[derive(Debug, PartialEq)]
pub enum Short {
    /// There are as many after this time.
    For(Duration),
    /// There are never as many.
    ForEver,
}

/// How much is left.
#[derive(Debug, PartialEq)]
pub struct Left {
    pub units: u32,
    /// When one more comes; zero if no more fit.
    pub next: Duration,
}

/// The states of a limiter, which can be looked at without taking anything.
#[derive(Default)]
pub(super) struct Watched<S>(Arc<S>);

impl<S> Clone for Watched<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: StateStore> Watched<S> {
    /// When a bucket is full again, from its start.
    pub fn full_at(&self, key: &S::Key) -> Option<Nanos> {
        let look = |full_at: Option<Nanos>| Err::<((), Nanos), _>(full_at);
        self.0.measure_and_replace(key, look).err().flatten()
    }
}

impl<S: StateStore> StateStore for Watched<S> {
    type Key = S::Key;

    fn measure_and_replace<T, F, E>(&self, key: &S::Key, change: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, change)
    }
}

impl<K: Hash + Eq + Clone, S: ShrinkableKeyedStateStore<K> + StateStore<Key = K>> ShrinkableKeyedStateStore<K>
    for Watched<S>
{
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.retain_recent(drop_below);
    }

    fn len(&self) -> usize {
        ShrinkableKeyedStateStore::len(&*self.0)
    }

    fn is_empty(&self) -> bool {
        ShrinkableKeyedStateStore::is_empty(&*self.0)
    }
}

/// So many units a second, and so many at once.
pub fn quota(per_second: f64, burst: NonZeroU32) -> Quota {
    // Limits are checked: a period is a nanosecond at least.
    let period = Duration::from_secs_f64(1.0 / per_second).max(Duration::from_nanos(1));
    Quota::with_period(period).unwrap_or(Quota::per_second(burst)).allow_burst(burst)
}

impl<C: Clock + Clone> Bucket<C> {
    pub fn new(per_second: f64, burst: NonZeroU32, clock: C) -> Self {
        let (quota, state) = (quota(per_second, burst), Watched::default());
        Self {
            start: clock.now(),
            limiter: RateLimiter::new(quota, state.clone(), clock.clone()),
            state,
            clock,
            each: quota.replenish_interval(),
            burst,
        }
    }

    /// Takes so many units, or none.
    pub fn take(&self, units: NonZeroU32) -> Result<(), Short> {
        match self.limiter.check_n(units) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(Short::For(not_until.wait_time_from(self.clock.now()))),
            Err(_) => Err(Short::ForEver),
        }
    }

    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    pub fn left(&self) -> Left {
        let now = self.clock.now().duration_since(self.start);
        let empty = self.state.full_at(&NotKeyed::NonKey).map_or(0, |full| full.saturating_sub(now).as_u64());
        let each = u64::try_from(self.each.as_nanos()).unwrap_or(u64::MAX).max(1);
        let missing = u32::try_from(empty.div_ceil(each)).unwrap_or(u32::MAX);
        let next = if empty == 0 { 0 } else { (empty - 1) % each + 1 };
        Left { units: self.burst().saturating_sub(missing), next: Duration::from_nanos(next) }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn units(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn a_bucket_is_emptied_and_fills_again() {
        let clock = FakeRelativeClock::default();
        let bucket = Bucket::new(2.0, units(4), clock.clone());
        let half = Duration::from_millis(500);
        assert_eq!(bucket.left(), Left { units: 4, next: Duration::ZERO });
        assert_eq!(bucket.take(units(3)), Ok(()));
        assert_eq!(bucket.left(), Left { units: 1, next: half });
        assert_eq!(bucket.take(units(2)), Err(Short::For(half)));
        assert_eq!(bucket.left().units, 1, "what is refused costs nothing");
        assert_eq!(bucket.take(units(5)), Err(Short::ForEver));
        clock.advance(half / 2);
        assert_eq!(bucket.left(), Left { units: 1, next: half / 2 });
        clock.advance(half / 2);
        assert_eq!(bucket.take(units(2)), Ok(()));
        assert_eq!(bucket.take(units(1)), Err(Short::For(half)));
        clock.advance(Duration::from_secs(60));
        assert_eq!(bucket.left().units, 4);
        assert_eq!(bucket.take(units(4)), Ok(()));
        assert_eq!(bucket.take(units(4)), Err(Short::For(half * 4)));
    }

    #[test]
    fn less_than_one_a_second_comes_in_its_time() {
        let clock = FakeRelativeClock::default();
        let bucket = Bucket::new(0.001, units(1), clock.clone());
        assert_eq!(bucket.take(units(1)), Ok(()));
        clock.advance(Duration::from_secs(999));
        assert_eq!(bucket.take(units(1)), Err(Short::For(Duration::from_secs(1))));
        clock.advance(Duration::from_secs(1));
        assert_eq!(bucket.take(units(1)), Ok(()));
    }
}
