//! Activation functions.

use tch::{Kind, Tensor};

use super::{Build, OpError, OpResult, Run, refuse, single};
use crate::nn::error::brief_text;
use crate::nn::onnx::tensors::{axis_index, broadcast_shape, scalar, to_floats};
use crate::nn::shim;

/// `max(0, min(1, alpha * x + beta))`
pub fn hard_sigmoid(build: &mut Build) -> OpResult<Run> {
    let alpha = f64::from(build.attributes.float_or("alpha", 0.2)?);
    let beta = f64::from(build.attributes.float_or("beta", 0.5)?);
    single(move |inputs| Ok(inputs.get(0)?.f_mul_scalar(alpha)?.f_add_scalar(beta)?.f_clamp(0.0, 1.0)?))
}

/// `x` where positive, else `alpha * (exp(x) - 1)`
pub fn elu(build: &mut Build) -> OpResult<Run> {
    let alpha = f64::from(build.attributes.float_or("alpha", 1.0)?);
    single(move |inputs| {
        let x = inputs.get(0)?;
        let negative = x.f_clamp_max(0.0)?.f_expm1()?.f_mul_scalar(alpha)?;
        Ok(x.f_clamp_min(0.0)?.f_add(&negative)?)
    })
}

/// `x * P(X <= x)` for a standard normal X, or an approximation of that by tanh (Hendrycks and Gimpel 2016,
/// arXiv:1606.08415, section 2).
pub fn gelu(build: &mut Build) -> OpResult<Run> {
    let approximate = build.attributes.string_or("approximate", "none")?;
    if !matches!(approximate.as_str(), "none" | "tanh") {
        refuse!("the approximation {approximate:?} is not supported");
    }
    single(move |inputs| Ok(inputs.get(0)?.f_gelu(&approximate)?))
}

pub fn leaky_relu(build: &mut Build) -> OpResult<Run> {
    let alpha = build.attributes.float_or("alpha", 0.01)?;
    // tch does not pass a slope to torch's leaky_relu; prelu with one slope is the same function.
    let slope = scalar(alpha, build.device)?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        Ok(x.f_prelu(&slope.f_to_device(x.device())?.f_to_kind(x.f_kind()?)?)?)
    })
}

/// `x` where positive, else `slope * x`, the slope broadcast to `x`: usually one per channel, `C x 1 x 1`.
pub fn prelu(_: &mut Build) -> OpResult<Run> {
    single(|inputs| {
        let (x, slope) = (inputs.get(0)?, inputs.get(1)?);
        let (size, slope_size) = (x.size(), slope.size());
        if broadcast_shape(&[&size, &slope_size])? != size {
            refuse!("slopes of shape {slope_size:?} do not fit a value of shape {size:?}");
        }
        if slope.numel() == 1 || is_per_channel(&size, &slope_size) {
            return shim::prelu(x, slope).map_err(|message| OpError(brief_text(&message)));
        }
        Ok(x.f_where_self(&x.f_ge(0)?, &x.f_mul(slope)?)?)
    })
}

/// Whether the slopes differ along dimension 1 of `x` only.
fn is_per_channel(size: &[i64], slope_size: &[i64]) -> bool {
    let missing = size.len() - slope_size.len();
    size.len() > 1 && slope_size.iter().enumerate().all(|(place, dim)| *dim == 1 || place + missing == 1)
}

/// Limits from attributes before opset 11, from inputs since.
pub fn clip(build: &mut Build) -> OpResult<Run> {
    let attribute_min = build.attributes.float("min")?;
    let attribute_max = build.attributes.float("max")?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let min = limit(inputs.optional(1), attribute_min)?;
        let max = limit(inputs.optional(2), attribute_max)?;
        let above = min.map_or_else(|| Ok(x.shallow_clone()), |min| x.f_clamp_min(min))?;
        Ok(max.map_or_else(|| Ok(above.shallow_clone()), |max| above.f_clamp_max(max))?.f_to_kind(x.f_kind()?)?)
    })
}

fn limit(input: Option<&Tensor>, attribute: Option<f32>) -> OpResult<Option<f64>> {
    let Some(input) = input else {
        return Ok(attribute.map(f64::from));
    };
    match to_floats(input)?[..] {
        [limit] => Ok(Some(f64::from(limit))),
        ref other => refuse!("a limit has {} numbers instead of one", other.len()),
    }
}

pub fn softmax(build: &mut Build) -> OpResult<Run> {
    along_axis(build, |x, axis| match x.size().last() {
        // Of two numbers, as detectors have them: libtorch is slow at rows so short.
        Some(2) if axis == -1 || axis + 1 == x.dim() as i64 => {
            let difference = x.f_select(-1, 1)?.f_sub(&x.f_select(-1, 0)?)?;
            Ok(Tensor::f_stack(&[difference.f_neg()?.f_sigmoid()?, difference.f_sigmoid()?], -1)?)
        }
        _ => Ok(x.f_softmax(axis, None::<Kind>)?),
    })
}

pub fn log_softmax(build: &mut Build) -> OpResult<Run> {
    along_axis(build, |x, axis| Ok(x.f_log_softmax(axis, None::<Kind>)?))
}

/// Before opset 13 the function ran over all dimensions from `axis` on, taken together; since then over `axis` alone.
fn along_axis(build: &mut Build, function: fn(&Tensor, i64) -> OpResult<Tensor>) -> OpResult<Run> {
    let joins = build.opset < 13;
    let axis = build.attributes.int_or("axis", if joins { 1 } else { -1 })?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let index = axis_index(axis, x.dim())?;
        if joins && index + 1 < x.dim() {
            let joined = x.f_flatten(index as i64, -1)?;
            return Ok(function(&joined, -1)?.f_reshape(x.size())?);
        }
        function(x, index as i64)
    })
}
