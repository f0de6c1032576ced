//! Several embedders as one.

use bytes::Bytes;

use super::{Embedder, InputNormalisation, contract};
use crate::nn::error::NetworkError;
use crate::nn::network::Format;
use crate::nn::onnx::{self, Joined};
use crate::nn::target::Target;

/// How the file of [`join`] reads chips: as they are.
pub const JOINED_INPUT: InputNormalisation =
    InputNormalisation { mean: 0.0, scale: 1.0, ..InputNormalisation::STANDARD };

/// One ONNX file of several, each with what it reads, and the length of its embeddings: those of the parts side by side, each
/// of length 1. Every part, and the result, is tried out.
pub fn join(parts: &[(Bytes, InputNormalisation)]) -> Result<(Vec<u8>, usize), NetworkError> {
    let (mut joined, mut dimension) = (Vec::new(), 0);
    for (content, input) in parts {
        if Format::of(content) != Format::Onnx {
            return Err(contract("only ONNX files can be joined".to_owned()));
        }
        let embedder = Embedder::from_bytes(content.clone(), Format::Onnx, &Target::CPU, *input)?;
        dimension += embedder.dimension;
        joined.push(Joined { content: content.clone(), input: *input, output: embedder.output });
    }
    let content = onnx::join(&joined)?;
    let whole = Embedder::from_bytes(content.clone().into(), Format::Onnx, &Target::CPU, JOINED_INPUT)?;
    if whole.dimension != dimension {
        return Err(contract(format!(
            "the parts give {dimension} numbers together, the joined network {}",
            whole.dimension
        )));
    }
    Ok((content, dimension))
}
