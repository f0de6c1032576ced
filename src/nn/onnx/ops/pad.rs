//! Operators that enlarge values.

use tch::Tensor;

use super::index::take;
use super::{Build, Inputs, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::{axis_index, axis_indices, element_count, to_floats, to_ints};

/// What stands beyond the edge.
#[derive(Clone, Copy)]
enum Mode {
    Constant,
    /// The image, mirrored at its outermost pixels.
    Reflect,
    /// The outermost pixels.
    Edge,
    /// The image again.
    Wrap,
}

/// Lengths and value are attributes before opset 11 and inputs since. Negative lengths cut.
pub fn pad(build: &mut Build) -> OpResult<Run> {
    let mode = match build.attributes.string_or("mode", "constant")?.as_str() {
        "constant" => Mode::Constant,
        "reflect" => Mode::Reflect,
        "edge" => Mode::Edge,
        "wrap" => Mode::Wrap,
        other => refuse!("padding mode {other:?} is not supported"),
    };
    let attribute_pads = build.attributes.ints("pads")?;
    let attribute_value = build.attributes.float_or("value", 0.0)?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let Some(lengths) = inputs.optional(1).map(to_ints).transpose()?.or_else(|| attribute_pads.clone()) else {
            refuse!("it has no lengths")
        };
        let pads = pads_by_axis(inputs, lengths, x.dim())?;
        match mode {
            Mode::Constant => {
                let value = inputs.optional(2).map(to_floats).transpose()?;
                let value = value.and_then(|value| value.first().copied()).unwrap_or(attribute_value);
                pad_constant(x, &pads, f64::from(value))
            }
            mode => {
                let mut result = x.shallow_clone();
                for (axis, pads) in pads.iter().enumerate().filter(|(_, pads)| **pads != (0, 0)) {
                    let length = x.size()[axis];
                    element_count(&[length.saturating_add(pads.0.max(0)).saturating_add(pads.1.max(0))])?;
                    result = take(&result, axis, &places(mode, length, *pads)?)?;
                }
                Ok(result)
            }
        }
    })
}

/// ONNX lists all lengths at the beginnings, then all at the ends, for the axes of the fourth input or for all.
fn pads_by_axis(inputs: &Inputs, lengths: Vec<i64>, rank: usize) -> OpResult<Vec<(i64, i64)>> {
    let all_axes = || (0..rank as i64).collect();
    let axes = inputs.optional(3).map(to_ints).transpose()?.unwrap_or_else(all_axes);
    axis_indices(&axes, rank)?;
    if lengths.len() != axes.len() * 2 {
        refuse!("{} lengths for {} axes", lengths.len(), axes.len());
    }
    let mut pads = vec![(0, 0); rank];
    for (place, axis) in axes.iter().enumerate() {
        pads[axis_index(*axis, rank)?] = (lengths[place], lengths[place + axes.len()]);
    }
    Ok(pads)
}

/// Puts `value` around `x`: for each axis so many before and after.
pub fn pad_constant(x: &Tensor, pads: &[(i64, i64)], value: f64) -> OpResult<Tensor> {
    let size = x.size();
    let grown = |(dim, pads): (&i64, &(i64, i64))| dim.saturating_add(pads.0).saturating_add(pads.1);
    element_count(&size.iter().zip(pads).map(grown).collect::<Vec<_>>())?;
    // torch lists the last axis first.
    let lengths: Vec<i64> = pads.iter().rev().flat_map(|pads| [pads.0, pads.1]).collect();
    Ok(x.f_pad(lengths, "constant", value)?)
}

/// For each place of the padded axis the place of the image that stands there.
fn places(mode: Mode, length: i64, (before, after): (i64, i64)) -> OpResult<Vec<i64>> {
    if length == 0 {
        refuse!("an empty dimension cannot be continued");
    }
    // The mirror image of a row repeats after its length there and back.
    let period = (2 * (length - 1)).max(1);
    let place = |index: i64| match mode {
        Mode::Constant | Mode::Edge => index.clamp(0, length - 1),
        Mode::Wrap => index.rem_euclid(length),
        Mode::Reflect => {
            let there = index.rem_euclid(period);
            there.min(period - there)
        }
    };
    Ok((before.saturating_neg()..length.saturating_add(after)).map(place).collect())
}

/// Repeats `x` along each axis.
pub fn tile(_: &mut Build) -> OpResult<Run> {
    single(|inputs| {
        let x = inputs.get(0)?;
        let (size, repeats) = (x.size(), to_ints(inputs.get(1)?)?);
        if repeats.len() != size.len() || repeats.iter().any(|count| *count < 0) {
            refuse!("repeats {repeats:?} do not fit a value of shape {size:?}");
        }
        let grown: Vec<i64> = size.iter().zip(&repeats).map(|(dim, count)| dim.saturating_mul(*count)).collect();
        element_count(&grown)?;
        Ok(x.f_repeat(&repeats)?)
    })
}
