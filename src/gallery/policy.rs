//! When a face counts as known.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::GalleryError;
use crate::types::Threshold;

/// By what a face is called known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// From this similarity on, -1 to 1.
    Threshold(f32),
    /// At the false match rate of a single comparison, above 0 and below 1: that two faces of different people match.
    Fmr(f64),
    /// At the false positive identification rate, above 0 and below 1: that a stranger is taken for anybody of the
    /// gallery as it is now.
    Fpir(f64),
}

impl Policy {
    /// Refuses values that are no threshold or rate.
    pub fn checked(self) -> Result<Self, GalleryError> {
        match self {
            Self::Threshold(value) => {
                Threshold::try_from(value).map_err(|error| GalleryError::InvalidPolicy(error.to_string()))?;
            }
            Self::Fmr(rate) | Self::Fpir(rate) if !(rate > 0.0 && rate < 1.0) => {
                return Err(GalleryError::InvalidPolicy(format!(
                    "a rate is a number above 0 and below 1; this is {rate}"
                )));
            }
            Self::Fmr(_) | Self::Fpir(_) => {}
        }
        Ok(self)
    }
}
