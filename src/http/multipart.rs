//! Reads `multipart/form-data` (RFC 7578) as it arrives.
//!
//! A form must begin with its boundary, and the head of each part is short, so that what cannot be a form is refused at its
//! first bytes. The work is in proportion to the bytes, however they are cut into pieces, and no more is held than the
//! caller asks for.

#[cfg(test)]
mod tests;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use memchr::memchr;
use memchr::memmem::{self, Finder};

use super::body;
use super::problem::{Code, Problem};

/// Most parts of a form: the photos of a batch, and fields.
pub const MOST_PARTS: usize = 96;

/// Longest boundary, as RFC 2046 has it.
const LONGEST_BOUNDARY: usize = 70;

/// Longest head of a part in bytes, from its boundary to the empty line; longest epilogue.
const LONGEST_HEAD: usize = 8 << 10;

/// Most headers of a part.
const MOST_HEADERS: usize = 16;

/// Bytes of a part that are handed over in one go.
const BLOCK: usize = 64 << 10;

/// A form that arrives.
pub struct Multipart {
    body: BodyDataStream,
    buffer: BytesMut,
    /// What is looked for does not begin before this place of the buffer.
    searched: usize,
    /// CR LF, two dashes and the boundary: what ends a part.
    delimiter: Finder<'static>,
    place: Place,
    parts: usize,
}

/// What comes next in the buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Content,
    /// The rest of a line that began with the boundary.
    Boundary,
    End,
}

impl Multipart {
    /// The form in a body; its boundary is in the `Content-Type`.
    pub fn new(headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let boundary = parameter(content_type, "boundary").unwrap_or_default();
        if !(1..=LONGEST_BOUNDARY).contains(&boundary.len()) {
            let expected = format!("a boundary of 1 to {LONGEST_BOUNDARY} characters is expected in the Content-Type");
            return Err(Problem::new(Code::MalformedMultipart, expected));
        }
        Ok(Self {
            body: body.into_data_stream(),
            // The first boundary needs no line before it.
            buffer: BytesMut::from(&b"\r\n"[..]),
            searched: 0,
            delimiter: Finder::new(&[b"\r\n--", boundary.as_slice()].concat()).into_owned(),
            place: Place::Start,
            parts: 0,
        })
    }

    /// The name of the next part; what is left of the part before is passed over. `None` at the end of the form.
    pub async fn next_part(&mut self) -> Result<Option<String>, Problem> {
        while self.next_bytes().await?.is_some() {}
        if self.place == Place::Start {
            self.begin().await?;
        }
        if self.place == Place::Boundary {
            self.need(2).await?;
            if self.buffer.starts_with(b"--") {
                self.end().await?;
            }
        }
        if self.place == Place::End {
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return Err(malformed(format!("it has more than {MOST_PARTS} parts")));
        }
        let head = self.head().await?;
        let name = name(&head)?;
        self.place = Place::Content;
        // Its content cannot begin so, and a part without an empty line is none that anybody sends.
        self.need(self.delimiter.needle().len()).await?;
        if self.buffer.starts_with(self.delimiter.needle()) {
            return Err(malformed("there is no empty line after the headers of a part"));
        }
        self.buffer.advance(2);
        Ok(Some(name))
    }

    /// The next bytes of the part; `None` at its end.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, Problem> {
        while self.place == Place::Content {
            if let Some(length) = self.find_delimiter() {
                return Ok(Some(self.take_content(length)).filter(|bytes| !bytes.is_empty()));
            }
            if self.searched >= BLOCK {
                let bytes = self.buffer.split_to(self.searched).freeze();
                self.searched = 0;
                return Ok(Some(bytes));
            }
            self.fill().await?;
        }
        Ok(None)
    }

    /// All bytes of the part; `None` if there are more than `most`.
    pub async fn all_bytes(&mut self, most: usize) -> Result<Option<Bytes>, Problem> {
        while self.place == Place::Content {
            let found = self.find_delimiter();
            if found.unwrap_or(self.searched) > most {
                return Ok(None);
            }
            if let Some(length) = found {
                return Ok(Some(self.take_content(length)));
            }
            self.fill().await?;
        }
        Ok(Some(Bytes::new()))
    }

    /// Passes over the first boundary. Before it nothing but an empty line may come, which some senders write.
    async fn begin(&mut self) -> Result<(), Problem> {
        self.need(4).await?;
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.advance(2);
        }
        loop {
            let wanted = self.delimiter.needle();
            let seen = self.buffer.len().min(wanted.len());
            if self.buffer[..seen] != wanted[..seen] {
                return Err(malformed("it does not begin with the boundary that its Content-Type names"));
            }
            if seen == wanted.len() {
                break;
            }
            self.fill().await?;
        }
        self.place = Place::Content;
        self.take_content(0);
        Ok(())
    }

    /// From a boundary to the empty line that ends the headers of its part; the CR LF of that line stays.
    async fn head(&mut self) -> Result<Bytes, Problem> {
        let line_end = loop {
            let padding = self.buffer.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
            match padding.and_then(|padding| self.buffer.get(padding..padding + 2)) {
                Some(b"\r\n") => break padding.unwrap_or_default(),
                Some(_) => return Err(malformed("a line that begins with its boundary must end there, with CR LF")),
                None => self.fill_head().await?,
            }
        };
        self.buffer.advance(line_end);
        self.searched = 0;
        let end = loop {
            if let Some(at) = memmem::find(&self.buffer[self.searched..], b"\r\n\r\n") {
                break self.searched + at;
            }
            self.searched = self.buffer.len().saturating_sub(3);
            self.fill_head().await?;
        };
        self.searched = 0;
        if end > LONGEST_HEAD {
            return Err(long_head());
        }
        Ok(self.buffer.split_to(end + 2).freeze())
    }

    async fn fill_head(&mut self) -> Result<(), Problem> {
        if self.buffer.len() > LONGEST_HEAD {
            return Err(long_head());
        }
        self.fill().await
    }

    /// Passes over what follows the last boundary, so that the connection can be used again.
    async fn end(&mut self) -> Result<(), Problem> {
        let mut rest = self.buffer.len();
        while rest <= LONGEST_HEAD {
            let Some(piece) = self.body.next().await else {
                self.place = Place::End;
                return Ok(());
            };
            rest += piece.map_err(|error| body::broken_off(&error))?.len();
        }
        Err(malformed("it goes on after its last boundary"))
    }

    /// How much of the part comes before its end, if that is in the buffer.
    fn find_delimiter(&mut self) -> Option<usize> {
        if let Some(at) = self.delimiter.find(&self.buffer[self.searched..]) {
            return Some(self.searched + at);
        }
        // The end of the buffer may be the start of a delimiter.
        let begun = self.delimiter.needle().len() - 1;
        self.searched = self.searched.max(self.buffer.len().saturating_sub(begun));
        None
    }

    /// Takes the last `length` bytes of a part, and its end.
    fn take_content(&mut self, length: usize) -> Bytes {
        let content = self.buffer.split_to(length).freeze();
        self.buffer.advance(self.delimiter.needle().len());
        self.searched = 0;
        self.place = Place::Boundary;
        content
    }

    /// Waits until so many bytes are in the buffer.
    async fn need(&mut self, bytes: usize) -> Result<(), Problem> {
        while self.buffer.len() < bytes {
            self.fill().await?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), Problem> {
        match self.body.next().await {
            Some(Ok(piece)) => {
                self.buffer.extend_from_slice(&piece);
                Ok(())
            }
            Some(Err(error)) => Err(body::broken_off(&error)),
            None => Err(malformed("it ends before its last boundary")),
        }
    }
}

fn malformed(reason: impl std::fmt::Display) -> Problem {
    Problem::new(Code::MalformedMultipart, format!("the body is not a form as its Content-Type says: {reason}"))
}

fn long_head() -> Problem {
    malformed(format!("the headers of a part have more than {LONGEST_HEAD} bytes"))
}

/// The name of the part with these headers.
fn name(head: &[u8]) -> Result<String, Problem> {
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
    let is_nested = value("content-type").get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
    if is_nested {
        return Err(malformed("a part of it is a multipart message; send its files one by one"));
    }
    let encoding = value("content-transfer-encoding").trim_ascii();
    if ![&b""[..], b"7bit", b"8bit", b"binary"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain)) {
        return Err(malformed("a part of it has a Content-Transfer-Encoding; send the bytes as they are"));
    }
    let name = parameter(value("content-disposition"), "name").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| malformed("a part of it has no name"))?;
    String::from_utf8(name).map_err(|_| malformed("the name of a part is not UTF-8"))
}

/// A parameter of a header's value, as in `form-data; name="image"; filename="a;b.jpg"`.
fn parameter(value: &[u8], wanted: &str) -> Option<Vec<u8>> {
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
            [b'\\', b'"', after @ ..] => {
                value.push(b'"');
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
