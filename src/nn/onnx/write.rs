//! Writes ONNX files of the few operators that our own networks are made of.

use prost::Message;

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};

/// The version of the format and of its operators; both are read by every runtime of the last years.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 13;

/// A value of the graph: the input, or what a node computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

/// The numbers and the geometry of a convolution with one kernel size, stride and padding for both directions.
pub struct ConvWeights {
    /// `out x in / groups x height x width`.
    pub shape: [i64; 4],
    /// Row by row.
    pub weights: Vec<f32>,
    /// One for each output channel.
    pub bias: Vec<f32>,
    pub stride: i64,
    pub padding: i64,
    pub groups: i64,
}

/// A graph with one input, `N x channels x side x side` floats, that grows node by node.
pub struct Writer {
    graph: GraphProto,
}

impl Writer {
    pub fn new(channels: i64, side: i64) -> (Self, Value) {
        let input = Value("input".to_owned());
        let info = value_info(&input, &[None, Some(channels), Some(side), Some(side)]);
        let graph = GraphProto { name: "embedder".to_owned(), input: vec![info], ..GraphProto::default() };
        (Self { graph }, input)
    }

    pub fn conv(&mut self, input: &Value, conv: &ConvWeights) -> Value {
        let weights = self.constant("weights", &conv.shape, &conv.weights);
        let bias = self.constant("bias", &conv.shape[..1], &conv.bias);
        let attributes = vec![
            ints("kernel_shape", &conv.shape[2..]),
            ints("strides", &[conv.stride; 2]),
            ints("pads", &[conv.padding; 4]),
            int("group", conv.groups),
        ];
        self.node("Conv", &[input, &weights, &bias], attributes)
    }

    pub fn relu(&mut self, input: &Value) -> Value {
        self.node("Relu", &[input], Vec::new())
    }

    pub fn sigmoid(&mut self, input: &Value) -> Value {
        self.node("Sigmoid", &[input], Vec::new())
    }

    /// With a slope for each channel.
    pub fn prelu(&mut self, input: &Value, slopes: &[f32]) -> Value {
        let slopes = self.constant("slopes", &[slopes.len() as i64, 1, 1], slopes);
        self.node("PRelu", &[input, &slopes], Vec::new())
    }

    /// The largest of 2 x 2.
    pub fn max_pool(&mut self, input: &Value) -> Value {
        self.node("MaxPool", &[input], vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])])
    }

    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], Vec::new())
    }

    /// The file, whose output is `N x channels x 1 x 1`.
    pub fn finish(mut self, output: &Value, channels: i64) -> Vec<u8> {
        self.graph.output.push(value_info(output, &[None, Some(channels), Some(1), Some(1)]));
        let opset = OperatorSetIdProto { domain: String::new(), version: OPSET };
        let producer = "faceid".to_owned();
        let model = ModelProto { ir_version: IR_VERSION, producer, graph: Some(self.graph), opset_import: vec![opset] };
        model.encode_to_vec()
    }

    fn constant(&mut self, what: &str, shape: &[i64], numbers: &[f32]) -> Value {
        let name = format!("{what}{}", self.graph.initializer.len());
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: shape.to_vec(),
            data_type: data_type::FLOAT,
            raw_data: numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().into(),
            ..TensorProto::default()
        });
        Value(name)
    }

    fn node(&mut self, operator: &str, inputs: &[&Value], attribute: Vec<AttributeProto>) -> Value {
        let output = Value(format!("{}{}", operator.to_lowercase(), self.graph.node.len()));
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|input| input.0.clone()).collect(),
            output: vec![output.0.clone()],
            name: output.0.clone(),
            op_type: operator.to_owned(),
            attribute,
            ..NodeProto::default()
        });
        output
    }
}

fn value_info(value: &Value, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| DimensionProto { dim_value: *dim }).collect();
    let tensor = TensorTypeProto { elem_type: data_type::FLOAT, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: value.0.clone(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i: value, r#type: attribute_type::INT, ..AttributeProto::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    let ints = values.to_vec();
    AttributeProto { name: name.to_owned(), ints, r#type: attribute_type::INTS, ..AttributeProto::default() }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::super::Graph;
    use super::*;
    use crate::nn::Network;
    use crate::nn::pixels::to_floats;
    use crate::nn::testing::{difference, made_input};

    #[test]
    fn what_is_written_is_read_back() {
        let (mut writer, input) = Writer::new(3, 4);
        let conv = |out: i64, groups: i64, padding| ConvWeights {
            shape: [out, 3 / groups, 3, 3],
            weights: (0..out * 3 / groups * 9).map(|n| (n % 7) as f32 - 3.0).collect(),
            bias: (0..out).map(|n| n as f32).collect(),
            stride: 1,
            padding,
            groups,
        };
        let wide = conv(3, 3, 1);
        let value = writer.conv(&input, &wide);
        let value = writer.prelu(&value, &[0.5, 0.25, 0.1]);
        let value = writer.add(&value, &input);
        let value = writer.max_pool(&value);
        let value = writer.relu(&value);
        let narrow = ConvWeights { shape: [2, 3, 2, 2], weights: vec![0.01; 24], ..conv(2, 1, 0) };
        let value = writer.conv(&value, &narrow);
        let value = writer.sigmoid(&value);
        let network = Network::onnx(Graph::load(writer.finish(&value, 2), Device::Cpu, Kind::Float, None).unwrap());
        let output = network.forward(&made_input(&[2, 3, 4, 4])).unwrap().remove(0);
        assert_eq!(output.size(), [2, 2, 1, 1]);
        let x = made_input(&[2, 3, 4, 4]);
        let numbers = |conv: &ConvWeights| Tensor::from_slice(&conv.weights).reshape(conv.shape);
        let bias = |conv: &ConvWeights| Tensor::from_slice(&conv.bias);
        let y = x.conv2d(&numbers(&wide), Some(&bias(&wide)), [1, 1], [1, 1], [1, 1], 3);
        let y = y.prelu(&Tensor::from_slice(&[0.5_f32, 0.25, 0.1])) + &x;
        let y = y.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false).relu();
        let y = y.conv2d(&numbers(&narrow), Some(&bias(&narrow)), [1, 1], [0, 0], [1, 1], 1).sigmoid();
        assert!(difference(&to_floats(&output).unwrap(), &to_floats(&y).unwrap()) < 1e-5);
    }
}
