//! Convolutions.

use tch::{Device, Tensor};

use super::window::{Axis, Window, image_size, pad_image};
use super::{Build, Inputs, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::element_count;

pub fn conv(build: &mut Build) -> OpResult<Run> {
    let window = Window::take(build)?;
    let groups = build.attributes.int_or("group", 1)?;
    single(move |inputs| {
        let (x, weight, bias) = operands(inputs, &window)?;
        let (batch, _, lengths) = image_size(x)?;
        let axes = window.axes(&weight.size()[2..], &lengths)?;
        let mut size = vec![batch, weight.size()[0]];
        for (axis, length) in axes.iter().zip(&lengths) {
            size.push(axis.positions(*length)?);
        }
        element_count(&size)?;
        let symmetric = axes.iter().all(|axis| axis.pads.0 == axis.pads.1);
        let padded = if symmetric { x.shallow_clone() } else { pad_image(x, axes.iter().map(|axis| axis.pads), 0.0)? };
        let pads = each(&axes, |axis| if symmetric { axis.pads.0 } else { 0 });
        let (strides, dilations) = (each(&axes, |axis| axis.stride), each(&axes, |axis| axis.dilation));
        if is_depthwise(x, weight, groups) && x.device() != Device::Cpu {
            // libtorch would give it to cuDNN, which compiles a program for each new size of a batch: a tenth of a second
            // for each of the network's convolutions.
            let kernel = &weight.size()[2..];
            return Ok(padded.f_internal_conv_depthwise2d(weight, kernel, bias, strides, pads, dilations)?);
        }
        Ok(padded.f_convolution(weight, bias, strides, pads, dilations, false, vec![0; axes.len()], groups)?)
    })
}

/// The transposed convolution: every input pixel adds the kernel, times its value, to the output.
pub fn conv_transpose(build: &mut Build) -> OpResult<Run> {
    if build.attributes.string_or("auto_pad", "NOTSET")? != "NOTSET" {
        refuse!("auto_pad is not supported");
    }
    let window = Window::take(build)?;
    let groups = build.attributes.int_or("group", 1)?;
    let output_padding = build.attributes.ints("output_padding")?;
    single(move |inputs| {
        let (x, weight, bias) = operands(inputs, &window)?;
        let (batch, _, lengths) = image_size(x)?;
        let axes = window.axes(&weight.size()[2..], &lengths)?;
        let extra = output_padding.clone().unwrap_or_else(|| vec![0; axes.len()]);
        if extra.len() != axes.len() || extra.iter().zip(&axes).any(|(extra, axis)| !(0..axis.stride).contains(extra)) {
            refuse!("output_padding {extra:?} does not fit the strides");
        }
        // Without pads the output has every pixel that a kernel touches; the pads say how many to cut off again.
        let mut size = vec![batch, weight.size()[1].saturating_mul(groups)];
        for ((axis, length), extra) in axes.iter().zip(&lengths).zip(&extra) {
            size.push((length - 1).max(0).saturating_mul(axis.stride).saturating_add(axis.reach() + extra));
        }
        element_count(&size)?;
        let (strides, dilations) = (each(&axes, |axis| axis.stride), each(&axes, |axis| axis.dilation));
        let no_pads = vec![0; axes.len()];
        let mut y = x.f_convolution(weight, bias, strides, no_pads, dilations, true, &extra, groups)?;
        for (place, axis) in axes.iter().enumerate().filter(|(_, axis)| axis.pads != (0, 0)) {
            let length = size[place + 2] - axis.pads.0 - axis.pads.1;
            if length <= 0 {
                refuse!("its pads leave nothing of the output");
            }
            y = y.f_narrow(place as i64 + 2, axis.pads.0, length)?;
        }
        Ok(y)
    })
}

/// Whether every channel of an image has a kernel of its own.
fn is_depthwise(x: &Tensor, weight: &Tensor, groups: i64) -> bool {
    let (size, kernels) = (x.size(), weight.size());
    groups > 1 && size.len() == 4 && groups == size[1] && kernels[0] == groups && kernels[1] == 1
}

/// Image, weight and bias; the weight must have the size that the attributes say.
fn operands<'a>(inputs: &Inputs<'a>, window: &Window) -> OpResult<(&'a Tensor, &'a Tensor, Option<&'a Tensor>)> {
    let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
    let size = weight.size();
    if size.len() != x.dim() || size.len() < 3 {
        refuse!("a weight of shape {size:?} for a value of shape {:?}", x.size());
    }
    if window.kernel.as_deref().is_some_and(|kernel| *kernel != size[2..]) {
        refuse!("kernel_shape {:?} and a weight of shape {size:?} differ", window.kernel);
    }
    Ok((x, weight, inputs.optional(2)))
}

fn each(axes: &[Axis], number: impl Fn(&Axis) -> i64) -> Vec<i64> {
    axes.iter().map(number).collect()
}
