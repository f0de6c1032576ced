//! Reads `multipart/form-data` (RFC 7578) as it arrives.
//!
//! What comes before the first boundary is short, and so is the head of each part, so that what cannot be a form is refused at
//! its first bytes. The work is in proportion to the bytes, however they are cut into pieces, and no more is held than the
//! caller asks for.

mod head;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use memchr::memmem::{self, Finder};

use self::head::{Head, parameter};
use super::body;
use super::problem::{Code, Problem};

/// Most parts of a form: the photos of a batch, and fields.
pub const MOST_PARTS: usize = 96;

/// Longest boundary, as RFC 2046 has it.
const LONGEST_BOUNDARY: usize = 70;

/// Longest head of a part in bytes, from its boundary to the empty line; longest preamble and epilogue.
const LONGEST_HEAD: usize = 8 << 10;

/// Most headers of a part.
const MOST_HEADERS: usize = 16;

/// The field that says in which character set the texts of a form are, which some browsers add.
const CHARSET_FIELD: &str = "_charset_";

/// Longest name of a character set.
const LONGEST_CHARSET: usize = 64;

const OTHER_START: &str = "it does not begin with the boundary that its Content-Type names";

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
    /// Of the part that is read.
    head: Option<Head>,
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
            head: None,
            parts: 0,
        })
    }

    /// The name of the next part; what is left of the part before is passed over. `None` at the end of the form.
    pub async fn next_part(&mut self) -> Result<Option<String>, Problem> {
        while let Some(name) = self.next_named().await? {
            if name != CHARSET_FIELD {
                return Ok(Some(name));
            }
            let said = self.all_bytes(LONGEST_CHARSET).await?;
            Head::check_charset(said.as_deref().unwrap_or(b"a name too long"))?;
        }
        Ok(None)
    }

    /// As [`Self::next_part`], with the field that is about the form itself.
    async fn next_named(&mut self) -> Result<Option<String>, Problem> {
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
        let head = Head::parse(&self.read_head().await?)?;
        let name = head.name.clone();
        self.head = Some(head);
        self.place = Place::Content;
        // Its content cannot begin so, and a part without an empty line is none that anybody sends.
        self.need(self.delimiter.needle().len()).await?;
        if self.buffer.starts_with(self.delimiter.needle()) {
            return Err(malformed("there is no empty line after the headers of a part"));
        }
        self.buffer.advance(2);
        Ok(Some(name))
    }

    /// What the sender calls the file that the part is, if it is one.
    pub fn file_name(&self) -> Option<&str> {
        self.head.as_ref()?.file_name.as_deref()
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

    /// All bytes of the part; `None` if there are more than `most`. A text that is said to be in another character set is brought
    /// to UTF-8 or refused.
    pub async fn all_bytes(&mut self, most: usize) -> Result<Option<Bytes>, Problem> {
        while self.place == Place::Content {
            let found = self.find_delimiter();
            if found.unwrap_or(self.searched) > most {
                return Ok(None);
            }
            if let Some(length) = found {
                let content = self.take_content(length);
                return self.head.as_ref().map_or(Ok(content.clone()), |head| head.in_utf8(content)).map(Some);
            }
            self.fill().await?;
        }
        Ok(Some(Bytes::new()))
    }

    /// Passes over the first boundary, and over what comes before it: a preamble is of no meaning (RFC 2046, 5.1.1).
    async fn begin(&mut self) -> Result<(), Problem> {
        let most = LONGEST_HEAD + self.delimiter.needle().len();
        loop {
            if let Some(length) = self.find_delimiter().filter(|length| *length <= LONGEST_HEAD) {
                self.buffer.advance(length);
                self.take_content(0);
                return Ok(());
            }
            if self.buffer.len() >= most || self.fill_or_end().await? {
                // Of nothing at all it cannot be said how it begins.
                return Err(if self.buffer.len() == 2 { ends_early() } else { malformed(OTHER_START) });
            }
        }
    }

    /// From a boundary to the empty line that ends the headers of its part; the CR LF of that line stays.
    async fn read_head(&mut self) -> Result<Bytes, Problem> {
        let line_end = loop {
            let padding = self.buffer.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
            match padding.and_then(|padding| self.buffer.get(padding..padding + 2)) {
                Some(b"\r\n") => break padding.unwrap_or_default(),
                Some([b'\n', _]) => return Err(malformed("its lines end with LF alone; they must end with CR LF")),
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
        if self.fill_or_end().await? { Err(ends_early()) } else { Ok(()) }
    }

    /// Whether there was nothing more to come.
    async fn fill_or_end(&mut self) -> Result<bool, Problem> {
        match self.body.next().await {
            Some(Ok(piece)) => {
                self.buffer.extend_from_slice(&piece);
                Ok(false)
            }
            Some(Err(error)) => Err(body::broken_off(&error)),
            None => Ok(true),
        }
    }
}

fn ends_early() -> Problem {
    malformed("it ends before its last boundary")
}

/// A part is in an encoding or a character set that is not read.
fn unsupported(name: &str, reason: impl std::fmt::Display) -> Problem {
    Problem::new(Code::UnsupportedMediaType, format!("{name}: {reason}")).with_field(name)
}

fn malformed(reason: impl std::fmt::Display) -> Problem {
    Problem::new(Code::MalformedMultipart, format!("the body is not a form as its Content-Type says: {reason}"))
}

fn long_head() -> Problem {
    malformed(format!("the headers of a part have more than {LONGEST_HEAD} bytes"))
}
