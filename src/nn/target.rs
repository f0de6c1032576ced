//! Where a network runs, and in which number format.

use std::cell::Cell;
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

/// Which convolutions networks run with on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// The fastest of ours that the processor runs, else libtorch's.
    #[default]
    Auto,
    /// Ours for AVX-512, in bfloat16 where the processor multiplies it.
    Avx512,
    /// Ours for AVX2, in float32.
    Avx2,
    /// None of ours.
    Libtorch,
}

impl Kernels {
    /// The family for activations of `kind`; `None` stands for libtorch's own convolutions.
    pub(super) fn family(self, kind: Kind) -> Option<Family> {
        let candidates: &[Family] = match (self, kind) {
            (Self::Auto, Kind::Float) => &[Family::Avx512Float, Family::Avx2Float],
            (Self::Avx512, Kind::Float) => &[Family::Avx512Float],
            (Self::Avx2, Kind::Float) => &[Family::Avx2Float],
            (Self::Auto | Self::Avx512, Kind::BFloat16) => &[Family::Avx512Bf16],
            _ => &[],
        };
        candidates.iter().copied().find(|family| family.is_available())
    }

    /// Whether this processor runs them, and this build has them.
    pub fn are_available(self) -> bool {
        match self {
            Self::Auto | Self::Libtorch => true,
            Self::Avx512 => Family::Avx512Float.is_available(),
            Self::Avx2 => Family::Avx2Float.is_available(),
        }
    }

    /// Whether they have instructions for bfloat16, without which it is slower than float32.
    pub fn multiply_bf16(self) -> bool {
        self.family(Kind::BFloat16).is_some()
    }
}

impl Precision {
    /// What `auto` stands for on a GPU, or on the CPU with these kernels.
    ///
    /// A rule, not a measurement at start-up, so that a machine gives the same embeddings from one start to the next.
    /// On CUDA half precision; on a processor with AVX-512 BF16 that format, which is twice as fast there; else
    /// float32, because without the instruction bfloat16 has to be emulated.
    pub fn auto(on_gpu: bool, kernels: Kernels) -> Self {
        match on_gpu {
            true => Self::Fp16,
            false if kernels.multiply_bf16() => Self::Bf16,
            false => Self::Fp32,
        }
    }

    /// The type of tensors.
    pub fn kind(self) -> Kind {
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
    /// Of the CPU.
    pub kernels: Kernels,
}

impl Target {
    /// The processor, in float32, with the fastest kernels.
    pub const CPU: Self = Self::cpu(Precision::Fp32);

    pub const fn cpu(precision: Precision) -> Self {
        Self { device: Device::Cpu, precision, kernels: Kernels::Auto }
    }

    /// A CUDA device by number; [`load_cuda`] says how many there are.
    pub const fn cuda(number: usize, precision: Precision) -> Self {
        Self { device: Device::Cuda(number), precision, kernels: Kernels::Auto }
    }

    pub fn is_gpu(&self) -> bool {
        matches!(self.device, Device::Cuda(_))
    }

    /// Its name as `--device` takes it.
    pub fn name(&self) -> String {
        match self.device {
            Device::Cuda(number) => format!("cuda:{number}"),
            _ => "cpu".to_owned(),
        }
    }

    /// The same with other kernels on the CPU.
    pub const fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// The family of our convolutions that networks run with, if any.
    pub(super) fn family(&self) -> Option<Family> {
        if self.device == Device::Cpu { self.kernels.family(self.precision.kind()) } else { None }
    }

    /// Which convolutions networks run with: those of an instruction set, or libtorch's own.
    pub fn family_name(&self) -> &'static str {
        self.family().map_or("libtorch", Family::name)
    }
}

thread_local! {
    /// Threads that passes of this thread may use, and what libtorch was last told.
    static THREADS: Cell<usize> = const { Cell::new(1) };
    static OF_LIBTORCH: Cell<usize> = const { Cell::new(0) };
}

/// Lets passes that this thread starts use `count` threads, itself counted; one without this.
pub fn use_threads(count: usize) {
    THREADS.set(count);
    shim::use_threads(i32::try_from(count).unwrap_or(i32::MAX));
}

/// Tells libtorch how many threads its own operations may use: all of them where a network has no other operations.
///
/// It keeps the number per thread, so that threads which start passes do not disturb each other. Its threads wait
/// actively, so they are kept out of networks whose convolutions have threads of their own.
pub(super) fn use_libtorch_threads(has_own: bool) {
    let count = if has_own { 1 } else { THREADS.get() };
    if OF_LIBTORCH.replace(count) != count {
        tch::set_num_threads(i32::try_from(count).unwrap_or(i32::MAX));
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
