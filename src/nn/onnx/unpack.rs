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
