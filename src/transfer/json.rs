//! How bytes and vectors look in JSON.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Bytes, in base64.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bytes(pub Vec<u8>);

/// An embedding.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Vector {
    /// As it is stored: base64 of 16-bit floats, the low byte first.
    Halfs(Vec<f16>),
    /// As others write it: an array of numbers, of whatever length.
    Numbers(Vec<f32>),
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Halfs(halfs) => {
                let bytes: Vec<u8> = halfs.iter().flat_map(|half| half.to_le_bytes()).collect();
                serializer.serialize_str(&STANDARD.encode(bytes))
            }
            Self::Numbers(numbers) => numbers.serialize(serializer),
        }
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        STANDARD.decode(text).map(Bytes).map_err(|error| E::custom(format_args!("no valid base64: {error}")))
    }
}

struct VectorVisitor;

impl<'de> Visitor<'de> for VectorVisitor {
    type Value = Vector;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("base64 of 16-bit floats, or an array of numbers")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vector, E> {
        let Bytes(bytes) = BytesVisitor.visit_str(text)?;
        let (pairs, rest) = bytes.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(E::custom("16-bit floats have an even number of bytes"));
        }
        Ok(Vector::Halfs(pairs.iter().map(|pair| f16::from_le_bytes(*pair)).collect()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vector, A::Error> {
        let mut vector = Vec::new();
        while let Some(number) = numbers.next_element()? {
            vector.push(number);
        }
        Ok(Vector::Numbers(vector))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(BytesVisitor)
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VectorVisitor)
    }
}
