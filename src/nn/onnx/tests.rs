//! The importer against recorded outputs of ONNX Runtime, and against broken and hostile files.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::ops::OPERATORS;
use super::proto::{AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, attribute_type, data_type};
use super::{Graph, MAX_ELEMENTS, tensors};
use crate::nn::testing::{bytes, difference, fixture, floats, ints, made_input};
use crate::nn::{Kernels, Network, NetworkError, UnsupportedOperator, pixels};

static CASES: LazyLock<Vec<Value>> = LazyLock::new(|| match fixture("operators.json") {
    Value::Array(cases) => cases,
    _ => panic!("operators.json is a list"),
});

fn model(case: &str) -> ModelProto {
    let case = CASES.iter().find(|known| known["name"] == case).unwrap();
    ModelProto::decode(bytes(&case["model"]).as_slice()).unwrap()
}

/// A recorded model after a change.
fn changed(case: &str, change: impl FnOnce(&mut ModelProto)) -> Result<Network, NetworkError> {
    let mut model = model(case);
    change(&mut model);
    load(model.encode_to_vec())
}

fn load(content: Vec<u8>) -> Result<Network, NetworkError> {
    load_for(content, Kernels::Auto)
}

fn load_for(content: Vec<u8>, kernels: Kernels) -> Result<Network, NetworkError> {
    Graph::load(content, Device::Cpu, Kind::Float, kernels.family(Kind::Float)).map(Network::onnx)
}

fn message<T>(result: Result<T, NetworkError>) -> String {
    result.err().expect("an error").to_string()
}

fn only_node(model: &mut ModelProto) -> &mut NodeProto {
    &mut model.graph.as_mut().unwrap().node[0]
}

/// The largest difference between what the case recorded and what we compute.
fn case_difference(case: &Value, kernels: Kernels) -> Result<f32, NetworkError> {
    let network = load_for(bytes(&case["model"]), kernels)?;
    let mut largest = 0.0_f32;
    for run in case["runs"].as_array().unwrap() {
        let outputs = network.forward(&made_input(&ints(&run["shape"])))?;
        let expected = run["outputs"].as_array().unwrap();
        assert_eq!(outputs.len(), expected.len());
        for (output, expected) in outputs.iter().zip(expected) {
            assert_eq!(output.size(), ints(&expected["shape"]), "{}", case["name"]);
            largest = largest.max(difference(&pixels::to_floats(output)?, &floats(&expected["values"])));
        }
    }
    Ok(largest)
}

#[test]
fn operators_equal_onnx_runtime_with_all_kernels() {
    let mut failures = Vec::new();
    for kernels in [Kernels::Libtorch, Kernels::Avx2, Kernels::Avx512] {
        if !kernels.are_available() {
            println!("not tested: {kernels:?}, which this processor lacks");
            continue;
        }
        for case in CASES.iter() {
            match case_difference(case, kernels) {
                Ok(difference) if difference <= 1e-4 => {}
                Ok(difference) => failures.push(format!("{kernels:?}, {}: {difference}", case["name"])),
                Err(error) => failures.push(format!("{kernels:?}, {}: {error}", case["name"])),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_operator_has_a_case() {
    let mut recorded = BTreeSet::new();
    for case in CASES.iter() {
        let model = ModelProto::decode(bytes(&case["model"]).as_slice()).unwrap();
        recorded.extend(model.graph.unwrap().node.into_iter().map(|node| node.op_type));
    }
    let ours: BTreeSet<_> = OPERATORS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(ours, recorded);
    assert_eq!(ours.len(), OPERATORS.len(), "an operator is listed twice");
}

#[test]
fn a_declared_batch_of_one_is_free() {
    let network = changed("batch_reshape", |_| {}).unwrap();
    let batch = made_input(&[3, 4, 3, 3]);
    let together = network.forward(&batch).unwrap().remove(0);
    assert_eq!(together.size(), [3, 5]);
    for place in 0..3 {
        let alone = network.forward(&batch.narrow(0, place, 1)).unwrap().remove(0);
        let row = together.narrow(0, place, 1);
        assert!(difference(&pixels::to_floats(&alone).unwrap(), &pixels::to_floats(&row).unwrap()) <= 1e-5);
    }
    let shape_list = changed("batch_shape_list", |_| {}).unwrap();
    assert_eq!(shape_list.forward(&batch).unwrap()[0].size(), [1, 4]);
}

#[test]
fn other_declared_dimensions_are_not_free() {
    let network = changed("batch_reshape", |_| {}).unwrap();
    let error = message(network.forward(&made_input(&[1, 4, 3, 4])));
    assert_eq!(error, "the network takes an input of shape 1x4x3x3, not [1, 4, 3, 4]");
}

#[test]
fn constants_are_computed_at_load() {
    let Ok(Network::Onnx(graph)) = changed("constants_are_folded", |_| {}) else { panic!("it loads") };
    assert_eq!(graph.nodes.len(), 1);
    // The factor and the output that is the same value; the weights that they came from are gone.
    assert_eq!(graph.constants.iter().flatten().count(), 2);
}

#[test]
fn inputs_that_nobody_reads_do_not_count() {
    let leave_over = |model: &mut ModelProto| {
        let graph = model.graph.as_mut().unwrap();
        let left_over = ValueInfoProto { name: "replaced".into(), ..graph.input[0].clone() };
        graph.input.insert(0, left_over);
    };
    let (network, plain) = (changed("conv", leave_over).unwrap(), changed("conv", |_| {}).unwrap());
    let input = made_input(&[2, 4, 7, 9]);
    assert_eq!(network.forward(&input).unwrap(), plain.forward(&input).unwrap());
    let read = changed("conv", |model| {
        leave_over(model);
        only_node(model).input[2] = "replaced".into();
    });
    assert!(message(read).contains("2 inputs instead of one"));
}

#[test]
fn traces_of_weights_are_dropped() {
    let dropped = |weights: &[f32]| {
        let kept = tensors::without_traces(Tensor::from_slice(weights)).unwrap();
        pixels::to_floats(&kept).unwrap()
    };
    assert_eq!(dropped(&[1.0, -1e-17, 1e-19, -1e-40, 0.0]), [1.0, -1e-17, 0.0, 0.0, 0.0]);
    assert_eq!(dropped(&[1e-20, 1e-30]), [1e-20, 1e-30]);
    assert!(dropped(&[f32::NAN, 1.0])[0].is_nan());
}

#[test]
fn missing_operators_are_named_together() {
    let result = changed("chain_halves", |model| {
        let nodes = &mut model.graph.as_mut().unwrap().node;
        nodes[0].op_type = "NonZero".into();
        nodes[0].name = "first".into();
        nodes[1].op_type = "NonZero".into();
        nodes[2].domain = "com.microsoft".into();
        nodes[2].name = "third".into();
    });
    let Err(NetworkError::UnsupportedOperators(missing)) = result else { panic!("it refuses") };
    let expected = [("NonZero", "first"), ("com.microsoft::Div", "third")];
    let expected =
        expected.map(|(operator, node)| UnsupportedOperator { operator: operator.into(), node: node.into() });
    assert_eq!(missing, expected);
}

#[test]
fn broken_files_say_what_is_wrong() {
    let whole = model("conv").encode_to_vec();
    for content in [&b""[..], b"not a network", &whole[..whole.len() / 2], &[0xff; 64]] {
        assert!(matches!(load(content.to_vec()), Err(NetworkError::Malformed(_))));
    }
    type Change = fn(&mut ModelProto);
    let changes: [(Change, &str); 10] = [
        (|model| model.opset_import[0].version = 99, "it uses opset 99; 7 to 23 are supported"),
        (|model| model.opset_import.clear(), "which opset"),
        (|model| model.graph = None, "no graph"),
        (|model| only_node(model).input[0] = "y".into(), "no earlier node computes its input \"y\""),
        (|model| only_node(model).output[0] = "w".into(), "\"w\" is defined twice"),
        (|model| model.graph.as_mut().unwrap().input.clear(), "0 inputs instead of one"),
        (|model| model.graph.as_mut().unwrap().output[0].name = "z".into(), "nothing computes the output \"z\""),
        (|model| model.graph.as_mut().unwrap().initializer[0].data_location = 1, "its weights are in another file"),
        (|model| model.graph.as_mut().unwrap().initializer[0].dims[0] = 7, "its data has another length"),
        (|model| only_node(model).attribute[0].name = "sparse".into(), "attribute \"sparse\" is not supported"),
    ];
    for (change, expected) in changes {
        let error = message(changed("conv", change));
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn torch_errors_name_the_node_in_one_line() {
    let network = changed("conv", |model| only_node(model).name = "stem".into()).unwrap();
    let error = message(network.forward(&made_input(&[1, 5, 9, 9])));
    assert!(error.starts_with("node stem (Conv): ") && error.contains(" x 4 x H x W"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn absurd_sizes_are_refused_before_memory_is_taken() {
    let huge = |dims: Vec<i64>| move |model: &mut ModelProto| model.graph.as_mut().unwrap().initializer[0].dims = dims;
    for dims in [vec![i64::MAX, i64::MAX], vec![-1], vec![0, 1 << 62], vec![MAX_ELEMENTS + 1], vec![1; 100]] {
        assert!(message(changed("conv", huge(dims))).contains("shape"));
    }
    // A value of 4 TiB, in as many ways as there are operators that enlarge.
    let side = 1_i64 << 20;
    for (case, list) in [("expand", vec![side, 3, side]), ("tile", vec![side, side]), ("resize_axes", vec![side, side])]
    {
        let network = changed(case, |model| {
            let list: Vec<u8> = list.iter().flat_map(|number| number.to_le_bytes()).collect();
            let graph = model.graph.as_mut().unwrap();
            graph.initializer[0].dims = vec![list.len() as i64 / 8];
            graph.initializer[0].raw_data = list.into();
        });
        let shape = ints(&CASES.iter().find(|known| known["name"] == case).unwrap()["runs"][0]["shape"]);
        let error = message(network.unwrap().forward(&made_input(&shape)));
        assert!(error.contains("larger than") || error.contains("cannot be scaled"), "{case}: {error}");
    }
}

#[test]
fn the_smallest_integer_divided_by_minus_one_does_not_trap() {
    let number = |name: &str, value: i64| TensorProto {
        name: name.into(),
        dims: vec![1],
        data_type: data_type::INT64,
        int64_data: vec![value],
        ..TensorProto::default()
    };
    let result = changed("div", |model| {
        let graph = model.graph.as_mut().unwrap();
        graph.initializer.extend([number("a", i64::MIN), number("b", -1)]);
        graph.node[0].input = vec!["a".into(), "b".into()];
    });
    let output = result.unwrap().forward(&made_input(&[1, 1, 4, 1])).unwrap().remove(0);
    assert_eq!((output.kind(), output.int64_value(&[0])), (Kind::Int64, i64::MIN));
}

#[test]
fn unsupported_variants_of_operators_are_refused_at_load() {
    let text = |name: &str, value: &'static str| AttributeProto {
        name: name.into(),
        s: value.as_bytes().into(),
        r#type: attribute_type::STRING,
        ..AttributeProto::default()
    };
    for (case, attribute, value) in [
        ("resize_axes", "mode", "cubic"),
        ("resize_axes", "coordinate_transformation_mode", "tf_crop_and_resize"),
        ("pad_cuts", "mode", "elsewhere"),
        ("conv", "auto_pad", "SOMEHOW"),
    ] {
        let result = changed(case, |model| only_node(model).attribute.push(text(attribute, value)));
        assert!(message(result).contains(value), "{case}");
    }
}

#[test]
fn norms_of_integers_are_refused() {
    for case in ["reducel1_all", "reducel2_all"] {
        let result = changed(case, |model| {
            let graph = model.graph.as_mut().unwrap();
            let shape = NodeProto {
                op_type: "Shape".into(),
                input: vec!["x".into()],
                output: vec!["s".into()],
                ..NodeProto::default()
            };
            graph.node[0].input[0] = "s".into();
            graph.node.insert(0, shape);
        });
        let error = message(result.and_then(|network| network.forward(&made_input(&[2, 3, 4]))));
        assert!(error.contains("the norm of integers"), "{error}");
    }
}

/// Numbers that a careless operator trips over.
const HOSTILE: [i64; 10] = [i64::MIN, i64::MAX, -1, 0, 1, 2, 3, -(1 << 31), 1 << 31, 1 << 40];

/// All integers of a model that say something about sizes: attributes and integer weights.
fn set_integers(model: &mut ModelProto, mut choose: impl FnMut(i64) -> i64) {
    let graph = model.graph.as_mut().unwrap();
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.i = choose(attribute.i);
        attribute.ints.iter_mut().for_each(|number| *number = choose(*number));
    }
    for weight in graph.initializer.iter_mut().filter(|weight| weight.data_type == data_type::INT64) {
        let numbers = weight.raw_data.chunks_exact(8).map(|eight| i64::from_le_bytes(eight.try_into().unwrap()));
        weight.raw_data = numbers.flat_map(|number| choose(number).to_le_bytes()).collect::<Vec<u8>>().into();
    }
}

// Loading and running may succeed or fail; a panic or an abort of the process may not be.
proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spoiled_files_never_panic(
        case in 0..CASES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut content = bytes(&CASES[case]["model"]);
        for (place, byte) in changes {
            let place = place.index(content.len());
            content[place] = byte;
        }
        if let Some(end) = end {
            content.truncate(end.index(content.len()));
        }
        if let Ok(network) = load(content) {
            let _ = network.forward(&made_input(&ints(&CASES[case]["runs"][0]["shape"])));
        }
    }

    #[test]
    fn hostile_numbers_never_panic(
        case in 0..CASES.len(),
        choices in prop::collection::vec(prop::option::weighted(0.3, 0..HOSTILE.len()), 1..12),
    ) {
        let mut model = ModelProto::decode(bytes(&CASES[case]["model"]).as_slice()).unwrap();
        let mut choices = choices.into_iter().cycle();
        set_integers(&mut model, |number| choices.next().flatten().map_or(number, |choice| HOSTILE[choice]));
        if let Ok(network) = load(model.encode_to_vec()) {
            let _ = network.forward(&made_input(&ints(&CASES[case]["runs"][0]["shape"])));
        }
    }
}
