//! From the bytes of an ONNX file to a [`Graph`].

use std::collections::{HashMap, HashSet};

use prost::Message;
use prost::bytes::Bytes;
use tch::{Device, Kind, Tensor, no_grad};

use super::attributes::Attributes;
use super::counts;
use super::external;
use super::fusion::{self, Part};
use super::graph::{Graph, Input, Label, Node, Slot};
use super::layout;
use super::ops::{self, Build, Inputs, OpError, OpResult};
use super::passes;
use super::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use super::simplify::simplify;
use super::tensors::{self, MAX_ELEMENTS};
use crate::nn::error::{NetworkError, UnsupportedOperator};
use crate::nn::shim::Family;

/// Operators whose weights are reduced with the network; others (sizes, scales, limits) keep theirs.
const REDUCED: &[&str] =
    &["Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul", "PRelu", "Sub"];

/// Of those, the ones that libtorch runs on values of one type only.
const STRICT: &[&str] = &["BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu"];

/// Versions of ONNX's own operators whose differences the operators here know.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=23;

impl Graph {
    /// Reads the content of an ONNX file and puts its weights on `device`, to be run in `kind`: float, bfloat16 or half.
    ///
    /// With a family of kernels, which must be for `kind` and on the CPU, convolutions are fused with what follows them.
    pub fn load(
        content: impl Into<Bytes>,
        device: Device,
        kind: Kind,
        family: Option<Family>,
    ) -> Result<Self, NetworkError> {
        let (model, mut graph) = parse(content)?;
        simplify(&mut graph);
        let loader = Loader::new(opset(&model.opset_import)?, device, kind, HashSet::new());
        Ok(no_grad(|| loader.graph(graph, family))?.0)
    }

    /// The graph node by node, nothing fused, where `variables` are weights that a run may bring others for. Comes with the
    /// slots of values by name.
    pub(super) fn plain(
        opsets: &[OperatorSetIdProto],
        graph: GraphProto,
        variables: HashSet<String>,
        device: Device,
        kind: Kind,
    ) -> Result<(Self, HashMap<String, Slot>), NetworkError> {
        let loader = Loader::new(opset(opsets)?, device, kind, variables);
        no_grad(|| loader.graph(graph, None))
    }
}

/// The model of a file without its graph, and the graph, whose operators are known and whose images come colour by colour.
pub(super) fn parse(content: impl Into<Bytes>) -> Result<(ModelProto, GraphProto), NetworkError> {
    let content = content.into();
    counts::check(&content)?;
    let mut model = ModelProto::decode(content).map_err(|error| malformed(error.to_string()))?;
    let mut graph = model.graph.take().ok_or_else(|| malformed("it holds no graph"))?;
    if !graph.sparse_initializer.is_empty() {
        return Err(malformed("sparse weights are not supported"));
    }
    opset(&model.opset_import)?;
    check_operators(&graph.node)?;
    external::check_whole(&graph)?;
    layout::colour_by_colour(&mut graph);
    Ok((model, graph))
}

pub(super) fn malformed(reason: impl Into<String>) -> NetworkError {
    NetworkError::Malformed(reason.into())
}

fn is_onnx_domain(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

pub(super) fn opset(imports: &[OperatorSetIdProto]) -> Result<i64, NetworkError> {
    match imports.iter().find(|import| is_onnx_domain(&import.domain)).map(|import| import.version) {
        Some(version) if OPSETS.contains(&version) => Ok(version),
        Some(version) => {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            Err(malformed(format!("it uses opset {version}; {first} to {last} are supported")))
        }
        None => Err(malformed("it does not say which opset it uses")),
    }
}

/// Missing operators that a message names; nobody reads more.
const MAX_NAMED: usize = 32;

/// Names every operator that is missing, each with its first node.
fn check_operators(nodes: &[NodeProto]) -> Result<(), NetworkError> {
    let mut missing: Vec<UnsupportedOperator> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let ours = is_onnx_domain(&node.domain);
        if ours && ops::builder(&node.op_type).is_some() {
            continue;
        }
        let operator = if ours { node.op_type.clone() } else { format!("{}::{}", node.domain, node.op_type) };
        if missing.len() < MAX_NAMED && missing.iter().all(|known| known.operator != operator) {
            missing.push(UnsupportedOperator { operator, node: label(index, node).node });
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(NetworkError::UnsupportedOperators(missing)) }
}

/// A node's name, or what else tells it from the others.
fn label(index: usize, node: &NodeProto) -> Label {
    let name = if node.name.is_empty() {
        format!("#{index} ({})", node.output.first().map_or("", String::as_str))
    } else {
        node.name.clone()
    };
    Label { node: name, operator: node.op_type.clone() }
}

struct Loader {
    opset: i64,
    device: Device,
    kind: Kind,
    slots: HashMap<String, Slot>,
    /// By slot; `None` for values that a run computes.
    constants: Vec<Option<Tensor>>,
    /// The number of elements in all constants.
    elements: i64,
    /// Names of weights that do not stay what they are: what reads them is computed at every run.
    variables: HashSet<String>,
}

impl Loader {
    fn new(opset: i64, device: Device, kind: Kind, variables: HashSet<String>) -> Self {
        Self { opset, device, kind, slots: HashMap::new(), constants: Vec::new(), elements: 0, variables }
    }

    /// The graph, fused for a family of kernels if there is one, and the slots of its values by name.
    fn graph(
        mut self,
        graph: GraphProto,
        family: Option<Family>,
    ) -> Result<(Graph, HashMap<String, Slot>), NetworkError> {
        for initializer in &graph.initializer {
            let tensor = tensors::from_proto(initializer, self.device)
                .and_then(tensors::without_traces)
                .map_err(|OpError(reason)| malformed(format!("weight {:?}: {reason}", initializer.name)))?;
            self.define(&initializer.name, Some(tensor))?;
        }
        let input = self.input(&graph)?;
        let free_batch = input.dims.as_ref().is_some_and(|dims| dims.first() == Some(&Some(1)));
        let mut nodes = Vec::new();
        for (index, node) in graph.node.iter().enumerate() {
            nodes.extend(self.node(index, node, free_batch)?);
        }
        let output_names: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
        let outputs = output_names.iter().map(|name| self.output(name)).collect::<Result<Vec<_>, _>>()?;
        if outputs.is_empty() {
            return Err(malformed("it declares no output"));
        }
        let mut kind = self.kind;
        if let Some(family) = family {
            let fused = fusion::fuse(nodes, &self.constants, &outputs, family);
            let (fused, float_values) = fused.map_err(|OpError(reason)| malformed(reason))?;
            nodes = fused;
            if float_values.contains(&input.slot) {
                kind = Kind::Float;
            }
        } else if self.kind != Kind::Float {
            self.reduce_weights(&nodes).map_err(|OpError(reason)| malformed(reason))?;
        }
        let (nodes, constants) = keep_needed(nodes, self.constants, &outputs);
        let fused = family.is_some();
        let tail = passes::tail(&nodes, &outputs, input.slot);
        let graph = Graph { device: self.device, kind, fused, input, outputs, output_names, constants, nodes, tail };
        Ok((graph, self.slots))
    }

    /// Casts the weights of a network that runs node by node.
    fn reduce_weights(&mut self, nodes: &[Node]) -> OpResult<()> {
        let reads_weights = |node: &&Node| REDUCED.contains(&node.label.operator.as_str());
        for slot in nodes.iter().filter(reads_weights).flat_map(|node| node.inputs.iter().flatten()) {
            if let Some(constant) = &mut self.constants[*slot]
                && constant.f_kind()? == Kind::Float
            {
                *constant = constant.f_to_kind(self.kind)?;
            }
        }
        Ok(())
    }

    /// Gives a value its slot.
    fn define(&mut self, name: &str, constant: Option<Tensor>) -> Result<Slot, NetworkError> {
        let slot = self.constants.len();
        if self.slots.insert(name.to_owned(), slot).is_some() {
            return Err(malformed(format!("the value {name:?} is defined twice")));
        }
        self.elements += constant.as_ref().map_or(0, |tensor| tensor.numel() as i64);
        if self.elements > MAX_ELEMENTS {
            return Err(malformed(format!("its constants have more than {MAX_ELEMENTS} elements")));
        }
        self.constants.push(constant);
        Ok(slot)
    }

    /// The one input that is not a weight; before IR version 4 weights are listed as inputs, too. Tools that replace a
    /// weight leave it there, so of several inputs those count that somebody reads.
    fn input(&mut self, graph: &GraphProto) -> Result<Input, NetworkError> {
        let mut inputs: Vec<_> = graph.input.iter().filter(|input| !self.slots.contains_key(&input.name)).collect();
        if inputs.len() > 1 {
            let read: HashSet<&str> = graph.node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
            let some_are_read = inputs.iter().any(|input| read.contains(input.name.as_str()));
            inputs.retain(|input| !some_are_read || read.contains(input.name.as_str()));
        }
        let [input] = inputs[..] else {
            return Err(malformed(format!("it has {} inputs instead of one", inputs.len())));
        };
        let Some(tensor) = input.r#type.as_ref().and_then(|r#type| r#type.tensor_type.as_ref()) else {
            return Err(malformed("its input is not a tensor"));
        };
        if !tensors::kind_of(tensor.elem_type).is_ok_and(tensors::is_floating) {
            return Err(malformed("its input is not a tensor of floating-point numbers"));
        }
        // A dimension of 0 or less is another way in which exporters say that it is free.
        let free_or_fixed = |dim: Option<i64>| dim.filter(|dim| *dim > 0);
        let dims =
            tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| free_or_fixed(dim.dim_value)).collect());
        Ok(Input { slot: self.define(&input.name, None)?, dims })
    }

    fn output(&self, name: &str) -> Result<Slot, NetworkError> {
        self.slots.get(name).copied().ok_or_else(|| malformed(format!("nothing computes the output {name:?}")))
    }

    /// Resolves a node; runs it right away, giving `None`, if it reads constants only.
    fn node(&mut self, index: usize, node: &NodeProto, free_batch: bool) -> Result<Option<Node>, NetworkError> {
        let label = label(index, node);
        let inputs = node.input.iter().map(|name| self.node_input(name, &label)).collect::<Result<Vec<_>, _>>()?;
        let builder = ops::builder(&node.op_type).ok_or_else(|| {
            let missing = UnsupportedOperator { operator: label.operator.clone(), node: label.node.clone() };
            NetworkError::UnsupportedOperators(vec![missing])
        })?;
        let attributes = Attributes::of(node);
        let mut build = Build { attributes, opset: self.opset, outputs: node.output.len(), device: self.device };
        let run = builder(&mut build).map_err(|error| label.error(error))?;
        build.attributes.finish().map_err(|error| label.error(error))?;

        let constants: Vec<_> = inputs.iter().map(|slot| slot.and_then(|slot| self.constants[slot].as_ref())).collect();
        let is_known = inputs.iter().zip(&constants).all(|(slot, constant)| slot.is_none() || constant.is_some());
        let is_constant = is_known && !node.input.iter().any(|name| self.variables.contains(name));
        if is_constant {
            let results = run(&Inputs::new(constants)).map_err(|error| label.error(error))?;
            for (name, result) in node.output.iter().zip(results).filter(|(name, _)| !name.is_empty()) {
                self.define(name, Some(result))?;
            }
            return Ok(None);
        }
        let target = if free_batch && node.op_type == "Reshape" { constants.get(1).copied().flatten() } else { None };
        let target = target.map(tensors::to_ints).transpose().map_err(|error| label.error(error))?;
        let batch_target = target.filter(|target| target.first() == Some(&1));
        let mut outputs = Vec::new();
        for name in &node.output {
            outputs.push(if name.is_empty() { None } else { Some(self.define(name, None)?) });
        }
        let (part, is_strict) = (Part::of(node), STRICT.contains(&node.op_type.as_str()));
        Ok(Some(Node { label, inputs, outputs, run, part, is_strict, batch_target, release: Vec::new() }))
    }

    /// An empty name stands for an optional input that is left out.
    fn node_input(&self, name: &str, label: &Label) -> Result<Option<Slot>, NetworkError> {
        if name.is_empty() {
            return Ok(None);
        }
        let undefined = || label.error(OpError(format!("no earlier node computes its input {name:?} (a cycle?)")));
        self.slots.get(name).map(|slot| Some(*slot)).ok_or_else(undefined)
    }
}

/// Drops nodes and constants that no output depends on, and notes after which node a value is done with.
fn keep_needed(nodes: Vec<Node>, constants: Vec<Option<Tensor>>, outputs: &[Slot]) -> (Vec<Node>, Vec<Option<Tensor>>) {
    let mut needed: HashSet<Slot> = outputs.iter().copied().collect();
    let mut kept = Vec::new();
    for mut node in nodes.into_iter().rev() {
        if !node.outputs.iter().flatten().any(|slot| needed.contains(slot)) {
            continue;
        }
        // Going backwards, the first node that mentions a value is the last one that runs with it.
        let unused_outputs: Vec<_> = node.outputs.iter().flatten().filter(|slot| !needed.contains(slot)).collect();
        node.release = unused_outputs.into_iter().copied().collect();
        for slot in node.inputs.iter().flatten() {
            if needed.insert(*slot) {
                node.release.push(*slot);
            }
        }
        kept.push(node);
    }
    kept.reverse();
    let constants = constants.into_iter().enumerate().map(|(slot, value)| value.filter(|_| needed.contains(&slot)));
    (kept, constants.collect())
}
