//! A graph whose weights are variables: to train it further, and to write it back with other weights.

use std::collections::{HashMap, HashSet};

use half::{bf16, f16};
use prost::Message;
use tch::{Device, Kind, Tensor};

use super::graph::{Graph, Slot};
use super::load::{malformed, opset, parse};
use super::ops::OpError;
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, data_type};
use super::simplify::skip_identities;
use super::tensors;
use super::unpack::unpack;
use crate::nn::error::NetworkError;

/// Operators that begin a layer; what follows one, up to the next, is of its layer.
const LAYERS: &[&str] = &["Conv", "ConvTranspose", "Gemm", "MatMul"];

/// Weights of a layer that are named in the file.
pub struct Weight {
    pub name: String,
    /// Float32 on the CPU, as the file has it.
    pub tensor: Tensor,
    /// The first layer that reads it, counted from 0.
    pub layer: usize,
    /// Whether it is a kernel or a matrix, and no bias, slope or scale.
    pub is_kernel: bool,
    slot: Slot,
}

/// An ONNX graph that runs node by node, with gradients if they are wanted, and remembers its file.
///
/// Variables are the float weights that convolutions, products, PReLU and normalisations read, and what is added or
/// multiplied by channel. Statistics of a normalisation stay what they are.
pub struct Trainable {
    model: ModelProto,
    graph: Graph,
    weights: Vec<Weight>,
    layers: usize,
}

impl Trainable {
    /// Reads the content of an ONNX file, to be run on `device` in `kind`.
    pub fn load(content: Vec<u8>, device: Device, kind: Kind) -> Result<Self, NetworkError> {
        let (mut model, mut graph) = parse(content)?;
        name_constants(&mut graph);
        unpack(&mut graph, opset(&model.opset_import)?)?;
        model.graph = Some(graph.clone());
        skip_identities(&mut graph);
        let roles = roles(&graph);
        let layers = graph.node.iter().filter(|node| is_layer(node)).count();
        let mut weights = Vec::new();
        for initializer in &graph.initializer {
            let Some((layer, is_kernel)) = roles.get(&initializer.name).copied() else { continue };
            let tensor = tensors::from_proto(initializer, Device::Cpu).and_then(tensors::without_traces);
            let tensor =
                tensor.map_err(|OpError(reason)| malformed(format!("weight {:?}: {reason}", initializer.name)))?;
            if tensor.f_kind()? == Kind::Float && tensor.numel() > 0 {
                weights.push(Weight { name: initializer.name.clone(), tensor, layer, is_kernel, slot: 0 });
            }
        }
        let variables = weights.iter().map(|weight| weight.name.clone()).collect();
        let (graph, slots) = Graph::plain(&model.opset_import, graph, variables, device, kind)?;
        for weight in &mut weights {
            weight.slot = slots.get(&weight.name).copied().unwrap_or_default();
        }
        // What no output depends on has no gradient.
        weights.retain(|weight| graph.constants[weight.slot].is_some());
        Ok(Self { model, graph, weights, layers })
    }

    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The names of the outputs, in the order of [`Self::forward`].
    pub fn output_names(&self) -> &[String] {
        self.graph.output_names()
    }

    /// Layers in the order of the file.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Runs the graph with tensors in place of some of [`Self::weights`], by number. The outputs are float.
    pub fn forward<'a>(
        &self,
        input: &Tensor,
        given: impl Iterator<Item = (usize, &'a Tensor)>,
    ) -> Result<Vec<Tensor>, NetworkError> {
        self.graph.run_with(input, given.map(|(number, tensor)| (self.weights[number].slot, tensor)))
    }

    /// The file with other numbers in place of some of [`Self::weights`], each row by row, in the file's own types.
    pub fn to_onnx(&self, given: &[(usize, Vec<f32>)]) -> Vec<u8> {
        let numbers: HashMap<&str, &Vec<f32>> =
            given.iter().map(|(number, numbers)| (self.weights[*number].name.as_str(), numbers)).collect();
        let mut model = self.model.clone();
        let initializers = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
        for (initializer, numbers) in
            initializers.filter_map(|tensor| numbers.get(tensor.name.as_str()).copied().map(|given| (tensor, given)))
        {
            replace(initializer, numbers);
        }
        model.encode_to_vec()
    }
}

fn is_layer(node: &NodeProto) -> bool {
    LAYERS.contains(&node.op_type.as_str())
}

/// Tensors that `Constant` nodes hold become named weights, as newer exporters write them.
fn name_constants(graph: &mut GraphProto) {
    let mut named = Vec::new();
    graph.node.retain(|node| {
        let value = match (&node.attribute[..], &node.output[..]) {
            ([value], [output]) if node.op_type == "Constant" && value.name == "value" => {
                value.t.as_ref().map(|tensor| TensorProto { name: output.clone(), ..tensor.clone() })
            }
            _ => None,
        };
        let stays = value.is_none();
        named.extend(value);
        stays
    });
    graph.initializer.extend(named);
}

/// The layer of every weight that may change, and whether it is a kernel.
fn roles(graph: &GraphProto) -> HashMap<String, (usize, bool)> {
    let weights: HashMap<&str, &TensorProto> =
        graph.initializer.iter().map(|weight| (weight.name.as_str(), weight)).collect();
    let mut roles = HashMap::new();
    let mut fixed = HashSet::new();
    let mut layers = 0_usize;
    for node in &graph.node {
        layers += usize::from(is_layer(node));
        for (place, name) in node.input.iter().enumerate() {
            let Some(weight) = weights.get(name.as_str()) else { continue };
            match is_variable(&node.op_type, place, weight) {
                Some(is_kernel) => drop(roles.entry(name.clone()).or_insert((layers.saturating_sub(1), is_kernel))),
                None => drop(fixed.insert(name.clone())),
            }
        }
    }
    roles.retain(|name, _| !fixed.contains(name));
    roles
}

/// Whether an operator's input is a weight that may change: `Some(true)` for kernels, `None` if not.
fn is_variable(operator: &str, place: usize, weight: &TensorProto) -> Option<bool> {
    match (operator, place) {
        ("Conv" | "ConvTranspose" | "Gemm", 1) | ("MatMul", 0 | 1) => Some(true),
        ("Conv" | "ConvTranspose" | "Gemm", 2) | ("PRelu", 1) => Some(false),
        ("BatchNormalization" | "InstanceNormalization" | "LayerNormalization", 1 | 2) => Some(false),
        // Single numbers are constants of a formula.
        ("Add" | "Mul", _) if weight.dims.iter().any(|dim| *dim > 1) => Some(false),
        _ => None,
    }
}

/// Writes numbers into a tensor of the file, as the type that it has.
fn replace(tensor: &mut TensorProto, numbers: &[f32]) {
    let bytes: Vec<u8> = match tensor.data_type {
        data_type::FLOAT16 => numbers.iter().flat_map(|number| f16::from_f32(*number).to_le_bytes()).collect(),
        data_type::BFLOAT16 => numbers.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    };
    tensor.float_data.clear();
    tensor.int32_data.clear();
    tensor.raw_data = bytes.into();
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::super::write::{ConvWeights, Writer};
    use super::*;
    use crate::nn::pixels::to_floats;
    use crate::nn::testing::{difference, made_input};

    /// Two convolutions with a PReLU between them.
    fn file() -> Vec<u8> {
        let (mut writer, input) = Writer::new(3, 4);
        let conv = |out: i64, channels: i64, kernel: i64| ConvWeights {
            shape: [out, channels, kernel, kernel],
            weights: (0..out * channels * kernel * kernel).map(|n| ((n * 7 % 11) as f32 - 5.0) / 9.0).collect(),
            bias: (0..out).map(|n| n as f32 / 3.0).collect(),
            stride: 1,
            padding: 0,
            groups: 1,
        };
        let value = writer.conv(&input, &conv(4, 3, 1));
        let value = writer.prelu(&value, &[0.5, 0.25, 0.1, -0.2]);
        let value = writer.conv(&value, &conv(2, 4, 4));
        writer.finish(&value, 2)
    }

    fn load(content: Vec<u8>) -> Trainable {
        Trainable::load(content, Device::Cpu, Kind::Float).unwrap()
    }

    fn outputs(network: &Trainable, given: &[(usize, &Tensor)]) -> Vec<f32> {
        let output = no_grad(|| network.forward(&made_input(&[2, 3, 4, 4]), given.iter().copied())).unwrap();
        to_floats(&output[0]).unwrap()
    }

    #[test]
    fn weights_are_those_of_layers() {
        let network = load(file());
        let found: Vec<_> = network.weights().iter().map(|weight| (weight.layer, weight.is_kernel)).collect();
        assert_eq!(found, [(0, true), (0, false), (0, false), (1, true), (1, false)]);
        assert_eq!(network.layers(), 2);
    }

    #[test]
    fn a_file_with_other_weights_computes_what_the_run_with_them_does() {
        let network = load(file());
        let plain = outputs(&network, &[]);
        let changed: Vec<Tensor> = network.weights().iter().map(|weight| &weight.tensor * 1.5 + 0.1).collect();
        let given: Vec<_> = changed.iter().enumerate().collect();
        let expected = outputs(&network, &given);
        assert!(difference(&plain, &expected) > 0.1);
        let numbers: Vec<_> =
            changed.iter().map(|tensor| to_floats(&tensor.flatten(0, -1)).unwrap()).enumerate().collect();
        assert!(difference(&outputs(&load(network.to_onnx(&numbers)), &[]), &expected) < 1e-6);
        assert!(difference(&outputs(&load(network.to_onnx(&[])), &[]), &plain) == 0.0);
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let network = load(file());
        let slopes = network.weights()[2].tensor.copy().set_requires_grad(true);
        let sum = |slopes: &Tensor| {
            let outputs = network.forward(&made_input(&[2, 3, 4, 4]), [(2, slopes)].into_iter()).unwrap();
            outputs[0].square().sum(Kind::Double)
        };
        sum(&slopes).backward();
        let gradient = to_floats(&slopes.grad().flatten(0, -1)).unwrap();
        for (place, gradient) in gradient.iter().enumerate() {
            let mut step = vec![0.0_f32; 4];
            step[place] = 1e-2;
            let step = Tensor::from_slice(&step).reshape([4, 1, 1]);
            let slopes = slopes.detach();
            let (up, down) = no_grad(|| (sum(&(&slopes + &step)), sum(&(&slopes - &step))));
            let slope = (up.double_value(&[]) - down.double_value(&[])) / 2e-2;
            assert!((slope - f64::from(*gradient)).abs() < 0.02 * slope.abs().max(1.0), "{slope} {gradient}");
        }
    }
}
