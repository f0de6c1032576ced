//! Reductions over some or all dimensions.

use tch::{Kind, Tensor};

use super::{Build, Inputs, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::{axis_indices, is_floating, to_ints};

type Reduce = fn(&Tensor, &[i64], bool) -> OpResult<Tensor>;

pub fn mean(build: &mut Build) -> OpResult<Run> {
    reduction(build, |x, axes, keep| Ok(x.f_mean_dim(axes, keep, None::<Kind>)?))
}

pub fn sum(build: &mut Build) -> OpResult<Run> {
    reduction(build, |x, axes, keep| Ok(x.f_sum_dim_intlist(axes, keep, x.f_kind()?)?))
}

pub fn max(build: &mut Build) -> OpResult<Run> {
    reduction(build, |x, axes, keep| Ok(x.f_amax(axes, keep)?))
}

pub fn min(build: &mut Build) -> OpResult<Run> {
    reduction(build, |x, axes, keep| Ok(x.f_amin(axes, keep)?))
}

pub fn l1(build: &mut Build) -> OpResult<Run> {
    reduction(build, |x, axes, keep| norm(x, 1, axes, keep))
}

pub fn l2(build: &mut Build) -> OpResult<Run> {
    reduction(build, |x, axes, keep| norm(x, 2, axes, keep))
}

/// The L1 or L2 norm over `axes`.
pub fn norm(x: &Tensor, order: i64, axes: &[i64], keep: bool) -> OpResult<Tensor> {
    // libtorch has none of integers, and tch panics at an error of a call with a number among its arguments.
    if !is_floating(x.f_kind()?) {
        refuse!("the norm of integers is not supported");
    }
    Ok(x.f_norm_scalaropt_dim(order, axes, keep)?)
}

/// Axes are an attribute in older opsets and an input in newer ones; none means all.
fn reduction(build: &mut Build, reduce: Reduce) -> OpResult<Run> {
    let attribute = build.attributes.ints("axes")?;
    let keep = build.attributes.flag_or("keepdims", true)?;
    let none_means_none = build.attributes.flag_or("noop_with_empty_axes", false)?;
    single(move |inputs: &Inputs| {
        let x = inputs.get(0)?;
        let axes = inputs.optional(1).map(to_ints).transpose()?.or_else(|| attribute.clone()).unwrap_or_default();
        if axes.is_empty() && none_means_none {
            return Ok(x.shallow_clone());
        }
        let axes = if axes.is_empty() { (0..x.dim() as i64).collect() } else { axes };
        let axes: Vec<i64> = axis_indices(&axes, x.dim())?.into_iter().map(|axis| axis as i64).collect();
        if axes.is_empty() {
            refuse!("a number without dimensions cannot be reduced");
        }
        reduce(x, &axes, keep)
    })
}
