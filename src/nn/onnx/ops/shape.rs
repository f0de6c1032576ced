//! Operators that change a value's shape and keep its numbers, and `Shape` itself.

use tch::Tensor;

use super::{Build, Inputs, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::{
    MAX_RANK, axis_index, axis_indices, broadcast_shape, element_count, int_vector, to_ints,
};

/// The dimensions, or those from `start` to before `end`.
pub fn shape(build: &mut Build) -> OpResult<Run> {
    let start = build.attributes.int_or("start", 0)?;
    let end = build.attributes.int_or("end", i64::MAX)?;
    single(move |inputs| {
        let size = inputs.get(0)?.size();
        let rank = size.len() as i64;
        let place = |index: i64| (if index < 0 { index.saturating_add(rank) } else { index }).clamp(0, rank) as usize;
        int_vector(size.get(place(start)..place(end)).unwrap_or_default())
    })
}

/// In the target, -1 stands for what is left over and 0 for the input's dimension at that place.
pub fn reshape(build: &mut Build) -> OpResult<Run> {
    let zero_is_zero = build.attributes.flag_or("allowzero", false)?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let size = x.size();
        let mut target = to_ints(inputs.get(1)?)?;
        for (place, dim) in target.iter_mut().enumerate() {
            if *dim == 0 && !zero_is_zero {
                let Some(copied) = size.get(place) else { refuse!("nothing to copy to dimension {place}") };
                *dim = *copied;
            }
        }
        fill_in(&mut target, element_count(&size)?)?;
        Ok(x.f_reshape(&target)?)
    })
}

/// Replaces a -1 such that the target has `count` elements.
fn fill_in(target: &mut [i64], count: i64) -> OpResult<()> {
    let known: Vec<i64> = target.iter().copied().filter(|dim| *dim != -1).collect();
    let known_count = element_count(&known)?;
    match (target.len() - known.len(), target.iter().position(|dim| *dim == -1)) {
        (0, _) if known_count == count => {}
        (1, Some(open)) if known_count > 0 && count % known_count == 0 => target[open] = count / known_count,
        _ => refuse!("{count} elements cannot take the shape {target:?}"),
    }
    Ok(())
}

/// To a matrix: the dimensions before `axis` become its rows, the others its columns.
pub fn flatten(build: &mut Build) -> OpResult<Run> {
    let axis = build.attributes.int_or("axis", 1)?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let size = x.size();
        let axis = if axis == size.len() as i64 { size.len() } else { axis_index(axis, size.len())? };
        let (rows, columns) = size.split_at(axis);
        Ok(x.f_reshape([element_count(rows)?, element_count(columns)?])?)
    })
}

pub fn transpose(build: &mut Build) -> OpResult<Run> {
    let order = build.attributes.ints("perm")?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let reversed = || (0..x.dim() as i64).rev().collect();
        let order = order.clone().unwrap_or_else(reversed);
        if axis_indices(&order, x.dim())?.len() != x.dim() {
            refuse!("the order {order:?} does not fit {} dimensions", x.dim());
        }
        Ok(x.f_permute(&order)?)
    })
}

pub fn expand(_: &mut Build) -> OpResult<Run> {
    single(|inputs| {
        let x = inputs.get(0)?;
        let target = to_ints(inputs.get(1)?)?;
        element_count(&target)?;
        Ok(x.f_expand(broadcast_shape(&[&x.size(), &target])?, false)?)
    })
}

/// Axes are an attribute before opset 13 and an input since; they count the dimensions of the result.
pub fn unsqueeze(build: &mut Build) -> OpResult<Run> {
    let attribute = build.attributes.ints("axes")?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let Some(axes) = axes(inputs, &attribute)? else { refuse!("it has no axes") };
        let mut size = x.size();
        if axes.len() > MAX_RANK {
            refuse!("{} new dimensions", axes.len());
        }
        for axis in axis_indices(&axes, size.len() + axes.len())? {
            size.insert(axis, 1);
        }
        element_count(&size)?;
        Ok(x.f_reshape(&size)?)
    })
}

/// Without axes all dimensions of length 1 go.
pub fn squeeze(build: &mut Build) -> OpResult<Run> {
    let attribute = build.attributes.ints("axes")?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let size = x.size();
        let going = match axes(inputs, &attribute)? {
            Some(axes) => axis_indices(&axes, size.len())?,
            None => (0..size.len()).filter(|axis| size[*axis] == 1).collect(),
        };
        if going.iter().any(|axis| size[*axis] != 1) {
            refuse!("the dimensions {going:?} of shape {size:?} are not all 1");
        }
        let kept = size.iter().enumerate().filter(|(axis, _)| !going.contains(axis)).map(|(_, dim)| *dim);
        Ok(x.f_reshape(kept.collect::<Vec<i64>>())?)
    })
}

fn axes(inputs: &Inputs, attribute: &Option<Vec<i64>>) -> OpResult<Option<Vec<i64>>> {
    let input: Option<&Tensor> = inputs.optional(1);
    Ok(input.map(to_ints).transpose()?.or_else(|| attribute.clone()))
}
