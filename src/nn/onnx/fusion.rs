//! Convolutions take in what follows them: an activation, or the addition that closes a residual block.
//!
//! Each then reads and writes memory once, in the order "channels last" and, where the kernels work in bfloat16, in half
//! the bytes. What other operators read stays float unless they hand it on to convolutions only.

mod siblings;

use std::collections::{HashMap, HashSet};

use tch::{Kind, Tensor};

use super::attributes::Attributes;
use super::graph::{Node, Slot};
use super::ops::{Inputs, OpError, OpResult, Run};
use super::proto::NodeProto;
use crate::nn::shim::{ConvSpec, Family, FusedConv};

/// What fusion needs to know of a node.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Conv(Geometry),
    /// Multiplies negative values by one number.
    Leaky(f32),
    PRelu,
    Add,
    /// Gives values of the type that it reads, and is as exact in bfloat16 as in float.
    HandsOn,
    /// Reads sizes only.
    Measures,
    /// A convolution with what it took in.
    Fused,
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
            "LeakyRelu" => Attributes::of(node).float_or("alpha", 0.01).map_or(Self::Other, Self::Leaky),
            "Relu" => Self::Leaky(0.0),
            "PRelu" => Self::PRelu,
            "Add" => Self::Add,
            "Concat" | "Identity" | "MaxPool" | "Resize" | "Upsample" => Self::HandsOn,
            "Shape" | "Size" => Self::Measures,
            _ => Self::Other,
        }
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
struct Plan {
    /// What it replaces.
    nodes: Vec<usize>,
    spec: ConvSpec,
    kernel: FusedConv,
    input: Slot,
    residual: Option<Slot>,
    /// Each with its number of channels.
    outputs: Vec<(Slot, i64)>,
}

impl Plan {
    /// The node that runs it, in the place and under the name of `last`.
    fn node(self, last: Node, refused: &HashSet<Slot>) -> Node {
        let float_output = self.outputs.iter().any(|(slot, _)| refused.contains(slot));
        let Self { kernel, input, residual, outputs, .. } = self;
        let slots = outputs.iter().map(|(slot, _)| Some(*slot)).collect();
        let run: Run = Box::new(move |inputs: &Inputs| {
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
        Node { inputs: vec![Some(input), residual], outputs: slots, run, part: Part::Fused, ..last }
    }
}

fn plan(
    nodes: &[Node],
    constants: &[Option<Tensor>],
    outputs: &[Slot],
    family: Family,
) -> OpResult<HashMap<usize, Plan>> {
    let mut users: HashMap<Slot, Vec<usize>> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        node.inputs.iter().flatten().for_each(|slot| users.entry(*slot).or_default().push(index));
    }
    let outputs: HashSet<Slot> = outputs.iter().copied().collect();
    let only_user = |slot: Slot| match users.get(&slot).map(Vec::as_slice) {
        Some([user]) if !outputs.contains(&slot) => Some(*user),
        _ => None,
    };
    let mut plans: HashMap<usize, Plan> = HashMap::new();
    for (conv, node) in nodes.iter().enumerate() {
        let Some(mut spec) = spec_of(node, constants)? else {
            continue;
        };
        let ([Some(input), ..], [Some(output), ..]) = (&node.inputs[..], &node.outputs[..]) else {
            continue;
        };
        let (mut last, mut residual) = (conv, None);
        if let Some(user) = only_user(*output).filter(|user| !plans.contains_key(user)) {
            if let Some(slopes) = slopes_of(&nodes[user], *output, constants, spec.out_channels)? {
                (last, spec.slopes) = (user, slopes);
            } else if let Some(other) = other_summand(&nodes[user], *output, constants) {
                (last, residual) = (user, Some(other));
            }
        }
        let Some(result) = nodes[last].outputs.first().copied().flatten() else {
            continue;
        };
        if let Some(kernel) = FusedConv::new(&spec, family).map_err(OpError)? {
            let outputs = vec![(result, spec.out_channels)];
            plans.insert(last, Plan { nodes: vec![conv, last], spec, kernel, input: *input, residual, outputs });
        }
    }
    Ok(plans)
}

/// The convolution of a node whose weights are constants.
fn spec_of(node: &Node, constants: &[Option<Tensor>]) -> OpResult<Option<ConvSpec>> {
    let Part::Conv(geometry) = &node.part else {
        return Ok(None);
    };
    let constant = |place: usize| node.inputs.get(place).copied().flatten().map(|slot| constants[slot].as_ref());
    let (Some(Some(weights)), bias) = (constant(1), constant(2)) else {
        return Ok(None);
    };
    let [out_channels, per_group, height, width] = weights.size()[..] else {
        return Ok(None);
    };
    // A network in double precision wants it.
    if weights.f_kind()? != Kind::Float {
        return Ok(None);
    }
    let bias = match bias {
        Some(Some(bias)) => numbers(bias)?,
        Some(None) => return Ok(None),
        None => vec![0.0; out_channels.max(0) as usize],
    };
    Ok(Some(ConvSpec {
        out_channels,
        channels: per_group.saturating_mul(geometry.groups),
        groups: geometry.groups,
        kernel: [height, width],
        stride: geometry.stride,
        pads: geometry.pads,
        weights: numbers(weights)?,
        bias,
        slopes: vec![1.0; out_channels.max(0) as usize],
    }))
}

/// What an activation of `value` multiplies negative numbers by, channel by channel.
fn slopes_of(node: &Node, value: Slot, constants: &[Option<Tensor>], channels: i64) -> OpResult<Option<Vec<f32>>> {
    let count = channels.max(0) as usize;
    if node.inputs.first() != Some(&Some(value)) {
        return Ok(None);
    }
    match node.part {
        Part::Leaky(slope) => Ok(Some(vec![slope; count])),
        Part::PRelu => {
            let slopes = node.inputs.get(1).copied().flatten().and_then(|slot| constants[slot].as_ref());
            let Some(slopes) = slopes.filter(|slopes| is_per_channel(&slopes.size(), channels)) else {
                return Ok(None);
            };
            let slopes = numbers(slopes)?;
            Ok(Some(if slopes.len() == 1 { vec![slopes[0]; count] } else { slopes }))
        }
        _ => Ok(None),
    }
}

/// Slopes of `C x 1 x 1`, with or without a batch dimension, or a single one.
fn is_per_channel(size: &[i64], channels: i64) -> bool {
    size.iter().all(|dim| *dim == 1) || matches!(size, [c, 1, 1] | [1, c, 1, 1] if *c == channels)
}

/// What is added to `value`, if another node computes it.
fn other_summand(node: &Node, value: Slot, constants: &[Option<Tensor>]) -> Option<Slot> {
    match (&node.part, &node.inputs[..]) {
        (Part::Add, [Some(a), Some(b)]) => {
            let other = if *a == value { *b } else { *a };
            constants[other].is_none().then_some(other)
        }
        _ => None,
    }
}

/// Values that some reader wants as float.
fn refused(nodes: &[Node], plans: &HashMap<usize, Plan>, outputs: &[Slot]) -> HashSet<Slot> {
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

/// The numbers of a constant, however many.
fn numbers(tensor: &Tensor) -> OpResult<Vec<f32>> {
    let tensor = tensor.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut numbers = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut numbers, tensor.numel())?;
    Ok(numbers)
}

#[cfg(test)]
mod tests;
