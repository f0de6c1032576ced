//! What one caller may have, and has of it.

use std::fmt::{self, Write};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use governor::clock::{Clock, MonotonicClock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bucket::{Bucket, Left, Short};
use super::{Allowed, Limits, Rate, Refusal, seconds};

/// Pixels are counted by the thousand, so that a whole number holds the largest burst.
const THOUSAND: u64 = 1000;
const THOUSANDS_PER_MEGAPIXEL: u32 = 1000;

/// Addresses of which a caller's account remembers that they came from there.
const PLACES_SEEN: usize = 256;

/// The account of a caller. Without limits it counts nothing.
pub struct Account<C: Clock = MonotonicClock> {
    /// With the key itself.
    said: Limits,
    allowed: Allowed,
    requests: Option<Bucket<C>>,
    /// By the thousand.
    pixels: Option<Bucket<C>>,
    places: Option<Arc<Semaphore>>,
    /// As HTTP tells it; empty without limits.
    policies: String,
    /// Made when it is wanted: few servers count addresses.
    seen: OnceLock<Box<Seen>>,
}

impl<C: Clock> fmt::Debug for Account<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Account {
    /// Of a key that comes with limits of its own, perhaps none; elsewhere those of the server hold.
    pub fn new(said: Limits, server: Limits) -> Self {
        Self::by_clock(said, server, MonotonicClock)
    }
}

impl<C: Clock + Clone> Account<C> {
    fn by_clock(said: Limits, server: Limits, clock: C) -> Self {
        let allowed = said.or(server).allowed();
        let bucket = |rate: Rate, units_each: u32| {
            let burst = NonZeroU32::new(rate.burst.saturating_mul(units_each)).unwrap_or(NonZeroU32::MIN);
            Bucket::new(rate.per_second * f64::from(units_each), burst, clock.clone())
        };
        Self {
            said,
            requests: allowed.requests.map(|rate| bucket(rate, 1)),
            pixels: allowed.megapixels.map(|rate| bucket(rate, THOUSANDS_PER_MEGAPIXEL)),
            places: allowed.concurrent.map(|most| Arc::new(Semaphore::new(most as usize))),
            policies: policies(&allowed),
            allowed,
            seen: OnceLock::new(),
        }
    }

    /// The limits that came with the key.
    pub fn said(&self) -> Limits {
        self.said
    }

    pub fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// Lets a request in, if that is allowed now; it is in work for as long as what is returned is kept.
    pub fn enter(&self) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        let place = match &self.places {
            Some(places) => Some(
                Arc::clone(places)
                    .try_acquire_owned()
                    .map_err(|_| Refusal::Concurrent { most: self.allowed.concurrent.unwrap_or_default() })?,
            ),
            None => None,
        };
        if let (Some(bucket), Some(rate)) = (&self.requests, self.allowed.requests) {
            bucket.take(NonZeroU32::MIN).map_err(|short| match short {
                Short::For(wait) => Refusal::Requests { rate, wait },
                Short::ForEver => Refusal::Requests { rate, wait: std::time::Duration::from_secs(1) },
            })?;
        }
        Ok(place)
    }

    /// The limits, as `RateLimit-Policy` tells them; empty if there are none.
    pub fn policies(&self) -> &str {
        &self.policies
    }

    /// How much is left, as `RateLimit` tells it.
    pub fn state(&self) -> String {
        let mut text = String::new();
        if let Some(bucket) = &self.requests {
            let Left { units, next } = bucket.left();
            tell(&mut text, "requests", units, (!next.is_zero()).then(|| seconds(next)));
        }
        if let Some(bucket) = &self.pixels {
            let Left { units, next } = bucket.left();
            let is_full = units == bucket.burst();
            tell(&mut text, "megapixels", units / THOUSANDS_PER_MEGAPIXEL, (!is_full).then(|| seconds(next)));
        }
        if let Some(places) = &self.places {
            tell(&mut text, "concurrent", u32::try_from(places.available_permits()).unwrap_or(u32::MAX), None);
        }
        text
    }

    /// Whether the caller came from an address before, by its hash; from now on they did.
    pub fn was_seen_from(&self, address: u64) -> bool {
        self.seen.get().is_some_and(|seen| seen.has(address))
    }

    pub fn see_from(&self, address: u64) {
        self.seen.get_or_init(Box::default).note(address);
    }

    /// Takes what a photo costs. Of a request that had photos before, `before` was taken already.
    fn pay(&self, thousands: NonZeroU32, before: u32) -> Result<(), Refusal> {
        let (Some(bucket), Some(rate)) = (&self.pixels, self.allowed.megapixels) else { return Ok(()) };
        let all = thousands.saturating_add(before);
        if all.get() > bucket.burst() {
            let megapixels = f64::from(all.get()) / f64::from(THOUSANDS_PER_MEGAPIXEL);
            return Err(Refusal::PixelsBeyondBurst { megapixels, burst: rate.burst });
        }
        // Who has paid for one of two photos pays for both when they come again: they wait until there is enough for both.
        let taken = bucket.take(thousands).or_else(|short| if before == 0 { Err(short) } else { bucket.take(all) });
        taken.map_err(|short| match short {
            Short::For(wait) => Refusal::Pixels { rate, wait },
            Short::ForEver => Refusal::PixelsBeyondBurst { megapixels: 0.0, burst: rate.burst },
        })
    }
}

/// A list of structured fields: draft-ietf-httpapi-ratelimit-headers-10.
fn policies(allowed: &Allowed) -> String {
    let requests = allowed.requests.map(|rate| format!("\"requests\";q={};w={}", rate.burst, rate.window()));
    let pixels =
        allowed.megapixels.map(|rate| format!("\"megapixels\";q={};qu=\"megapixels\";w={}", rate.burst, rate.window()));
    let concurrent = allowed.concurrent.map(|most| format!("\"concurrent\";q={most};qu=\"concurrent-requests\""));
    [requests, pixels, concurrent].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(super) fn tell(text: &mut String, name: &str, left: u32, next: Option<u32>) {
    let comma = if text.is_empty() { "" } else { ", " };
    // Writing to a text does not fail.
    let _ = write!(text, "{comma}\"{name}\";r={left}");
    if let Some(next) = next {
        let _ = write!(text, ";t={next}");
    }
}

/// The addresses that a caller came from lately, by their hashes. Each may be in one of two places; if others have both, it takes over
/// one, by turns.
struct Seen {
    places: [AtomicU32; PLACES_SEEN],
    taken_over: AtomicU32,
}

impl Default for Seen {
    fn default() -> Self {
        Self { places: [const { AtomicU32::new(0) }; PLACES_SEEN], taken_over: AtomicU32::new(0) }
    }
}

impl Seen {
    fn places(&self, address: u64) -> ([&AtomicU32; 2], u32) {
        // Never 0, which is nobody's.
        let place = |shift: u32| &self.places[(address >> shift) as usize % PLACES_SEEN];
        ([place(32), place(48)], address as u32 | 1)
    }

    fn has(&self, address: u64) -> bool {
        let (places, mark) = self.places(address);
        places.iter().any(|place| place.load(Ordering::Relaxed) == mark)
    }

    fn note(&self, address: u64) {
        if self.has(address) {
            return;
        }
        let (places, mark) = self.places(address);
        let free = places.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        let turn = || self.taken_over.fetch_add(1, Ordering::Relaxed) as usize % 2;
        free.copied().unwrap_or_else(|| places[turn()]).store(mark, Ordering::Relaxed);
    }
}

/// What the photos of one request cost, as they become known. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Bill(Option<Arc<Owed>>);

#[derive(Debug)]
struct Owed {
    account: Arc<Account>,
    thousands: AtomicU32,
}

impl Bill {
    /// Nobody pays.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whoever has the account pays, if their pixels are limited.
    pub fn of(account: Option<&Arc<Account>>) -> Self {
        let limited = account.filter(|account| account.pixels.is_some());
        Self(limited.map(|account| Arc::new(Owed { account: Arc::clone(account), thousands: AtomicU32::new(0) })))
    }

    /// Pays for a photo of this size.
    pub fn pay(&self, (width, height): (u32, u32)) -> Result<(), Refusal> {
        let Some(owed) = &self.0 else { return Ok(()) };
        let thousands = thousands(width, height);
        let before = owed.thousands.fetch_add(thousands.get(), Ordering::Relaxed);
        owed.account.pay(thousands, before)
    }
}

fn thousands(width: u32, height: u32) -> NonZeroU32 {
    let thousands = (u64::from(width) * u64::from(height)).div_ceil(THOUSAND);
    NonZeroU32::new(u32::try_from(thousands).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn account(limits: Limits) -> (Account<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Account::by_clock(limits, Limits::default(), clock.clone()), clock)
    }

    #[test]
    fn requests_come_by_their_rate_after_a_burst() {
        let limits = Limits { requests_per_second: Some(2.0), request_burst: Some(3), ..Limits::default() };
        let (account, clock) = account(limits);
        assert_eq!(account.policies(), "\"requests\";q=3;w=2");
        assert_eq!(account.state(), "\"requests\";r=3");
        (0..3).for_each(|_| assert!(account.enter().is_ok()));
        assert_eq!(account.state(), "\"requests\";r=0;t=1");
        let refusal = account.enter().unwrap_err();
        assert_eq!((refusal.kind(), refusal.retry_after()), ("requests", Some(1)));
        clock.advance(Duration::from_millis(499));
        assert!(account.enter().is_err());
        clock.advance(Duration::from_millis(1));
        assert!(account.enter().is_ok());
        assert!(account.enter().is_err());
        clock.advance(Duration::from_secs(9));
        assert_eq!(account.state(), "\"requests\";r=3");
    }

    #[test]
    fn places_are_given_back_and_a_refused_request_costs_nothing_else() {
        let limits = Limits {
            requests_per_second: Some(1.0),
            request_burst: Some(4),
            concurrent_requests: Some(2),
            ..Limits::default()
        };
        let (account, _) = account(limits);
        let (one, _two) = (account.enter().unwrap(), account.enter().unwrap());
        let refusal = account.enter().unwrap_err();
        assert_eq!((refusal.clone(), refusal.retry_after()), (Refusal::Concurrent { most: 2 }, Some(1)));
        assert_eq!(account.state(), "\"requests\";r=2;t=1, \"concurrent\";r=0");
        drop(one);
        assert!(account.enter().is_ok());
    }

    #[test]
    fn photos_of_a_request_are_paid_together() {
        let limits = Limits { megapixels_per_second: Some(1.0), megapixel_burst: Some(10), ..Limits::default() };
        let (account, clock) = account(limits);
        assert_eq!(account.policies(), "\"megapixels\";q=10;qu=\"megapixels\";w=10");
        let photo = thousands(2000, 2000);
        assert_eq!(account.pay(photo, 0), Ok(()));
        assert_eq!(account.pay(photo, photo.get()), Ok(()));
        assert_eq!(account.state(), "\"megapixels\";r=2;t=1");
        // Three would be more than ever fits.
        let refusal = account.pay(photo, 2 * photo.get()).unwrap_err();
        assert_eq!(
            (refusal.clone(), refusal.retry_after()),
            (Refusal::PixelsBeyondBurst { megapixels: 12.0, burst: 10 }, None)
        );
        // The second of two waits until both can be paid.
        clock.advance(Duration::from_secs(2));
        assert_eq!(account.pay(photo, 0), Ok(()));
        let refusal = account.pay(photo, photo.get()).unwrap_err();
        assert_eq!(refusal.retry_after(), Some(8));
        clock.advance(Duration::from_secs(8));
        assert_eq!((account.pay(photo, 0), account.pay(photo, photo.get())), (Ok(()), Ok(())));
    }

    #[test]
    fn pixels_are_rounded_up() {
        assert_eq!(thousands(1, 1).get(), 1);
        assert_eq!(thousands(0, 9).get(), 1);
        assert_eq!(thousands(1000, 1).get(), 1);
        assert_eq!(thousands(1001, 1).get(), 2);
        assert_eq!(thousands(u32::MAX, u32::MAX).get(), u32::MAX);
    }

    #[test]
    fn an_account_without_limits_lets_everything_in() {
        let (account, _) = account(Limits { requests_per_second: Some(0.0), ..Limits::default() });
        assert_eq!((account.policies(), account.state().as_str()), ("", ""));
        assert!((0..1000).all(|_| account.enter().is_ok_and(|place| place.is_none())));
        assert_eq!(account.pay(NonZeroU32::MAX, u32::MAX), Ok(()));
    }

    #[test]
    fn an_address_is_known_once_it_was_seen() {
        let (account, _) = account(Limits::default());
        let (here, there) = (7 << 32 | 12, 7 << 32 | 99);
        assert!(!account.was_seen_from(here));
        account.see_from(here);
        assert!(account.was_seen_from(here) && !account.was_seen_from(there));
        account.see_from(there);
        // A third that falls on the two takes over one place.
        let elsewhere = 7 << 32 | 201;
        account.see_from(elsewhere);
        let of_them = [here, there, elsewhere].map(|address| account.was_seen_from(address));
        assert_eq!((of_them[2], of_them.iter().filter(|known| **known).count()), (true, 2), "{of_them:?}");
    }

    #[test]
    fn some_addresses_of_a_key_do_not_drive_each_other_out() {
        let hashes = BuildHasherDefault::<DefaultHasher>::default();
        let lost = (0..200)
            .filter(|key| {
                let (account, _) = account(Limits::default());
                let addresses: Vec<u64> = (0..10_u64).map(|address| hashes.hash_one((key, address))).collect();
                addresses.iter().for_each(|address| account.see_from(*address));
                !addresses.iter().all(|address| account.was_seen_from(*address))
            })
            .count();
        assert!(lost <= 10, "{lost} of 200 keys");
    }
}
