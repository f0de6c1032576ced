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

/// When the bytes of what was erased are made to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReclaimChoice {
    Soon,
    Never,
    /// From the one hour of the day to the other, in UTC; over midnight if the second is the smaller one.
    Between(u32, u32),
}

impl ReclaimChoice {
    /// Whether it may be done in an hour of the day, 0..=23, in UTC.
    pub fn allows(self, hour: u32) -> bool {
        match self {
            Self::Soon => true,
            Self::Never => false,
            Self::Between(from, to) if from < to => (from..to).contains(&hour),
            Self::Between(from, to) => hour >= from || hour < to,
        }
    }
}

impl FromStr for ReclaimChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hour = |text: &str| text.parse().ok().filter(|hour| *hour <= 24 && text.len() <= 2);
        let hours = text.split_once('-').and_then(|(from, to)| hour(from).zip(hour(to)));
        match (text, hours) {
            ("soon", _) => Ok(Self::Soon),
            ("never", _) => Ok(Self::Never),
            (_, Some((from, to))) if from != to && from < 24 => Ok(Self::Between(from, to)),
            _ => Err(format!("{text:?} is no time: soon, never, or two hours of the day such as 02-05 are expected")),
        }
    }
}

impl fmt::Display for ReclaimChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soon => f.write_str("soon"),
            Self::Never => f.write_str("never"),
            Self::Between(from, to) => write!(f, "{from:02}-{to:02}"),
        }
    }
}

impl Serialize for ReclaimChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReclaimChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
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

    #[test]
    fn times_are_written_as_they_are_read_and_may_go_over_midnight() {
        for text in ["soon", "never", "02-05", "22-04", "00-24"] {
            assert_eq!(text.parse::<ReclaimChoice>().unwrap().to_string(), text);
        }
        for text in ["", "at night", "2", "5-5", "24-2", "02-25", "002-5", "-1-3", "+2-5 "] {
            assert!(text.parse::<ReclaimChoice>().is_err(), "{text:?}");
        }
        let night: ReclaimChoice = "22-04".parse().unwrap();
        assert_eq!((0..24).filter(|hour| night.allows(*hour)).collect::<Vec<_>>(), [0, 1, 2, 3, 22, 23]);
        let morning: ReclaimChoice = "2-5".parse().unwrap();
        assert_eq!((0..24).filter(|hour| morning.allows(*hour)).collect::<Vec<_>>(), [2, 3, 4]);
    }
}
