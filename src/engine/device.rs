//! On which devices the networks run, and in which precision.

use tracing::{info, warn};

use super::EngineError;
use crate::config::{DeviceChoice, EngineConfig, PrecisionChoice};
use crate::nn::{Family, Precision, Target, load_cuda};

/// The targets that the configuration asks for, at least one.
///
/// `auto` takes every GPU, or the CPU where there is none, with a warning if a GPU seems to be there. A GPU that is
/// asked for by name and cannot be had is an error.
pub fn targets(config: &EngineConfig) -> Result<Vec<Target>, EngineError> {
    let gpus = || load_cuda(config.cuda_libraries.as_deref());
    let devices = match config.device {
        DeviceChoice::Cpu => Vec::new(),
        DeviceChoice::Auto => match gpus() {
            Ok(count) => (0..count).collect(),
            Err(error) => {
                if has_gpu() {
                    warn!(%error, "there is a GPU, but it cannot be used; running on the CPU");
                } else {
                    info!(%error, "no GPU; running on the CPU");
                }
                Vec::new()
            }
        },
        DeviceChoice::Cuda(wanted) => {
            let count = gpus().map_err(|error| EngineError::Device(format!("--device {}: {error}", config.device)))?;
            match wanted {
                None => (0..count).collect(),
                Some(number) if number < count => vec![number],
                Some(_) => {
                    let message = format!("--device {}: there are {count} CUDA devices", config.device);
                    return Err(EngineError::Device(message));
                }
            }
        }
    };
    if devices.is_empty() {
        return Ok(vec![Target::cpu(precision(config.precision, false)?)]);
    }
    let precision = precision(config.precision, true)?;
    Ok(devices.into_iter().map(|number| Target::cuda(number, precision)).collect())
}

fn precision(choice: PrecisionChoice, on_gpu: bool) -> Result<Precision, EngineError> {
    match choice {
        PrecisionChoice::Auto => Ok(Precision::auto(on_gpu)),
        PrecisionChoice::Fp32 => Ok(Precision::Fp32),
        PrecisionChoice::Fp16 if on_gpu => Ok(Precision::Fp16),
        PrecisionChoice::Fp16 => Err(EngineError::Device("--precision fp16 needs a GPU; the CPU has bf16".to_owned())),
        PrecisionChoice::Bf16 => {
            if !on_gpu && !Family::Avx512Bf16.is_available() {
                warn!("this processor has no instructions for bf16, which will be slow; fp32 is faster here");
            }
            Ok(Precision::Bf16)
        }
    }
}

/// Whether NVIDIA's driver is loaded, so that its GPU is wanted but something is missing.
fn has_gpu() -> bool {
    std::path::Path::new("/proc/driver/nvidia/version").exists()
}
