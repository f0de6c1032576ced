//! Operators that work number by number, broadcasting where they take several inputs.

use tch::{Kind, TchError, Tensor};

use super::{Build, Inputs, OpResult, Run, on_one_device, single};
use crate::nn::onnx::tensors::{broadcast_shape, is_floating};

type Unary = fn(&Tensor) -> Result<Tensor, TchError>;
type Binary = fn(&Tensor, &Tensor) -> Result<Tensor, TchError>;

/// An operator of one input without attributes.
pub fn unary(function: Unary) -> OpResult<Run> {
    single(move |inputs| Ok(function(inputs.get(0)?)?))
}

/// An operator of two inputs without attributes.
pub fn binary(function: Binary) -> OpResult<Run> {
    single(move |inputs| combine(inputs.get(0)?, inputs.get(1)?, |a, b| Ok(function(a, b)?)))
}

pub fn div(_: &mut Build) -> OpResult<Run> {
    single(|inputs| combine(inputs.get(0)?, inputs.get(1)?, divide))
}

pub fn pow(_: &mut Build) -> OpResult<Run> {
    single(|inputs| combine(inputs.get(0)?, inputs.get(1)?, power))
}

/// An operator that combines any number of inputs, one after the other.
pub fn fold(function: Binary) -> OpResult<Run> {
    single(move |inputs| {
        let mut result = inputs.get(0)?.shallow_clone();
        for input in inputs.all()?.into_iter().skip(1) {
            result = combine(&result, input, |a, b| Ok(function(a, b)?))?;
        }
        Ok(result)
    })
}

/// `Where`.
pub fn select(_: &mut Build) -> OpResult<Run> {
    single(|inputs: &Inputs| {
        let (condition, yes, no) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        broadcast_shape(&[&condition.size(), &yes.size(), &no.size()])?;
        let aligned = on_one_device(&[condition, yes, no])?;
        Ok(aligned[1].f_where_self(&aligned[0].f_to_kind(Kind::Bool)?, &aligned[2])?)
    })
}

fn combine(a: &Tensor, b: &Tensor, function: impl Fn(&Tensor, &Tensor) -> OpResult<Tensor>) -> OpResult<Tensor> {
    broadcast_shape(&[&a.size(), &b.size()])?;
    if a.device() == b.device() {
        return function(a, b);
    }
    let aligned = on_one_device(&[a, b])?;
    function(&aligned[0], &aligned[1])
}

/// Division; of integers towards zero, as in C.
fn divide(a: &Tensor, b: &Tensor) -> OpResult<Tensor> {
    if is_floating(a.f_kind()?) || is_floating(b.f_kind()?) {
        return Ok(a.f_div(b)?);
    }
    // The processor traps on the smallest integer divided by -1, so that case is a negation.
    let minus_one = b.f_eq(-1)?;
    let divisor = b.f_masked_fill(&minus_one, 1)?;
    let quotient = a.f_div_tensor_mode(&divisor, "trunc")?;
    Ok(a.f_neg()?.f_where_self(&minus_one, &quotient)?)
}

/// Power; the result has the kind of the base.
fn power(base: &Tensor, exponent: &Tensor) -> OpResult<Tensor> {
    Ok(base.f_pow(exponent)?.f_to_kind(base.f_kind()?)?)
}
