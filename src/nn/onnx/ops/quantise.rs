//! Numbers that a file keeps as small integers.

use tch::{Kind, Tensor};

use super::{Build, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::{axis_index, is_floating, kind_of};

/// `round(x / scale) + zero point`, halves to the even neighbour, or the nearest number that the type of the zero point has.
/// Scales as in [`dequantize`].
pub fn quantize(build: &mut Build) -> OpResult<Run> {
    let (axis, block) = (build.attributes.int_or("axis", 1)?, build.attributes.int_or("block_size", 0)?);
    if block < 0 {
        refuse!("blocks of {block} numbers");
    }
    // The first matters for 8-bit floating-point numbers only, the second is the type of the quotient; ours is float32.
    build.attributes.int("saturate")?;
    build.attributes.int("precision")?;
    let result = match build.attributes.int_or("output_dtype", 0)? {
        0 => None,
        number => Some(kind_of(i32::try_from(number).unwrap_or_default())?),
    };
    single(move |inputs| {
        let (x, scale, zero_point) = (inputs.get(0)?, inputs.get(1)?, inputs.optional(2));
        let kind = match (result, zero_point) {
            (Some(kind), _) => kind,
            (None, Some(zero_point)) => zero_point.f_kind()?,
            (None, None) => Kind::Uint8,
        };
        let (least, most) = match kind {
            Kind::Uint8 => (0.0, 255.0),
            Kind::Int8 => (-128.0, 127.0),
            Kind::Int16 => (-32768.0, 32767.0),
            other => refuse!("it is to give numbers of the type {other:?}"),
        };
        let size = x.size();
        let spread = |given: &Tensor| -> OpResult<Tensor> {
            let given = given.f_to_device(x.device())?.f_to_kind(Kind::Float)?;
            for_each_number(&given, &size, axis, block)
        };
        let mut value = x.f_to_kind(Kind::Float)?.f_div(&spread(scale)?)?.f_round()?;
        if let Some(zero_point) = zero_point {
            if zero_point.size() != scale.size() {
                refuse!("{:?} zero points for {:?} scales", zero_point.size(), scale.size());
            }
            value = value.f_add(&spread(zero_point)?)?;
        }
        // On the device of what is quantised: it is turned back at once.
        Ok(value.f_clamp(least, most)?.f_to_kind(kind)?)
    })
}

/// `(x - zero point) * scale`. There is one scale, or one for each place along `axis`, or one for each block of
/// `block_size` places along it.
pub fn dequantize(build: &mut Build) -> OpResult<Run> {
    let axis = build.attributes.int_or("axis", 1)?;
    let block = build.attributes.int_or("block_size", 0)?;
    if block < 0 {
        refuse!("blocks of {block} numbers");
    }
    // The type of the result, by default that of the scale. Ours are float32 or better.
    let result = match build.attributes.int_or("output_dtype", 0)? {
        0 => None,
        number => Some(kind_of(i32::try_from(number).unwrap_or_default())?),
    };
    if result.is_some_and(|kind| !is_floating(kind)) {
        refuse!("it is to give integers");
    }
    single(move |inputs| {
        let (x, scale) = (inputs.get(0)?, inputs.get(1)?);
        let kind = result.map_or_else(|| scale.f_kind(), Ok)?;
        let numbers = |tensor: &Tensor| -> OpResult<Tensor> {
            // Differences of 32-bit integers need more than float32 has.
            let wide = if tensor.f_kind()? == Kind::Int { Kind::Double } else { kind };
            Ok(tensor.f_to_device(scale.device())?.f_to_kind(wide)?)
        };
        let mut value = numbers(x)?;
        if let Some(zero_point) = inputs.optional(2) {
            if zero_point.size() != scale.size() {
                refuse!("{:?} zero points for {:?} scales", zero_point.size(), scale.size());
            }
            value = value.f_sub(&for_each_number(&numbers(zero_point)?, &x.size(), axis, block)?)?;
        }
        Ok(value.f_to_kind(kind)?.f_mul(&for_each_number(scale, &x.size(), axis, block)?)?.f_to_kind(kind)?)
    })
}

/// Scales or zero points in a shape that broadcasts to `size`.
fn for_each_number(given: &Tensor, size: &[i64], axis: i64, block: i64) -> OpResult<Tensor> {
    let shape = given.size();
    if block == 0 && given.numel() == 1 {
        return Ok(given.f_reshape([0_i64; 0])?);
    }
    let axis = axis_index(axis, size.len())?;
    let mut expected = size.to_vec();
    if block > 0 {
        expected[axis] = size[axis].unsigned_abs().div_ceil(block.unsigned_abs()) as i64;
        if shape != expected {
            refuse!("blocks of {block} in a tensor of shape {size:?} have scales of shape {expected:?}, not {shape:?}");
        }
        let places = Tensor::f_arange(size[axis], (Kind::Int64, given.device()))?;
        return Ok(given.f_index_select(axis as i64, &places.f_floor_divide_scalar(block)?)?);
    }
    if shape != size[axis..=axis] {
        refuse!("scales of shape {shape:?} for axis {axis} of a tensor of shape {size:?}");
    }
    expected.fill(1);
    expected[axis] = size[axis];
    Ok(given.f_reshape(&expected)?)
}
