//! From interleaved RGB bytes to the tensor that a network reads.

use tch::{Device, Kind, Tensor};

use super::error::NetworkError;
use super::network::Network;
use super::shim;
use crate::types::{ChipCrop, InputSize};

/// Which colour a network's first input channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channels {
    #[default]
    Rgb,
    Bgr,
}

/// What a network was trained to read: `(pixel - mean) / scale` of pixels 0..=255, `mean` in the order red, green,
/// blue; its first channel red or blue.
pub(super) struct Normalisation {
    pub mean: [f32; 3],
    pub scale: f32,
    pub channels: Channels,
}

/// Pixels that go through at once. On the CPU a larger pass gets slower, since what one layer hands to the next no longer fits
/// the cache (an embedder knows better, see there). On GPUs memory is the limit, and that no tensor may hold more than 2^28
/// numbers: 64 images for the detector, all chips of a batch.
const CPU_PIXELS: usize = 4 * 112 * 112;
const GPU_PIXELS: usize = 64 * 640 * 480;

/// How many images of a size go through `network` at once, at least one.
pub(super) fn images_per_run((width, height): (u32, u32), network: &Network) -> usize {
    let pixels = if network.device() == Device::Cpu { CPU_PIXELS } else { GPU_PIXELS };
    (pixels / (width as usize * height as usize).max(1)).max(1)
}

/// Stacks RGB images of `width x height`, `width * height * 3` bytes each, into `N x 3 x H x W` as `network` reads it,
/// in channels-last order on the CPU.
pub(super) fn batch(
    images: &[&[u8]],
    size: (u32, u32),
    normalisation: &Normalisation,
    network: &Network,
) -> Result<Tensor, NetworkError> {
    stack(images, size, normalisation, network.device(), network.kind())
}

/// The same on a device, in a type: float or bfloat16, on a GPU also half.
pub(super) fn stack(
    images: &[&[u8]],
    (width, height): (u32, u32),
    normalisation: &Normalisation,
    device: Device,
    kind: Kind,
) -> Result<Tensor, NetworkError> {
    let bytes = width as usize * height as usize * 3;
    if bytes == 0 || images.iter().any(|image| image.len() != bytes) {
        return Err(NetworkError::InputShape {
            expected: format!("{width}x{height} RGB, {bytes} bytes each"),
            given: format!("images of {:?} bytes", images.iter().map(|image| image.len()).collect::<Vec<_>>()),
        });
    }
    let &Normalisation { mean, scale, channels } = normalisation;
    let bgr = channels == Channels::Bgr;
    if device == Device::Cpu {
        let bf16 = kind == Kind::BFloat16;
        return shim::pixels(images, (width, height), mean, scale, bgr, bf16).map_err(NetworkError::Torch);
    }
    // Bytes cross to the device, a quarter of the floats; page-locked, so that the copy needs no second one.
    let shape = [images.len() as i64, i64::from(height), i64::from(width), 3];
    let pinned = shim::pinned(images).map_err(NetworkError::Torch)?.f_reshape(shape)?;
    let pixels = pinned.f_to_device_(device, Kind::Uint8, true, false)?;
    let mean = Tensor::f_from_slice(&mean)?.f_to_device(device)?;
    let scaled = pixels.f_to_kind(Kind::Float)?.f_sub(&mean)?.f_div_scalar(f64::from(scale))?;
    let ordered = if bgr { scaled.f_flip([3])? } else { scaled };
    // Colour by colour, as libtorch's own kernels for depthwise convolutions want it (see onnx/ops/conv.rs).
    Ok(ordered.f_permute([0, 3, 1, 2])?.f_to_kind(kind)?.f_contiguous()?)
}

/// A part of images `N x 3 x H x W` in another size: bilinear, pixels by their middles, as OpenCV's `INTER_LINEAR` does.
pub(super) fn part(images: &Tensor, crop: ChipCrop, size: InputSize) -> Result<Tensor, NetworkError> {
    let [x, y, width, height] = [crop.x, crop.y, crop.width, crop.height].map(i64::from);
    let part = images.f_narrow(2, y, height)?.f_narrow(3, x, width)?;
    if size == crop.size() {
        return Ok(part);
    }
    Ok(part.f_upsample_bilinear2d([i64::from(size.height), i64::from(size.width)], false, None, None)?)
}

/// The tensor's numbers, row by row.
pub(super) fn to_floats(tensor: &Tensor) -> Result<Vec<f32>, NetworkError> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let mut numbers = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut numbers, tensor.numel())?;
    Ok(numbers)
}
