//! Normalisations.

use tch::{Kind, Tensor};

use super::reduce::norm;
use super::{Build, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::axis_index;

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` per channel, with the statistics from training.
pub fn batch(build: &mut Build) -> OpResult<Run> {
    let epsilon = f64::from(build.attributes.float_or("epsilon", 1e-5)?);
    // Only used in training.
    build.attributes.float("momentum")?;
    if build.attributes.flag_or("training_mode", false)? {
        refuse!("it asks for training mode");
    }
    // Before opset 9 a file may ask for statistics of each number of an image. MXNet asked so for those of channels, too, so
    // their shape decides.
    let spatial = build.attributes.flag_or("spatial", true)?;
    single(move |inputs| {
        let (x, scale, bias) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let (mean, variance) = (inputs.get(3)?, inputs.get(4)?);
        if !spatial && mean.dim() > 1 {
            return per_number(x, [scale, bias, mean, variance], epsilon);
        }
        Ok(x.f_batch_norm(Some(scale), Some(bias), Some(mean), Some(variance), false, 0.0, epsilon, true)?)
    })
}

/// The same with scale, bias, mean and variance of the shape of an image.
fn per_number(x: &Tensor, given: [&Tensor; 4], epsilon: f64) -> OpResult<Tensor> {
    let size = x.size();
    if let Some(other) = given.iter().map(|given| given.size()).find(|given| size.get(1..) != Some(given)) {
        refuse!("statistics of shape {other:?} for a value of shape {size:?}");
    }
    let [scale, bias, mean, variance] = given;
    let factor = scale.f_div(&variance.f_add_scalar(epsilon)?.f_sqrt()?)?;
    Ok(x.f_sub(mean)?.f_mul(&factor)?.f_add(bias)?)
}

/// The same with the statistics of each image by itself.
pub fn instance(build: &mut Build) -> OpResult<Run> {
    let epsilon = f64::from(build.attributes.float_or("epsilon", 1e-5)?);
    single(move |inputs| {
        let (x, scale, bias) = (inputs.get(0)?, Some(inputs.get(1)?), Some(inputs.get(2)?));
        let none = None::<&Tensor>;
        Ok(x.f_instance_norm(scale, bias, none, none, true, 0.0, epsilon, true)?)
    })
}

/// Normalises over the dimensions from `axis` on.
pub fn layer(build: &mut Build) -> OpResult<Run> {
    let axis = build.attributes.int_or("axis", -1)?;
    let epsilon = f64::from(build.attributes.float_or("epsilon", 1e-5)?);
    // The type of the intermediate results; ours are float32 or better.
    build.attributes.int("stash_type")?;
    if build.outputs > 1 {
        refuse!("its second and third output are not supported");
    }
    single(move |inputs| {
        let x = inputs.get(0)?;
        let shape = x.size()[axis_index(axis, x.dim())?..].to_vec();
        Ok(x.f_layer_norm(shape, Some(inputs.get(1)?), inputs.optional(2), epsilon, true)?)
    })
}

/// Divides by the L1 or L2 norm along `axis`; zeros stay zeros.
pub fn lp(build: &mut Build) -> OpResult<Run> {
    let axis = build.attributes.int_or("axis", -1)?;
    let order = build.attributes.int_or("p", 2)?;
    if !matches!(order, 1 | 2) {
        refuse!("the norm of order {order} is not supported");
    }
    single(move |inputs| {
        let x = inputs.get(0)?;
        let axis = axis_index(axis, x.dim())? as i64;
        let norm = norm(x, order, &[axis], true)?;
        let is_zero = norm.f_eq(0)?;
        Ok(x.f_div(&norm.f_masked_fill(&is_zero.f_to_kind(Kind::Bool)?, 1)?)?)
    })
}
