//! What is known of several embedders that became one file.

use super::{Manifest, ManifestError};

const NOT_KNOWN: &str = "not known";

impl Manifest {
    /// Of a network that gives the embeddings of others side by side, before it is calibrated. It reads chips as they are: each
    /// part has what it wants done to them in itself.
    pub fn joined(parts: &[Self], name: Option<String>) -> Result<Self, ManifestError> {
        let all = |fact: fn(&Self) -> Option<&str>, between: &str| {
            parts.iter().map(|part| fact(part).unwrap_or(NOT_KNOWN)).collect::<Vec<_>>().join(between)
        };
        let named = name.unwrap_or_else(|| all(|part| Some(&part.name), "+"));
        let manifest = Self {
            mean: 0.0,
            scale: 1.0,
            licence: Some(all(|part| part.licence.as_deref(), "; ")),
            trained_on: Some(all(|part| part.trained_on.as_deref(), "; ")),
            ..Self::uncalibrated(named)
        };
        manifest.checked().map_err(ManifestError::Unusable)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bundled::{mobilefacenet_512, sface_128};
    use super::*;

    #[test]
    fn a_joined_network_says_where_its_parts_come_from() {
        let manifest = Manifest::joined(&[sface_128(), mobilefacenet_512()], None).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.mean, manifest.scale), ("sface-128+mobilefacenet-512", 0.0, 1.0));
        assert_eq!(manifest.licence.as_deref(), Some("Apache-2.0; MIT"));
        assert!(manifest.trained_on.clone().unwrap().ends_with("; not known"));
        assert_eq!(manifest.calibration().threshold.get(), 1.0);
        assert_eq!(Manifest::joined(&[manifest], Some("both".to_owned())).unwrap().name, "both");
    }
}
