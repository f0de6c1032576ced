//! Convolutions that read the same value in the same way become one, where that fills its vectors better: the heads of
//! a detector have 4, 8 and 20 channels.

use std::collections::{HashMap, HashSet};

use super::Plan;
use crate::nn::onnx::graph::Slot;
use crate::nn::shim::{ConvSpec, Family, FusedConv};

/// Merges plans; each is known by the index of the node in whose place it runs.
pub(super) fn merge(plans: HashMap<usize, Plan>, refused: &HashSet<Slot>, family: Family) -> HashMap<usize, Plan> {
    let mut plans: Vec<(usize, Plan)> = plans.into_iter().collect();
    // What is merged runs in the place of the first, and the result does not depend on the order of a hash map.
    plans.sort_by_key(|(index, _)| *index);
    let mut merged: Vec<(usize, Plan)> = Vec::new();
    for (index, plan) in plans {
        let sibling = merged.iter_mut().find(|(_, other)| are_siblings(other, &plan, refused, family));
        match sibling.and_then(|(_, other)| Some((join(other, &plan, family)?, other))) {
            Some((joined, other)) => *other = joined,
            None => merged.push((index, plan)),
        }
    }
    merged.into_iter().collect()
}

fn are_siblings(a: &Plan, b: &Plan, refused: &HashSet<Slot>, family: Family) -> bool {
    let reads = |plan: &Plan| {
        let ConvSpec { channels, groups, kernel, stride, pads, .. } = plan.spec;
        let is_float = plan.outputs.iter().any(|(slot, _)| refused.contains(slot));
        (plan.input, channels, groups, kernel, stride, pads, is_float)
    };
    let vectors = |channels: i64| (channels + family.lanes() - 1) / family.lanes();
    let (alone, together) = (
        vectors(a.spec.out_channels) + vectors(b.spec.out_channels),
        vectors(a.spec.out_channels + b.spec.out_channels),
    );
    a.residual.is_none() && b.residual.is_none() && a.spec.groups == 1 && reads(a) == reads(b) && together < alone
}

fn join(a: &Plan, b: &Plan, family: Family) -> Option<Plan> {
    let both = |of: fn(&ConvSpec) -> &Vec<f32>| [of(&a.spec).as_slice(), of(&b.spec)].concat();
    let spec = ConvSpec {
        out_channels: a.spec.out_channels + b.spec.out_channels,
        weights: both(|spec| &spec.weights),
        bias: both(|spec| &spec.bias),
        slopes: both(|spec| &spec.slopes),
        ..a.spec.clone()
    };
    Some(Plan {
        nodes: [a.nodes.as_slice(), &b.nodes].concat(),
        kernel: FusedConv::new(&spec, family)?,
        spec,
        input: a.input,
        residual: None,
        outputs: [a.outputs.as_slice(), &b.outputs].concat(),
    })
}
