//! ONNX files of a few operators, made number by number as protobuf has it, for networks that nobody publishes.

const INT: u64 = 2;
const INT64: u64 = 7;
const FLOAT: u64 = 1;

/// A detector by the shapes of its outputs: boxes, scores that are probabilities, landmarks. But it gives three rows, whatever
/// the size of the image.
pub fn detector_with_three_rows() -> Vec<u8> {
    let mut graph = node("GlobalAveragePool", &["image"], "mean", None);
    graph.extend(rows("boxes", 4, "boxes"));
    graph.extend(rows("logits", 2, "logits"));
    graph.extend(node("Softmax", &["logits"], "scores", Some(("axis", 2))));
    graph.extend(rows("landmarks", 10, "landmarks"));
    graph.extend(text(2, "detector"));
    graph.extend(bytes(11, &value("image")));
    for output in ["boxes", "scores", "landmarks"] {
        graph.extend(bytes(12, &value(output)));
    }
    let opset = number(2, 13);
    [number(1, 8), bytes(7, &graph), bytes(8, &opset)].concat()
}

/// The three means of an image, `columns` times over, as `N x 3 x columns`.
fn rows(name: &str, columns: usize, output: &str) -> Vec<u8> {
    let (joined, shape) = (format!("{name}-joined"), format!("{name}-shape"));
    let target: Vec<u8> = [0, 3, columns as i64].iter().flat_map(|side| side.to_le_bytes()).collect();
    let tensor = [number(1, 3), number(2, INT64), text(8, &shape), bytes(9, &target)].concat();
    let concat = node("Concat", &vec!["mean"; columns], &joined, Some(("axis", 1)));
    let reshape = node("Reshape", &[&joined, &shape], output, None);
    [concat, reshape, bytes(5, &tensor)].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str, attribute: Option<(&str, u64)>) -> Vec<u8> {
    let mut node: Vec<u8> = inputs.iter().flat_map(|input| text(1, input)).collect();
    node.extend([text(2, output), text(3, output), text(4, operator)].concat());
    if let Some((name, value)) = attribute {
        node.extend(bytes(5, &[text(1, name), number(3, value), number(20, INT)].concat()));
    }
    bytes(1, &node)
}

/// Of floats, without a shape.
fn value(name: &str) -> Vec<u8> {
    [text(1, name), bytes(2, &bytes(1, &number(1, FLOAT)))].concat()
}

/// A node without attributes.
pub fn plain(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    node(operator, inputs, output, None)
}

fn weight(name: &str, kind: u64, dims: &[u64], raw: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    bytes(5, &[dims, number(2, kind), text(8, name), bytes(9, raw)].concat())
}

/// A weight that is one number.
pub fn scalar(name: &str, value: f32) -> Vec<u8> {
    weight(name, FLOAT, &[], &value.to_le_bytes())
}

/// A weight that is a list of integers.
pub fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    weight(name, INT64, &[values.len() as u64], &raw)
}

/// An embedder of these parts, from a chip `x` to an image `end`, whose mean colours are the embedding.
pub fn embedder(parts: &[Vec<u8>]) -> Vec<u8> {
    let end = [plain("GlobalAveragePool", &["end"], "p"), plain("Flatten", &["p"], "y")].concat();
    let declared = [bytes(11, &value("x")), bytes(12, &value("y"))].concat();
    let graph = [parts.concat(), end, declared].concat();
    [number(1, 8), bytes(7, &graph), bytes(8, &number(2, 17))].concat()
}

/// The mean `s` of all pixels, of shape 1 x 1, which no file can know: what is made of it is made when the network runs.
pub fn mean_of_pixels() -> Vec<u8> {
    [ints("one", &[1, 1]), plain("ReduceMean", &["x"], "m"), plain("Reshape", &["m", "one"], "s")].concat()
}

/// An embedder that multiplies matrices for hours when it runs.
pub fn endless_embedder() -> Vec<u8> {
    const COUNT: usize = 2000;
    let mut parts = vec![mean_of_pixels(), ints("side", &[4096, 4096]), plain("Expand", &["s", "side"], "m0")];
    for n in 0..COUNT {
        parts.push(plain("MatMul", &[&format!("m{n}"), "m0"], &format!("m{}", n + 1)));
    }
    parts.push([plain("ReduceMean", &[&format!("m{COUNT}")], "t"), plain("Add", &["x", "t"], "end")].concat());
    embedder(&parts)
}

fn text(field: u64, text: &str) -> Vec<u8> {
    bytes(field, text.as_bytes())
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut coded = Vec::new();
    while value > 127 {
        coded.push(value as u8 | 128);
        value >>= 7;
    }
    coded.push(value as u8);
    coded
}
