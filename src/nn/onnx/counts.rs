//! How much of everything a file has, counted before memory is taken for it: a part of two bytes becomes a hundred in
//! memory. Networks of thousands of layers have some ten thousand nodes.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::load::malformed;
use crate::nn::error::NetworkError;

/// The most nodes, weights, and declared inputs and outputs, of each.
pub(super) const MAX_PARTS: usize = 1 << 16;

/// The most inputs, outputs and attributes of all nodes together, of each.
pub(super) const MAX_DETAILS: usize = 1 << 19;

/// What is counted: what a message calls it, and how many there may be.
struct Count {
    what: &'static str,
    found: usize,
    most: usize,
}

impl Count {
    const fn of(what: &'static str, most: usize) -> Self {
        Self { what, found: 0, most }
    }

    fn one_more(&mut self) -> Result<(), NetworkError> {
        self.found += 1;
        if self.found <= self.most {
            return Ok(());
        }
        Err(malformed(format!("it has more than {} {}; no network needs as many", self.most, self.what)))
    }
}

/// Refuses a file that has too many of something. What else is wrong with it is for the decoder to say.
pub(super) fn check(model: &[u8]) -> Result<(), NetworkError> {
    let mut imports = Count::of("imports of operators", MAX_PARTS);
    let mut parts = [
        (1, Count::of("nodes", MAX_PARTS)),
        (5, Count::of("weights", MAX_PARTS)),
        (11, Count::of("inputs", MAX_PARTS)),
        (12, Count::of("outputs", MAX_PARTS)),
        (15, Count::of("sparse weights", MAX_PARTS)),
    ];
    let mut details = [
        (1, Count::of("inputs of nodes", MAX_DETAILS)),
        (2, Count::of("outputs of nodes", MAX_DETAILS)),
        (5, Count::of("attributes", MAX_DETAILS)),
    ];
    let mut places = [(13, Count::of("places of weights in other files", MAX_DETAILS))];
    // Numbers of fields as in `proto`.
    each_field(model, |tag, graph| match tag {
        7 => each_field(graph, |tag, part| {
            note(&mut parts, tag)?;
            match tag {
                1 => each_field(part, |tag, _| note(&mut details, tag)),
                5 => each_field(part, |tag, _| note(&mut places, tag)),
                _ => Ok(()),
            }
        }),
        8 => imports.one_more(),
        _ => Ok(()),
    })
}

fn note(counts: &mut [(u32, Count)], tag: u32) -> Result<(), NetworkError> {
    counts.iter_mut().find(|(known, _)| *known == tag).map_or(Ok(()), |(_, count)| count.one_more())
}

/// Shows the fields of a message that have a length of their own, up to where it is broken.
fn each_field<'a>(
    mut message: &'a [u8],
    mut show: impl FnMut(u32, &'a [u8]) -> Result<(), NetworkError>,
) -> Result<(), NetworkError> {
    while !message.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut message) else { return Ok(()) };
        if wire_type == WireType::LengthDelimited {
            let Ok(length) = decode_varint(&mut message) else { return Ok(()) };
            let Some((field, rest)) = usize::try_from(length).ok().and_then(|length| message.split_at_checked(length))
            else {
                return Ok(());
            };
            message = rest;
            show(tag, field)?;
        } else if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
    use super::*;

    const MANY: usize = 100_000;

    fn refusal(graph: GraphProto) -> Option<String> {
        let content = ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec();
        check(&content).err().map(|error| error.to_string())
    }

    #[test]
    fn what_no_network_has_is_refused_by_its_number() {
        let weights = GraphProto { initializer: vec![TensorProto::default(); MANY], ..GraphProto::default() };
        assert!(refusal(weights).unwrap().contains("more than 65536 weights"));
        let nodes = GraphProto { node: vec![NodeProto::default(); MANY], ..GraphProto::default() };
        assert!(refusal(nodes).unwrap().contains("more than 65536 nodes"));
        let values = vec![ValueInfoProto::default(); MANY];
        assert!(refusal(GraphProto { input: values.clone(), ..GraphProto::default() }).unwrap().contains("inputs"));
        assert!(refusal(GraphProto { output: values, ..GraphProto::default() }).unwrap().contains("outputs"));
        let attribute = vec![AttributeProto::default(); MANY];
        let node = vec![NodeProto { attribute, ..NodeProto::default() }; 6];
        assert!(refusal(GraphProto { node, ..GraphProto::default() }).unwrap().contains("524288 attributes"));
        let node = vec![NodeProto { input: vec![String::new(); MANY], ..NodeProto::default() }; 6];
        assert!(refusal(GraphProto { node, ..GraphProto::default() }).unwrap().contains("inputs of nodes"));
    }

    #[test]
    fn as_many_as_are_allowed_are_no_reason() {
        let node = vec![NodeProto { input: vec!["x".into(); 8], ..NodeProto::default() }; MAX_PARTS];
        let initializer = vec![TensorProto { name: "w".into(), ..TensorProto::default() }; MAX_PARTS];
        assert_eq!(refusal(GraphProto { node, initializer, ..GraphProto::default() }), None);
    }

    #[test]
    fn broken_messages_are_left_to_the_decoder() {
        for content in [&b"\xff"[..], b"\x3a\xff\xff\x03", b"\x3a\x05\x0a\xff\xff\xff\xff", b"\x0b\x0b", b"\x00"] {
            assert!(check(content).is_ok());
        }
    }
}
