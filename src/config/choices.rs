//! Settings that are one of a few words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where networks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Every GPU, or the CPU where there is none.
    Auto,
    Cpu,
    /// One GPU by number, or every one; an error where there is none.
    Cuda(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(number)) => Ok(Self::Cuda(Some(number))),
                _ => Err(format!("{text:?} is no device: auto, cpu, cuda or cuda:N is expected")),
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The number format of the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// The fastest of the device.
    Auto,
    Fp32,
    Bf16,
    /// GPUs only.
    Fp16,
}

impl PrecisionChoice {
    /// What comes nearest on the CPU.
    pub(super) fn on_cpu(self) -> Self {
        if self == Self::Fp16 { Self::Auto } else { self }
    }
}

/// Which convolutions networks run with on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KernelsChoice {
    /// The fastest that the processor runs.
    Auto,
    Avx512,
    Avx2,
    /// Those of libtorch.
    Libtorch,
}

impl fmt::Display for KernelsChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Libtorch => "libtorch",
        })
    }
}

/// Where the templates of the active model are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SearchChoice {
    /// In memory as long as they fit `resident_memory`, else in Postgres.
    Auto,
    /// In Postgres.
    Pgvector,
    /// In memory, whatever it takes.
    Resident,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_written_as_they_are_read() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:11"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "cuda0"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
