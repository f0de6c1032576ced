//! Operators that bring values in, pass them on or change their kind.

use tch::{Kind, Tensor};

use super::{Build, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::{MAX_ELEMENTS, element_count, home, is_floating, kind_of, scalar, to_ints};

pub fn identity(_: &mut Build) -> OpResult<Run> {
    single(|inputs| Ok(inputs.get(0)?.shallow_clone()))
}

pub fn constant(build: &mut Build) -> OpResult<Run> {
    let (attributes, device) = (&mut build.attributes, build.device);
    let value = if let Some(tensor) = attributes.tensor("value", device)? {
        tensor
    } else if let Some(value) = attributes.float("value_float")? {
        scalar(value, device)?
    } else if let Some(values) = attributes.floats("value_floats")? {
        Tensor::f_from_slice(&values)?.f_to_device(device)?
    } else if let Some(value) = attributes.int("value_int")? {
        Tensor::f_from_slice(&[value])?.f_reshape([0_i64; 0])?
    } else if let Some(values) = attributes.ints("value_ints")? {
        Tensor::f_from_slice(&values)?
    } else {
        refuse!("it has no value of a supported type")
    };
    single(move |_| Ok(value.shallow_clone()))
}

/// A tensor of the shape in its input, filled with the attribute `value` (0.0 if absent).
pub fn constant_of_shape(build: &mut Build) -> OpResult<Run> {
    let device = build.device;
    let value = match build.attributes.tensor("value", device)? {
        Some(value) if value.numel() == 1 => value.f_reshape([0_i64; 0])?,
        Some(value) => refuse!("its value has {} elements instead of one", value.numel()),
        None => scalar(0.0, device)?,
    };
    single(move |inputs| {
        let shape = to_ints(inputs.get(0)?)?;
        element_count(&shape)?;
        Ok(value.f_expand(&shape, false)?.f_contiguous()?)
    })
}

pub fn cast(build: &mut Build) -> OpResult<Run> {
    let Some(target) = build.attributes.int("to")? else { refuse!("it does not say to which type") };
    let kind = kind_of(i32::try_from(target).unwrap_or_default())?;
    // Only matters for 8-bit floating-point numbers, which are not supported.
    build.attributes.int("saturate")?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        Ok(x.f_to_device(home(kind, x.device()))?.f_to_kind(kind)?)
    })
}

/// At inference a dropout passes its input on; the mask says that everything was kept.
pub fn dropout(build: &mut Build) -> OpResult<Run> {
    build.attributes.float("ratio")?;
    build.attributes.int("seed")?;
    let with_mask = build.outputs > 1;
    Ok(Box::new(move |inputs| {
        let x = inputs.get(0)?;
        if let Some(training) = inputs.optional(2)
            && to_ints(training)? != [0]
        {
            refuse!("it asks for training mode");
        }
        let mut outputs = vec![x.shallow_clone()];
        if with_mask {
            outputs.push(x.f_ones_like()?.f_to_kind(Kind::Bool)?);
        }
        Ok(outputs)
    }))
}

/// Numbers from `start` up or down to `limit`, which is not among them.
pub fn range(_: &mut Build) -> OpResult<Run> {
    single(|inputs| {
        let (start, limit, step) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let kind = start.f_kind()?;
        if [start, limit, step].iter().any(|input| input.numel() != 1) {
            refuse!("its inputs have more than one number");
        }
        let number = |input: &Tensor| input.f_reshape([1])?.f_double_value(&[0]);
        let count = ((number(limit)? - number(start)?) / number(step)?).ceil().max(0.0);
        // A step of 0 gives an infinite count or none at all; a count that is not a number is refused by the match.
        let count = match count {
            count if count <= MAX_ELEMENTS as f64 => count as i64,
            _ => refuse!("it would give {count} numbers"),
        };
        let places = Tensor::f_arange(count, (kind, start.device()))?;
        let places = if is_floating(kind) { places } else { places.f_to_kind(Kind::Int64)? };
        let numbers = places.f_mul(&step.f_reshape([1])?)?.f_add(&start.f_reshape([1])?)?;
        Ok(numbers.f_to_kind(kind)?)
    })
}
