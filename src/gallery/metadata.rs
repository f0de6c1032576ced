//! What callers attach to subjects and faces.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::GalleryError;

/// A JSON object that is kept with a subject or a face: at most 16 KiB of compact JSON, no NUL character in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Map<String, Value>")]
#[schema(value_type = Object)]
pub struct Metadata(Map<String, Value>);

impl Metadata {
    /// Length limit in bytes as compact JSON; lists return up to 200 of these at once.
    pub const MAX_BYTES: usize = 16 * 1024;

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    pub fn into_object(self) -> Map<String, Value> {
        self.0
    }
}

impl TryFrom<Map<String, Value>> for Metadata {
    type Error = GalleryError;

    fn try_from(object: Map<String, Value>) -> Result<Self, GalleryError> {
        Self::try_from(Value::Object(object))
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
