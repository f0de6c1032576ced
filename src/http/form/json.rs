//! JSON bodies: their members one by one, and images in base64.

use std::borrow::Cow;
use std::fmt;

use axum::body::Bytes;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::http::multipart::MOST_PARTS;
use crate::service::requests::Batch;

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

/// A text, or an array of them, of which no more is kept than tells that they are too many.
pub(super) struct Texts<'a>(pub Vec<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Texts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Texts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an array of them")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Texts<'de>, E> {
                Ok(Texts(vec![Cow::Borrowed(text)]))
            }

            fn visit_str<E>(self, text: &str) -> Result<Texts<'de>, E> {
                Ok(Texts(vec![Cow::Owned(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Texts<'de>, A::Error> {
                let mut kept = Vec::new();
                while let Some(Text(text)) = texts.next_element()? {
                    if kept.len() <= Batch::MOST {
                        kept.push(text);
                    }
                }
                Ok(Texts(kept))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// Bytes that it takes to decode a text, beyond the body that it is in and what it holds: JSON's escapes are undone in a copy of it, so
/// are those of a URL, and what is more than base64's letters is taken out in another.
#[allow(clippy::ptr_arg, reason = "whether it is a copy of the body's is what is asked")]
pub(in crate::http) fn copied(text: &Cow<'_, str>) -> usize {
    let unescaped = usize::from(matches!(text, Cow::Owned(_)));
    let encoded = text.split_once(',').map_or(&**text, |(_, data)| data);
    let is_plain = encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    text.len() * (unescaped + if is_plain { 0 } else { 2 })
}

/// What a text in base64 holds: of either alphabet, with or without padding, in one line or in many, alone or as a `data:` URL.
pub(in crate::http) fn decode_base64(text: &str) -> Result<Bytes, NoBase64> {
    let trimmed = text.trim();
    let before = text.chars().count() - text.trim_start().chars().count();
    let payload = match trimmed.split_at_checked(5).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("data:")) {
        Some((_, rest)) => data_url(rest)?,
        None => Payload { encoded: Cow::Borrowed(trimmed.as_bytes()), is_base64: true },
    };
    if !payload.is_base64 {
        return Ok(payload.encoded.into_owned().into());
    }
    // The common case needs no copy.
    if let Ok(decoded) = BASE64.decode(&payload.encoded) {
        return Ok(decoded.into());
    }
    let is_whole = payload.encoded.len() == trimmed.len();
    let skipped = if is_whole { before } else { 0 };
    decode_as_written(&payload.encoded, skipped)
}

/// What a `data:` URL holds, before base64 is undone.
struct Payload<'a> {
    encoded: Cow<'a, [u8]>,
    is_base64: bool,
}

/// The rest of a `data:` URL (RFC 2397): a media type with parameters, perhaps `;base64`, a comma and the data, of which any
/// character may be percent-encoded.
fn data_url(rest: &str) -> Result<Payload<'_>, NoBase64> {
    let (head, data) = rest.split_once(',').ok_or(NoBase64::NoComma)?;
    let last = head.rsplit(';').next().filter(|_| head.contains(';')).unwrap_or_default();
    let encoded = percent_decode_str(data.trim_end()).into();
    Ok(Payload { encoded, is_base64: last.trim().eq_ignore_ascii_case("base64") })
}

/// Undoes base64 that has line breaks or is of the alphabet for URLs, or says where it breaks.
fn decode_as_written(encoded: &[u8], skipped: usize) -> Result<Bytes, NoBase64> {
    let mut plain = Vec::with_capacity(encoded.len());
    let (mut ended, mut alphabet) = (false, None);
    // In characters, as people count them.
    let mut at = skipped;
    for byte in encoded {
        // The bytes of a character but for its first.
        at += usize::from(byte & 0xc0 != 0x80);
        let (byte, is_of) = match byte {
            b'\r' | b'\n' => continue,
            b'=' => {
                ended = true;
                plain.push(b'=');
                continue;
            }
            b'-' => (b'+', Some(Alphabet::Url)),
            b'_' => (b'/', Some(Alphabet::Url)),
            b'+' | b'/' => (*byte, Some(Alphabet::Standard)),
            byte if byte.is_ascii_alphanumeric() => (*byte, None),
            b' ' => return Err(NoBase64::Space { at }),
            byte => return Err(NoBase64::Character { at, found: shown(*byte, encoded, at - skipped) }),
        };
        if ended {
            return Err(NoBase64::GoesOn { at });
        }
        if is_of.is_some() && alphabet.is_some() && is_of != alphabet {
            return Err(NoBase64::TwoAlphabets { at });
        }
        alphabet = is_of.or(alphabet);
        plain.push(byte);
    }
    let letters = plain.iter().take_while(|byte| **byte != b'=').count();
    match BASE64.decode(&plain) {
        Ok(decoded) => Ok(decoded.into()),
        Err(_) if letters % 4 == 1 => Err(NoBase64::Cut { at }),
        Err(_) if plain.len() > letters && !plain.len().is_multiple_of(4) => Err(NoBase64::Padding { at }),
        Err(_) => Err(NoBase64::LastBits { at }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    Standard,
    Url,
}

/// The character at a place, counted from 1.
fn shown(byte: u8, encoded: &[u8], at: usize) -> String {
    let whole = std::str::from_utf8(encoded).ok().and_then(|text| text.chars().nth(at.saturating_sub(1)));
    match whole {
        Some(character) => format!("{character:?}"),
        None => format!("the byte {byte:#04x}"),
    }
}

/// Why a text is no base64.
#[derive(Debug, Error, PartialEq, Eq)]
pub(in crate::http) enum NoBase64 {
    #[error("this data: URL has no comma before its data")]
    NoComma,
    #[error("this is not base64: character {at} is ' '; a space there was perhaps a + that a form took for a space")]
    Space { at: usize },
    #[error("this is not base64: character {at} is {found}")]
    Character { at: usize, found: String },
    #[error("this is not base64: it goes on at character {at}, after the = that ends it")]
    GoesOn { at: usize },
    #[error(
        "this is not base64: at character {at} begins another alphabet (- and _ stand for + and /, not beside them)"
    )]
    TwoAlphabets { at: usize },
    #[error("this is not base64: it breaks off after character {at}")]
    Cut { at: usize },
    #[error("this is not base64: the = at its end, character {at}, are too many or too few")]
    Padding { at: usize },
    #[error("this is not base64: its last character, {at}, has bits that belong to no byte; it was cut or changed")]
    LastBits { at: usize },
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_comes_as_senders_write_it() {
        for text in [
            "aGVsbG8=",
            "aGVsbG8",
            " \taGVsbG8\n",
            "aGVs\r\nbG8=",
            "aGVs\nbG8=\n",
            "data:image/png;base64,aGVsbG8=",
            "DATA:;base64,aGVsbG8",
            "data:image/svg+xml;charset=utf-8;name=a%2Cb.png;BASE64,aGVsbG8=",
            "data:image/png;base64,aGVsbG8%3D",
            "data:image/png;base64,aGVs%0D%0AbG8%3d",
            "data:text/plain,hello",
            "data:,%68%65llo",
        ] {
            assert_eq!(decode_base64(text).unwrap(), "hello", "{text:?}");
        }
        for text in ["+/+/", "-_-_", "data:;base64,%2B/%2b/", "data:;base64,-_-_"] {
            assert_eq!(decode_base64(text).unwrap(), &b"\xfb\xff\xbf"[..], "{text:?}");
        }
        assert_eq!(decode_base64("").unwrap(), "");
    }

    #[test]
    fn what_is_copied_is_counted() {
        let owned = |text: &str| copied(&Cow::Owned(text.to_owned()));
        assert_eq!(copied(&"aGVsbG8=".into()), 0);
        assert_eq!(copied(&"data:image/png;base64,aGVsbG8=".into()), 0);
        assert_eq!(owned("aGVsbG8="), 8);
        assert_eq!(copied(&"aGVs\nbG8=".into()), 2 * 9);
        assert_eq!(copied(&"data:,%68".into()), 2 * 9);
        assert_eq!(owned("aGVs\nbG8="), 3 * 9);
    }

    #[test]
    fn it_is_said_where_it_breaks() {
        for (text, why) in [
            ("aGVs*bG8=", "character 5 is '*'"),
            ("  aGVs*bG8=", "character 7 is '*'"),
            ("aGVs\r\nbé8=", "character 8 is 'é'"),
            ("aGVs bG8=", "character 5 is ' '; a space there was perhaps a +"),
            ("aGVsbG8%3D", "character 8 is '%'"),
            ("aGVsbG8=aGVsbG8=", "goes on at character 9"),
            ("+_+_", "at character 2 begins another alphabet"),
            ("aGVsb", "breaks off after character 5"),
            ("aGVsbG8==", "the = at its end, character 9"),
            ("aGVsbG9=", "its last character, 8"),
            ("data:image/png;base64", "no comma"),
            ("data:;base64,%FF", "character 1 is the byte 0xff"),
        ] {
            let told = decode_base64(text).unwrap_err().to_string();
            assert!(told.contains(why), "{text:?}: {told}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes: Vec<u8>, width in 1_usize..80, crlf: bool) {
            for engine in [BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD] {
                let text = engine.encode(&bytes);
                prop_assert_eq!(decode_base64(&text).unwrap(), &bytes);
                let lines: Vec<&str> =
                    text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
                prop_assert_eq!(decode_base64(&lines.join(if crlf { "\r\n" } else { "\n" })).unwrap(), &bytes);
            }
        }

        #[test]
        fn any_text_is_decoded_or_refused(text in "\\PC{0,40}") {
            let _ = decode_base64(&text);
            let _ = decode_base64(&format!("data:{text}"));
        }
    }
}
