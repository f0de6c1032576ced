//! Convolutions that read the same value in the same way become one, where that fills its vectors better: the heads of
//! a detector have 4, 8 and 20 channels.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::FusionPlan;
use crate::nn::onnx::graph::Slot;
use crate::nn::onnx::ops::{OpError, OpResult};
use crate::nn::shim::{ConvSpec, Family, FusedConv};

/// Merges plans; each is known by the index of the node in whose place it runs.
pub(super) fn merge(
    plans: HashMap<usize, FusionPlan>,
    refused: &HashSet<Slot>,
    family: Family,
) -> OpResult<HashMap<usize, FusionPlan>> {
    let mut plans: Vec<(usize, FusionPlan)> = plans.into_iter().collect();
    // What is merged runs in the place of the first, and the result does not depend on the order of a hash map.
    plans.sort_by_key(|(index, _)| *index);
    let mut merged: Vec<(usize, FusionPlan)> = Vec::new();
    let mut open: HashMap<Reads, Open> = HashMap::new();
    for (index, plan) in plans {
        let Some(reads) = Reads::of(&plan, refused) else {
            merged.push((index, plan));
            continue;
        };
        let open = open.entry(reads).or_default();
        let rest = |plan: &FusionPlan| plan.spec.out_channels % family.lanes();
        let joined = match open.first_with_room(rest(&plan), family.lanes()) {
            Some(place) => join(&merged[place].1, &plan, family)?.map(|joined| (place, joined)),
            None => None,
        };
        match joined {
            Some((place, joined)) => {
                open.move_on(place, rest(&merged[place].1), rest(&joined));
                merged[place].1 = joined;
            }
            None => {
                open.add(merged.len(), rest(&plan));
                merged.push((index, plan));
            }
        }
    }
    Ok(merged.into_iter().collect())
}

/// What siblings have in common.
#[derive(PartialEq, Eq, Hash)]
struct Reads {
    input: Slot,
    channels: i64,
    kernel: [i64; 2],
    stride: [i64; 2],
    pads: [i64; 4],
    gives_float: bool,
}

impl Reads {
    /// `None` for a plan that has no siblings.
    fn of(plan: &FusionPlan, refused: &HashSet<Slot>) -> Option<Self> {
        let ConvSpec { channels, groups, kernel, stride, pads, .. } = plan.spec;
        let gives_float = plan.outputs.iter().any(|(slot, _)| refused.contains(slot));
        let alone = plan.residual.is_some() || plan.flattens || groups != 1;
        (!alone).then_some(Self { input: plan.input, channels, kernel, stride, pads, gives_float })
    }
}

/// Siblings whose last vector is not full: their places among the merged plans, by the channels in that vector.
///
/// By these numbers a partner is found at once, however many siblings there are.
#[derive(Default)]
struct Open([BTreeSet<usize>; MAX_LANES]);

/// Channels in the longest vector of any family.
const MAX_LANES: usize = 16;

impl Open {
    /// The first plan whose last vector has room for `rest` more channels.
    fn first_with_room(&self, rest: i64, lanes: i64) -> Option<usize> {
        // Whole vectors alone gain nothing.
        if rest == 0 {
            return None;
        }
        self.0[1..=(lanes - rest) as usize].iter().filter_map(|places| places.first().copied()).min()
    }

    fn add(&mut self, place: usize, rest: i64) {
        if rest > 0 {
            self.0[rest as usize].insert(place);
        }
    }

    fn move_on(&mut self, place: usize, from: i64, to: i64) {
        self.0[from as usize].remove(&place);
        self.add(place, to);
    }
}

/// Both as one, if the family has a kernel for that.
fn join(a: &FusionPlan, b: &FusionPlan, family: Family) -> OpResult<Option<FusionPlan>> {
    let both = |of: fn(&ConvSpec) -> &Vec<f32>| [of(&a.spec).as_slice(), of(&b.spec)].concat();
    let spec = ConvSpec {
        out_channels: a.spec.out_channels + b.spec.out_channels,
        weights: both(|spec| &spec.weights),
        bias: both(|spec| &spec.bias),
        slopes: both(|spec| &spec.slopes),
        ..a.spec.clone()
    };
    let Some(kernel) = FusedConv::new(&spec, family).map_err(OpError)? else { return Ok(None) };
    Ok(Some(FusionPlan {
        nodes: [a.nodes.as_slice(), &b.nodes].concat(),
        kernel,
        spec,
        input: a.input,
        residual: None,
        flattens: false,
        outputs: [a.outputs.as_slice(), &b.outputs].concat(),
    }))
}
