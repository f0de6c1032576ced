//! On which devices the networks run, and in which precision.

use tracing::{info, warn};

use super::EngineError;
use crate::config::{DeviceChoice, EngineConfig, KernelsChoice, PrecisionChoice};
use crate::nn::{Device, Kernels, Precision, Target, load_cuda};

/// The targets that the configuration asks for, at least one.
///
/// `auto` takes every GPU, or the CPU where there is none, with a warning if a GPU seems to be there. A GPU that is
/// asked for by name and cannot be had is an error.
pub fn targets(config: &EngineConfig) -> Result<Vec<Target>, EngineError> {
    let devices = match config.device {
        DeviceChoice::Cpu => Vec::new(),
        DeviceChoice::Auto => match load_cuda(config.cuda_libraries.as_deref()) {
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
            let count = count_for(config, "--device", config.device)?;
            wanted.map_or_else(|| (0..count).collect(), |number| vec![number])
        }
    };
    if devices.is_empty() {
        return Ok(vec![cpu_target(config.precision, config.kernels)?]);
    }
    let precision = precision(config.precision, true, Kernels::Auto)?;
    Ok(devices.into_iter().map(|number| Target::cuda(number, precision)).collect())
}

/// The GPU that searches galleries, if one is asked for: of several the first, unless it is named.
pub async fn search_device(config: EngineConfig) -> Result<Option<Device>, EngineError> {
    let DeviceChoice::Cuda(wanted) = config.search_device else { return Ok(None) };
    let counting = tokio::task::spawn_blocking(move || count_for(&config, "--search-device", config.search_device));
    counting.await.map_err(|_| EngineError::Loading)??;
    Ok(Some(Device::Cuda(wanted.unwrap_or(0))))
}

/// How many GPUs there are, if those are among them that a flag asks for.
fn count_for(config: &EngineConfig, flag: &str, choice: DeviceChoice) -> Result<usize, EngineError> {
    let failed = |reason: String| EngineError::Device(format!("{flag} {choice}: {reason}"));
    let count = load_cuda(config.cuda_libraries.as_deref()).map_err(|error| failed(error.to_string()))?;
    match choice {
        DeviceChoice::Cuda(Some(number)) if number >= count => Err(failed(format!("there are {count} CUDA devices"))),
        _ => Ok(count),
    }
}

/// The CPU, in the precision and with the kernels that the configuration asks for.
pub(super) fn cpu_target(choice: PrecisionChoice, kernels_choice: KernelsChoice) -> Result<Target, EngineError> {
    let kernels = match kernels_choice {
        KernelsChoice::Auto => Kernels::Auto,
        KernelsChoice::Avx512 => Kernels::Avx512,
        KernelsChoice::Avx2 => Kernels::Avx2,
        KernelsChoice::Libtorch => Kernels::Libtorch,
    };
    if !kernels.are_available() {
        let reason = "this processor does not run them; `auto` takes the fastest that it runs";
        return Err(EngineError::Device(format!("--kernels {kernels_choice}: {reason}")));
    }
    Ok(Target::cpu(precision(choice, false, kernels)?).with_kernels(kernels))
}

fn precision(choice: PrecisionChoice, on_gpu: bool, kernels: Kernels) -> Result<Precision, EngineError> {
    match choice {
        PrecisionChoice::Auto => Ok(Precision::auto(on_gpu, kernels)),
        PrecisionChoice::Fp32 => Ok(Precision::Fp32),
        PrecisionChoice::Fp16 if on_gpu => Ok(Precision::Fp16),
        PrecisionChoice::Fp16 => Err(EngineError::Device("--precision fp16 needs a GPU; the CPU has bf16".to_owned())),
        PrecisionChoice::Bf16 => {
            if !on_gpu && !kernels.multiply_bf16() {
                warn!("there are no instructions for bf16 here, so it will be slow; fp32 is faster");
            }
            Ok(Precision::Bf16)
        }
    }
}

/// Whether NVIDIA's driver is loaded, so that its GPU is wanted but something is missing.
fn has_gpu() -> bool {
    std::path::Path::new("/proc/driver/nvidia/version").exists()
}
