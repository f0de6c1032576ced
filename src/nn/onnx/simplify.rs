//! Rewrites a graph into one that computes the same with less work, before anything is built from it.
//!
//! Broken graphs stay broken: whatever is unusual is left as it is, for the loader to say what is wrong with it.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::attributes::Attributes;
use super::proto::{GraphProto, NodeProto, TensorProto};

/// Simplifies a graph of ONNX's own operators.
pub(super) fn simplify(graph: &mut GraphProto) {
    share_weights(graph);
    skip_identities(graph);
    share_nodes(graph);
    activate_before_concat(graph);
}

/// Of weights that are equal, all but the first go.
fn share_weights(graph: &mut GraphProto) {
    let fixed = declared(graph);
    let mut kept: HashMap<(i32, Vec<i64>), Vec<TensorProto>> = HashMap::new();
    let mut renamed: HashMap<String, String> = HashMap::new();
    graph.initializer.retain(|weight| {
        if fixed.contains(&weight.name) {
            return true;
        }
        let alike = kept.entry((weight.data_type, weight.dims.clone())).or_default();
        // Contents are shared buffers, so a copy is cheap.
        let equal = alike.iter().find(|other| **other == TensorProto { name: other.name.clone(), ..weight.clone() });
        match equal {
            Some(equal) if equal.name != weight.name => {
                renamed.insert(weight.name.clone(), equal.name.clone());
                false
            }
            _ => {
                alike.push(weight.clone());
                true
            }
        }
    });
    rename_inputs(&mut graph.node, &renamed);
}

/// Readers of a copy read the original, so that nodes which differ in that alone are found to be the same.
///
/// Exporters of PyTorch write a weight that two layers share as one of them and a copy.
pub(super) fn skip_identities(graph: &mut GraphProto) {
    let fixed = declared(graph);
    let mut renamed: HashMap<String, String> = HashMap::new();
    graph.node.retain_mut(|node| {
        rename_inputs(std::slice::from_mut(node), &renamed);
        match (&node.input[..], &node.output[..]) {
            ([original], [copy]) if is_identity(node) && !original.is_empty() && !fixed.contains(copy) => {
                renamed.insert(copy.clone(), original.clone());
                false
            }
            _ => true,
        }
    });
}

fn is_identity(node: &NodeProto) -> bool {
    node.op_type == "Identity" && node.attribute.is_empty()
}

/// Of nodes that compute the same from the same, all but the first go.
fn share_nodes(graph: &mut GraphProto) {
    let fixed = declared(graph);
    let mut kept: HashMap<Vec<u8>, Vec<String>> = HashMap::new();
    let mut renamed: HashMap<String, String> = HashMap::new();
    graph.node.retain_mut(|node| {
        rename_inputs(std::slice::from_mut(node), &renamed);
        if node.output.iter().any(|name| fixed.contains(name)) {
            return true;
        }
        let content = NodeProto { name: String::new(), output: Vec::new(), ..node.clone() }.encode_to_vec();
        let first = kept.entry(content).or_insert_with(|| node.output.clone());
        if first == &node.output || first.len() != node.output.len() {
            return true;
        }
        renamed.extend(node.output.iter().cloned().zip(first.iter().cloned()));
        false
    });
}

/// What the graph's declaration names must stay.
fn declared(graph: &GraphProto) -> HashSet<String> {
    graph.input.iter().chain(&graph.output).map(|value| value.name.clone()).collect()
}

fn rename_inputs(nodes: &mut [NodeProto], renamed: &HashMap<String, String>) {
    for input in nodes.iter_mut().flat_map(|node| &mut node.input) {
        if let Some(name) = renamed.get(input) {
            input.clone_from(name);
        }
    }
}

/// The activation of channels that were put together becomes one of each part, where a convolution can take it in.
fn activate_before_concat(graph: &mut GraphProto) {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    let outputs = graph.output.iter().map(|output| &output.name);
    for name in graph.node.iter().flat_map(|node| &node.input).chain(outputs) {
        *uses.entry(name).or_default() += 1;
    }
    let concats: HashSet<String> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "Concat" && Attributes::of(node).int("axis").ok() == Some(Some(1)))
        .filter_map(|node| node.output.first().filter(|output| uses.get(output.as_str()) == Some(&1)).cloned())
        .collect();
    let mut activations: HashMap<String, NodeProto> = HashMap::new();
    graph.node.retain(|node| match (&node.input[..], &node.output[..]) {
        ([joined], [_]) if is_activation(node) && concats.contains(joined) => {
            activations.insert(joined.clone(), node.clone());
            false
        }
        _ => true,
    });
    let split = |mut concat: NodeProto| {
        let Some(activation) = concat.output.first().and_then(|joined| activations.get(joined)) else {
            return vec![concat];
        };
        // No name in a file has this separator: C strings end there.
        let names: Vec<String> = (0..concat.input.len()).map(|n| format!("{}\0{n}", activation.output[0])).collect();
        let inputs = std::mem::replace(&mut concat.input, names.clone());
        concat.output.clone_from(&activation.output);
        let parts = inputs.into_iter().zip(names).map(|(input, name)| NodeProto {
            input: vec![input],
            output: vec![name],
            ..activation.clone()
        });
        parts.chain([concat.clone()]).collect()
    };
    graph.node = std::mem::take(&mut graph.node).into_iter().flat_map(split).collect();
}

fn is_activation(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "LeakyRelu" | "Relu")
}
