//! Convolutions take in what is beside them: normalisations, an activation, or the addition that closes a residual block.
//! The product at the end of most embedders, of flattened images and a matrix, is one of them.
//!
//! Each then reads and writes memory once, in the order "channels last" and, where the kernels work in bfloat16, in half
//! the bytes. What other operators read stays float unless they hand it on to convolutions only.

mod layer;
mod siblings;

use std::collections::{HashMap, HashSet};

use tch::Tensor;

use self::layer::{Layer, Values, numbers};
use super::attributes::Attributes;
use super::graph::{Node, Slot};
use super::ops::{Inputs, OpError, OpResult, Run, refuse};
use super::proto::NodeProto;
use crate::nn::shim::{ConvSpec, Family, FusedConv};

/// What fusion needs to know of a node.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Conv(Geometry),
    /// A product with a matrix, whose rows are the outputs if it is transposed, and which a summand may follow.
    Product {
        transposed: bool,
    },
    /// Makes a row of each image.
    Flatten,
    /// A normalisation by fixed statistics, with what is added to variances.
    BatchNorm(f64),
    /// Multiplies negative values by one number.
    Leaky(f32),
    PRelu,
    Add,
    /// Gives values of the type that it reads, and is as exact in bfloat16 as in float.
    HandsOn,
    /// Reads sizes only.
    Measures,
    /// A layer with what it took in; one that flattens reads whole images.
    Fused {
        flattens: bool,
    },
    Other,
}

#[derive(Debug, Clone)]
pub(super) struct Geometry {
    groups: i64,
    stride: [i64; 2],
    pads: [i64; 4],
}

impl Part {
    pub fn of(node: &NodeProto) -> Self {
        match node.op_type.as_str() {
            "Conv" => Geometry::of(node).map_or(Self::Other, Self::Conv),
            "Gemm" => Self::product(node).unwrap_or(Self::Other),
            "Flatten" if Attributes::of(node).int_or("axis", 1) == Ok(1) => Self::Flatten,
            "BatchNormalization" => Attributes::of(node)
                .float_or("epsilon", 1e-5)
                .map_or(Self::Other, |epsilon| Self::BatchNorm(f64::from(epsilon))),
            "LeakyRelu" => Attributes::of(node).float_or("alpha", 0.01).map_or(Self::Other, Self::Leaky),
            "Relu" => Self::Leaky(0.0),
            "PRelu" => Self::PRelu,
            "Add" => Self::Add,
            "Concat" | "Identity" | "MaxPool" | "Resize" | "Upsample" => Self::HandsOn,
            "Shape" | "Size" => Self::Measures,
            _ => Self::Other,
        }
    }

    /// `None` for a product with factors, or of a transposed matrix.
    fn product(node: &NodeProto) -> Option<Self> {
        let mut attributes = Attributes::of(node);
        let plain = attributes.float_or("alpha", 1.0).ok()? == 1.0 && attributes.float_or("beta", 1.0).ok()? == 1.0;
        let as_it_is = !attributes.flag_or("transA", false).ok()?;
        let transposed = attributes.flag_or("transB", false).ok()?;
        (plain && as_it_is).then_some(Self::Product { transposed })
    }
}

impl Geometry {
    /// `None` unless the convolution is two-dimensional, without gaps, and says its pads.
    fn of(node: &NodeProto) -> Option<Self> {
        let mut attributes = Attributes::of(node);
        let mut ints = |name: &str, default: Vec<i64>| attributes.ints(name).ok().map(|found| found.unwrap_or(default));
        let (stride, pads) = (ints("strides", vec![1; 2])?, ints("pads", vec![0; 4])?);
        let gapless = ints("dilations", vec![1; 2])? == [1, 1];
        let groups = attributes.int_or("group", 1).ok()?;
        let explicit = attributes.string_or("auto_pad", "NOTSET").ok()? == "NOTSET";
        (gapless && explicit).then_some(())?;
        Some(Self { groups, stride: stride.try_into().ok()?, pads: pads.try_into().ok()? })
    }
}

/// Replaces every convolution that the family has kernels for, together with what it can take in.
///
/// `nodes` are in an order in which every node comes after those it reads, and so is the result. Comes with the values
/// that must be float, because somebody reads them who is not fused.
pub(super) fn fuse(
    nodes: Vec<Node>,
    constants: &[Option<Tensor>],
    outputs: &[Slot],
    family: Family,
) -> OpResult<(Vec<Node>, HashSet<Slot>)> {
    let plans = plan(&nodes, constants, outputs, family)?;
    let refused = refused(&nodes, &plans, outputs);
    let mut plans = siblings::merge(plans, &refused, family)?;
    let replaced: HashSet<usize> = plans.values().flat_map(|plan| &plan.nodes).copied().collect();
    let fused = nodes.into_iter().enumerate().filter_map(|(index, node)| match plans.remove(&index) {
        Some(plan) => Some(plan.node(node, &refused)),
        None => (!replaced.contains(&index)).then_some(node),
    });
    Ok((fused.collect(), refused))
}

/// A convolution and what it takes in; known by the index of the last node of the chain.
struct FusionPlan {
    /// What it replaces.
    nodes: Vec<usize>,
    spec: ConvSpec,
    kernel: FusedConv,
    input: Slot,
    residual: Option<Slot>,
    /// Each with its number of channels.
    outputs: Vec<(Slot, i64)>,
    /// It takes the pixels of an image as one row, and gives `N x O`.
    flattens: bool,
}

impl FusionPlan {
    /// The node that runs it, in the place and under the name of `last`.
    fn node(self, last: Node, refused: &HashSet<Slot>) -> Node {
        let float_output = self.outputs.iter().any(|(slot, _)| refused.contains(slot));
        let Self { kernel, spec, input, residual, outputs, flattens, .. } = self;
        let slots = outputs.iter().map(|(slot, _)| Some(*slot)).collect();
        let run: Run = Box::new(move |inputs: &Inputs| {
            if flattens {
                let row = pixels_in_a_row(inputs.get(0)?, spec.channels, spec.kernel[1])?;
                let output = kernel.run(&row, None, float_output).map_err(OpError)?;
                return Ok(vec![output.f_flatten(1, -1)?]);
            }
            let output = kernel.run(inputs.get(0)?, inputs.optional(1), float_output).map_err(OpError)?;
            if outputs.len() == 1 {
                return Ok(vec![output]);
            }
            let mut first = 0;
            let part = |(_, channels): &(Slot, i64)| {
                first += channels;
                Ok(output.f_narrow(1, first - channels, *channels)?)
            };
            outputs.iter().map(part).collect()
        });
        Node { inputs: vec![Some(input), residual], outputs: slots, run, part: Part::Fused { flattens }, ..last }
    }
}

fn plan(
    nodes: &[Node],
    constants: &[Option<Tensor>],
    outputs: &[Slot],
    family: Family,
) -> OpResult<HashMap<usize, FusionPlan>> {
    let values = Values::of(nodes, constants, outputs);
    let mut plans: HashMap<usize, FusionPlan> = HashMap::new();
    let mut taken: HashSet<usize> = HashSet::new();
    for index in 0..nodes.len() {
        let Some(mut layer) = values.layer(index, &taken)? else {
            continue;
        };
        let mut residual = None;
        if let Some(user) = values.only_user(layer.output).filter(|user| !taken.contains(user)) {
            if let Some(slopes) = slopes_of(&nodes[user], &layer, constants)? {
                layer.spec.slopes = slopes;
                layer.nodes.push(user);
            } else if let Some(other) = other_summand(&nodes[user], &layer, constants) {
                residual = Some(other);
                layer.nodes.push(user);
            }
        }
        let Some(last) = layer.nodes.last().copied() else { continue };
        let Some(result) = nodes[last].outputs.first().copied().flatten() else { continue };
        if let Some(kernel) = FusedConv::new(&layer.spec, family).map_err(OpError)? {
            taken.extend(&layer.nodes);
            let Layer { spec, input, nodes, flattens, .. } = layer;
            let outputs = vec![(result, spec.out_channels)];
            plans.insert(last, FusionPlan { nodes, spec, kernel, input, residual, outputs, flattens });
        }
    }
    Ok(plans)
}

/// What an activation of `value` multiplies negative numbers by, channel by channel.
fn slopes_of(node: &Node, layer: &Layer, constants: &[Option<Tensor>]) -> OpResult<Option<Vec<f32>>> {
    let channels = layer.spec.out_channels;
    let count = channels.max(0) as usize;
    if node.inputs.first() != Some(&Some(layer.output)) {
        return Ok(None);
    }
    match node.part {
        Part::Leaky(slope) => Ok(Some(vec![slope; count])),
        Part::PRelu => {
            let slopes = node.inputs.get(1).copied().flatten().and_then(|slot| constants[slot].as_ref());
            let fits = |size: &[i64]| is_per_channel(size, channels, layer.flattens);
            let Some(slopes) = slopes.filter(|slopes| fits(&slopes.size())) else {
                return Ok(None);
            };
            let slopes = numbers(slopes)?;
            Ok(Some(if slopes.len() == 1 { vec![slopes[0]; count] } else { slopes }))
        }
        _ => Ok(None),
    }
}

/// Slopes of `C x 1 x 1`, of rows `C`, with or without a batch dimension, or a single one.
fn is_per_channel(size: &[i64], channels: i64, of_rows: bool) -> bool {
    let fits = match (size, of_rows) {
        ([c, 1, 1] | [1, c, 1, 1], false) | ([c] | [1, c], true) => *c == channels,
        _ => false,
    };
    fits || size.iter().all(|dim| *dim == 1)
}

/// What is added to the images of a layer, if another node computes it.
fn other_summand(node: &Node, layer: &Layer, constants: &[Option<Tensor>]) -> Option<Slot> {
    match (&node.part, &node.inputs[..]) {
        (Part::Add, [Some(a), Some(b)]) if !layer.flattens => {
            let other = if *a == layer.output { *b } else { *a };
            constants[other].is_none().then_some(other)
        }
        _ => None,
    }
}

/// Values that some reader wants as float.
fn refused(nodes: &[Node], plans: &HashMap<usize, FusionPlan>, outputs: &[Slot]) -> HashSet<Slot> {
    let inside: HashSet<usize> = plans.values().flat_map(|plan| &plan.nodes).copied().collect();
    let mut refused: HashSet<Slot> = outputs.iter().copied().collect();
    // Backwards, so that all readers of a value are known before the node that computes it.
    for (index, node) in nodes.iter().enumerate().rev() {
        let is_indifferent = matches!(node.part, Part::Measures);
        if is_indifferent || inside.contains(&index) {
            continue;
        }
        let hands_on = matches!(node.part, Part::HandsOn | Part::Add);
        if !hands_on || node.outputs.iter().flatten().any(|slot| refused.contains(slot)) {
            refused.extend(node.inputs.iter().flatten());
        }
    }
    refused
}

/// Images of channels-last order as one row of pixels each, which costs nothing.
fn pixels_in_a_row(images: &Tensor, channels: i64, area: i64) -> OpResult<Tensor> {
    match images.size()[..] {
        [n, c, height, width] if c == channels && height.checked_mul(width) == Some(area) => {
            let rows = images.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_reshape([n, 1, area, channels])?;
            Ok(rows.f_permute([0, 3, 1, 2])?)
        }
        ref other => refuse!("its matrix is for images of {channels} channels and {area} pixels, not {other:?}"),
    }
}

#[cfg(test)]
mod tests;
