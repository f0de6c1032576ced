//! Weights that a file keeps as small integers become plain ones: only those can be trained and written back.

use std::collections::{HashMap, HashSet};

use tch::{Device, Kind, Tensor, no_grad};

use super::attributes::Attributes;
use super::load::malformed;
use super::ops::{self, Build, Inputs, OpError, OpResult};
use super::proto::{GraphProto, NodeProto, TensorProto, data_type};
use super::tensors::{self, MAX_ELEMENTS};
use crate::nn::error::NetworkError;
use crate::nn::pixels::to_floats;

/// What gives a weight its shape once it is unpacked.
const REARRANGES: &[&str] = &["Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

/// Replaces nodes that unpack weights, and those that bring the result into shape, by what they compute.
pub(super) fn unpack(graph: &mut GraphProto, opset: i64) -> Result<(), NetworkError> {
    if !graph.node.iter().any(is_unpacking) {
        return Ok(());
    }
    let outputs: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let packed: HashMap<&str, &TensorProto> =
        graph.initializer.iter().map(|weight| (weight.name.as_str(), weight)).collect();
    let mut unpacked: HashMap<String, Tensor> = HashMap::new();
    let (mut kept, mut elements) = (Vec::new(), 0);
    for node in std::mem::take(&mut graph.node) {
        let [output] = &node.output[..] else {
            kept.push(node);
            continue;
        };
        let of_unpacked = node.input.first().is_some_and(|first| unpacked.contains_key(first));
        let is_one = is_unpacking(&node) || of_unpacked && REARRANGES.contains(&node.op_type.as_str());
        let is_known = |name: &String| packed.contains_key(name.as_str()) || unpacked.contains_key(name);
        let known = is_one && !outputs.contains(output) && node.input.iter().all(is_known);
        let result = known.then(|| no_grad(|| run(&node, opset, &packed, &unpacked))).transpose();
        match result.map_err(|OpError(reason)| malformed(format!("weight {output:?}: {reason}")))? {
            Some(tensor) if tensor.f_kind()? == Kind::Float => {
                elements += tensor.numel() as i64;
                if elements > MAX_ELEMENTS {
                    return Err(malformed(format!("its constants have more than {MAX_ELEMENTS} elements")));
                }
                unpacked.insert(output.clone(), tensor);
            }
            _ => kept.push(node),
        }
    }
    graph.node = kept;
    keep_read(graph, outputs, unpacked)
}

fn is_unpacking(node: &NodeProto) -> bool {
    node.op_type == "DequantizeLinear"
}

fn run(
    node: &NodeProto,
    opset: i64,
    packed: &HashMap<&str, &TensorProto>,
    unpacked: &HashMap<String, Tensor>,
) -> OpResult<Tensor> {
    let Some(builder) = ops::builder(&node.op_type) else {
        return Err(OpError(format!("there is no operator {}", node.op_type)));
    };
    let tensor = |name: &String| match (unpacked.get(name), packed.get(name.as_str())) {
        (Some(tensor), _) => Ok(tensor.shallow_clone()),
        (None, Some(proto)) => tensors::from_proto(proto, Device::Cpu),
        (None, None) => Err(OpError(format!("nothing computes {name:?}"))),
    };
    let inputs = node.input.iter().map(tensor).collect::<OpResult<Vec<_>>>()?;
    let mut build = Build { attributes: Attributes::of(node), opset, outputs: 1, device: Device::Cpu };
    let run = builder(&mut build)?;
    build.attributes.finish()?;
    let mut results = run(&Inputs::new(inputs.iter().map(Some).collect()))?;
    results.pop().ok_or_else(|| OpError("it gives nothing".to_owned()))
}

/// Adds the unpacked weights that somebody reads, and drops weights and inputs that nobody does.
fn keep_read(
    graph: &mut GraphProto,
    outputs: HashSet<String>,
    unpacked: HashMap<String, Tensor>,
) -> Result<(), NetworkError> {
    let mut read = outputs;
    read.extend(graph.node.iter().flat_map(|node| node.input.iter().cloned()));
    graph.initializer.retain(|weight| read.contains(&weight.name));
    graph.input.retain(|input| read.contains(&input.name) && !unpacked.contains_key(&input.name));
    let mut unpacked: Vec<_> = unpacked.into_iter().filter(|(name, _)| read.contains(name)).collect();
    // The file does not depend on the order of a hash map.
    unpacked.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, tensor) in unpacked {
        let numbers = to_floats(&tensor)?;
        let raw_data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().into();
        let dims = tensor.size();
        graph.initializer.push(TensorProto {
            name,
            dims,
            data_type: data_type::FLOAT,
            raw_data,
            ..TensorProto::default()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::Trainable;
    use super::super::proto::{
        AttributeProto, ModelProto, OperatorSetIdProto, TypeProto, ValueInfoProto, attribute_type,
    };
    use super::*;
    use crate::nn::testing::{difference, made_input};

    fn weight(name: &str, dims: &[i64], data_type: i32, bytes: Vec<u8>) -> TensorProto {
        let raw_data = bytes.into();
        TensorProto { name: name.into(), dims: dims.to_vec(), data_type, raw_data, ..TensorProto::default() }
    }

    fn node(op_type: &str, inputs: &[&str], output: &str, ints: &[(&str, i64)]) -> NodeProto {
        let int = |(name, i): &(&str, i64)| AttributeProto {
            name: (*name).into(),
            i: *i,
            r#type: attribute_type::INT,
            ..AttributeProto::default()
        };
        NodeProto {
            op_type: op_type.into(),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.into()],
            attribute: ints.iter().map(int).collect(),
            ..NodeProto::default()
        }
    }

    /// A convolution whose weights are 8-bit numbers in blocks, brought into shape by a second node.
    fn file() -> Vec<u8> {
        let scales = [0.5_f32, 0.25, 2.0, 1.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let shape = [2_i64, 3, 1, 2].iter().flat_map(|side| side.to_le_bytes()).collect();
        let value = |name: &str| {
            let mut r#type = TypeProto::default();
            r#type.tensor_type.get_or_insert_default().elem_type = data_type::FLOAT;
            ValueInfoProto { name: name.into(), r#type: Some(r#type) }
        };
        let graph = GraphProto {
            node: vec![
                node("DequantizeLinear", &["q", "s"], "d", &[("block_size", 3)]),
                node("Reshape", &["d", "shape"], "w", &[]),
                node("Conv", &["x", "w"], "y", &[]),
            ],
            initializer: vec![
                weight("q", &[2, 6], data_type::INT8, (0..12).map(|n| (n * 5 - 30) as u8).collect()),
                weight("s", &[2, 2], data_type::FLOAT, scales),
                weight("shape", &[4], data_type::INT64, shape),
            ],
            input: vec![value("x"), value("w"), value("replaced")],
            output: vec![value("y")],
            ..GraphProto::default()
        };
        let opset_import = vec![OperatorSetIdProto { version: 21, ..OperatorSetIdProto::default() }];
        ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
    }

    #[test]
    fn packed_weights_can_be_trained_and_are_written_as_plain_ones() {
        let run = |network: &Trainable| {
            let outputs = no_grad(|| network.forward(&made_input(&[1, 3, 4, 4]), std::iter::empty())).unwrap();
            to_floats(&outputs[0]).unwrap()
        };
        let load = |content| Trainable::load(content, Device::Cpu, Kind::Float).unwrap();
        let network = load(file());
        let weights = network.weights();
        assert_eq!((weights.len(), weights[0].tensor.size(), weights[0].is_kernel), (1, vec![2, 3, 1, 2], true));
        let numbers = to_floats(&weights[0].tensor.flatten(0, -1)).unwrap();
        assert_eq!(numbers[..6], [-15.0, -12.5, -10.0, -3.75, -2.5, -1.25]);

        let written = network.to_onnx(&[]);
        let graph = ModelProto::decode(written.as_slice()).unwrap().graph.unwrap();
        assert_eq!((graph.node.len(), graph.initializer.len(), graph.input.len()), (1, 1, 1));
        assert_eq!(run(&load(written)), run(&network));
        let doubled: Vec<f32> = numbers.iter().map(|number| number * 2.0).collect();
        let twice: Vec<f32> = run(&network).iter().map(|number| number * 2.0).collect();
        assert!(difference(&run(&load(network.to_onnx(&[(0, doubled)]))), &twice) < 1e-5);
    }

    #[test]
    fn weights_that_do_not_fit_their_scales_are_named() {
        let mut model = ModelProto::decode(file().as_slice()).unwrap();
        model.graph.as_mut().unwrap().initializer[1].dims = vec![4];
        let refusal = Trainable::load(model.encode_to_vec(), Device::Cpu, Kind::Float).err().unwrap().to_string();
        assert!(refusal.contains("\"d\"") && refusal.contains("blocks of 3"), "{refusal}");
    }
}
