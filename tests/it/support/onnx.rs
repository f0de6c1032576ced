//! ONNX files of a few lines, written by hand: what a test posts need not be a network that anybody trains.

/// Bytes of a protobuf message.
type Message = Vec<u8>;

fn varint(mut number: u64) -> Message {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(tag: u64, value: u64) -> Message {
    [varint(tag << 3), varint(value)].concat()
}

fn field(tag: u64, content: &[u8]) -> Message {
    [varint(tag << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// A node of a graph, without attributes.
pub fn node(operator: &str, inputs: &[&str], output: &str) -> Message {
    let inputs = inputs.iter().flat_map(|name| field(1, name.as_bytes()));
    let rest = [field(2, output.as_bytes()), field(4, operator.as_bytes())].concat();
    field(1, &inputs.chain(rest).collect::<Vec<u8>>())
}

fn weight(name: &str, data_type: u64, dims: &[u64], raw: &[u8]) -> Message {
    let dims = dims.iter().flat_map(|dim| number(1, *dim));
    let rest = [number(2, data_type), field(8, name.as_bytes()), field(9, raw)].concat();
    field(5, &dims.chain(rest).collect::<Vec<u8>>())
}

/// A weight that is one number.
pub fn scalar(name: &str, value: f32) -> Message {
    weight(name, 1, &[], &value.to_le_bytes())
}

/// A weight that is a list of integers.
pub fn ints(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    weight(name, 7, &[values.len() as u64], &raw)
}

fn value(tag: u64, name: &str, dims: &[u64]) -> Message {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| field(1, &number(1, *dim))).collect();
    let tensor = [number(1, 1), field(2, &dims)].concat();
    field(tag, &[field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat())
}

/// A network of these parts from a chip `x` to an image `end`, whose mean colours are the embedding.
pub fn model(parts: &[Message]) -> Vec<u8> {
    let end = [node("GlobalAveragePool", &["end"], "p"), node("Flatten", &["p"], "y")].concat();
    let declared = [value(11, "x", &[1, 3, 112, 112]), value(12, "y", &[1, 3])].concat();
    let graph = [parts.concat(), end, declared].concat();
    [number(1, 8), field(7, &graph), field(8, &number(2, 17))].concat()
}

/// The mean `s` of all pixels, of shape 1 x 1, which no file can know: what is made of it is made when the network runs.
pub fn mean_of_pixels() -> Message {
    [ints("one", &[1, 1]), node("ReduceMean", &["x"], "m"), node("Reshape", &["m", "one"], "s")].concat()
}

/// A network that multiplies matrices for hours when it runs.
pub fn endless() -> Vec<u8> {
    const COUNT: usize = 2000;
    let mut parts = vec![mean_of_pixels(), ints("side", &[4096, 4096]), node("Expand", &["s", "side"], "m0")];
    for n in 0..COUNT {
        parts.push(node("MatMul", &[&format!("m{n}"), "m0"], &format!("m{}", n + 1)));
    }
    parts.push([node("ReduceMean", &[&format!("m{COUNT}")], "t"), node("Add", &["x", "t"], "end")].concat());
    model(&parts)
}
