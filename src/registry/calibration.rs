//! What an embedder's similarities mean, and how it wants its chips: facts that belong to a weights file.
//!
//! The networks that `make setup` brings are known by their sha256. Any other has them in a TOML file beside it:
//! `my-net.onnx` and `my-net.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::types::Threshold;

/// sha256 of MobileFaceNet-512 as `make setup` brings it.
const MOBILEFACENET_512: &str = "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581";

/// About one in the number of pairs per kind that a calibration here rests on.
const LEAST_DOUBT: f32 = 1e-4;

#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid: {message}")]
    Malformed { path: PathBuf, message: String },
    #[error(
        "{weights} is not a network that faceid knows: describe it in {manifest} (see README.md, \"Your own networks\")"
    )]
    Missing { weights: PathBuf, manifest: PathBuf },
}

/// Order of the colour channels of a network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    #[default]
    Rgb,
    Bgr,
}

/// Facts about an embedder's weights.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What the model is called in answers.
    pub name: String,
    /// The input is (value - mean) / scale, for values 0..=255.
    #[serde(default = "half_range")]
    pub mean: f32,
    #[serde(default = "half_range")]
    pub scale: f32,
    #[serde(default)]
    pub channels: ChannelOrder,
    /// Similarity from which on two faces count as one person.
    threshold: f32,
    /// Logistic regression of "one person" on the similarity, if it was fitted.
    probability: Option<Logistic>,
}

fn half_range() -> f32 {
    127.5
}

/// probability = 1 / (1 + exp(-(slope * similarity + intercept)))
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logistic {
    pub slope: f32,
    pub intercept: f32,
}

/// From similarity to decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    pub threshold: Threshold,
    pub logistic: Option<Logistic>,
}

impl Calibration {
    /// Probability that two faces of this similarity show one person, when both answers are equally likely beforehand.
    /// At least 0.0001 and at most 0.9999: what a regression says beyond that, its data do not.
    pub fn probability(&self, similarity: f32) -> Option<f32> {
        let Logistic { slope, intercept } = self.logistic?;
        let fitted = 1.0 / (1.0 + (-(slope * similarity + intercept)).exp());
        Some(fitted.clamp(LEAST_DOUBT, 1.0 - LEAST_DOUBT))
    }
}

impl Manifest {
    /// The facts about the weights file `weights` whose sha256 is `sha256` in hexadecimal.
    pub fn of(weights: &Path, sha256: &str) -> Result<Self, ManifestError> {
        let path = weights.with_extension("toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|message| ManifestError::Malformed { path, message }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match sha256 {
                MOBILEFACENET_512 => Ok(mobilefacenet_512()),
                _ => Err(ManifestError::Missing { weights: weights.to_owned(), manifest: path }),
            },
            Err(source) => Err(ManifestError::Unreadable { path, source }),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if manifest.name.is_empty() || manifest.name.len() > 255 {
            return Err("name: 1 to 255 characters are expected".to_owned());
        }
        if !(manifest.scale.is_finite() && manifest.scale != 0.0 && manifest.mean.is_finite()) {
            return Err("mean and scale: finite numbers are expected, scale not 0".to_owned());
        }
        Threshold::try_from(manifest.threshold).map_err(|error| error.to_string())?;
        if manifest.probability.is_some_and(|l| !(l.slope > 0.0 && l.slope.is_finite() && l.intercept.is_finite())) {
            return Err("probability: finite numbers are expected, slope above 0".to_owned());
        }
        Ok(manifest)
    }

    pub fn calibration(&self) -> Calibration {
        let threshold = Threshold::try_from(self.threshold).expect("`parse` checked the threshold");
        Calibration { threshold, logistic: self.probability }
    }
}

/// Threshold and logistic regression were measured as README.md's section "Threshold and probability" tells.
fn mobilefacenet_512() -> Manifest {
    Manifest {
        name: "mobilefacenet-512".to_owned(),
        mean: 127.5,
        scale: 127.5,
        channels: ChannelOrder::Rgb,
        threshold: 0.41,
        probability: Some(Logistic { slope: 56.6, intercept: -20.23 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_describes_a_network() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("net.onnx");
        assert!(matches!(Manifest::of(&weights, "00"), Err(ManifestError::Missing { .. })));
        std::fs::write(folder.path().join("net.toml"), "name = \"net\"\nthreshold = 0.3\nchannels = \"bgr\"\n")
            .unwrap();
        let manifest = Manifest::of(&weights, "00").unwrap();
        assert_eq!((manifest.mean, manifest.channels), (127.5, ChannelOrder::Bgr));
        assert_eq!(manifest.calibration().threshold.get(), 0.3);
        assert_eq!(manifest.calibration().probability(0.5), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["name = \"\"\nthreshold = 0.3", "name = \"n\"\nthreshold = 3", "name = \"n\"\nthreshold = 0.3\nscale = 0"]
        {
            assert!(Manifest::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_probability_at_the_bundled_threshold_is_even_or_better() {
        let calibration = mobilefacenet_512().calibration();
        let at = calibration.probability(calibration.threshold.get()).unwrap();
        assert!((0.5..0.9999).contains(&at), "{at}");
        assert!(calibration.probability(0.9) > calibration.probability(0.1));
    }
}
