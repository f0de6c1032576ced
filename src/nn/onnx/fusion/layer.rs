//! The layers that kernels run: a convolution, or a product with a matrix that reads whole images, each with the
//! normalisations by fixed statistics beside it.

use std::collections::{HashMap, HashSet};

use tch::{Kind, Tensor};

use super::{Geometry, Part};
use crate::nn::onnx::graph::{Node, Slot};
use crate::nn::onnx::ops::OpResult;
use crate::nn::onnx::tensors::without_traces;
use crate::nn::shim::ConvSpec;

pub(super) struct Layer {
    pub spec: ConvSpec,
    pub input: Slot,
    pub output: Slot,
    /// What it replaces, the last one last.
    pub nodes: Vec<usize>,
    /// It takes the pixels of an image as one row, and gives `N x O`.
    pub flattens: bool,
}

/// Who computes and who reads which value.
pub(super) struct Values<'a> {
    nodes: &'a [Node],
    constants: &'a [Option<Tensor>],
    users: HashMap<Slot, Vec<usize>>,
    makers: HashMap<Slot, usize>,
    outputs: HashSet<Slot>,
    /// Of images, where they are known.
    channels: HashMap<Slot, i64>,
}

impl<'a> Values<'a> {
    pub fn of(nodes: &'a [Node], constants: &'a [Option<Tensor>], outputs: &[Slot]) -> Self {
        let outputs = outputs.iter().copied().collect();
        let (users, makers, channels) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut values = Self { nodes, constants, users, makers, outputs, channels };
        for (index, node) in nodes.iter().enumerate() {
            node.inputs.iter().flatten().for_each(|slot| values.users.entry(*slot).or_default().push(index));
            values.makers.extend(node.outputs.iter().flatten().map(|slot| (*slot, index)));
            if let (Some(channels), Some(Some(output))) = (values.channels_of(node), node.outputs.first()) {
                values.channels.insert(*output, channels);
            }
        }
        values
    }

    /// Of what a node gives, if that is images for sure.
    fn channels_of(&self, node: &Node) -> Option<i64> {
        let of_input = |place: usize| self.channels.get(&node.inputs.get(place).copied()??).copied();
        match node.part {
            Part::Conv(_) => match self.constant(node, 1)?.size()[..] {
                [channels, _, _, _] => Some(channels),
                _ => None,
            },
            Part::BatchNorm(_) | Part::Leaky(_) | Part::PRelu => of_input(0),
            Part::Add => of_input(0).filter(|channels| of_input(1) == Some(*channels)),
            Part::HandsOn if node.label.operator == "MaxPool" => of_input(0),
            _ => None,
        }
    }

    /// The one node that reads a value that is no output.
    pub fn only_user(&self, slot: Slot) -> Option<usize> {
        match self.users.get(&slot).map(Vec::as_slice) {
            Some([user]) if !self.outputs.contains(&slot) => Some(*user),
            _ => None,
        }
    }

    /// The node that computes a value for this one alone.
    fn only_maker(&self, slot: Slot, user: usize) -> Option<usize> {
        self.only_user(slot).filter(|found| *found == user)?;
        self.makers.get(&slot).copied()
    }

    fn constant(&self, node: &Node, place: usize) -> Option<&'a Tensor> {
        node.inputs.get(place).copied().flatten().and_then(|slot| self.constants[slot].as_ref())
    }

    /// The layer that a node is the heart of, with the normalisations that it can take in. `taken` are nodes that others have.
    pub fn layer(&self, index: usize, taken: &HashSet<usize>) -> OpResult<Option<Layer>> {
        let node = &self.nodes[index];
        let layer = match &node.part {
            Part::Conv(geometry) => self.convolution(index, node, geometry)?,
            Part::Product { transposed } => self.product(index, node, *transposed)?,
            _ => None,
        };
        let Some(mut layer) = layer else { return Ok(None) };
        self.take_in_before(&mut layer, taken)?;
        self.take_in_after(&mut layer, taken)?;
        let weights = without_traces(Tensor::f_from_slice(&layer.spec.weights)?)?;
        layer.spec.weights = numbers(&weights)?;
        Ok(Some(layer))
    }

    /// A convolution whose weights are constants.
    fn convolution(&self, index: usize, node: &Node, geometry: &Geometry) -> OpResult<Option<Layer>> {
        let Some(weights) = self.constant(node, 1) else { return Ok(None) };
        let [out_channels, per_group, height, width] = weights.size()[..] else { return Ok(None) };
        let channels = per_group.saturating_mul(geometry.groups);
        let spec = ConvSpec {
            channels,
            groups: geometry.groups,
            kernel: [height, width],
            stride: geometry.stride,
            pads: geometry.pads,
            ..ConvSpec::default()
        };
        self.with_numbers(index, node, spec, out_channels, weights)
    }

    /// A product of flattened images and a constant matrix: a convolution that reads all pixels.
    fn product(&self, index: usize, node: &Node, transposed: bool) -> OpResult<Option<Layer>> {
        let flat = node.inputs.first().copied().flatten().and_then(|slot| self.only_maker(slot, index));
        let Some((flatten, image)) = flat.and_then(|flatten| Some((flatten, self.flattened(flatten)?))) else {
            return Ok(None);
        };
        let (Some(weights), Some(channels)) = (self.constant(node, 1), self.channels.get(&image).copied()) else {
            return Ok(None);
        };
        if weights.dim() != 2 || channels < 1 {
            return Ok(None);
        }
        let rows = if transposed { weights.shallow_clone() } else { weights.f_transpose(0, 1)? };
        let (out_channels, length) = (rows.size()[0], rows.size()[1]);
        if length % channels != 0 {
            return Ok(None);
        }
        let spec = ConvSpec {
            channels,
            groups: 1,
            kernel: [1, length / channels],
            stride: [1, 1],
            pads: [0; 4],
            ..ConvSpec::default()
        };
        let Some(layer) = self.with_numbers(index, node, spec, out_channels, &rows)? else { return Ok(None) };
        Ok(Some(Layer { input: image, nodes: vec![flatten, index], flattens: true, ..layer }))
    }

    /// The images that a node flattens.
    fn flattened(&self, index: usize) -> Option<Slot> {
        matches!(self.nodes[index].part, Part::Flatten).then_some(())?;
        self.nodes[index].inputs.first().copied().flatten()
    }

    fn with_numbers(
        &self,
        index: usize,
        node: &Node,
        spec: ConvSpec,
        out_channels: i64,
        weights: &Tensor,
    ) -> OpResult<Option<Layer>> {
        let ([Some(input), ..], [Some(output), ..]) = (&node.inputs[..], &node.outputs[..]) else { return Ok(None) };
        let count = out_channels.max(0) as usize;
        let bias = match (node.inputs.get(2).copied().flatten(), self.constant(node, 2)) {
            (None, _) => vec![0.0; count],
            (Some(_), Some(bias)) if bias.numel() == count && matches!(bias.size()[..], [_] | [1, _]) => numbers(bias)?,
            _ => return Ok(None),
        };
        // A network in double precision wants it.
        if weights.f_kind()? != Kind::Float {
            return Ok(None);
        }
        let spec = ConvSpec { out_channels, weights: numbers(weights)?, bias, slopes: vec![1.0; count], ..spec };
        Ok(Some(Layer { spec, input: *input, output: *output, nodes: vec![index], flattens: false }))
    }

    /// A normalisation of what the layer reads. Where the layer pads its input, zeros would be normalised, too.
    fn take_in_before(&self, layer: &mut Layer, taken: &HashSet<usize>) -> OpResult<()> {
        let maker = layer.nodes.first().and_then(|first| self.only_maker(layer.input, *first));
        let Some(index) = maker.filter(|index| !taken.contains(index)) else { return Ok(()) };
        let padded = layer.spec.pads != [0; 4] || layer.spec.groups != 1;
        let Some(affine) = self.affine(index, layer.spec.channels).transpose()?.filter(|_| !padded) else {
            return Ok(());
        };
        if let Some(Some(input)) = self.nodes[index].inputs.first() {
            layer.input = *input;
            layer.nodes.insert(0, index);
            affine.before(&mut layer.spec);
        }
        Ok(())
    }

    /// Normalisations of what the layer gives.
    fn take_in_after(&self, layer: &mut Layer, taken: &HashSet<usize>) -> OpResult<()> {
        while let Some(index) = self.only_user(layer.output).filter(|index| !taken.contains(index)) {
            let node = &self.nodes[index];
            let (true, Some(Some(output))) = (node.inputs.first() == Some(&Some(layer.output)), node.outputs.first())
            else {
                return Ok(());
            };
            let Some(affine) = self.affine(index, layer.spec.out_channels).transpose()? else { return Ok(()) };
            affine.after(&mut layer.spec);
            layer.output = *output;
            layer.nodes.push(index);
        }
        Ok(())
    }

    /// What a normalisation by constants does to each of `channels`.
    fn affine(&self, index: usize, channels: i64) -> Option<OpResult<Affine>> {
        let node = &self.nodes[index];
        let Part::BatchNorm(epsilon) = node.part else { return None };
        let constant = |place| self.constant(node, place).filter(|constant| constant.size() == [channels]);
        let statistics = [constant(1)?, constant(2)?, constant(3)?, constant(4)?];
        let read = || {
            let [scale, bias, mean, variance] = statistics.map(numbers);
            let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
            let factor = |place: usize| f64::from(scale[place]) / (f64::from(variance[place]) + epsilon).sqrt();
            let factors: Vec<f64> = (0..scale.len()).map(factor).collect();
            let shift = |place: usize| f64::from(bias[place]) - f64::from(mean[place]) * factors[place];
            let shifts = (0..scale.len()).map(shift).collect();
            Ok(Affine { factors, shifts })
        };
        Some(read())
    }
}

/// `factor * value + shift` for each channel.
struct Affine {
    factors: Vec<f64>,
    shifts: Vec<f64>,
}

impl Affine {
    /// Of what a layer gives.
    fn after(&self, spec: &mut ConvSpec) {
        let per_output = spec.weights.len() / self.factors.len().max(1);
        for (weights, factor) in spec.weights.chunks_exact_mut(per_output.max(1)).zip(&self.factors) {
            weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        }
        for ((bias, factor), shift) in spec.bias.iter_mut().zip(&self.factors).zip(&self.shifts) {
            *bias = (f64::from(*bias) * factor + shift) as f32;
        }
    }

    /// Of what a layer of one group reads.
    fn before(&self, spec: &mut ConvSpec) {
        let area = (spec.kernel[0] * spec.kernel[1]).max(1) as usize;
        let per_output = self.factors.len() * area;
        for (weights, bias) in spec.weights.chunks_exact_mut(per_output.max(1)).zip(&mut spec.bias) {
            let mut sum = f64::from(*bias);
            for (place, taps) in weights.chunks_exact_mut(area).enumerate() {
                for weight in taps {
                    sum += f64::from(*weight) * self.shifts[place];
                    *weight = (f64::from(*weight) * self.factors[place]) as f32;
                }
            }
            *bias = sum as f32;
        }
    }
}

/// The numbers of a constant, however many.
pub(super) fn numbers(tensor: &Tensor) -> OpResult<Vec<f32>> {
    let tensor = tensor.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut numbers = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut numbers, tensor.numel())?;
    Ok(numbers)
}
