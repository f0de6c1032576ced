//! From fields to the type that they make, by serde: a text of a form or a query string stands for whatever the member of the type
//! is, and what is wrong is said of a field.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::de::value::{SeqDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{invalid, missing};
use crate::http::problem::Problem;

/// What a field holds that can hold one thing, and was given several.
pub const TWICE: &str = "it is given twice";

/// A field as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// Parts of a form or pairs of a query string: one, or several of the same name.
    Texts(Vec<String>),
    /// A JSON value, as it is written.
    Json(String),
    /// One file, or several of the same name: which of the form's. Their contents do not go through serde, which would copy them.
    Files(Vec<usize>),
}

/// The type that the fields make.
pub fn read_fields<T: DeserializeOwned>(fields: BTreeMap<String, Field>) -> Result<T, Problem> {
    T::deserialize(Members { fields: fields.into_iter(), next: None }).map_err(|error| match error {
        Wrong::Missing(name) => missing(name),
        Wrong::Value { field, reason } => invalid(&field.unwrap_or_default(), reason),
        Wrong::Names(_) => Problem::internal("names were asked for"),
    })
}

/// What a text takes at most once it is read as JSON. A list grows by doubling, from four items of 32 bytes on, and is copied
/// meanwhile; an object sets out with room for eleven members, of which later leaves are half empty, and each name is a text.
pub fn memory_of(text: &str) -> usize {
    const OBJECT: usize = 720;
    const LIST: usize = 160;
    const ITEM: usize = 96;
    const MEMBER: usize = 160;
    let beyond_text = text.bytes().map(|byte| match byte {
        b'{' => OBJECT,
        b'[' => LIST,
        b',' => ITEM,
        b':' => MEMBER,
        _ => 0,
    });
    text.len() + ITEM + beyond_text.sum::<usize>()
}

/// Which of the form's files a [`Field::Files`] was read into.
pub fn file_number(read: &[u8]) -> Option<usize> {
    read.try_into().ok().map(usize::from_ne_bytes)
}

/// The names of the fields that a type has.
pub fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(Names) {
        Err(Wrong::Names(names)) => names,
        _ => &[],
    }
}

/// Why fields make no such type.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{reason}")]
    Value { field: Option<String>, reason: String },
    /// Nothing is wrong: this is what [`Names`] answers.
    #[error("the fields are {0:?}")]
    Names(&'static [&'static str]),
}

impl Error for Wrong {
    fn custom<T: Display>(reason: T) -> Self {
        Self::Value { field: None, reason: reason.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("one of {} is expected", expected.join(", ")))
    }
}

/// Asks a type for its fields, which serde's derive hands over.
struct Names;

impl<'de> Deserializer<'de> for Names {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Wrong> {
        Err(Wrong::Names(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Wrong> {
        Err(Wrong::Names(fields))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// All fields, as the members of a struct.
struct Members {
    fields: std::collections::btree_map::IntoIter<String, Field>,
    next: Option<(String, Field)>,
}

impl<'de> Deserializer<'de> for Members {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some((name, field)) = self.fields.next() else { return Ok(None) };
        let name: &String = &self.next.insert((name, field)).0;
        let name: StringDeserializer<Wrong> = name.clone().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let Some((name, field)) = self.next.take() else { return Err(Wrong::custom("a value before its name")) };
        seed.deserialize(field).map_err(|error| match error {
            Wrong::Value { field: None, reason } => Wrong::Value { field: Some(name), reason },
            // Of a member of the field's own.
            Wrong::Missing(member) => {
                Wrong::Value { field: Some(name), reason: format!("its member {member} is missing") }
            }
            other => other,
        })
    }
}

impl Field {
    /// The one text or value; a text is also what a JSON document would hold unquoted.
    fn single(self, expected: &str) -> Result<(Value, Option<Value>), Wrong> {
        let value = match self {
            Self::Json(text) => parse(&text)?,
            Self::Texts(mut texts) => match (texts.pop(), texts.is_empty()) {
                (Some(text), true) => Value::String(text),
                _ => return Err(Wrong::custom(TWICE)),
            },
            Self::Files(_) => return Err(Wrong::custom(format_args!("{expected} is expected"))),
        };
        let unquoted = value.as_str().and_then(|text| serde_json::from_str(text.trim()).ok());
        Ok((value, unquoted))
    }

    /// Reads a value that is no text, or a text that stands for one.
    fn read<T>(self, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, Wrong> {
        let (value, unquoted) = self.single(expected)?;
        let found = read(&value).or_else(|| read(unquoted.as_ref()?));
        found.ok_or_else(|| Wrong::custom(format_args!("{expected} is expected")))
    }
}

impl IntoDeserializer<'_, Wrong> for Field {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The JSON array that a text stands for, if it does.
fn list_of(text: &str) -> Option<Value> {
    text.trim_start().starts_with('[').then(|| serde_json::from_str(text.trim()).ok()).flatten()
}

fn parse(text: &str) -> Result<Value, Wrong> {
    serde_json::from_str(text).map_err(unplaced)
}

/// Without the place, which is counted from the beginning of the field.
fn unplaced(error: serde_json::Error) -> Wrong {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let said = error.to_string();
    Wrong::custom(said.strip_suffix(&place).unwrap_or(&said))
}

/// Methods that read a number and hand it over.
macro_rules! numbers {
    ($($method:ident: $visit:ident($number:ty), $read:expr, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let read = |value: &Value| -> Option<$number> { $read(value) };
            let number = self.read($expected, read)?;
            visitor.$visit(number)
        }
    )*};
}

fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64()
}

fn float(value: &Value) -> Option<f64> {
    value.as_f64()
}

/// In a text as languages write it: `True` is Python's.
fn truth(value: &Value) -> Option<bool> {
    let word = |word: &str| value.as_str().is_some_and(|text| text.trim().eq_ignore_ascii_case(word));
    value.as_bool().or_else(|| word("true").then_some(true)).or_else(|| word("false").then_some(false))
}

impl<'de> Deserializer<'de> for Field {
    type Error = Wrong;

    /// What a JSON value of any kind is.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let (value, _) = self.single("a value")?;
        value.deserialize_any(visitor).map_err(Wrong::custom)
    }

    numbers! {
        deserialize_u8: visit_u64(u64), unsigned, "a whole number from 0 on";
        deserialize_u16: visit_u64(u64), unsigned, "a whole number from 0 on";
        deserialize_u32: visit_u64(u64), unsigned, "a whole number from 0 on";
        deserialize_u64: visit_u64(u64), unsigned, "a whole number from 0 on";
        deserialize_i64: visit_i64(i64), Value::as_i64, "a whole number";
        deserialize_f32: visit_f64(f64), float, "a number";
        deserialize_f64: visit_f64(f64), float, "a number";
        deserialize_bool: visit_bool(bool), truth, "true or false";
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.single("a text")?.0 {
            Value::String(text) => visitor.visit_string(text),
            _ => Err(Wrong::custom("a text is expected")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let Self::Files(mut files) = self else { return Err(Wrong::custom("a file is expected")) };
        match (files.pop(), files.is_empty()) {
            // In its place for a while; see `file_number`.
            (Some(file), true) => visitor.visit_byte_buf(file.to_ne_bytes().to_vec()),
            (None, _) => Err(Wrong::custom("a file is expected")),
            _ => Err(Wrong::custom(TWICE)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    /// A JSON array, in a text as well; else each text is an item.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let list = match self {
            Self::Texts(texts) => match texts.as_slice() {
                [text] => list_of(text).unwrap_or_else(|| texts.into()),
                _ => texts.into(),
            },
            Self::Json(text) => match parse(&text)? {
                Value::String(text) => list_of(&text).unwrap_or(Value::Null),
                value => value,
            },
            Self::Files(files) => {
                let files = files.into_iter().map(|file| Self::Files(vec![file]));
                return visitor.visit_seq(SeqDeserializer::new(files));
            }
        };
        match list {
            Value::Array(_) => list.deserialize_any(visitor).map_err(Wrong::custom),
            _ => Err(Wrong::custom("a list is expected")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let object = self.read("a JSON object", |value| value.is_object().then(|| value.clone()))?;
        object.deserialize_any(visitor).map_err(Wrong::custom)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_map(visitor)
    }

    /// A word, or an object of a word and what belongs to it.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let expected = format!("one of {}", variants.join(", "));
        let (value, unquoted) = self.single(&expected)?;
        match unquoted.filter(Value::is_object).unwrap_or(value) {
            Value::String(word) => {
                let word: StringDeserializer<Wrong> = word.into_deserializer();
                word.deserialize_enum(name, variants, visitor)
            }
            object @ Value::Object(_) => object.deserialize_enum(name, variants, visitor).map_err(Wrong::custom),
            _ => Err(Wrong::custom(format_args!("{expected} is expected"))),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 char bytes unit unit_struct tuple tuple_struct identifier ignored_any
    }
}
