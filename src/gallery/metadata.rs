//! What callers attach to subjects and faces.

use serde::Serialize;
use serde_json::{Map, Value};

use super::GalleryError;

/// A JSON object that Postgres can store: at most [`Metadata::MAX_BYTES`] long, no NUL in keys or strings.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Metadata(Map<String, Value>);

impl Metadata {
    /// Length limit in bytes as compact JSON; lists return up to 200 of these at once.
    pub const MAX_BYTES: usize = 16 * 1024;

    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    pub fn into_object(self) -> Map<String, Value> {
        self.0
    }
}

impl TryFrom<Value> for Metadata {
    type Error = GalleryError;

    fn try_from(value: Value) -> Result<Self, GalleryError> {
        let bytes = value.to_string().len();
        if bytes > Self::MAX_BYTES {
            return Err(GalleryError::MetadataTooLarge(bytes));
        }
        if has_nul(&value) {
            return Err(GalleryError::MetadataNul);
        }
        match value {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(GalleryError::MetadataNotObject),
        }
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(object) => object.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
