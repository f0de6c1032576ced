//! What this server is: its model, what it takes, and from which similarity on it decides.

use super::Recognition;
use super::decisions::decide_pair;
use crate::db::PageRequest;
use crate::gallery::Policy;
use crate::service::ServiceError;
use crate::service::answers::{Info, ModelInfo, RequestLimits, ThresholdAt, Version};
use crate::service::requests::TopK;
use crate::types::Chip;

/// The rates for which thresholds are told.
const RATES: [f64; 5] = [0.01, 0.001, 0.0001, 0.00001, 0.000001];

impl Recognition {
    /// `max_body_bytes` is the longest request.
    pub fn info(&self, max_body_bytes: usize) -> Result<Info, ServiceError> {
        let serving = self.serving();
        let config = &self.parts.config;
        // Rates beyond what was measured have no threshold.
        let at = |fmr| {
            let decision = decide_pair(&serving, Some(Policy::Fmr(fmr))).ok()?;
            Some(ThresholdAt { fmr, threshold: decision.threshold })
        };
        Ok(Info {
            version: Version::default(),
            model: ModelInfo {
                name: serving.name().to_owned(),
                id: serving.id(),
                dimension: serving.loaded.embedder.dimension(),
                threshold: decide_pair(&serving, None)?.threshold,
                thresholds: RATES.into_iter().filter_map(at).collect(),
                chip_side: Chip::SIDE,
            },
            limits: RequestLimits {
                max_body_bytes,
                max_image_bytes: config.max_image_bytes,
                max_image_pixels: config.max_image_pixels,
                max_top_k: TopK::MOST,
                max_page: PageRequest::MAX_LIMIT,
            },
        })
    }
}
