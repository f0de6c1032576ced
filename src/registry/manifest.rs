//! What is known of an embedder's weights: facts that belong to their file.
//!
//! The networks that `make setup` brings are known by their sha256. Any other has them in a TOML file beside it:
//! `my-net.onnx` and `my-net.toml`.

mod bundled;
mod joined;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use super::calibration::{Calibration, Fidelity, Logistic, NormScale};
use crate::evaluation::{FmrCurve, FmrPoint, GenuineCurve, GenuinePoint};
use crate::types::{ChipCrop, InputSize, Threshold, hex, without_mark};

#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid: {message}")]
    Malformed { path: PathBuf, message: String },
    #[error("{weights} is not a network that faceid knows: describe it in {manifest} (see docs/networks.md)")]
    Missing { weights: PathBuf, manifest: PathBuf },
    /// What it says cannot be, such as rates that do not fall.
    #[error("this manifest cannot be used: {0}")]
    Unusable(String),
}

/// Order of the colour channels of a network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    #[default]
    Rgb,
    Bgr,
}

impl ChannelOrder {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rgb => "rgb",
            Self::Bgr => "bgr",
        }
    }
}

/// Facts about an embedder's weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Of the weights, for whoever passes them or what was made from them on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// What is known of the photos that it was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<String>,
    /// Similarity from which on two faces count as one person.
    threshold: f32,
    /// The part of the chip that the network reads; the whole if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<ChipCrop>,
    /// The size that this part is brought to; it stays what it is if none is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<InputSize>,
    /// Logistic regression of "one person" on the similarity, if it was fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<Logistic>,
    /// Thresholds at false match rates, if they were measured; highest rate first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fmr: Vec<FmrPoint>,
    /// How similar pairs of one person are, if it was measured; smallest share first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    genuine: Vec<GenuinePoint>,
    /// What tells a face from what is none, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    anomaly: Option<NormScale>,
    /// What the length of an embedding says of the photo, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    fidelity: Option<Fidelity>,
}

fn half_range() -> f32 {
    127.5
}

impl Manifest {
    /// The facts about the weights file `weights` whose sha256 is `sha256` in hexadecimal.
    pub fn of(weights: &Path, sha256: &str) -> Result<Self, ManifestError> {
        let path = weights.with_extension("toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|message| ManifestError::Malformed { path, message }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bundled::of(sha256)
                .ok_or_else(|| ManifestError::Missing { weights: weights.to_owned(), manifest: path }),
            Err(source) => Err(ManifestError::Unreadable { path, source }),
        }
    }

    /// A network of ours, which reads RGB in -1..=1, before it is calibrated: a threshold of 1 matches nothing but a face
    /// with itself.
    pub fn uncalibrated(name: String) -> Self {
        Self {
            name,
            mean: half_range(),
            scale: half_range(),
            channels: ChannelOrder::Rgb,
            licence: None,
            trained_on: None,
            threshold: 1.0,
            crop: None,
            size: None,
            probability: None,
            fmr: Vec::new(),
            genuine: Vec::new(),
            anomaly: None,
            fidelity: None,
        }
    }

    /// A network that was made from this one, with its input and licence, before it is calibrated.
    pub fn successor(&self, name: String) -> Self {
        let Self { mean, scale, channels, crop, size, ref licence, ref trained_on, .. } = *self;
        let trained_on = trained_on.as_ref().map(|base| format!("{base}; then enrolled faces"));
        Self { mean, scale, channels, crop, size, licence: licence.clone(), trained_on, ..Self::uncalibrated(name) }
    }

    /// The same network with other figures.
    pub(super) fn recalibrated(
        &self,
        threshold: Threshold,
        probability: Option<Logistic>,
        fmr: Vec<FmrPoint>,
        genuine: Vec<GenuinePoint>,
    ) -> Result<Self, ManifestError> {
        let manifest = Self { threshold: threshold.get(), probability, fmr, genuine, ..self.clone() };
        manifest.checked().map_err(ManifestError::Unusable)
    }

    /// Whether thresholds at false match rates are known.
    pub fn has_rates(&self) -> bool {
        !self.fmr.is_empty()
    }

    /// A manifest as text.
    pub fn from_toml(text: &str) -> Result<Self, ManifestError> {
        Self::parse(text).map_err(ManifestError::Unusable)
    }

    /// What [`Self::of`] reads, as text.
    pub fn to_toml(&self) -> Result<String, ManifestError> {
        toml::to_string(self).map_err(|error| ManifestError::Unusable(error.to_string()))
    }

    /// What the database holds of a model.
    pub(super) fn from_json(value: serde_json::Value) -> Result<Self, ManifestError> {
        let manifest: Self =
            serde_json::from_value(value).map_err(|error| ManifestError::Unusable(error.to_string()))?;
        manifest.checked().map_err(ManifestError::Unusable)
    }

    /// What faceid knows of weights by itself, by their sha256.
    pub fn known(sha256: &[u8; 32]) -> Option<Self> {
        bundled::of(&hex(sha256))
    }

    /// Whether weights are those that a new database began with until version 0.2: MobileFaceNet-512, now `--embedder fast`.
    pub fn is_former_default(sha256: &[u8; 32]) -> bool {
        hex(sha256) == bundled::MOBILEFACENET_512
    }

    /// What faceid knows of these weights by now, if this was known of them by an earlier version.
    pub fn renewed(&self, sha256: &[u8; 32]) -> Option<Self> {
        bundled::is_outdated(self).then(|| Self::known(sha256)).flatten()
    }

    /// The same with another name.
    pub fn named(self, name: String) -> Result<Self, ManifestError> {
        Self { name, ..self }.checked().map_err(ManifestError::Unusable)
    }

    /// What it says otherwise than `known` does of the same weights, for people. Figures that it lacks it does not deny:
    /// they may have been measured since.
    pub fn differences(&self, known: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |what: &str, said: &dyn std::fmt::Debug, known: &dyn std::fmt::Debug| {
            differences.push(format!("its {what} is {known:?}, not {said:?}"));
        };
        if self.name != known.name {
            differ("name", &self.name, &known.name);
        }
        for (what, said, known) in [
            ("threshold", self.threshold, known.threshold),
            ("mean", self.mean, known.mean),
            ("scale", self.scale, known.scale),
        ] {
            if said != known {
                differ(what, &said, &known);
            }
        }
        if self.channels != known.channels {
            differ("order of channels", &self.channels.as_str(), &known.channels.as_str());
        }
        let others = [
            ("crop", self.part() != known.part()),
            ("size", self.input_size() != known.input_size()),
            ("licence", self.licence.is_some() && self.licence != known.licence),
            ("probability", self.probability.is_some() && self.probability != known.probability),
            ("false match rates", !self.fmr.is_empty() && self.fmr != known.fmr),
            ("similarities of one person", !self.genuine.is_empty() && self.genuine != known.genuine),
            ("anomaly scale", self.anomaly.is_some() && self.anomaly != known.anomaly),
            ("fidelity", self.fidelity.is_some() && self.fidelity != known.fidelity),
        ];
        differences
            .extend(others.iter().filter(|(_, differs)| *differs).map(|(what, _)| format!("its {what} differs")));
        differences
    }

    /// The part of the chip that the network reads.
    pub fn part(&self) -> ChipCrop {
        self.crop.unwrap_or(ChipCrop::WHOLE)
    }

    /// The size that the part is brought to.
    pub fn input_size(&self) -> InputSize {
        self.size.unwrap_or(self.part().size())
    }

    /// The same with another threshold.
    pub fn with_threshold(self, threshold: Threshold) -> Self {
        Self { threshold: threshold.get(), ..self }
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str::<Self>(without_mark(text)).map_err(|error| error.to_string())?.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let manifest = self;
        if manifest.name.is_empty() || manifest.name.len() > 255 {
            return Err("name: 1 to 255 characters are expected".to_owned());
        }
        if !(manifest.scale.is_finite() && manifest.scale != 0.0 && manifest.mean.is_finite()) {
            return Err("mean and scale: finite numbers are expected, scale not 0".to_owned());
        }
        manifest.part().check()?;
        manifest.input_size().check()?;
        Threshold::try_from(manifest.threshold).map_err(|error| error.to_string())?;
        if manifest.probability.is_some_and(|l| !(l.slope > 0.0 && l.slope.is_finite() && l.intercept.is_finite())) {
            return Err("probability: finite numbers are expected, slope above 0".to_owned());
        }
        if manifest.anomaly.is_some_and(|a| !(a.width > 0.0 && a.width.is_finite() && a.middle.is_finite())) {
            return Err("anomaly: finite numbers are expected, width above 0".to_owned());
        }
        if manifest.fidelity.is_some_and(|fidelity| !fidelity.is_valid()) {
            return Err("fidelity: finite numbers are expected, slope and width above 0".to_owned());
        }
        check_fmr(&manifest.fmr)?;
        check_genuine(&manifest.genuine)?;
        Ok(manifest)
    }

    pub fn calibration(&self) -> Calibration {
        let threshold = Threshold::try_from(self.threshold).expect("`parse` checked the threshold");
        Calibration {
            threshold,
            logistic: self.probability,
            curve: FmrCurve::new(self.fmr.clone()),
            genuine: GenuineCurve::new(&self.genuine),
            anomaly: self.anomaly,
            fidelity: self.fidelity,
        }
    }
}

/// Rates fall, thresholds rise, and intervals hold their thresholds.
fn check_fmr(points: &[FmrPoint]) -> Result<(), String> {
    for point in points {
        let FmrPoint { rate, threshold, low, high } = *point;
        if !(rate > 0.0 && rate < 1.0 && -1.0 <= low && low <= threshold && threshold <= high && high <= 1.0) {
            return Err(format!(
                "fmr: {rate}: a rate above 0 and below 1 and -1 <= low <= threshold <= high <= 1 are expected"
            ));
        }
    }
    let falls = |pair: &[FmrPoint]| pair[0].rate > pair[1].rate && pair[0].threshold < pair[1].threshold;
    if points.windows(2).all(falls) {
        Ok(())
    } else {
        Err("fmr: falling rates with rising thresholds are expected".to_owned())
    }
}

/// Shares and similarities rise.
fn check_genuine(points: &[GenuinePoint]) -> Result<(), String> {
    let possible =
        points.iter().all(|point| point.share > 0.0 && point.share < 1.0 && (-1.0..=1.0).contains(&point.similarity));
    let rises = |pair: &[GenuinePoint]| pair[0].share < pair[1].share && pair[0].similarity < pair[1].similarity;
    if possible && points.windows(2).all(rises) {
        return Ok(());
    }
    Err("genuine: rising shares between 0 and 1 with rising similarities from -1 to 1 are expected".to_owned())
}

#[cfg(test)]
pub(super) use bundled::mobilefacenet_512;

#[cfg(test)]
mod tests {
    use super::bundled::mobilefacenet_512;
    use super::*;

    #[test]
    fn a_manifest_describes_a_network() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("net.onnx");
        assert!(matches!(Manifest::of(&weights, "00"), Err(ManifestError::Missing { .. })));
        std::fs::write(folder.path().join("net.toml"), "\u{feff}name = \"net\"\nthreshold = 0.3\nchannels = \"bgr\"\n")
            .unwrap();
        let manifest = Manifest::of(&weights, "00").unwrap();
        assert_eq!((manifest.mean, manifest.channels), (127.5, ChannelOrder::Bgr));
        assert_eq!(manifest.calibration().threshold.get(), 0.3);
        assert_eq!(manifest.calibration().probability(0.5, 1), None);
    }

    #[test]
    fn what_was_measured_is_written_and_read() {
        let bundled = mobilefacenet_512();
        let fmr = vec![
            FmrPoint { rate: 1e-2, threshold: 0.31, low: 0.29, high: 0.33 },
            FmrPoint { rate: 1e-6, threshold: 0.52, low: 0.49, high: 0.6 },
        ];
        let genuine =
            vec![GenuinePoint { share: 0.01, similarity: 0.3 }, GenuinePoint { share: 0.5, similarity: 0.65 }];
        let threshold = Threshold::try_from(0.44).unwrap();
        let text = bundled.recalibrated(threshold, None, fmr.clone(), genuine.clone()).unwrap().to_toml().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("net.toml"), &text).unwrap();
        let read = Manifest::of(&folder.path().join("net.onnx"), "00").unwrap();
        assert_eq!((read.mean, read.scale, read.channels), (bundled.mean, bundled.scale, bundled.channels));
        let calibration = read.calibration();
        assert_eq!((calibration.threshold, calibration.logistic), (threshold, None));
        assert_eq!((&read.fmr, &read.genuine, calibration.anomaly), (&fmr, &genuine, bundled.anomaly));
        assert!(text.contains("threshold = 0.44\n") && text.contains("[[fmr]]"), "{text}");
        let falling = fmr.into_iter().rev().collect();
        assert!(matches!(bundled.recalibrated(threshold, None, falling, Vec::new()), Err(ManifestError::Unusable(_))));
    }

    #[test]
    fn a_network_may_read_a_part_of_the_chip_in_another_size() {
        let text = "name = \"0095\"\nmean = 0\nscale = 1\nchannels = \"bgr\"\nthreshold = 0.43\n\
                    crop = { x = 8, y = 0, width = 96, height = 112 }\nsize = { width = 128, height = 128 }\n";
        let manifest = Manifest::from_toml(text).unwrap();
        let (part, size) = (ChipCrop { x: 8, y: 0, width: 96, height: 112 }, InputSize { width: 128, height: 128 });
        assert_eq!((manifest.part(), manifest.input_size()), (part, size));
        assert_eq!(Manifest::from_toml(&manifest.to_toml().unwrap()).unwrap(), manifest);
        assert_eq!(Manifest::from_json(serde_json::to_value(&manifest).unwrap()).unwrap(), manifest);
        assert_eq!(manifest.successor("next".to_owned()).part(), part);
        let whole = Manifest { crop: None, size: None, ..manifest.clone() };
        assert_eq!(whole.input_size(), ChipCrop::WHOLE.size());
        assert_eq!(manifest.differences(&whole), ["its crop differs", "its size differs"]);
        // What is cut out is read as it is, unless a size is said.
        assert_eq!(Manifest { size: None, ..manifest }.input_size(), part.size());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "name = \"n\"\nthreshold = 0.3\n[[fmr]]\nrate = 2.0\nthreshold = 0.3\nlow = 0.2\nhigh = 0.4",
            "name = \"n\"\nthreshold = 0.3\n[anomaly]\nmiddle = 2.0\nwidth = 0.0",
            "name = \"n\"\nthreshold = 0.3\n[[genuine]]\nshare = 0.5\nsimilarity = 0.6\n[[genuine]]\nshare = 0.6\nsimilarity = 0.5",
            "name = \"\"\nthreshold = 0.3",
            "name = \"n\"\nthreshold = 3",
            "name = \"n\"\nthreshold = 0.3\nscale = 0",
            "name = \"n\"\nthreshold = 0.3\ncrop = { x = 20, y = 0, width = 96, height = 112 }",
            "name = \"n\"\nthreshold = 0.3\ncrop = { x = 8, width = 96 }",
            "name = \"n\"\nthreshold = 0.3\nsize = { width = 128, height = 128, depth = 3 }",
            "name = \"n\"\nthreshold = 0.3\nsize = { width = 12800, height = 128 }",
        ] {
            assert!(Manifest::parse(text).is_err(), "{text}");
        }
    }
}
