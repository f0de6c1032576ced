//! Operators that take parts of values or put values together.

use tch::Tensor;

use super::{Build, Inputs, OpResult, Run, on_one_device, refuse, single};
use crate::nn::onnx::tensors::{axis_index, axis_indices, element_count, int_vector, to_ints};

pub fn concat(build: &mut Build) -> OpResult<Run> {
    let Some(axis) = build.attributes.int("axis")? else { refuse!("it has no axis") };
    single(move |inputs| {
        let parts = on_one_device(&inputs.all()?)?;
        let Some(first) = parts.first() else { refuse!("it has nothing to join") };
        let axis = axis_index(axis, first.dim())?;
        let mut size = first.size();
        size[axis] = 0;
        for part in &parts {
            match part.size().get(axis) {
                Some(length) => size[axis] = size[axis].saturating_add(*length),
                None => refuse!("a value of shape {:?} has no dimension {axis}", part.size()),
            }
        }
        element_count(&size)?;
        Ok(Tensor::f_cat(&parts, axis as i64)?)
    })
}

/// The slices of `x` along `axis` that the second input lists, in its shape.
pub fn gather(build: &mut Build) -> OpResult<Run> {
    let axis = build.attributes.int_or("axis", 0)?;
    single(move |inputs| {
        let (x, indices) = (inputs.get(0)?, inputs.get(1)?);
        let mut size = x.size();
        let axis = axis_index(axis, size.len())?;
        // Checked here because a GPU that meets a bad index fails for good.
        let places: Vec<i64> = to_ints(indices)?
            .into_iter()
            .map(|place| Ok(axis_index(place, size[axis] as usize)? as i64))
            .collect::<OpResult<_>>()?;
        size.splice(axis..=axis, indices.size());
        element_count(&size)?;
        Ok(take(x, axis, &places)?.f_reshape(&size)?)
    })
}

/// The slices of `x` along `axis` at `places`, all of which must exist.
pub fn take(x: &Tensor, axis: usize, places: &[i64]) -> OpResult<Tensor> {
    let mut size = x.size();
    size[axis] = places.len() as i64;
    element_count(&size)?;
    Ok(x.f_index_select(axis as i64, &int_vector(places)?.f_to_device(x.device())?)?)
}

/// Starts, ends, axes and steps are attributes before opset 10 and inputs since.
pub fn slice(build: &mut Build) -> OpResult<Run> {
    let names = ["starts", "ends", "axes", "steps"];
    let mut attributes = Vec::new();
    for name in names {
        attributes.push(build.attributes.ints(name)?);
    }
    single(move |inputs: &Inputs| {
        let x = inputs.get(0)?;
        let list = |place: usize| -> OpResult<Option<Vec<i64>>> {
            Ok(inputs.optional(place + 1).map(to_ints).transpose()?.or_else(|| attributes[place].clone()))
        };
        let (Some(starts), Some(ends)) = (list(0)?, list(1)?) else { refuse!("it lacks starts or ends") };
        let axes = list(2)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(3)?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()].iter().any(|length| *length != starts.len()) {
            refuse!("its lists have different lengths");
        }
        axis_indices(&axes, x.dim())?;
        let mut part = x.shallow_clone();
        for (place, axis) in axes.iter().enumerate() {
            part = slice_axis(&part, axis_index(*axis, x.dim())?, starts[place], ends[place], steps[place])?;
        }
        Ok(part)
    })
}

/// Every `step`-th place from `start` to before `end`; backwards for a negative step. A start out of range is moved to the
/// nearest place that it may be: one that exists or, going forwards, the one behind the last. (Python leaves a start before
/// the first place where it is if the step is negative, and gives nothing.)
fn slice_axis(x: &Tensor, axis: usize, start: i64, end: i64, step: i64) -> OpResult<Tensor> {
    let (length, dim) = (x.size()[axis], axis as i64);
    if step == 0 {
        refuse!("a step of 0");
    }
    // A longer step reaches the same places.
    let step = step.clamp(-length.max(1), length.max(1));
    let from_end = |index: i64| {
        if index < 0 { index.saturating_add(length) } else { index }
    };
    if step > 0 {
        let start = from_end(start).clamp(0, length);
        let end = from_end(end).clamp(start, length);
        return Ok(x.f_slice(dim, start, end, step)?);
    }
    if length == 0 {
        return Ok(x.shallow_clone());
    }
    let first = from_end(start).clamp(0, length - 1);
    // The largest integers stand for "as far as there is", so backwards for before the first place.
    let open = [i64::from(i32::MAX), i64::MAX].contains(&end);
    let before_last = if open { -1 } else { from_end(end).clamp(-1, first) };
    let count = (first - before_last + -step - 1) / -step;
    if count == 0 {
        return Ok(x.f_slice(dim, 0, 0, 1)?);
    }
    // torch has no negative steps: take the same places forwards and turn them round.
    let last = first + (count - 1) * step;
    Ok(x.f_slice(dim, last, first + 1, -step)?.f_flip([dim])?)
}

/// Lengths are an attribute before opset 13 and an input since; without them the parts are equal, the last one
/// shorter if need be.
pub fn split(build: &mut Build) -> OpResult<Run> {
    let axis = build.attributes.int_or("axis", 0)?;
    let attribute = build.attributes.ints("split")?;
    let outputs = build.outputs as i64;
    if build.attributes.int_or("num_outputs", outputs)? != outputs || outputs == 0 {
        refuse!("it lists another number of outputs than it has");
    }
    Ok(Box::new(move |inputs| {
        let x = inputs.get(0)?;
        let axis = axis_index(axis, x.dim())?;
        let length = x.size()[axis];
        let listed = inputs.optional(1).map(to_ints).transpose()?.or_else(|| attribute.clone());
        let lengths = listed.unwrap_or_else(|| equal_parts(length, outputs));
        let total = lengths.iter().try_fold(0_i64, |total, part| total.checked_add(*part));
        let fits = total == Some(length) && lengths.len() as i64 == outputs && lengths.iter().all(|part| *part >= 0);
        if !fits {
            refuse!("parts of lengths {lengths:?} do not fit {outputs} outputs and a dimension of {length}");
        }
        Ok(x.f_split_with_sizes(&lengths, axis as i64)?)
    }))
}

fn equal_parts(length: i64, parts: i64) -> Vec<i64> {
    let part = (length + parts - 1) / parts;
    (0..parts).map(|index| (length - index * part).clamp(0, part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{fixture, ints};

    #[test]
    fn slices_are_those_of_onnx_runtime() {
        let recorded = fixture("slices.json");
        let axis = int_vector(&(0..recorded["length"].as_i64().unwrap()).collect::<Vec<_>>()).unwrap();
        let mut wrong = Vec::new();
        for case in recorded["cases"].as_array().unwrap() {
            let number = |place: usize| case[place].as_i64().unwrap();
            let part = slice_axis(&axis, 0, number(0), number(1), number(2)).unwrap();
            if to_ints(&part).unwrap() != ints(&case[3]) {
                wrong.push(format!("{case}, not {:?}", to_ints(&part).unwrap()));
            }
        }
        assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn nothing_of_an_empty_axis_is_nothing() {
        for step in [1, -1, 5, -5] {
            let part = slice_axis(&int_vector(&[]).unwrap(), 0, 3, -9, step).unwrap();
            assert_eq!(part.size(), [0]);
        }
    }
}
