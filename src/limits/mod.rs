//! How much somebody may have: so many requests and pixels a second, so many requests at a time. By key, or by address for those who
//! have none. It is counted in memory, for this server alone.

mod account;
mod addresses;
mod bucket;
mod said;

use std::time::Duration;

use thiserror::Error;

pub use account::{Account, Bill};
pub use addresses::{AddressLimits, AddressPlace, AddressState, Addresses};
pub use said::{Allowed, Limits, Rate};

/// Why somebody gets nothing more at present, or ever.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    #[error("this caller may send {} request{} a second and has sent more; try again in {} s",
        rate.per_second, if rate.per_second == 1.0 { "" } else { "s" }, seconds(*wait))]
    Requests { rate: Rate, wait: Duration },
    #[error("this caller may send photos of {} megapixels a second and has sent more; try again in {} s",
        rate.per_second, seconds(*wait))]
    Pixels { rate: Rate, wait: Duration },
    /// However long they wait.
    #[error(
        "the request's photos have {megapixels:.1} megapixels, and this caller may send {burst} at once; send smaller or fewer ones"
    )]
    PixelsBeyondBurst { megapixels: f64, burst: u32 },
    #[error("this caller may have {most} request{} in work at a time, and has as many", if *most == 1 { "" } else { "s" })]
    Concurrent { most: u32 },
    #[error("too many requests without a valid key came from this address; try again in {} s", seconds(*wait))]
    Address { wait: Duration },
    #[error("this address may have {most} request{} in work at a time, and has as many", if *most == 1 { "" } else { "s" })]
    AddressConcurrent { most: u32 },
}

impl Refusal {
    /// What the metrics call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests",
            Self::Pixels { .. } | Self::PixelsBeyondBurst { .. } => "pixels",
            Self::Concurrent { .. } => "concurrent",
            Self::Address { .. } => "address",
            Self::AddressConcurrent { .. } => "address_concurrent",
        }
    }

    /// After how many seconds it may be worth trying again.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Requests { wait, .. } | Self::Pixels { wait, .. } | Self::Address { wait } => Some(seconds(*wait)),
            // Nobody knows how long the others take.
            Self::Concurrent { .. } | Self::AddressConcurrent { .. } => Some(1),
            Self::PixelsBeyondBurst { .. } => None,
        }
    }
}

/// Whole seconds, rounded up, one at least: who comes too early comes in vain.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).unwrap_or(u32::MAX).max(1)
}
