//! The values that fields of requests have. Each is valid by construction, and its schema says what that is.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, Ref, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::db::{PageError, PageRequest};
use crate::types::Name;

/// The bytes of a file.
#[derive(Debug, Clone, Default)]
pub struct FileBytes(pub Bytes);

impl<'de> Deserialize<'de> for FileBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyBytes;

        impl Visitor<'_> for AnyBytes {
            type Value = FileBytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the bytes of a file")
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<FileBytes, E> {
                Ok(FileBytes(bytes.into()))
            }
        }

        deserializer.deserialize_byte_buf(AnyBytes)
    }
}

/// A file is sent apart from the fields.
impl Serialize for FileBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_none()
    }
}

impl PartialSchema for FileBytes {
    fn schema() -> RefOr<Schema> {
        let base64 = ObjectBuilder::new().schema_type(Type::String).content_encoding("base64");
        base64.description(Some("The bytes of a file in base64, or a data: URL.")).into()
    }
}

impl ToSchema for FileBytes {}

/// The photos of a batch, 1..=64.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Vec<FileBytes>")]
pub struct Batch(pub Vec<FileBytes>);

impl Batch {
    pub const MOST: usize = 64;
}

impl TryFrom<Vec<FileBytes>> for Batch {
    type Error = OutOfRange;

    fn try_from(files: Vec<FileBytes>) -> Result<Self, OutOfRange> {
        if (1..=Self::MOST).contains(&files.len()) {
            Ok(Self(files))
        } else {
            Err(OutOfRange("a list of 1 to 64 photos"))
        }
    }
}

impl PartialSchema for Batch {
    fn schema() -> RefOr<Schema> {
        let items = Ref::from_schema_name(FileBytes::name());
        ArrayBuilder::new().items(items).min_items(Some(1)).max_items(Some(Self::MOST)).into()
    }
}

impl ToSchema for Batch {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((FileBytes::name().into(), FileBytes::schema()));
    }
}

/// What an answer can show of a face beside what it always says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Extra {
    /// The aligned crop that the embedder saw.
    Chip,
    /// What the embedder made of it.
    Embedding,
}

/// The names or ids of galleries, 1..=16.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Vec<Name>")]
#[schema(min_items = 1, max_items = 16)]
pub struct GalleryList(pub Vec<Name>);

impl GalleryList {
    /// Each is searched by itself, and takes the time of a request.
    const MOST: usize = 16;
}

impl TryFrom<Vec<Name>> for GalleryList {
    type Error = OutOfRange;

    fn try_from(names: Vec<Name>) -> Result<Self, OutOfRange> {
        if (1..=Self::MOST).contains(&names.len()) {
            Ok(Self(names))
        } else {
            Err(OutOfRange("a list of 1 to 16 galleries"))
        }
    }
}

/// As many embeddings as a batch may have photos.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Vec<Vec<f32>>")]
#[schema(min_items = 1, max_items = 64)]
pub struct EmbeddingList(pub Vec<Vec<f32>>);

impl TryFrom<Vec<Vec<f32>>> for EmbeddingList {
    type Error = OutOfRange;

    fn try_from(embeddings: Vec<Vec<f32>>) -> Result<Self, OutOfRange> {
        if (1..=Batch::MOST).contains(&embeddings.len()) {
            Ok(Self(embeddings))
        } else {
            Err(OutOfRange("a list of 1 to 64 embeddings"))
        }
    }
}

/// A list of one to 1,000.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<T>", bound(deserialize = "T: Deserialize<'de>"))]
pub struct Listed<T>(pub Vec<T>);

impl<T> Listed<T> {
    pub const MOST: usize = 1000;
}

impl<T> TryFrom<Vec<T>> for Listed<T> {
    type Error = OutOfRange;

    fn try_from(items: Vec<T>) -> Result<Self, OutOfRange> {
        if (1..=Self::MOST).contains(&items.len()) { Ok(Self(items)) } else { Err(OutOfRange("a list of 1 to 1,000")) }
    }
}

/// Why a number is not one that a field can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is expected")]
pub struct OutOfRange(&'static str);

/// How many subjects are listed for a face, 1..=100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u32")]
#[schema(minimum = 1, maximum = 100, default = 5)]
pub struct TopK(u32);

impl TopK {
    /// The most that may be asked for.
    pub const MOST: u32 = 100;

    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl Default for TopK {
    fn default() -> Self {
        Self(5)
    }
}

impl TryFrom<u32> for TopK {
    type Error = OutOfRange;

    fn try_from(count: u32) -> Result<Self, OutOfRange> {
        if (1..=Self::MOST).contains(&count) { Ok(Self(count)) } else { Err(OutOfRange("a number from 1 to 100")) }
    }
}

/// How many, from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u32")]
#[schema(minimum = 1)]
pub struct Count(u32);

impl Count {
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u32> for Count {
    type Error = OutOfRange;

    fn try_from(count: u32) -> Result<Self, OutOfRange> {
        if count > 0 { Ok(Self(count)) } else { Err(OutOfRange("a number from 1 on")) }
    }
}

/// How sure the detector is of a face, 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "f32")]
#[schema(minimum = 0.0, maximum = 1.0)]
pub struct Score(f32);

impl Score {
    pub fn get(self) -> f32 {
        self.0
    }
}

impl TryFrom<f32> for Score {
    type Error = OutOfRange;

    fn try_from(score: f32) -> Result<Self, OutOfRange> {
        if (0.0..=1.0).contains(&score) { Ok(Self(score)) } else { Err(OutOfRange("a number from 0 to 1")) }
    }
}

/// How often something goes wrong: above 0 and below 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "f64")]
#[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
pub struct Rate(f64);

impl Rate {
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Rate {
    type Error = OutOfRange;

    fn try_from(rate: f64) -> Result<Self, OutOfRange> {
        if rate > 0.0 && rate < 1.0 { Ok(Self(rate)) } else { Err(OutOfRange("a number above 0 and below 1")) }
    }
}

/// Items of a page, 1..=200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u32")]
#[schema(minimum = 1, maximum = 200, default = 50)]
pub struct PageLimit(u32);

impl PageLimit {
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(PageRequest::DEFAULT_LIMIT)
    }
}

impl TryFrom<u32> for PageLimit {
    type Error = PageError;

    fn try_from(limit: u32) -> Result<Self, PageError> {
        PageRequest::check_limit(Some(limit)).map(Self)
    }
}

/// When something expires: a time to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, format = DateTime, example = "2030-01-31T12:00:00Z")]
pub struct Expiry(DateTime<Utc>);

impl Expiry {
    pub fn get(self) -> DateTime<Utc> {
        self.0
    }
}

impl TryFrom<String> for Expiry {
    type Error = OutOfRange;

    fn try_from(text: String) -> Result<Self, OutOfRange> {
        let time =
            DateTime::parse_from_rfc3339(&text).map_err(|_| OutOfRange("a time such as 2030-01-31T12:00:00Z"))?;
        if time > Utc::now() { Ok(Self(time.to_utc())) } else { Err(OutOfRange("a time that is still to come")) }
    }
}

impl From<Expiry> for String {
    fn from(expiry: Expiry) -> Self {
        expiry.0.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }
}

/// When something expires from now on: a time to come, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "2030-01-31T12:00:00Z")]
pub struct NewExpiry(Option<Expiry>);

impl NewExpiry {
    /// `None`: never.
    pub fn get(self) -> Option<DateTime<Utc>> {
        self.0.map(Expiry::get)
    }
}

impl TryFrom<String> for NewExpiry {
    type Error = OutOfRange;

    fn try_from(text: String) -> Result<Self, OutOfRange> {
        if text == "never" { Ok(Self(None)) } else { Expiry::try_from(text).map(|expiry| Self(Some(expiry))) }
    }
}

impl From<NewExpiry> for String {
    fn from(NewExpiry(expiry): NewExpiry) -> Self {
        expiry.map_or_else(|| "never".to_owned(), Self::from)
    }
}

/// Seconds for which a key works on beside another that took its place, 0..=604800.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u64")]
#[schema(minimum = 0, maximum = 604_800)]
pub struct KeepFor(u64);

impl KeepFor {
    /// Seven days.
    pub const MOST: u64 = 7 * 24 * 3600;

    pub fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for KeepFor {
    type Error = OutOfRange;

    fn try_from(seconds: u64) -> Result<Self, OutOfRange> {
        if seconds <= Self::MOST {
            Ok(Self(seconds))
        } else {
            Err(OutOfRange("0 to 604800 seconds, which are seven days"))
        }
    }
}
