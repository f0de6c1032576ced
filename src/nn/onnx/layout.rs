//! Networks that read the three colours of a pixel together, `N x H x W x 3`, as TensorFlow and Keras export them: they get
//! `N x 3 x H x W` like all others, and turn it themselves.

use std::collections::HashSet;

use prost::Message;
use prost::bytes::Bytes;

use super::counts;
use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, attribute_type};

/// The order of `N x H x W x 3` among the dimensions of `N x 3 x H x W`.
const PIXEL_BY_PIXEL: [i64; 4] = [0, 2, 3, 1];

/// Lets inputs of `N x H x W x 3` come as `N x 3 x H x W`. The turn costs nothing: libtorch numbers dimensions anew.
pub(super) fn colour_by_colour(graph: &mut GraphProto) {
    let read: HashSet<&str> = graph.node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
    let weights: HashSet<&str> = graph.initializer.iter().map(|weight| weight.name.as_str()).collect();
    let is_image = |name: &str| read.contains(name) && !weights.contains(name);
    let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    let mut taken: HashSet<String> =
        read.iter().copied().chain(weights.iter().copied()).chain(made).map(str::to_owned).collect();
    let mut turns = Vec::new();
    for input in &mut graph.input {
        let tensor = input.r#type.as_mut().and_then(|r#type| r#type.tensor_type.as_mut());
        let Some(shape) = tensor.and_then(|tensor| tensor.shape.as_mut()) else { continue };
        let sides: Vec<_> = shape.dim.iter().map(|dim| dim.dim_value).collect();
        let [_, first, second, Some(3)] = sides[..] else { continue };
        if first == Some(3) || second == Some(3) || !is_image(&input.name) {
            continue;
        }
        shape.dim[1..].rotate_right(1);
        let mut turned = format!("{}_nhwc", input.name);
        while !taken.insert(turned.clone()) {
            turned.push('_');
        }
        turns.push((input.name.clone(), turned));
    }
    for (input, turned) in turns {
        for name in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|name| **name == input) {
            name.clone_from(&turned);
        }
        graph.node.insert(0, turn(input, turned));
    }
}

/// The dimensions that a file declares for the image that it reads, `None` for one that is free, if it is an ONNX file that says
/// so. Nothing is built from it.
pub fn declared_input(content: Bytes) -> Option<Vec<Option<i64>>> {
    counts::check(&content).ok()?;
    let graph = ModelProto::decode(content).ok()?.graph?;
    let weights: HashSet<&str> = graph.initializer.iter().map(|weight| weight.name.as_str()).collect();
    let input = graph.input.iter().find(|input| !weights.contains(input.name.as_str()))?;
    let shape = input.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
    Some(shape.dim.iter().map(|dim| dim.dim_value.filter(|dim| *dim > 0)).collect())
}

fn turn(input: String, output: String) -> NodeProto {
    let order = AttributeProto {
        name: "perm".to_owned(),
        ints: PIXEL_BY_PIXEL.to_vec(),
        r#type: attribute_type::INTS,
        ..AttributeProto::default()
    };
    NodeProto {
        op_type: "Transpose".to_owned(),
        name: output.clone(),
        input: vec![input],
        output: vec![output],
        attribute: vec![order],
        ..NodeProto::default()
    }
}
