//! The networks that `make setup` brings, known by their sha256.
//!
//! Measured on data/lfw, by its people (3,479 after the corrections of labels; one of their photos for each, drawn four times):
//! 6 million pairs of different people a draw, so rates are counted down to 1e-6; intervals are of a bootstrap over people.
//! Similarities of one person are those of 1,039 people with two photos or more, each of whom counts once. Thresholds that were
//! taken from half of the people held their rates on the other half (benches/RESULTS.md).

use super::{ChannelOrder, Manifest};
use crate::evaluation::{FmrPoint, GenuinePoint};
use crate::registry::calibration::{Fidelity, Logistic, NormScale};

const SFACE_128: &str = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee";
pub const MOBILEFACENET_512: &str = "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581";

/// What is known of weights with this sha256, in hexadecimal.
pub fn of(sha256: &str) -> Option<Manifest> {
    match sha256 {
        SFACE_128 => Some(sface_128()),
        MOBILEFACENET_512 => Some(mobilefacenet_512()),
        _ => None,
    }
}

/// Whether a manifest has the figures that version 0.2 gave MobileFaceNet-512: those of fifty people.
pub fn is_outdated(manifest: &Manifest) -> bool {
    manifest.probability == Some(Logistic { slope: 56.6, intercept: -20.23 })
}

/// Shares of the pairs of one person.
const SHARES: [f64; 14] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];

/// Of 2,010 faces the shortest embedding but for two has a length of 8.5, half of them 12.7; of 348 pieces of background
/// the longest has 8.3, half of them 3.7.
pub fn sface_128() -> Manifest {
    Manifest {
        name: "sface-128".to_owned(),
        // The network itself brings pixels into -1..=1.
        mean: 0.0,
        scale: 1.0,
        channels: ChannelOrder::Rgb,
        licence: Some("Apache-2.0".to_owned()),
        trained_on: Some("CASIA-WebFace, VGGFace2 or MS1M by its paper; which of them is not said".to_owned()),
        threshold: 0.423,
        crop: None,
        size: None,
        probability: Some(Logistic { slope: 36.76, intercept: -12.69 }),
        fmr: rates([
            (0.210, 0.209, 0.211),
            (0.262, 0.261, 0.263),
            (0.300, 0.299, 0.301),
            (0.337, 0.335, 0.338),
            (0.366, 0.365, 0.368),
            (0.396, 0.394, 0.398),
            (0.423, 0.420, 0.426),
            (0.448, 0.444, 0.452),
            (0.471, 0.464, 0.482),
            (0.496, 0.483, 0.519),
            (0.535, 0.499, 0.611),
        ]),
        genuine: genuine([
            0.321, 0.392, 0.438, 0.501, 0.548, 0.598, 0.636, 0.666, 0.693, 0.719, 0.741, 0.771, 0.814, 0.841,
        ]),
        anomaly: Some(NormScale { middle: 8.0, width: 0.6 }),
        fidelity: Some(Fidelity { intercept: -1.037, slope: 0.677, width: 0.06, shortest: 9.6 }),
    }
}

/// Of 546 faces all have a length of at least 2.3, half of them 3.8; of 99 pieces of background the longest has 2.3, half of
/// them 1.6.
pub fn mobilefacenet_512() -> Manifest {
    Manifest {
        name: "mobilefacenet-512".to_owned(),
        mean: 127.5,
        scale: 127.5,
        channels: ChannelOrder::Rgb,
        licence: Some("MIT".to_owned()),
        trained_on: None,
        threshold: 0.41,
        crop: None,
        size: None,
        probability: Some(Logistic { slope: 28.42, intercept: -7.88 }),
        fmr: rates([
            (0.132, 0.132, 0.133),
            (0.196, 0.195, 0.197),
            (0.246, 0.245, 0.247),
            (0.295, 0.293, 0.296),
            (0.335, 0.333, 0.337),
            (0.375, 0.373, 0.378),
            (0.410, 0.407, 0.414),
            (0.444, 0.438, 0.451),
            (0.473, 0.462, 0.491),
            (0.511, 0.493, 0.534),
            (0.554, 0.514, 0.576),
        ]),
        genuine: genuine([
            0.196, 0.280, 0.352, 0.430, 0.485, 0.551, 0.595, 0.629, 0.661, 0.689, 0.719, 0.752, 0.794, 0.827,
        ]),
        anomaly: Some(NormScale { middle: 2.2, width: 0.2 }),
        fidelity: Some(Fidelity { intercept: -0.188, slope: 0.660, width: 0.071, shortest: 2.6 }),
    }
}

/// (threshold, low, high) at the rates that calibrations are measured at.
fn rates(points: [(f32, f32, f32); 11]) -> Vec<FmrPoint> {
    let rates = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6];
    rates
        .into_iter()
        .zip(points)
        .map(|(rate, (threshold, low, high))| FmrPoint { rate, threshold, low, high })
        .collect()
}

fn genuine(similarities: [f32; 14]) -> Vec<GenuinePoint> {
    SHARES.into_iter().zip(similarities).map(|(share, similarity)| GenuinePoint { share, similarity }).collect()
}
