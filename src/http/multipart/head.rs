//! The headers of a part of a form: what it is called, and what its bytes are.

use std::borrow::Cow;

use axum::body::Bytes;
use memchr::memchr;
use percent_encoding::percent_decode;

use super::{MOST_HEADERS, malformed, unsupported};
use crate::http::problem::Problem;

/// Most characters of a header's value that an error repeats.
const SHOWN: usize = 64;

/// What the headers of a part say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub name: String,
    /// What the sender calls the file, if it is one.
    pub file_name: Option<String>,
    charset: Charset,
}

/// The character set of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Charset {
    /// Or a part of it, such as ASCII; or the part is a file, whose bytes are its own matter.
    Utf8,
    Latin1,
    Other(String),
}

impl Head {
    /// Of the lines from the boundary's end to the last header's.
    pub fn parse(head: &[u8]) -> Result<Self, Problem> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        // The line of the boundary ends at the start, the last header at the end.
        let lines = [&head[2..], b"\r\n"].concat();
        let parsed = httparse::parse_headers(&lines, &mut headers)
            .map_err(|error| malformed(format!("the headers of a part cannot be read: {error}")))?;
        let httparse::Status::Complete((_, headers)) = parsed else {
            return Err(malformed("the headers of a part have no end"));
        };
        let value = |name: &str| {
            headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map_or(&b""[..], |header| header.value)
        };
        let (disposition, media_type) = (value("content-disposition"), value("content-type"));
        let is_nested = media_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
        if is_nested {
            return Err(malformed("a part of it is a multipart message; send its files one by one"));
        }
        let name = name(disposition)?;
        let encoding = value("content-transfer-encoding").trim_ascii();
        if ![&b""[..], b"7bit", b"8bit", b"binary"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain)) {
            let encoding = shown(encoding);
            let why = format!("it is in the Content-Transfer-Encoding {encoding}; send its bytes as they are (binary)");
            return Err(unsupported(&name, why));
        }
        let file_name = parameter(disposition, "filename").or_else(|| parameter(disposition, "filename*"));
        let file_name = file_name.map(|name| String::from_utf8_lossy(&name).into_owned());
        let charset = parameter(media_type, "charset").filter(|_| file_name.is_none());
        Ok(Self { name, file_name, charset: charset.map_or(Charset::Utf8, |charset| Charset::of(&charset)) })
    }

    /// The bytes of the part in UTF-8, if they are a text in another character set.
    pub fn in_utf8(&self, bytes: Bytes) -> Result<Bytes, Problem> {
        match &self.charset {
            Charset::Utf8 => Ok(bytes),
            _ if bytes.is_ascii() => Ok(bytes),
            Charset::Latin1 => Ok(latin1(&bytes).into()),
            Charset::Other(charset) => {
                Err(unsupported(&self.name, format!("its text is in the character set {charset}; send it in UTF-8")))
            }
        }
    }

    /// Refuses a form whose field `_charset_` (RFC 7578, 4.6) says that its texts are not in UTF-8.
    pub fn check_charset(said: &[u8]) -> Result<(), Problem> {
        match Charset::of(said.trim_ascii()) {
            Charset::Utf8 => Ok(()),
            Charset::Latin1 | Charset::Other(_) => {
                let why = format!("the texts of the form are in the character set {}; send them in UTF-8", shown(said));
                Err(unsupported("_charset_", why))
            }
        }
    }
}

impl Charset {
    fn of(name: &[u8]) -> Self {
        let is_any = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is_any(&["", "utf-8", "utf8", "us-ascii", "ascii"]) {
            Self::Utf8
        } else if is_any(&["iso-8859-1", "latin1"]) {
            Self::Latin1
        } else {
            Self::Other(shown(name))
        }
    }
}

/// The name of a part: `name*` (RFC 5987) before `name`, as RFC 6266 has it for names of files.
fn name(disposition: &[u8]) -> Result<String, Problem> {
    if parameter(disposition, "name*0").or(parameter(disposition, "name*0*")).is_some() {
        return Err(malformed("the name of a part is cut into pieces (name*0); write it in one"));
    }
    let name = match parameter(disposition, "name*") {
        Some(extended) => Some(extended_value(&extended)?),
        None => parameter(disposition, "name")
            .map(|name| String::from_utf8(name).map_err(|_| malformed("the name of a part is not UTF-8")))
            .transpose()?,
    };
    name.filter(|name| !name.is_empty()).ok_or_else(|| malformed("a part of it has no name"))
}

/// What `charset'language'percent-encoded` says.
fn extended_value(value: &[u8]) -> Result<String, Problem> {
    let mut pieces = value.splitn(3, |byte| *byte == b'\'');
    let (Some(charset), Some(_), Some(encoded)) = (pieces.next(), pieces.next(), pieces.next()) else {
        return Err(malformed("the name of a part is not written as name*=UTF-8''..."));
    };
    let bytes: Cow<[u8]> = percent_decode(encoded).into();
    match Charset::of(charset) {
        Charset::Utf8 => {
            String::from_utf8(bytes.into_owned()).map_err(|_| malformed("the name of a part is not UTF-8"))
        }
        Charset::Latin1 => Ok(latin1(&bytes)),
        Charset::Other(charset) => Err(malformed(format!("the name of a part is in the character set {charset}"))),
    }
}

/// Every byte of ISO 8859-1 is the character of the same number.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn shown(value: &[u8]) -> String {
    value.escape_ascii().map(char::from).take(SHOWN).collect()
}

/// A parameter of a header's value, as in `form-data; name="image"; filename="a;b.jpg"`.
pub(super) fn parameter(value: &[u8], wanted: &str) -> Option<Vec<u8>> {
    let mut rest = value;
    while let Some(semicolon) = memchr(b';', rest) {
        rest = &rest[semicolon + 1..];
        let name_end = rest.iter().position(|byte| matches!(byte, b'=' | b';'))?;
        let name = rest[..name_end].trim_ascii();
        rest = &rest[name_end..];
        if let Some(after) = rest.strip_prefix(b"=") {
            let (value, after) = parameter_value(after.trim_ascii_start())?;
            if name.eq_ignore_ascii_case(wanted.as_bytes()) {
                return Some(value);
            }
            rest = after;
        }
    }
    None
}

/// A value at the start of a text, in quotes or not, and what follows it; `None` if its last quote is missing.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = memchr(b';', text).unwrap_or(text.len());
        return Some((text[..end].trim_ascii_end().to_vec(), &text[end..]));
    };
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b'"', after @ ..] => return Some((value, after)),
            // Any other backslash stands for itself: some senders write paths with them.
            [b'\\', escaped @ (b'"' | b'\\'), after @ ..] => {
                value.push(*escaped);
                rest = after;
            }
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}
