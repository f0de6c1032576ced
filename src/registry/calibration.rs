//! What an embedder's similarities mean.

use serde::{Deserialize, Serialize};

use crate::types::Threshold;

/// About one in the number of pairs per kind that a calibration here rests on.
const LEAST_DOUBT: f32 = 1e-4;

/// probability = 1 / (1 + exp(-(slope * similarity + intercept)))
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logistic {
    pub slope: f32,
    pub intercept: f32,
}

/// The threshold at which two faces of different people match at a certain rate, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FmrPoint {
    pub rate: f64,
    pub threshold: f32,
    pub low: f32,
    pub high: f32,
}

/// The length of an embedding before it is normalised, as a sign of a face: the anomaly score is
/// 1 / (1 + exp((norm - middle) / width)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormScale {
    pub middle: f32,
    pub width: f32,
}

/// From similarity to decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    pub threshold: Threshold,
    pub logistic: Option<Logistic>,
    pub(super) fmr: Vec<FmrPoint>,
    pub(super) anomaly: Option<NormScale>,
}

impl Calibration {
    /// Probability that two faces of this similarity show one person, when both answers are equally likely beforehand.
    /// At least 0.0001 and at most 0.9999: what a regression says beyond that, its data do not.
    pub fn probability(&self, similarity: f32) -> Option<f32> {
        let Logistic { slope, intercept } = self.logistic?;
        let fitted = 1.0 / (1.0 + (-(slope * similarity + intercept)).exp());
        Some(fitted.clamp(LEAST_DOUBT, 1.0 - LEAST_DOUBT))
    }

    /// The threshold at a false match rate: linear in the logarithm of the rate between those that were measured, and
    /// continued beyond the lowest, which is an extrapolation: more pairs may show that it needs a higher one. Rates above
    /// the highest get that one's threshold. `None` if no rates were measured.
    pub fn threshold_at_fmr(&self, rate: f64) -> Option<FmrPoint> {
        let (first, last) = (self.fmr.first()?, self.fmr.len() - 1);
        if rate >= first.rate || last == 0 {
            return Some(FmrPoint { rate, ..*first });
        }
        let next = self.fmr.iter().position(|point| point.rate <= rate).unwrap_or(last);
        let (a, b) = (self.fmr[next - 1], self.fmr[next]);
        let part = ((a.rate / rate).ln() / (a.rate / b.rate).ln()) as f32;
        let at = |from: f32, to: f32| (from + (to - from) * part).clamp(-1.0, 1.0);
        let threshold = at(a.threshold, b.threshold);
        let (low, high) = (at(a.low, b.low).min(threshold), at(a.high, b.high).max(threshold));
        Some(FmrPoint { rate, threshold, low, high })
    }

    /// The false match rate at a threshold: the inverse of [`Self::threshold_at_fmr`]. `None` below the lowest threshold that
    /// was measured.
    pub fn fmr_at(&self, threshold: f32) -> Option<f64> {
        let last = self.fmr.len().checked_sub(1)?;
        if threshold < self.fmr[0].threshold || last == 0 {
            return (threshold >= self.fmr[0].threshold).then_some(self.fmr[0].rate);
        }
        let next = self.fmr.iter().position(|point| point.threshold > threshold).unwrap_or(last);
        let (a, b) = (self.fmr[next - 1], self.fmr[next]);
        let part = f64::from((threshold - a.threshold) / (b.threshold - a.threshold));
        Some(a.rate * (b.rate / a.rate).powf(part))
    }

    /// How unlike any face something is whose embedding had this length, 0..=1.
    pub fn anomaly(&self, norm: f32) -> Option<f32> {
        let NormScale { middle, width } = self.anomaly?;
        Some(1.0 / (1.0 + ((norm - middle) / width).exp()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::manifest::mobilefacenet_512;

    #[test]
    fn rates_and_thresholds_are_one_anothers_inverse() {
        let calibration = mobilefacenet_512().calibration();
        for rate in [1e-1, 3e-2, 1e-3, 2.5e-5, 1e-6, 1e-9] {
            let point = calibration.threshold_at_fmr(rate).unwrap();
            assert!(point.low <= point.threshold && point.threshold <= point.high);
            let back = calibration.fmr_at(point.threshold).unwrap();
            assert!((back / rate - 1.0).abs() < 1e-3, "{rate}: {back}");
        }
        let threshold = |rate| calibration.threshold_at_fmr(rate).unwrap().threshold;
        assert_eq!(threshold(0.5), threshold(0.1));
        assert!(threshold(1e-9) > threshold(1e-6) && threshold(1e-300) <= 1.0);
        assert_eq!(calibration.fmr_at(0.0), None);
        let unmeasured = Calibration { fmr: Vec::new(), ..calibration };
        assert_eq!((unmeasured.threshold_at_fmr(0.1), unmeasured.fmr_at(0.5)), (None, None));
    }

    #[test]
    fn short_embeddings_are_anomalous() {
        let calibration = mobilefacenet_512().calibration();
        assert!(calibration.anomaly(3.8).unwrap() < 0.01);
        assert!(calibration.anomaly(1.6).unwrap() > 0.9);
    }

    #[test]
    fn the_probability_at_the_bundled_threshold_is_even_or_better() {
        let calibration = mobilefacenet_512().calibration();
        let at = calibration.probability(calibration.threshold.get()).unwrap();
        assert!((0.5..0.9999).contains(&at), "{at}");
        assert!(calibration.probability(0.9) > calibration.probability(0.1));
    }
}
