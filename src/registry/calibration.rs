//! What an embedder's similarities mean.

use serde::{Deserialize, Serialize};

use crate::evaluation::{FmrCurve, GenuineCurve};
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

/// The length of an embedding before it is normalised, as a sign of a face: the anomaly score is
/// 1 / (1 + exp((norm - middle) / width)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormScale {
    pub middle: f32,
    pub width: f32,
}

/// What the length of an embedding before it is normalised says of the photo: its similarity to another photo of the person
/// is below s with the probability 1 / (1 + exp((mean - s) / width)), mean = intercept + slope * ln(norm). Of faces with
/// embeddings shorter than `shortest` little is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fidelity {
    pub intercept: f32,
    pub slope: f32,
    pub width: f32,
    pub shortest: f32,
}

impl Fidelity {
    pub(super) fn is_valid(&self) -> bool {
        let Self { intercept, slope, width, shortest } = *self;
        slope > 0.0 && width > 0.0 && [intercept, slope, width, shortest].iter().all(|v| v.is_finite())
    }
}

/// What similarities mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Of a pair.
    pub threshold: Threshold,
    pub logistic: Option<Logistic>,
    pub(super) curve: Option<FmrCurve>,
    pub(super) genuine: Option<GenuineCurve>,
    pub(super) anomaly: Option<NormScale>,
    pub(super) fidelity: Option<Fidelity>,
}

impl Calibration {
    /// False match rates of one comparison, if they were measured.
    pub fn curve(&self) -> Option<&FmrCurve> {
        self.curve.as_ref()
    }

    /// How similar pairs of one person are, if it was measured.
    pub fn genuine(&self) -> Option<&GenuineCurve> {
        self.genuine.as_ref()
    }

    /// Probability that two faces of this similarity show one person, when that is as likely as not beforehand; for one of
    /// `candidates` subjects who are equally likely to be the person, when it is as likely as not that any of them is.
    /// At least 0.0001 and at most 0.9999: what a regression says beyond that, its data do not.
    pub fn probability(&self, similarity: f32, candidates: u64) -> Option<f32> {
        let Logistic { slope, intercept } = self.logistic?;
        let logit = f64::from(slope * similarity + intercept) - (candidates.max(1) as f64).ln();
        let fitted = (1.0 / (1.0 + (-logit).exp())) as f32;
        Some(fitted.clamp(LEAST_DOUBT, 1.0 - LEAST_DOUBT))
    }

    /// By how much one of two similarities must be the larger so that its subject is the person, and not the other one, with
    /// `certainty`, if one of the two is and both are equally likely beforehand.
    pub fn margin(&self, certainty: f32) -> Option<f32> {
        self.logistic.map(|logistic| (certainty / (1.0 - certainty)).ln() / logistic.slope)
    }

    /// Whether a face can be recognised by an embedding of this length, if that was measured.
    pub fn is_usable(&self, norm: f32) -> Option<bool> {
        Some(norm >= self.fidelity?.shortest)
    }

    /// The chance that a face whose embedding has this length is missed, at a threshold, by a photo of the same person.
    pub fn missed(&self, norm: f32, threshold: f32) -> Option<f32> {
        let Fidelity { intercept, slope, width, .. } = self.fidelity?;
        let mean = intercept + slope * norm.ln();
        Some(1.0 / (1.0 + ((mean - threshold) / width).exp()))
    }

    /// How unlike any face something is whose embedding had this length, 0..=1.
    pub fn anomaly(&self, norm: f32) -> Option<f32> {
        let NormScale { middle, width } = self.anomaly?;
        Some(1.0 / (1.0 + ((norm - middle) / width).exp()))
    }
}

#[cfg(test)]
mod tests {
    use crate::registry::manifest::mobilefacenet_512;

    #[test]
    fn short_embeddings_are_anomalous() {
        let calibration = mobilefacenet_512().calibration();
        assert!(calibration.anomaly(3.8).unwrap() < 0.01);
        assert!(calibration.anomaly(1.6).unwrap() > 0.9);
    }

    #[test]
    fn the_probability_at_the_bundled_threshold_is_even_or_better() {
        let calibration = mobilefacenet_512().calibration();
        let at = calibration.probability(calibration.threshold.get(), 1).unwrap();
        assert!((0.5..0.9999).contains(&at), "{at}");
        assert!(calibration.probability(0.9, 1) > calibration.probability(0.1, 1));
        // Among a thousand a similarity says less.
        assert!(calibration.probability(0.45, 1000) < calibration.probability(0.45, 1));
    }

    #[test]
    fn short_embeddings_are_missed() {
        let calibration = mobilefacenet_512().calibration();
        assert_eq!((calibration.is_usable(2.5), calibration.is_usable(2.7)), (Some(false), Some(true)));
        let missed = |norm, threshold| calibration.missed(norm, threshold).unwrap();
        assert!(missed(2.0, 0.41) > 0.8 && missed(3.6, 0.41) < 0.05 && missed(3.6, 0.5) > missed(3.6, 0.41));
    }

    #[test]
    fn similarities_within_the_margin_do_not_tell_two_subjects_apart() {
        let calibration = mobilefacenet_512().calibration();
        let margin = calibration.margin(0.95).unwrap();
        let odds = |similarity: f32| {
            let p = f64::from(calibration.probability(similarity, 1).unwrap());
            p / (1.0 - p)
        };
        assert!((odds(0.3 + margin) / odds(0.3) - 19.0).abs() < 0.1, "{margin}");
    }
}
