//! JSON bodies: their members one by one, and images in base64.

use std::borrow::Cow;
use std::fmt;

use axum::body::Bytes;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::http::multipart::MOST_PARTS;

/// Base64 as senders write it: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The members of a JSON object as they are written; repeated ones stay apart.
pub(super) struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyObject;

        impl<'de> Visitor<'de> for AnyObject {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = object.next_entry()? {
                    // As many as a form may have parts: short ones take many times the memory of their text.
                    if members.len() == MOST_PARTS {
                        return Err(A::Error::custom(format_args!("it has more than {MOST_PARTS} members")));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(AnyObject)
    }
}

/// A text, or an array of them.
pub(super) struct Texts<'a>(pub Vec<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Texts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMore<'a> {
            One(#[serde(borrow)] Cow<'a, str>),
            More(#[serde(borrow)] Vec<Cow<'a, str>>),
        }

        Ok(match OneOrMore::deserialize(deserializer)? {
            OneOrMore::One(text) => Self(vec![text]),
            OneOrMore::More(texts) => Self(texts),
        })
    }
}

/// `data:` URLs and plain base64; line breaks are allowed.
pub(super) fn decode_base64(text: &str) -> Result<Bytes, &'static str> {
    let text = text.trim();
    let payload = match text.split_at_checked(5).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("data:")) {
        Some((_, rest)) => match rest.split_once(',') {
            Some((head, payload)) if head.ends_with(";base64") => payload,
            _ => return Err("this data: URL is not base64"),
        },
        None => text,
    };
    let decoded = if payload.contains(['\n', '\r']) {
        BASE64.decode(payload.replace(['\n', '\r'], ""))
    } else {
        BASE64.decode(payload)
    };
    decoded.map(Bytes::from).map_err(|_| "this is not base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_comes_as_senders_write_it() {
        for text in ["aGVsbG8=", " aGVsbG8\n", "data:image/png;base64,aGVsbG8=", "DATA:;base64,aGVsbG8", "aGVs\r\nbG8="]
        {
            assert_eq!(decode_base64(text).unwrap(), "hello");
        }
        for text in ["a*b", "data:image/png,hello"] {
            assert!(decode_base64(text).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes: Vec<u8>) {
            proptest::prop_assert_eq!(decode_base64(&BASE64.encode(&bytes)).unwrap(), bytes);
        }
    }
}
