//! The sliding window that convolutions and pools share: its size, steps and what happens at the edges.

use tch::Tensor;

use super::pad::pad_constant;
use super::{Build, OpResult, refuse};

/// Larger windows, steps and pads are refused; sums and products of a few of them stay far from overflow.
const MAX_LENGTH: i64 = 1 << 16;

/// The attributes of a convolution or pool; `None` stands for ONNX's default, which depends on the rank.
pub struct Window {
    pub kernel: Option<Vec<i64>>,
    strides: Option<Vec<i64>>,
    dilations: Option<Vec<i64>>,
    padding: Padding,
}

enum Padding {
    /// All beginnings, then all ends.
    Explicit(Option<Vec<i64>>),
    /// So much that a step of 1 keeps the size; the odd pixel goes to the end or, if `lower`, to the beginning.
    Same { lower: bool },
}

/// A window along one axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    pub kernel: i64,
    pub stride: i64,
    pub dilation: i64,
    /// Pixels to add before and after.
    pub pads: (i64, i64),
}

impl Axis {
    /// How many pixels the window covers, gaps included.
    pub fn reach(&self) -> i64 {
        (self.kernel - 1) * self.dilation + 1
    }

    /// The length with the pads.
    pub fn padded(&self, length: i64) -> i64 {
        length + self.pads.0 + self.pads.1
    }

    /// In how many places the window fits into `length` pixels and the pads.
    pub fn positions(&self, length: i64) -> OpResult<i64> {
        match (self.padded(length) - self.reach()).div_euclid(self.stride) + 1 {
            count if count > 0 => Ok(count),
            _ => refuse!("a window of {} does not fit into {length} pixels", self.reach()),
        }
    }
}

impl Window {
    /// Takes the attributes that convolutions and pools have in common.
    pub fn take(build: &mut Build) -> OpResult<Self> {
        let attributes = &mut build.attributes;
        let kernel = attributes.ints("kernel_shape")?;
        let strides = attributes.ints("strides")?;
        let dilations = attributes.ints("dilations")?;
        let pads = attributes.ints("pads")?;
        let padding = match attributes.string_or("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" => Padding::Explicit(pads),
            "VALID" => Padding::Explicit(None),
            "SAME_UPPER" => Padding::Same { lower: false },
            "SAME_LOWER" => Padding::Same { lower: true },
            other => refuse!("auto_pad {other:?} is not supported"),
        };
        Ok(Self { kernel, strides, dilations, padding })
    }

    /// The window along each axis of an image of these lengths.
    pub fn axes(&self, kernel: &[i64], lengths: &[i64]) -> OpResult<Vec<Axis>> {
        let rank = lengths.len();
        if kernel.len() != rank {
            refuse!("a window with {} dimensions over an image with {rank}", kernel.len());
        }
        let strides = list(&self.strides, rank, 1)?;
        let dilations = list(&self.dilations, rank, 1)?;
        check_range(kernel, 1)?;
        let mut axes = Vec::new();
        for place in 0..rank {
            let (kernel, stride, dilation) = (kernel[place], strides[place], dilations[place]);
            axes.push(Axis { kernel, stride, dilation, pads: (0, 0) });
        }
        match &self.padding {
            Padding::Explicit(pads) => {
                let pads = list(pads, rank * 2, 0)?;
                axes.iter_mut().enumerate().for_each(|(place, axis)| axis.pads = (pads[place], pads[place + rank]));
            }
            Padding::Same { lower } => {
                for (axis, length) in axes.iter_mut().zip(lengths) {
                    let steps = (length - 1).max(0) / axis.stride;
                    let total = (steps * axis.stride + axis.reach() - length).max(0);
                    let (less, more) = (total / 2, total - total / 2);
                    axis.pads = if *lower { (more, less) } else { (less, more) };
                }
            }
        }
        Ok(axes)
    }
}

/// The list or, if it is absent, the default everywhere; the default is also the smallest number allowed.
fn list(given: &Option<Vec<i64>>, length: usize, default: i64) -> OpResult<Vec<i64>> {
    let list = given.clone().unwrap_or_else(|| vec![default; length]);
    if list.len() != length {
        refuse!("{} numbers where {length} are needed", list.len());
    }
    check_range(&list, default)?;
    Ok(list)
}

fn check_range(list: &[i64], least: i64) -> OpResult<()> {
    match list.iter().find(|number| !(least..=MAX_LENGTH).contains(number)) {
        None => Ok(()),
        Some(number) => refuse!("{number} is not a length from {least} to {MAX_LENGTH}"),
    }
}

/// Adds the pads to the image itself, for windows whose pads differ at the two ends, which torch does not have.
pub fn pad_image(x: &Tensor, pads: impl IntoIterator<Item = (i64, i64)>, value: f64) -> OpResult<Tensor> {
    let pads: Vec<_> = [(0, 0), (0, 0)].into_iter().chain(pads).collect();
    pad_constant(x, &pads, value)
}

/// Batch, channels and the lengths of an image with one to three dimensions.
pub fn image_size(x: &Tensor) -> OpResult<(i64, i64, Vec<i64>)> {
    match x.size()[..] {
        [batch, channels, ref lengths @ ..] if (1..=3).contains(&lengths.len()) => {
            Ok((batch, channels, lengths.to_vec()))
        }
        ref other => refuse!("an image has the shape N x C x ..., this has {other:?}"),
    }
}
