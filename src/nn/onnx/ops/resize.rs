//! `Resize` and its forerunner `Upsample`: nearest and linear, axis by axis.
//!
//! ONNX has more ways to place the pixels than torch, so the places and weights are computed here (in float32, as
//! ONNX Runtime does, since a rounding error moves a pixel) and torch picks and mixes the rows.

use tch::{Device, Tensor};

use super::index::take;
use super::{Build, Inputs, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::{axis_index, axis_indices, element_count, to_floats, to_ints};

/// The longest side of a result.
const MAX_SIDE: i64 = 1 << 16;

/// How a pixel of the result is made from those around its place in the source.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Nearest(Rounding),
    Linear,
}

/// Which pixel is nearest to a place between two.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rounding {
    Floor,
    Ceil,
    /// To the nearer one, halves downwards.
    HalfDown,
    /// To the nearer one, halves upwards.
    HalfUp,
    /// Before opset 11: downwards when enlarging, upwards when shrinking.
    Early,
}

/// Where in the source a pixel of the result lies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Coordinates {
    Asymmetric,
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
}

/// The new length of one axis.
#[derive(Debug, Clone, Copy)]
struct Scaling {
    from: i64,
    to: i64,
    scale: f32,
}

pub fn upsample(build: &mut Build) -> OpResult<Run> {
    let mode = mode(build, Rounding::Early)?;
    let attribute = build.attributes.floats("scales")?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        let Some(scales) = inputs.optional(1).map(to_floats).transpose()?.or_else(|| attribute.clone()) else {
            refuse!("it has no scales")
        };
        run(x, mode, Coordinates::Asymmetric, &by_scales(&x.size(), &scales)?)
    })
}

pub fn resize(build: &mut Build) -> OpResult<Run> {
    if build.opset < 11 {
        return upsample(build);
    }
    let rounding = match build.attributes.string_or("nearest_mode", "round_prefer_floor")?.as_str() {
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        "round_prefer_floor" => Rounding::HalfDown,
        "round_prefer_ceil" => Rounding::HalfUp,
        other => refuse!("nearest_mode {other:?} is not supported"),
    };
    let mode = mode(build, rounding)?;
    let coordinates = match build.attributes.string_or("coordinate_transformation_mode", "half_pixel")?.as_str() {
        "asymmetric" => Coordinates::Asymmetric,
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        other => refuse!("coordinate_transformation_mode {other:?} is not supported"),
    };
    if build.attributes.flag_or("antialias", false)? {
        refuse!("antialias is not supported");
    }
    if build.attributes.string_or("keep_aspect_ratio_policy", "stretch")? != "stretch" {
        refuse!("keep_aspect_ratio_policy is not supported");
    }
    // These only concern modes that are refused above.
    build.attributes.float("cubic_coeff_a")?;
    build.attributes.float("extrapolation_value")?;
    build.attributes.int("exclude_outside")?;
    let axes = build.attributes.ints("axes")?;
    single(move |inputs| {
        let x = inputs.get(0)?;
        run(x, mode, coordinates, &scalings(inputs, &x.size(), &axes)?)
    })
}

fn mode(build: &mut Build, rounding: Rounding) -> OpResult<Mode> {
    match build.attributes.string_or("mode", "nearest")?.as_str() {
        "nearest" => Ok(Mode::Nearest(rounding)),
        "linear" | "bilinear" => Ok(Mode::Linear),
        other => refuse!("mode {other:?} is not supported"),
    }
}

/// From the inputs of `Resize`: sizes if given, else scales, for the axes given or all.
fn scalings(inputs: &Inputs, size: &[i64], axes: &Option<Vec<i64>>) -> OpResult<Vec<Scaling>> {
    let all_axes = || (0..size.len() as i64).collect();
    let axes = axes.clone().unwrap_or_else(all_axes);
    axis_indices(&axes, size.len())?;
    let given = |place: usize| inputs.optional(place).filter(|input| input.numel() > 0);
    let mut sizes = size.to_vec();
    let mut scales = vec![1.0; size.len()];
    if let Some(listed) = given(3).map(to_ints).transpose()? {
        spread(&mut sizes, &axes, &listed)?;
        let scaling = |(from, to): (&i64, &i64)| Scaling { from: *from, to: *to, scale: *to as f32 / *from as f32 };
        return Ok(size.iter().zip(&sizes).map(scaling).collect());
    }
    let Some(listed) = given(2).map(to_floats).transpose()? else { refuse!("it has neither scales nor sizes") };
    spread(&mut scales, &axes, &listed)?;
    by_scales(size, &scales)
}

fn spread<T: Copy>(places: &mut [T], axes: &[i64], values: &[T]) -> OpResult<()> {
    if axes.len() != values.len() {
        refuse!("{} sizes or scales for {} axes", values.len(), axes.len());
    }
    for (axis, value) in axes.iter().zip(values) {
        places[axis_index(*axis, places.len())?] = *value;
    }
    Ok(())
}

fn by_scales(size: &[i64], scales: &[f32]) -> OpResult<Vec<Scaling>> {
    if scales.len() != size.len() {
        refuse!("{} scales for {} dimensions", scales.len(), size.len());
    }
    let scaling =
        |(from, scale): (&i64, &f32)| Scaling { from: *from, to: (*from as f32 * scale) as i64, scale: *scale };
    Ok(size.iter().zip(scales).map(scaling).collect())
}

fn run(x: &Tensor, mode: Mode, coordinates: Coordinates, scalings: &[Scaling]) -> OpResult<Tensor> {
    let changes = |scaling: &Scaling| scaling.from != scaling.to || scaling.scale != 1.0;
    // Images in channels-last order are taken as rows of whole pixels, which are copied as one.
    if let ([batch, channels, height, width], [_, 1, ..]) = (scalings, &x.stride()[..])
        && !changes(channels)
        && channels.from > 1
    {
        let pixels = x.f_permute([0, 2, 3, 1])?;
        let resized = run(&pixels, mode, coordinates, &[*batch, *height, *width, *channels])?;
        return Ok(resized.f_permute([0, 3, 1, 2])?);
    }
    if let Some(enlarged) = enlarged_on_gpu(x, mode, coordinates, scalings)? {
        return Ok(enlarged);
    }
    let mut result = x.shallow_clone();
    for (axis, scaling) in scalings.iter().enumerate().filter(|(_, scaling)| changes(scaling)) {
        let usable = scaling.from > 0 && scaling.scale.is_normal() && scaling.scale > 0.0;
        if !usable || !(0..=MAX_SIDE).contains(&scaling.to) {
            refuse!("a dimension of {} cannot be scaled by {}", scaling.from, scaling.scale);
        }
        let mut size = result.size();
        size[axis] = scaling.to;
        element_count(&size)?;
        let sources: Vec<f32> = (0..scaling.to).map(|place| source(place as f32, scaling, coordinates)).collect();
        result = match mode {
            Mode::Nearest(rounding) => nearest(&result, axis, &sources, rounding, scaling)?,
            Mode::Linear => linear(&result, axis, &sources, scaling)?,
        };
    }
    Ok(result)
}

/// Every pixel of an image repeated a whole number of times: on a GPU one operation does it, where the general way has
/// to send it lists of places. `None` where the general way is needed.
fn enlarged_on_gpu(x: &Tensor, mode: Mode, coordinates: Coordinates, scalings: &[Scaling]) -> OpResult<Option<Tensor>> {
    let ([batch, channels, height, width], Mode::Nearest(rounding)) = (scalings, mode) else { return Ok(None) };
    let whole = |scaling: &Scaling| {
        scaling.from > 0
            && scaling.to % scaling.from == 0
            && scaling.scale == (scaling.to / scaling.from) as f32
            && (0..scaling.to).all(|place| {
                let source = source(place as f32, scaling, coordinates);
                nearest_place(source, rounding, scaling) == place / (scaling.to / scaling.from)
            })
    };
    let same = |scaling: &Scaling| scaling.from == scaling.to && scaling.scale == 1.0;
    if x.device() == Device::Cpu || !same(batch) || !same(channels) || !whole(height) || !whole(width) {
        return Ok(None);
    }
    element_count(&[batch.to, channels.to, height.to, width.to])?;
    Ok(Some(x.f_upsample_nearest2d([height.to, width.to], None, None)?))
}

/// Where pixel `place` of the result lies in the source; the formulas are those of ONNX's `Resize`.
fn source(place: f32, &Scaling { from, to, scale }: &Scaling, coordinates: Coordinates) -> f32 {
    let (from, to) = (from as f32, to as f32);
    match coordinates {
        Coordinates::Asymmetric => place / scale,
        Coordinates::HalfPixel => (place + 0.5) / scale - 0.5,
        Coordinates::HalfPixelSymmetric => {
            let adjustment = to / (scale * from);
            from / 2.0 * (1.0 - adjustment) + (place + 0.5) / scale - 0.5
        }
        Coordinates::PytorchHalfPixel if to > 1.0 => (place + 0.5) / scale - 0.5,
        Coordinates::AlignCorners if to > 1.0 => place * (from - 1.0) / (to - 1.0),
        Coordinates::PytorchHalfPixel | Coordinates::AlignCorners => 0.0,
    }
}

fn nearest(x: &Tensor, axis: usize, sources: &[f32], rounding: Rounding, scaling: &Scaling) -> OpResult<Tensor> {
    let places: Vec<i64> = sources.iter().map(|source| nearest_place(*source, rounding, scaling)).collect();
    take(x, axis, &places)
}

fn nearest_place(source: f32, rounding: Rounding, scaling: &Scaling) -> i64 {
    let rounded = match rounding {
        Rounding::Floor => source.floor(),
        Rounding::Ceil => source.ceil(),
        Rounding::HalfDown => (source - 0.5).ceil(),
        Rounding::HalfUp => (source + 0.5).floor(),
        Rounding::Early if scaling.scale < 1.0 => source.ceil(),
        Rounding::Early => source.floor(),
    };
    (rounded as i64).clamp(0, scaling.from - 1)
}

fn linear(x: &Tensor, axis: usize, sources: &[f32], scaling: &Scaling) -> OpResult<Tensor> {
    let last = scaling.from - 1;
    let inside: Vec<f32> = sources.iter().map(|source| source.clamp(0.0, last as f32)).collect();
    let before: Vec<i64> = inside.iter().map(|source| (*source as i64).min(last)).collect();
    let after: Vec<i64> = before.iter().map(|place| (place + 1).min(last)).collect();
    let weights: Vec<f32> = inside.iter().zip(&before).map(|(source, place)| source - *place as f32).collect();
    // One weight per place along the axis, broadcast over the axes after it.
    let mut shape = vec![1; x.dim() - axis];
    shape[0] = sources.len() as i64;
    let weights = Tensor::f_from_slice(&weights)?.f_reshape(&shape)?.f_to_device(x.device())?;
    let (before, after) = (take(x, axis, &before)?, take(x, axis, &after)?);
    Ok(before.f_add(&after.f_sub(&before)?.f_mul(&weights)?)?)
}
