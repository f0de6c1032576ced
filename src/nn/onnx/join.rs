//! Several embedders become one file, whose embedding is theirs side by side.

use std::collections::HashSet;

use prost::Message;
use prost::bytes::Bytes;

use super::load::{malformed, opset, parse};
use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use crate::nn::error::NetworkError;
use crate::nn::{Channels, InputNormalisation};
use crate::types::{Chip, ChipCrop};

/// The oldest version of the operators in which `Resize` takes the size of some dimensions only.
const LEAST_OPSET: i64 = 18;
const IR_VERSION: i64 = 8;

/// What the file reads: chips as they are, RGB, 0..=255.
const INPUT: &str = "chip";

/// Operators that mean something else before a version of ONNX's operators, and that version. Others take as an input what
/// was an attribute, which they know by themselves.
const CHANGED: &[(&str, i64)] = &[("LogSoftmax", 13), ("Resize", 11), ("Softmax", 13), ("Upsample", 11)];

/// An embedder that becomes a part of another.
pub struct Joined {
    pub content: Bytes,
    pub input: InputNormalisation,
    /// Which of its outputs the embedding is.
    pub output: usize,
}

/// An ONNX file that reads RGB chips, `N x 3 x 112 x 112` of 0..=255, and gives the embeddings of all parts side by side, each of
/// length 1: the cosine of two such rows is the mean of the parts' cosines.
pub fn join(parts: &[Joined]) -> Result<Vec<u8>, NetworkError> {
    let mut whole = GraphProto { name: "joined".to_owned(), ..GraphProto::default() };
    let (mut version, mut free_batch, mut rows) = (LEAST_OPSET, true, Vec::new());
    let mut graphs = Vec::new();
    for part in parts {
        let (model, graph) = parse(part.content.clone())?;
        let own = opset(&model.opset_import)?;
        version = version.max(own);
        graphs.push((own, graph));
    }
    for (number, ((own, graph), part)) in graphs.into_iter().zip(parts).enumerate() {
        let changed = |node: &&NodeProto| CHANGED.iter().any(|(name, since)| node.op_type == *name && own < *since);
        if let Some(node) = graph.node.iter().find(changed) {
            return Err(malformed(format!(
                "its {} of opset {own} means something else in opset {version}",
                node.op_type
            )));
        }
        let mut builder = Builder { graph: &mut whole, prefix: format!("part{number}.") };
        let image = builder.prepared(&part.input);
        let (output, is_free) = builder.take(graph, &image, part.output)?;
        free_batch &= is_free;
        let row = builder.node("Flatten", &[&output], vec![int("axis", 1)]);
        rows.push(builder.node("LpNormalization", &[&row], vec![int("axis", 1), int("p", 2)]));
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let output = Builder { graph: &mut whole, prefix: String::new() }.node("Concat", &rows, vec![int("axis", 1)]);
    let side = Some(i64::from(Chip::SIDE));
    whole.input.push(value_info(INPUT, &[(!free_batch).then_some(1), Some(3), side, side]));
    whole.output.push(value_info(&output, &[None, None]));
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version }];
    let model = ModelProto { ir_version: IR_VERSION, producer: "faceid".to_owned(), graph: Some(whole), opset_import };
    Ok(model.encode_to_vec())
}

/// Adds one part to a graph, under names of its own.
struct Builder<'a> {
    graph: &'a mut GraphProto,
    prefix: String,
}

impl Builder<'_> {
    /// What a part reads, of chips as they come.
    fn prepared(&mut self, input: &InputNormalisation) -> String {
        let InputNormalisation { mean, scale, channels, crop, size } = *input;
        let mut image = INPUT.to_owned();
        if crop != ChipCrop::WHOLE {
            let starts = self.ints(&[crop.y, crop.x]);
            let ends = self.ints(&[crop.y + crop.height, crop.x + crop.width]);
            let axes = self.ints(&[2, 3]);
            image = self.node("Slice", &[&image, &starts, &ends, &axes], Vec::new());
        }
        if size != crop.size() {
            let size = self.ints(&[size.height, size.width]);
            let attributes = vec![text("mode", "linear"), text("coordinate_transformation_mode", "half_pixel"), axes()];
            image = self.node("Resize", &[&image, "", "", &size], attributes);
        }
        if channels == Channels::Bgr {
            let order = self.ints(&[2, 1, 0]);
            image = self.node("Gather", &[&image, &order], vec![int("axis", 1)]);
        }
        if mean != 0.0 {
            let mean = self.float(mean);
            image = self.node("Sub", &[&image, &mean], Vec::new());
        }
        if scale != 1.0 {
            let scale = self.float(scale);
            image = self.node("Div", &[&image, &scale], Vec::new());
        }
        image
    }

    /// Takes a network in that reads `image`: the name of its output, and whether its batch is free.
    fn take(&mut self, part: GraphProto, image: &str, output: usize) -> Result<(String, bool), NetworkError> {
        let known: HashSet<&str> = part.initializer.iter().map(|weight| weight.name.as_str()).collect();
        let read: HashSet<&str> = part.node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
        let is_image = |name: &str| read.contains(name) && !known.contains(name);
        let mut inputs = part.input.iter().filter(|input| is_image(&input.name));
        let input = inputs.next().ok_or_else(|| malformed("nothing reads its input"))?;
        let tensor = input.r#type.as_ref().and_then(|r#type| r#type.tensor_type.as_ref());
        let first = tensor.and_then(|tensor| tensor.shape.as_ref()).and_then(|shape| shape.dim.first());
        let is_free = first.is_none_or(|dim| dim.dim_value != Some(1));
        let prefix = &self.prefix;
        let renamed = |name: &str| match name {
            "" => String::new(),
            name if name == input.name => image.to_owned(),
            name => format!("{prefix}{name}"),
        };
        let output = part.output.get(output).ok_or_else(|| malformed("it has no such output"))?;
        let output = renamed(&output.name);
        for weight in &part.initializer {
            self.graph.initializer.push(TensorProto { name: renamed(&weight.name), ..weight.clone() });
        }
        for node in &part.node {
            self.graph.node.push(NodeProto {
                input: node.input.iter().map(|name| renamed(name)).collect(),
                output: node.output.iter().map(|name| renamed(name)).collect(),
                name: renamed(&node.name),
                ..node.clone()
            });
        }
        Ok((output, is_free))
    }

    fn ints(&mut self, numbers: &[u32]) -> String {
        let raw = numbers.iter().flat_map(|number| i64::from(*number).to_le_bytes()).collect();
        self.constant(data_type::INT64, vec![numbers.len() as i64], raw)
    }

    fn float(&mut self, number: f32) -> String {
        self.constant(data_type::FLOAT, Vec::new(), number.to_le_bytes().to_vec())
    }

    fn constant(&mut self, data_type: i32, dims: Vec<i64>, raw: Vec<u8>) -> String {
        // Tools write no names that begin with a dot; one that is the same is refused as defined twice.
        let name = format!("{}..{}", self.prefix, self.graph.initializer.len());
        let tensor =
            TensorProto { name: name.clone(), dims, data_type, raw_data: raw.into(), ..TensorProto::default() };
        self.graph.initializer.push(tensor);
        name
    }

    fn node(&mut self, operator: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = format!("{}..{}{}", self.prefix, operator.to_lowercase(), self.graph.node.len());
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output.clone()],
            name: output.clone(),
            op_type: operator.to_owned(),
            attribute,
            ..NodeProto::default()
        });
        output
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i, r#type: attribute_type::INT, ..AttributeProto::default() }
}

fn text(name: &str, value: &'static str) -> AttributeProto {
    let s = Bytes::from_static(value.as_bytes());
    AttributeProto { name: name.to_owned(), s, r#type: attribute_type::STRING, ..AttributeProto::default() }
}

/// Height and width.
fn axes() -> AttributeProto {
    let ints = vec![2, 3];
    AttributeProto { name: "axes".to_owned(), ints, r#type: attribute_type::INTS, ..AttributeProto::default() }
}

fn value_info(name: &str, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| DimensionProto { dim_value: *dim }).collect();
    let tensor = TensorTypeProto { elem_type: data_type::FLOAT, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}
