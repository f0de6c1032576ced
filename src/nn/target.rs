//! Where a network runs, and in which number format.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::error::NetworkError;
use super::shim::{self, Family};

/// The number format of weights and activations; sums are always kept in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Fp32,
    Bf16,
    Fp16,
}

impl Precision {
    /// What `auto` stands for on a device.
    ///
    /// A rule, not a measurement at start-up, so that a machine gives the same embeddings from one start to the next.
    /// On CUDA half precision; on a processor with AVX-512 BF16 that format, which is twice as fast there; else
    /// float32, because without the instruction bfloat16 has to be emulated.
    pub fn auto(device: Device) -> Self {
        match device {
            Device::Cuda(_) => Self::Fp16,
            _ if Family::best(Kind::BFloat16).is_some() => Self::Bf16,
            _ => Self::Fp32,
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::Fp16 => Kind::Half,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        })
    }
}

/// Where a network runs, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    pub device: Device,
    pub precision: Precision,
}

impl Target {
    /// The processor, in float32.
    pub const CPU: Self = Self { device: Device::Cpu, precision: Precision::Fp32 };

    /// Which convolutions of ours a network runs with on this target: an instruction set, or libtorch's own.
    pub fn kernels(&self) -> &'static str {
        let family = if self.device == Device::Cpu { Family::best(self.precision.kind()) } else { None };
        family.map_or("libtorch", Family::name)
    }
}

/// Opens CUDA's part of libtorch, `libtorch_cuda.so` in `folder` or on the library path, and counts the devices.
///
/// The binary is linked without it, so that it also starts on machines without a GPU. The error says what is missing.
pub fn load_cuda(folder: Option<&Path>) -> Result<usize, NetworkError> {
    let name = Path::new("libtorch_cuda.so");
    let path = folder.map_or_else(|| name.to_owned(), |folder| folder.join(name));
    shim::open_library(&path).map_err(NetworkError::NoCuda)?;
    match tch::Cuda::device_count() {
        count if count > 0 => Ok(count as usize),
        _ => Err(NetworkError::NoCuda("libtorch sees no CUDA device".to_owned())),
    }
}
