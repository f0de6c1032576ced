//! From interleaved RGB bytes to the tensor that a network reads.

use tch::{Device, Kind, Tensor};

use super::error::NetworkError;

/// Which colour a network's first input channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channels {
    #[default]
    Rgb,
    Bgr,
}

/// Stacks RGB images of `width x height` into `N x 3 x H x W` floats on `device`: `(pixel - mean) / scale`.
///
/// `mean` and `scale` are in the range of the pixels, 0..=255, `mean` in the order red, green, blue. Every image
/// must have `width * height * 3` bytes.
pub(super) fn batch(
    images: &[&[u8]],
    (width, height): (u32, u32),
    mean: [f32; 3],
    scale: f32,
    channels: Channels,
    device: Device,
) -> Result<Tensor, NetworkError> {
    let bytes = width as usize * height as usize * 3;
    if bytes == 0 || images.iter().any(|image| image.len() != bytes) {
        return Err(NetworkError::InputShape {
            expected: format!("{width}x{height} RGB, {bytes} bytes each"),
            given: format!("images of {:?} bytes", images.iter().map(|image| image.len()).collect::<Vec<_>>()),
        });
    }
    let size = [images.len() as i64, i64::from(height), i64::from(width), 3];
    let pixels = Tensor::f_from_slice(&images.concat())?.f_reshape(size)?.f_to_device(device)?;
    let mean = Tensor::f_from_slice(&mean)?.f_to_device(device)?;
    let scaled = pixels.f_to_kind(Kind::Float)?.f_sub(&mean)?.f_div_scalar(f64::from(scale))?;
    let ordered = match channels {
        Channels::Rgb => scaled,
        Channels::Bgr => scaled.f_flip([3])?,
    };
    // Only a view: in memory the colours of a pixel stay together ("channels last"), which convolutions run faster on.
    Ok(ordered.f_permute([0, 3, 1, 2])?)
}

/// The tensor's numbers, row by row.
pub(super) fn to_floats(tensor: &Tensor) -> Result<Vec<f32>, NetworkError> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let mut numbers = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut numbers, tensor.numel())?;
    Ok(numbers)
}
