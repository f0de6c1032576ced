//! Pools: the largest or the mean of the pixels in a window.

use tch::{Kind, Tensor};

use super::window::{Axis, Window, image_size, pad_image};
use super::{Build, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::is_floating;

pub fn max(build: &mut Build) -> OpResult<Run> {
    // Says how the second output, which we lack, is numbered.
    build.attributes.int("storage_order")?;
    if build.outputs > 1 {
        refuse!("its second output, the places of the maxima, is not supported");
    }
    pool(build, |x, plan, _| {
        // Padding inside torch is faster, but it has equal pads only, up to half a window.
        let inside = |axis: &Axis| axis.pads.0 == axis.pads.1 && axis.pads.0 <= axis.kernel / 2;
        let ready = plan.axes.iter().all(inside) && plan.extra == [0, 0];
        let padded = if ready { x.shallow_clone() } else { pad_image(x, plan.whole_pads(), f64::NEG_INFINITY)? };
        let pads = plan.each(|axis| if ready { axis.pads.0 } else { 0 });
        let dilations = plan.each(|axis| axis.dilation);
        Ok(padded.f_max_pool2d(plan.kernel(), plan.strides(), pads, dilations, false)?)
    })
}

pub fn average(build: &mut Build) -> OpResult<Run> {
    let counts_pads = build.attributes.flag_or("count_include_pad", false)?;
    pool(build, move |x, plan, lengths| {
        if plan.axes.iter().any(|axis| axis.dilation != 1) {
            refuse!("a mean over pixels with gaps is not supported");
        }
        let mean = |x: &Tensor| x.f_avg_pool2d(plan.kernel(), plan.strides(), [0, 0], false, true, None::<i64>);
        if plan.whole_pads().iter().all(|pads| *pads == (0, 0)) {
            return Ok(mean(x)?);
        }
        // Divide by the share of pixels that count. Those beyond the pads, which only rounding up reaches, never do.
        let ones = Tensor::f_ones([1, 1, lengths[0], lengths[1]], (x.f_kind()?, x.device()))?;
        let counted = pad_image(&ones, plan.axes.iter().map(|axis| axis.pads), f64::from(u8::from(counts_pads)))?;
        let counted = pad_image(&counted, plan.extra.map(|extra| (0, extra)), 0.0)?;
        let share = mean(&counted)?;
        Ok(mean(&pad_image(x, plan.whole_pads(), 0.0)?)?.f_div(&share)?)
    })
}

pub fn global_average(_: &mut Build) -> OpResult<Run> {
    global(|x, axes| Ok(x.f_mean_dim(axes, true, None::<Kind>)?))
}

pub fn global_max(_: &mut Build) -> OpResult<Run> {
    global(|x, axes| Ok(x.f_amax(axes, true)?))
}

fn global(reduce: fn(&Tensor, &[i64]) -> OpResult<Tensor>) -> OpResult<Run> {
    single(move |inputs| {
        let x = inputs.get(0)?;
        image_size(x)?;
        reduce(x, &(2..x.dim() as i64).collect::<Vec<_>>())
    })
}

/// A window over an image of two dimensions.
struct Windows {
    axes: [Axis; 2],
    /// Pixels beyond the pads that the last window reaches when the number of windows is rounded up.
    extra: [i64; 2],
}

impl Windows {
    fn new(axes: [Axis; 2], lengths: [i64; 2], rounds_up: bool) -> OpResult<Self> {
        let mut extra = [0, 0];
        for ((axis, length), extra) in axes.iter().zip(lengths).zip(&mut extra) {
            let last_start = if rounds_up {
                // One more window for pixels left over, unless it would begin beyond the image.
                let left_over = axis.padded(length) - axis.reach();
                let rounded_up = left_over + (-left_over).rem_euclid(axis.stride);
                if rounded_up < length + axis.pads.0 { rounded_up } else { rounded_up - axis.stride }
            } else {
                (axis.positions(length)? - 1) * axis.stride
            };
            if last_start < 0 {
                refuse!("a window of {} does not fit into {length} pixels", axis.reach());
            }
            *extra = (last_start + axis.reach() - axis.padded(length)).max(0);
        }
        Ok(Self { axes, extra })
    }

    fn each(&self, number: impl Fn(&Axis) -> i64) -> [i64; 2] {
        [number(&self.axes[0]), number(&self.axes[1])]
    }

    fn kernel(&self) -> [i64; 2] {
        self.each(|axis| axis.kernel)
    }

    fn strides(&self) -> [i64; 2] {
        self.each(|axis| axis.stride)
    }

    fn whole_pads(&self) -> [(i64, i64); 2] {
        let [(a, b), (c, d)] = [self.axes[0].pads, self.axes[1].pads];
        [(a, b + self.extra[0]), (c, d + self.extra[1])]
    }
}

/// Builds a pool; images of one dimension get a second one of length 1 on the way.
fn pool(
    build: &mut Build,
    run: impl Fn(&Tensor, &Windows, [i64; 2]) -> OpResult<Tensor> + Send + 'static,
) -> OpResult<Run> {
    let window = Window::take(build)?;
    let rounds_up = build.attributes.flag_or("ceil_mode", false)?;
    let Some(kernel) = window.kernel.clone() else { refuse!("it has no kernel_shape") };
    single(move |inputs| {
        let x = inputs.get(0)?;
        if !is_floating(x.f_kind()?) {
            refuse!("pools of integers are not supported");
        }
        let (_, _, lengths) = image_size(x)?;
        let axes = window.axes(&kernel, &lengths)?;
        let flat = Axis { kernel: 1, stride: 1, dilation: 1, pads: (0, 0) };
        match (&axes[..], &lengths[..]) {
            (&[height, width], &[rows, columns]) => {
                run(x, &Windows::new([height, width], [rows, columns], rounds_up)?, [rows, columns])
            }
            (&[width], &[columns]) => {
                let plan = Windows::new([flat, width], [1, columns], rounds_up)?;
                Ok(run(&x.f_unsqueeze(2)?, &plan, [1, columns])?.f_squeeze_dim(2)?)
            }
            _ => refuse!("pools over three dimensions are not supported"),
        }
    })
}
