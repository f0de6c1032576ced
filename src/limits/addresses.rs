//! What those may have who have no key: so many requests a second from an address. Keys cannot be tried out faster than that.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;

use super::account::tell;
use super::bucket::{Watched, quota};
use super::{Account, Rate, Refusal, seconds};

/// Addresses that are remembered at most. Further ones share places, so that no number of addresses takes more memory.
const REMEMBERED: usize = 100_000;

/// The places that they share.
const SHARED: u64 = 4096;

/// After how many requests addresses that have nothing to wait for are forgotten; so many more than the limit may be remembered
/// meanwhile.
const LOOKED_AFTER: u64 = 1024;

/// What an address may have.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AddressLimits {
    /// Of requests without a valid key.
    pub requests: Option<Rate>,
    /// Whether that is so where no key is needed, too.
    pub at_open_servers: bool,
    /// Of all requests, with a key or without.
    pub concurrent: Option<u32>,
}

/// Whose requests are counted together. Whoever has one address of IPv6 has all that differ in the last 64 bits alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    V4(u32),
    V6(u64),
    Shared(u64),
}

impl From<IpAddr> for Key {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.into()),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// The states of all addresses.
type States = Watched<DashMapStateStore<Key>>;

type Limiter<C> = RateLimiter<Key, States, C, StateInformationMiddleware>;

/// All addresses of a server.
pub struct Addresses<C: Clock = MonotonicClock> {
    requests: Option<Requests<C>>,
    places: Option<Arc<Places>>,
    limits: AddressLimits,
}

struct Requests<C: Clock> {
    rate: Rate,
    limiter: Limiter<C>,
    states: States,
    clock: C,
    start: C::Instant,
    hasher: RandomState,
    looked_up: AtomicU64,
    is_full: AtomicBool,
    remembered: usize,
}

/// What is left for an address, as HTTP tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressState {
    pub policy: String,
    pub state: String,
}

impl Addresses {
    pub fn new(limits: AddressLimits) -> Self {
        Self::by_clock(limits, MonotonicClock, REMEMBERED)
    }
}

impl<C: Clock + Clone> Addresses<C> {
    fn by_clock(limits: AddressLimits, clock: C, remembered: usize) -> Self {
        let requests = limits.requests.map(|rate| {
            let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
            let states = States::default();
            Requests {
                rate,
                start: clock.now(),
                limiter: RateLimiter::new(quota(rate.per_second, burst), states.clone(), clock.clone()),
                states,
                clock: clock.clone(),
                hasher: RandomState::new(),
                looked_up: AtomicU64::new(0),
                is_full: AtomicBool::new(false),
                remembered,
            }
        });
        let places = limits.concurrent.map(|most| Arc::new(Places { most, taken: Mutex::default() }));
        Self { requests, places, limits }
    }

    /// Whether requests of those are counted who need no key.
    pub fn count_at_open_servers(&self) -> bool {
        self.limits.at_open_servers && self.requests.is_some()
    }

    /// Whether it matters where a request comes from.
    pub fn matter(&self) -> bool {
        self.requests.is_some() || self.places.is_some()
    }

    /// Counts a request without a valid key.
    pub fn count(&self, address: IpAddr) -> Result<Option<AddressState>, Refusal> {
        self.requests.as_ref().map(|requests| requests.count(address)).transpose()
    }

    /// What is left for an address that is refused.
    pub fn refused(&self, refusal: &Refusal) -> Option<AddressState> {
        let (Some(requests), Refusal::Address { wait }) = (&self.requests, refusal) else { return None };
        let mut state = String::new();
        tell(&mut state, "address", 0, Some(seconds(*wait)));
        Some(AddressState { policy: requests.policy(), state })
    }

    /// Lets in who shows a valid key. While an address has sent more wrong ones than it may, one that is right could be a guess as well;
    /// but not if it was shown from there before: nobody is held up by what others do at their address.
    pub fn recognise<D: Clock + Clone>(&self, address: IpAddr, account: &Account<D>) -> Result<(), Refusal> {
        let Some(requests) = &self.requests else { return Ok(()) };
        let mark = requests.hasher.hash_one(Key::from(address));
        if !account.was_seen_from(mark) {
            requests.refuse_guess(address)?;
            account.see_from(mark);
        }
        Ok(())
    }

    /// A place among the requests of an address that are in work at a time.
    pub fn place(&self, address: IpAddr) -> Result<Option<AddressPlace>, Refusal> {
        self.places.as_ref().map(|places| places.take(address.into())).transpose()
    }
}

impl<C: Clock> Requests<C> {
    /// The key under which an address is counted now. From time to time it forgets addresses first, whoever asks.
    fn key(&self, address: IpAddr) -> Key {
        if self.looked_up.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKED_AFTER.min(self.remembered as u64)) {
            self.tidy();
        }
        let own = Key::from(address);
        match self.is_full.load(Ordering::Relaxed) {
            true => Key::Shared(self.hasher.hash_one(own) % SHARED),
            false => own,
        }
    }

    fn count(&self, address: IpAddr) -> Result<AddressState, Refusal> {
        let key = self.key(address);
        match self.limiter.check_key(&key) {
            Ok(snapshot) => {
                let mut state = String::new();
                let each = Duration::from_secs_f64(1.0 / self.rate.per_second);
                tell(&mut state, "address", snapshot.remaining_burst_capacity(), Some(seconds(each)));
                Ok(AddressState { policy: self.policy(), state })
            }
            Err(not_until) => Err(Refusal::Address { wait: not_until.wait_time_from(self.clock.now()) }),
        }
    }

    /// Refuses while the address has nothing left, and counts nothing. Whoever has as many addresses as fill the memory is not held up
    /// by this.
    fn refuse_guess(&self, address: IpAddr) -> Result<(), Refusal> {
        let key = self.key(address);
        if matches!(key, Key::Shared(_)) {
            return Ok(());
        }
        let full_at = Duration::from_nanos(self.states.full_at(&key).map_or(0, |full_at| full_at.as_u64()));
        // There is one as long before it is full as all others take to come.
        let others = Duration::from_secs_f64(1.0 / self.rate.per_second) * self.rate.burst.saturating_sub(1);
        let now = Duration::from_nanos(self.clock.now().duration_since(self.start).as_u64());
        match full_at.saturating_sub(others).saturating_sub(now) {
            Duration::ZERO => Ok(()),
            wait => Err(Refusal::Address { wait }),
        }
    }

    fn policy(&self) -> String {
        format!("\"address\";q={};w={}", self.rate.burst, self.rate.window())
    }

    /// Forgets who has used nothing for so long that it makes no difference.
    fn tidy(&self) {
        self.limiter.retain_recent();
        self.is_full.store(self.limiter.len() >= self.remembered, Ordering::Relaxed);
    }
}

/// Requests in work, by address. Who has none is not in it.
struct Places {
    most: u32,
    taken: Mutex<HashMap<Key, u32>>,
}

/// A request in work, until it is dropped.
pub struct AddressPlace {
    places: Arc<Places>,
    key: Key,
}

impl Places {
    fn take(self: &Arc<Self>, key: Key) -> Result<AddressPlace, Refusal> {
        let mut taken = self.taken();
        let own = taken.entry(key).or_default();
        if *own >= self.most {
            return Err(Refusal::AddressConcurrent { most: self.most });
        }
        *own += 1;
        drop(taken);
        Ok(AddressPlace { places: Arc::clone(self), key })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Key, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::limits::Limits;

    fn addresses(per_second: f64, burst: u32, remembered: usize) -> (Addresses<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let limits = AddressLimits { requests: Rate::new(per_second, Some(burst)), ..AddressLimits::default() };
        (Addresses::by_clock(limits, clock.clone(), remembered), clock)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_counted_one_by_one_and_networks_of_ipv6_as_one() {
        let (addresses, clock) = addresses(1.0, 2, REMEMBERED);
        let is_let_in = |address: &str| addresses.count(ip(address)).is_ok();
        assert!(is_let_in("192.0.2.1") && is_let_in("192.0.2.1") && !is_let_in("192.0.2.1"));
        // The same, as a socket for both kinds says it.
        assert!(!is_let_in("::ffff:192.0.2.1"));
        assert!(is_let_in("192.0.2.2"));
        assert!(is_let_in("2001:db8::1") && is_let_in("2001:db8::2") && !is_let_in("2001:db8::3"));
        assert!(is_let_in("2001:db8:0:1::1"));
        clock.advance(Duration::from_secs(1));
        assert!(is_let_in("192.0.2.1") && !is_let_in("192.0.2.1"));
        let left = addresses.count(ip("192.0.2.9")).unwrap().unwrap();
        assert_eq!((left.policy.as_str(), left.state.as_str()), ("\"address\";q=2;w=2", "\"address\";r=1;t=1"));
    }

    #[test]
    fn a_key_is_known_where_it_was_shown_before_whatever_others_do_there() {
        let (addresses, clock) = addresses(1.0, 2, REMEMBERED);
        let (here, key, other) = (
            ip("192.0.2.1"),
            Account::new(Limits::default(), Limits::default()),
            Account::new(Limits::default(), Limits::default()),
        );
        assert!(addresses.recognise(here, &key).is_ok());
        assert!(addresses.count(here).is_ok() && addresses.count(here).is_ok() && addresses.count(here).is_err());
        assert!((0..100).all(|_| addresses.recognise(here, &key).is_ok()));
        // It would tell that the guess was right.
        let refusal = addresses.recognise(here, &other).unwrap_err();
        assert_eq!(refusal, Refusal::Address { wait: Duration::from_secs(1) });
        assert_eq!(addresses.count(here), Err(refusal));
        assert!(addresses.recognise(ip("192.0.2.2"), &other).is_ok());
        clock.advance(Duration::from_secs(1));
        assert!(addresses.recognise(here, &other).is_ok());
        assert!(addresses.count(here).is_ok(), "a valid key is not counted");
    }

    #[test]
    fn no_number_of_addresses_takes_more_memory() {
        let (addresses, clock) = addresses(1.0, 2, 100);
        let count = |number: u32| addresses.count(Ipv4Addr::from(number).into()).is_ok();
        (0..200_000).for_each(|number| _ = count(number));
        let limiter = &addresses.requests.as_ref().unwrap().limiter;
        assert!(limiter.len() <= 100 + 100 + SHARED as usize, "{}", limiter.len());
        assert!(!(0..200_000).any(count), "who shares a place with many has no more than they");
        clock.advance(Duration::from_secs(3));
        (0..100).for_each(|_| _ = addresses.count(Ipv6Addr::LOCALHOST.into()));
        clock.advance(Duration::from_secs(3));
        (0..200).for_each(|_| _ = addresses.count(Ipv6Addr::LOCALHOST.into()));
        assert!(limiter.len() <= 2, "{}", limiter.len());
        clock.advance(Duration::from_secs(3));
        assert!(count(7) && count(7) && !count(7));
    }

    #[test]
    fn places_of_an_address_are_given_back() {
        let limits = AddressLimits { concurrent: Some(1), ..AddressLimits::default() };
        let addresses = Addresses::new(limits);
        let (here, there) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let place = addresses.place(here).unwrap();
        assert_eq!(addresses.place(here).err(), Some(Refusal::AddressConcurrent { most: 1 }));
        assert!(addresses.place(there).is_ok());
        drop(place);
        assert!(addresses.place(here).is_ok());
        assert!(addresses.places.as_ref().unwrap().taken().is_empty());
        assert_eq!(addresses.count(here), Ok(None));
    }
}
