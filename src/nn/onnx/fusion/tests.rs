//! Fused graphs against the same graphs node by node, in every family of this processor.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prost::Message;
use tch::{Device, Kind, Tensor};

use crate::nn::onnx::Graph;
use crate::nn::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, attribute_type,
    data_type,
};
use crate::nn::shim::Family;
use crate::nn::testing::{families, made_input};

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INTS, ints: ints.to_vec(), ..Default::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INT, i, ..Default::default() }
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { op_type: op_type.into(), input: names(inputs), output: names(outputs), attribute, ..Default::default() }
}

fn conv(inputs: &[&str], output: &str, pad: i64) -> NodeProto {
    node("Conv", inputs, &[output], vec![ints("pads", &[pad; 4])])
}

fn weight(name: &str, dims: &[i64]) -> TensorProto {
    let count: i64 = dims.iter().product();
    let summands = (count / dims[0]).max(1) as f32;
    let value = |i: i64| ((i * 7919 % 211) as f32 / 105.0 - 1.0) / summands.sqrt();
    let raw: Vec<u8> = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        raw_data: raw.into(),
        ..Default::default()
    }
}

fn value(name: &str) -> ValueInfoProto {
    let mut value = ValueInfoProto { name: name.into(), ..Default::default() };
    let tensor = &mut value.r#type.get_or_insert_default().tensor_type;
    tensor.get_or_insert_default().elem_type = data_type::FLOAT;
    value
}

fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>, outputs: &[&str]) -> Vec<u8> {
    let graph = GraphProto {
        node,
        initializer,
        input: vec![value("x")],
        output: outputs.iter().map(|name| value(name)).collect(),
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: 17, ..Default::default() }];
    ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
}

/// Runs the graph node by node in double precision, and fused in each family, at once and image by image.
fn check(content: Vec<u8>, channels: i64) {
    let input = made_input(&[2, channels, 9, 11]);
    let reference = Graph::load(content.clone(), Device::Cpu, Kind::Double, None).unwrap();
    let expected = reference.run(&input).unwrap();
    assert!(!reference.is_fused());
    for family in families() {
        let tolerance = if family == Family::Avx512Bf16 { 0.05 } else { 1e-4 };
        let fused = Graph::load(content.clone(), Device::Cpu, family.kind(), Some(family)).unwrap();
        assert!(fused.is_fused());
        let mut outputs = fused.run(&input).unwrap();
        outputs.extend(fused.run_in_passes(&input, 1).unwrap());
        assert_eq!(outputs.len(), 2 * expected.len());
        for (output, expected) in outputs.iter().zip(expected.iter().cycle()) {
            assert_eq!(output.size(), expected.size());
            let difference = |a: &Tensor, b: &Tensor| {
                (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
            };
            let largest = difference(output, expected);
            let scale = expected.to_kind(Kind::Double).abs().max().double_value(&[]).max(1.0);
            assert!(largest <= tolerance * scale, "{family:?}: {largest} of {scale}");
        }
    }
}

#[test]
fn activations_and_residuals_are_taken_in() {
    let nodes = vec![
        conv(&["x", "w1", "b1"], "a", 1),
        node("PRelu", &["a", "slopes"], &["b"], vec![]),
        conv(&["b", "w2"], "c", 1),
        node("Add", &["b", "c"], &["d"], vec![]),
        conv(&["d", "w1", "b1"], "e", 1),
        node("LeakyRelu", &["e"], &["y"], vec![]),
    ];
    let weights = vec![
        weight("w1", &[8, 8, 3, 3]),
        weight("b1", &[8]),
        weight("slopes", &[8, 1, 1]),
        weight("w2", &[8, 8, 3, 3]),
    ];
    check(model(nodes, weights, &["y"]), 8);
}

/// Numbers above 0, as variances are.
fn variances(name: &str, count: i64) -> TensorProto {
    let raw: Vec<u8> = (0..count).flat_map(|i| (0.5 + (i % 5) as f32).to_le_bytes()).collect();
    TensorProto { raw_data: raw.into(), ..weight(name, &[count]) }
}

/// A normalisation by statistics that `statistics` gives.
fn norm(input: &str, of: &str, output: &str) -> NodeProto {
    let names = ["scale", "shift", "mean", "variance"].map(|part| format!("{of}_{part}"));
    let inputs = [input, &names[0], &names[1], &names[2], &names[3]];
    node("BatchNormalization", &inputs, &[output], vec![])
}

fn statistics(of: &str, channels: i64) -> Vec<TensorProto> {
    let named = |part: &str| format!("{of}_{part}");
    let plain = ["scale", "shift", "mean"].map(|part| weight(&named(part), &[channels]));
    plain.into_iter().chain([variances(&named("variance"), channels)]).collect()
}

/// A graph after fusion, by the first family that this processor has.
fn graph(content: &[u8]) -> Graph {
    let family = families()[0];
    Graph::load(content.to_vec(), Device::Cpu, family.kind(), Some(family)).unwrap()
}

/// Its operators.
fn operators(content: &[u8]) -> Vec<String> {
    graph(content).nodes.iter().map(|node| node.label.operator.clone()).collect()
}

#[test]
fn normalisations_and_the_last_product_are_taken_in() {
    for (transposed, shape) in [(1, [5, 12 * 7 * 9]), (0, [12 * 7 * 9, 5])] {
        let nodes = vec![
            conv(&["x", "w1"], "a", 0),
            norm("a", "n1", "b"),
            node("PRelu", &["b", "slopes"], &["c"], vec![]),
            norm("c", "n2", "d"),
            node("Flatten", &["d"], &["e"], vec![]),
            node("Gemm", &["e", "w2", "bias"], &["f"], vec![int("transB", transposed)]),
            norm("f", "n3", "y"),
        ];
        let weights = vec![
            weight("w1", &[12, 8, 3, 3]),
            weight("slopes", &[12, 1, 1]),
            weight("w2", &shape),
            weight("bias", &[5]),
        ];
        let statistics = [statistics("n1", 12), statistics("n2", 12), statistics("n3", 5)].concat();
        let content = model(nodes, [weights, statistics].concat(), &["y"]);
        assert_eq!(operators(&content), ["PRelu", "BatchNormalization"]);
        assert_eq!(graph(&content).tail, 1);
        check(content, 8);
    }
}

#[test]
fn normalisations_that_cannot_be_taken_in_stay() {
    // Zeros that the second convolution pads with are not normalised; "b" is read twice, and "c" is an output.
    let nodes = vec![
        norm("x", "n1", "a"),
        conv(&["a", "w1"], "b", 1),
        norm("b", "n2", "c"),
        node("Add", &["b", "c"], &["d"], vec![]),
        conv(&["d", "w2"], "e", 0),
        node("Flatten", &["e"], &["f"], vec![]),
        node("Gemm", &["f", "w3"], &["y"], vec![int("transB", 1)]),
    ];
    let weights = vec![weight("w1", &[8, 8, 3, 3]), weight("w2", &[8, 8, 1, 1]), weight("w3", &[3, 8 * 99])];
    let content = model(nodes, [weights, statistics("n1", 8), statistics("n2", 8)].concat(), &["y", "c", "f"]);
    assert_eq!(operators(&content).iter().filter(|operator| *operator == "BatchNormalization").count(), 2);
    // Outputs come from before the product, too: each pass runs to the end.
    assert_eq!(graph(&content).tail, graph(&content).nodes.len());
    check(content, 8);
}

#[test]
fn rows_that_are_flattened_again_are_no_images() {
    let nodes = vec![
        conv(&["x", "w1"], "a", 1),
        node("Flatten", &["a"], &["b"], vec![]),
        node("Gemm", &["b", "w2"], &["c"], vec![int("transB", 1)]),
        norm("c", "n", "d"),
        node("Flatten", &["d"], &["e"], vec![]),
        node("Gemm", &["e", "w3"], &["y"], vec![int("transB", 1)]),
    ];
    let weights = vec![weight("w1", &[8, 8, 3, 3]), weight("w2", &[6, 8 * 99]), weight("w3", &[3, 6])];
    check(model(nodes, [weights, statistics("n", 6)].concat(), &["y"]), 8);
}

#[test]
fn values_that_others_read_stay_as_they_are() {
    // What the convolution gives is an output and is read twice: neither activation nor addition may be taken in.
    let nodes = vec![
        conv(&["x", "w"], "a", 1),
        node("Relu", &["a"], &["b"], vec![]),
        node("Add", &["a", "b"], &["c"], vec![]),
        node("Sigmoid", &["c"], &["y"], vec![]),
    ];
    check(model(nodes, vec![weight("w", &[16, 8, 3, 3])], &["y", "a"]), 8);
}

#[test]
fn heads_that_read_one_value_become_one() {
    let nodes = vec![
        conv(&["x", "w1"], "a", 0),
        conv(&["x", "w2"], "b", 0),
        conv(&["x", "w3"], "c", 0),
        node("Softmax", &["a"], &["p"], vec![int("axis", 1)]),
        node("Concat", &["p", "b"], &["d"], vec![int("axis", 1)]),
    ];
    let weights = vec![weight("w1", &[4, 8, 1, 1]), weight("w2", &[20, 8, 1, 1]), weight("w3", &[8, 8, 1, 1])];
    check(model(nodes, weights, &["d", "c"]), 8);
}

#[test]
fn an_activation_of_joined_channels_moves_to_the_parts() {
    let nodes = vec![
        conv(&["x", "w1"], "a", 1),
        conv(&["x", "w2"], "b", 1),
        node("Concat", &["a", "b"], &["c"], vec![int("axis", 1)]),
        node("Relu", &["c"], &["d"], vec![]),
        conv(&["d", "w3"], "y", 0),
    ];
    let weights = vec![weight("w1", &[8, 8, 3, 3]), weight("w2", &[16, 8, 3, 3]), weight("w3", &[5, 24, 1, 1])];
    check(model(nodes, weights, &["y"]), 8);
}

/// The nodes that are left of a sum of two equal convolutions, each with an activation.
fn check_equal_branches(first: Vec<NodeProto>, weights: Vec<TensorProto>) {
    let branches = vec![
        conv(&["x", "w1"], "a", 1),
        conv(&["x", "w2"], "b", 1),
        node("Relu", &["a"], &["c"], vec![]),
        node("Relu", &["b"], &["d"], vec![]),
        node("Add", &["c", "d"], &["y"], vec![]),
    ];
    let content = model([first, branches].concat(), weights, &["y"]);
    for family in families().into_iter().map(Some).chain([None]) {
        let kind = family.map_or(Kind::Float, Family::kind);
        let graph = Graph::load(content.clone(), Device::Cpu, kind, family).unwrap();
        let mut operators: HashMap<&str, usize> = HashMap::new();
        for node in &graph.nodes {
            *operators.entry(node.label.operator.as_str()).or_default() += 1;
        }
        assert_eq!(graph.nodes.len(), if graph.is_fused() { 2 } else { 3 }, "{operators:?}");
    }
    check(content, 8);
}

#[test]
fn what_is_computed_twice_is_computed_once() {
    // Equal weights under two names, or a weight and its copy; equal nodes that read them.
    check_equal_branches(vec![], vec![weight("w1", &[8, 8, 3, 3]), weight("w2", &[8, 8, 3, 3])]);
    let copies = vec![node("Identity", &["w1"], &["w0"], vec![]), node("Identity", &["w0"], &["w2"], vec![])];
    check_equal_branches(copies, vec![weight("w1", &[8, 8, 3, 3])]);
}

#[test]
fn a_copy_that_is_an_output_stays() {
    let nodes = vec![conv(&["x", "w"], "a", 1), node("Identity", &["a"], &["y"], vec![])];
    check(model(nodes, vec![weight("w", &[8, 8, 3, 3])], &["y", "a"]), 8);
}

#[test]
fn shapes_without_a_kernel_run_beside_those_with_one() {
    let grouped = node("Conv", &["x", "w1"], &["a"], vec![int("group", 2), ints("pads", &[1; 4])]);
    let dilated = node("Conv", &["b", "w2"], &["y"], vec![ints("dilations", &[2, 2]), ints("pads", &[2; 4])]);
    let nodes = vec![grouped, conv(&["a", "w2"], "b", 1), dilated];
    check(model(nodes, vec![weight("w1", &[8, 4, 3, 3]), weight("w2", &[8, 8, 3, 3])], &["y"]), 8);
}

/// Graphs of very many convolutions are fused in a time that does not grow with the square of their number. Generous:
/// machines are shared.
#[test]
fn many_convolutions_are_fused_without_comparing_each_with_all() {
    const MANY: usize = 20_000;
    const PATIENCE: Duration = Duration::from_secs(60);
    let names: Vec<String> = (0..MANY).map(|n| format!("y{n}")).collect();
    for out_channels in [8, 5] {
        // No two have the same weights, so none is left out for being computed already.
        let numbers = |n: usize| (0..out_channels).flat_map(move |i| ((n * 8 + i) as f32).to_le_bytes());
        let weights = (0..MANY).map(|n| TensorProto {
            name: format!("w{n}"),
            dims: vec![out_channels as i64, 1, 1, 1],
            data_type: data_type::FLOAT,
            raw_data: numbers(n).collect::<Vec<u8>>().into(),
            ..Default::default()
        });
        let nodes = names.iter().enumerate().map(|(n, name)| conv(&["x", &format!("w{n}")], name, 0)).collect();
        let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let content = model(nodes, weights.collect(), &outputs);
        for family in families() {
            let began = Instant::now();
            let graph = Graph::load(content.clone(), Device::Cpu, family.kind(), Some(family)).unwrap();
            assert!(began.elapsed() < PATIENCE, "{family:?}: {:?}", began.elapsed());
            assert!(graph.is_fused() && graph.outputs.len() == MANY);
        }
    }
}
