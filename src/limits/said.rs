//! Limits as they are said, by a setting or with a key, and what they come to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a caller may have. What is left out is as the server says; 0 is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"requests_per_second": 5, "request_burst": 20, "concurrent_requests": 4}))]
pub struct Limits {
    /// Requests a second: 0, or 0.001 to 1,000,000.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requests_per_second: Option<f64>,
    /// Requests at once after a pause, 1 to 1,000,000. Defaults to what comes in ten seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_burst: Option<u32>,
    /// Megapixels of photos a second: 0, or 0.001 to 100,000.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub megapixels_per_second: Option<f64>,
    /// Megapixels at once after a pause, 1 to 4,000,000; a request with more is refused for good. Defaults to what comes in ten
    /// seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub megapixel_burst: Option<u32>,
    /// Requests in work at a time, up to 1,000,000.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub concurrent_requests: Option<u32>,
}

/// So many a second, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub burst: u32,
}

/// What limits come to; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Allowed {
    pub requests: Option<Rate>,
    pub megapixels: Option<Rate>,
    pub concurrent: Option<u32>,
}

/// Of the burst, if nothing is said.
const BURST_SECONDS: f64 = 10.0;

pub const MOST_REQUESTS: u32 = 1_000_000;
pub const MOST_MEGAPIXELS_PER_SECOND: u32 = 100_000;
pub const MOST_MEGAPIXELS: u32 = 4_000_000;
pub const LEAST_PER_SECOND: f64 = 0.001;

impl Rate {
    /// `None` for 0 a second.
    pub fn new(per_second: f64, burst: Option<u32>) -> Option<Self> {
        let usual = || (per_second * BURST_SECONDS).ceil().clamp(1.0, f64::from(MOST_REQUESTS)) as u32;
        (per_second > 0.0).then(|| Self { per_second, burst: burst.unwrap_or_else(usual) })
    }

    /// In how many seconds the burst comes again.
    pub(super) fn window(&self) -> u64 {
        (f64::from(self.burst) / self.per_second).ceil().max(1.0) as u64
    }

    fn is_within(&self, other: &Self) -> bool {
        self.per_second <= other.per_second && self.burst <= other.burst
    }
}

impl Limits {
    /// Refuses what is no limit: the member, and what is expected of it.
    pub fn checked(self) -> Result<Self, (&'static str, String)> {
        let rate = |name, said: Option<f64>, most: u32| match said {
            Some(rate) if rate != 0.0 && !(LEAST_PER_SECOND..=f64::from(most)).contains(&rate) => {
                Err((name, format!("0, or {LEAST_PER_SECOND} to {most}")))
            }
            _ => Ok(()),
        };
        let whole = |name, said: Option<u32>, least: u32, most: u32| match said {
            Some(number) if !(least..=most).contains(&number) => Err((name, format!("{least} to {most}"))),
            _ => Ok(()),
        };
        rate("requests_per_second", self.requests_per_second, MOST_REQUESTS)?;
        whole("request_burst", self.request_burst, 1, MOST_REQUESTS)?;
        rate("megapixels_per_second", self.megapixels_per_second, MOST_MEGAPIXELS_PER_SECOND)?;
        whole("megapixel_burst", self.megapixel_burst, 1, MOST_MEGAPIXELS)?;
        whole("concurrent_requests", self.concurrent_requests, 0, MOST_REQUESTS)?;
        Ok(self)
    }

    /// `self` where it says something, `other` elsewhere. A rate of one's own has a burst of its own.
    pub fn or(self, other: Self) -> Self {
        let burst = |own: Option<f64>, said: Option<u32>, other: Option<u32>| match own {
            Some(_) => said,
            None => said.or(other),
        };
        Self {
            requests_per_second: self.requests_per_second.or(other.requests_per_second),
            request_burst: burst(self.requests_per_second, self.request_burst, other.request_burst),
            megapixels_per_second: self.megapixels_per_second.or(other.megapixels_per_second),
            megapixel_burst: burst(self.megapixels_per_second, self.megapixel_burst, other.megapixel_burst),
            concurrent_requests: self.concurrent_requests.or(other.concurrent_requests),
        }
    }

    pub fn allowed(self) -> Allowed {
        Allowed {
            requests: Rate::new(self.requests_per_second.unwrap_or_default(), self.request_burst),
            megapixels: Rate::new(self.megapixels_per_second.unwrap_or_default(), self.megapixel_burst),
            concurrent: self.concurrent_requests.filter(|most| *most > 0),
        }
    }

    /// What a member says, for a message.
    pub fn value_of(&self, member: &str) -> String {
        let value = serde_json::to_value(self).ok().and_then(|value| value.get(member).cloned());
        value.map_or_else(|| "none".to_owned(), |value| value.to_string())
    }

    pub fn says_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Allowed {
    /// Whether it allows nothing that another does not.
    pub fn is_within(&self, other: &Self) -> bool {
        fn within<T>(own: &Option<T>, other: &Option<T>, is: impl Fn(&T, &T) -> bool) -> bool {
            match (own, other) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(own), Some(other)) => is(own, other),
            }
        }
        within(&self.requests, &other.requests, Rate::is_within)
            && within(&self.megapixels, &other.megapixels, Rate::is_within)
            && within(&self.concurrent, &other.concurrent, |own, other| own <= other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(per_second: f64, burst: Option<u32>) -> Limits {
        Limits { requests_per_second: Some(per_second), request_burst: burst, ..Limits::default() }
    }

    #[test]
    fn what_a_key_says_wins_member_by_member() {
        let server = Limits { concurrent_requests: Some(3), ..requests(5.0, Some(7)) };
        let rate = |limits: Limits| limits.or(server).allowed().requests.map(|rate| (rate.per_second, rate.burst));
        assert_eq!(rate(Limits::default()), Some((5.0, 7)));
        assert_eq!(rate(requests(2.0, None)), Some((2.0, 20)));
        assert_eq!(rate(requests(0.02, None)), Some((0.02, 1)));
        assert_eq!(rate(Limits { request_burst: Some(1), ..Limits::default() }), Some((5.0, 1)));
        assert_eq!(rate(requests(0.0, None)), None);
        assert_eq!(requests(1.0, None).or(server).allowed().concurrent, Some(3));
        let free = Limits { concurrent_requests: Some(0), ..Limits::default() };
        assert_eq!(free.or(server).allowed().concurrent, None);
    }

    #[test]
    fn no_more_is_within_than_all() {
        let of = |limits: Limits| limits.allowed();
        let most = of(requests(5.0, Some(10)));
        assert!(most.is_within(&most) && of(requests(5.0, Some(9))).is_within(&most));
        for more in [requests(5.0, Some(11)), requests(6.0, Some(1)), requests(0.0, None), Limits::default()] {
            assert!(!of(more).is_within(&most), "{more:?}");
        }
        assert!(most.is_within(&Allowed::default()));
    }

    #[test]
    fn what_is_no_limit_is_named() {
        let wrong = |limits: Limits| limits.checked().map_err(|(name, _)| name);
        assert!(wrong(requests(0.0, Some(1))).is_ok());
        for (limits, name) in [
            (requests(-1.0, None), "requests_per_second"),
            (requests(f64::NAN, None), "requests_per_second"),
            (requests(1e-4, None), "requests_per_second"),
            (requests(1.0, Some(0)), "request_burst"),
            (Limits { megapixels_per_second: Some(1e6), ..Limits::default() }, "megapixels_per_second"),
            (Limits { megapixel_burst: Some(u32::MAX), ..Limits::default() }, "megapixel_burst"),
            (Limits { concurrent_requests: Some(u32::MAX), ..Limits::default() }, "concurrent_requests"),
        ] {
            assert_eq!(wrong(limits), Err(name));
        }
    }
}
