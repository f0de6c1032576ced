//! Rewrites a graph into one that computes the same with less work, before anything is built from it.
//!
//! Broken graphs stay broken: whatever is unusual is left as it is, for the loader to say what is wrong with it.

use std::collections::{HashMap, HashSet};

use prost::Message;
use prost::bytes::Bytes;

use super::attributes::Attributes;
use super::proto::{GraphProto, NodeProto, TensorProto};

/// The most parts of a joined value to each of which its activation is copied, and the bytes that an activation may
/// have for that: a file must not grow in memory by what it says once.
const MAX_PARTS: usize = 64;
const MAX_ACTIVATION_BYTES: usize = 4096;

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
    let mut kept: HashMap<(Vec<u8>, Bytes), String> = HashMap::new();
    let mut renamed: HashMap<String, String> = HashMap::new();
    graph.initializer.retain(|weight| {
        if fixed.contains(&weight.name) {
            return true;
        }
        let first = kept.entry(content(weight)).or_insert_with(|| weight.name.clone());
        if *first == weight.name {
            return true;
        }
        renamed.insert(weight.name.clone(), first.clone());
        false
    });
    rename_inputs(&mut graph.node, &renamed);
}

/// What a weight is but for its name, bit by bit: the raw numbers, which are a shared buffer, and all else.
fn content(weight: &TensorProto) -> (Vec<u8>, Bytes) {
    let rest = TensorProto { name: String::new(), raw_data: Bytes::new(), ..weight.clone() };
    (rest.encode_to_vec(), weight.raw_data.clone())
}

/// Readers of a copy read the original, so that nodes which differ in that alone are found to be the same.
///
/// Exporters of PyTorch write a weight that two layers share as one of them and a copy. Out of training a dropout is a
/// copy, too.
pub(super) fn skip_identities(graph: &mut GraphProto) {
    let fixed = declared(graph);
    let mut renamed: HashMap<String, String> = HashMap::new();
    graph.node.retain_mut(|node| {
        rename_inputs(std::slice::from_mut(node), &renamed);
        match (&node.input[..], &node.output[..]) {
            ([original, ..], [copy]) if is_identity(node) && !original.is_empty() && !fixed.contains(copy) => {
                renamed.insert(copy.clone(), original.clone());
                false
            }
            _ => true,
        }
    });
}

fn is_identity(node: &NodeProto) -> bool {
    match node.op_type.as_str() {
        "Identity" => node.input.len() == 1 && node.attribute.is_empty(),
        // The third input would be whether it is in training.
        "Dropout" => {
            node.input.len() <= 2 && node.attribute.iter().all(|known| matches!(known.name.as_str(), "ratio" | "seed"))
        }
        _ => false,
    }
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
        .filter(|node| node.op_type == "Concat" && node.input.len() <= MAX_PARTS)
        .filter(|node| Attributes::of(node).int("axis").ok() == Some(Some(1)))
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
    matches!(node.op_type.as_str(), "LeakyRelu" | "Relu") && node.encoded_len() <= MAX_ACTIVATION_BYTES
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::proto::{AttributeProto, ValueInfoProto, data_type};
    use super::*;

    const MANY: usize = 100_000;

    /// What takes a second or less where each thing is looked at once, and minutes where it is compared with all others.
    /// Generous: machines are shared.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn node(op_type: &str, inputs: Vec<String>, output: String) -> NodeProto {
        NodeProto { op_type: op_type.into(), input: inputs, output: vec![output], ..NodeProto::default() }
    }

    fn weight(name: String, value: f32) -> TensorProto {
        let raw_data = value.to_le_bytes().to_vec().into();
        TensorProto { name, data_type: data_type::FLOAT, raw_data, ..TensorProto::default() }
    }

    fn simplified(mut graph: GraphProto) -> GraphProto {
        let began = Instant::now();
        simplify(&mut graph);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        graph
    }

    #[test]
    fn many_weights_are_compared_by_what_they_hold() {
        let weights = (0..MANY).map(|n| weight(format!("w{n}"), n as f32)).collect();
        let graph = simplified(GraphProto { initializer: weights, ..GraphProto::default() });
        assert_eq!(graph.initializer.len(), MANY);
        let weights = (0..MANY).map(|n| weight(format!("w{n}"), (n % 2) as f32)).collect();
        let readers = (0..MANY).map(|n| node("Add", vec!["x".into(), format!("w{n}")], format!("y{n}"))).collect();
        let graph = simplified(GraphProto { initializer: weights, node: readers, ..GraphProto::default() });
        assert_eq!((graph.initializer.len(), graph.node.len()), (2, 2));
    }

    #[test]
    fn numbers_are_equal_bit_by_bit() {
        let weights = [0.0, -0.0, f32::NAN, f32::NAN].into_iter().enumerate();
        let weights = weights.map(|(n, value)| weight(format!("w{n}"), value)).collect();
        let graph = simplified(GraphProto { initializer: weights, ..GraphProto::default() });
        assert_eq!(graph.initializer.len(), 3);
    }

    #[test]
    fn many_copies_and_declared_values_are_followed_once() {
        let copy = |n: usize| node("Identity", vec![format!("x{n}")], format!("x{}", n + 1));
        let value = |name: String| ValueInfoProto { name, ..ValueInfoProto::default() };
        let mut nodes: Vec<_> = (0..MANY).map(copy).collect();
        nodes.push(node("Relu", vec![format!("x{MANY}")], "y".into()));
        let output = (0..MANY).map(|n| value(format!("y{n}"))).collect();
        let input = (0..MANY).map(|n| value(format!("i{n}"))).collect();
        let graph = simplified(GraphProto { node: nodes, input, output, ..GraphProto::default() });
        assert_eq!(graph.node.len(), 1);
        assert_eq!(graph.node[0].input, ["x0"]);
    }

    #[test]
    fn an_activation_is_not_copied_a_hundred_thousand_times() {
        let axis = AttributeProto { name: "axis".into(), r#type: 2, i: 1, ..AttributeProto::default() };
        let mut concat = node("Concat", (0..MANY).map(|n| format!("x{n}")).collect(), "c".into());
        concat.attribute.push(axis);
        let mut activation = node("Relu", vec!["c".into()], "y".into());
        let noise = AttributeProto { name: "noise".into(), ints: vec![7; MANY], ..AttributeProto::default() };
        activation.attribute.push(noise);
        let graph = simplified(GraphProto { node: vec![concat, activation], ..GraphProto::default() });
        assert_eq!(graph.node.len(), 2);
    }
}
