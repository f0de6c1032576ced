//! The attributes of one node, taken out one by one so that none is overlooked.

use std::collections::BTreeMap;

use tch::{Device, Tensor};

use super::ops::{OpResult, refuse};
use super::proto::{AttributeProto, NodeProto, attribute_type};
use super::tensors;

/// What an operator has not taken yet.
pub struct Attributes(BTreeMap<String, AttributeProto>);

impl Attributes {
    pub fn of(node: &NodeProto) -> Self {
        Self(node.attribute.iter().map(|attribute| (attribute.name.clone(), attribute.clone())).collect())
    }

    /// Refuses attributes that the operator did not ask for: to ignore one might give wrong results.
    pub fn finish(&self) -> OpResult<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => refuse!("its attribute {name:?} is not supported"),
        }
    }

    pub fn int(&mut self, name: &str) -> OpResult<Option<i64>> {
        Ok(self.take(name, attribute_type::INT)?.map(|attribute| attribute.i))
    }

    pub fn int_or(&mut self, name: &str, default: i64) -> OpResult<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An integer that means yes or no.
    pub fn flag_or(&mut self, name: &str, default: bool) -> OpResult<bool> {
        Ok(self.int(name)?.map_or(default, |value| value != 0))
    }

    pub fn float_or(&mut self, name: &str, default: f32) -> OpResult<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub fn float(&mut self, name: &str) -> OpResult<Option<f32>> {
        Ok(self.take(name, attribute_type::FLOAT)?.map(|attribute| attribute.f))
    }

    pub fn ints(&mut self, name: &str) -> OpResult<Option<Vec<i64>>> {
        Ok(self.take(name, attribute_type::INTS)?.map(|attribute| attribute.ints))
    }

    pub fn floats(&mut self, name: &str) -> OpResult<Option<Vec<f32>>> {
        Ok(self.take(name, attribute_type::FLOATS)?.map(|attribute| attribute.floats))
    }

    pub fn string_or(&mut self, name: &str, default: &str) -> OpResult<String> {
        let attribute = self.take(name, attribute_type::STRING)?;
        Ok(attribute.map_or_else(|| default.to_owned(), |attribute| String::from_utf8_lossy(&attribute.s).into_owned()))
    }

    pub fn tensor(&mut self, name: &str, device: Device) -> OpResult<Option<Tensor>> {
        match self.take(name, attribute_type::TENSOR)?.map(|attribute| attribute.t) {
            None => Ok(None),
            Some(Some(proto)) => tensors::from_proto(&proto, device).map(Some),
            Some(None) => refuse!("its attribute {name:?} holds no tensor"),
        }
    }

    fn take(&mut self, name: &str, wanted: i32) -> OpResult<Option<AttributeProto>> {
        match self.0.remove(name) {
            // Files of the first ONNX version leave the type out.
            Some(attribute) if attribute.r#type != wanted && attribute.r#type != 0 => {
                refuse!("its attribute {name:?} has type {} instead of {wanted}", attribute.r#type)
            }
            other => Ok(other),
        }
    }
}
