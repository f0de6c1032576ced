//! Reads and checks the lines of a file, a batch at a time.

use std::io::{BufRead, Read};

use super::TransferError;
use super::line::{Header, LineError, parse, parse_header};
use crate::gallery::Record;
use crate::types::bytes_without_mark;
use crate::vision;

/// Records of a batch at most.
const BATCH: usize = 5000;

/// Bytes of a batch, about: chips are what takes memory.
const BATCH_BYTES: usize = 32 << 20;

/// Bytes of a line: a chip of a mebibyte in base64, the largest embedding and metadata in their longest writing fit in.
const MAX_LINE: usize = 4 << 20;

/// The first bytes of every JPEG.
const JPEG: &[u8] = b"\xff\xd8\xff";

/// A line with its number.
struct Line {
    number: u64,
    bytes: Vec<u8>,
}

/// Records with the numbers of their lines.
pub(super) struct ParsedRecords {
    pub records: Vec<Record>,
    pub lines: Vec<u64>,
    /// Bytes of the file up to here.
    pub bytes: u64,
}

/// The lines of a file.
pub(super) struct Source<R> {
    reader: R,
    /// Read already, for it is no header.
    first: Option<Line>,
    number: u64,
    bytes: u64,
}

impl<R: BufRead> Source<R> {
    /// Reads the header, if there is one.
    pub fn open(reader: R) -> Result<(Self, Header), TransferError> {
        let mut source = Self { reader, first: None, number: 0, bytes: 0 };
        let Some(first) = source.next_line()? else { return Ok((source, Header::default())) };
        let header = parse_header(&first.bytes).map_err(|error| at(first.number, error))?;
        if header.is_none() {
            source.first = Some(first);
        }
        Ok((source, header.unwrap_or_default()))
    }

    /// The next lines, checked on some threads; `None` at the end.
    pub fn next_batch(
        &mut self,
        dimension: Option<usize>,
        threads: usize,
    ) -> Result<Option<ParsedRecords>, TransferError> {
        let mut lines = Vec::new();
        let mut size = 0;
        while lines.len() < BATCH && size < BATCH_BYTES {
            let Some(line) = self.first.take().map(Ok).or_else(|| self.next_line().transpose()).transpose()? else {
                break;
            };
            size += line.bytes.len();
            lines.push(line);
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let records = check_all(&lines, dimension, threads)?;
        Ok(Some(ParsedRecords {
            records,
            lines: lines.into_iter().map(|line| line.number).collect(),
            bytes: self.bytes,
        }))
    }

    /// The next line that is not empty.
    fn next_line(&mut self) -> Result<Option<Line>, TransferError> {
        loop {
            let mut bytes = Vec::new();
            // One more than fits tells a line that is too long from one that fits.
            let mut limited = (&mut self.reader).take(MAX_LINE as u64 + 1);
            let read = limited.read_until(b'\n', &mut bytes).map_err(TransferError::Read)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.bytes += read as u64;
            if read > MAX_LINE {
                return Err(TransferError::LongLine { number: self.number, max: MAX_LINE });
            }
            if self.number == 1 && bytes_without_mark(&bytes).len() < bytes.len() {
                bytes = bytes_without_mark(&bytes).to_vec();
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(Line { number: self.number, bytes }));
            }
        }
    }
}

/// The records of the lines in their order, or what is wrong with the first bad one.
fn check_all(lines: &[Line], dimension: Option<usize>, threads: usize) -> Result<Vec<Record>, TransferError> {
    let check_some = |lines: &[Line]| lines.iter().map(|line| check(line, dimension)).collect::<Result<Vec<_>, _>>();
    let parts = std::thread::scope(|scope| {
        let parts = lines.chunks(lines.len().div_ceil(threads.max(1)).max(1));
        let running: Vec<_> = parts.map(|part| scope.spawn(move || check_some(part))).collect();
        running.into_iter().map(|part| part.join()).collect::<Vec<_>>()
    });
    let mut records = Vec::with_capacity(lines.len());
    for part in parts {
        records.extend(part.map_err(|_| TransferError::Thread("a line made its check fail".to_owned()))??);
    }
    Ok(records)
}

fn check(line: &Line, dimension: Option<usize>) -> Result<Record, TransferError> {
    let record = parse(&line.bytes, dimension).map_err(|error| at(line.number, error))?;
    if let Some(chip) = record.face.as_ref().and_then(|face| face.chip.as_deref()) {
        let bad = |reason: String| TransferError::Chip { number: line.number, reason };
        if !chip.starts_with(JPEG) {
            return Err(bad("it is no JPEG".to_owned()));
        }
        vision::decode_chip(chip).map_err(|error| bad(error.to_string()))?;
    }
    Ok(record)
}

fn at(number: u64, source: LineError) -> TransferError {
    TransferError::Line { number, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_passed_over_before_the_first_line_alone() {
        let line = r#"{"subject": "Ada", "embedding": [1, 0]}"#;
        let read = |text: String| {
            let (mut source, _) = Source::open(std::io::Cursor::new(text)).map_err(|error| error.to_string())?;
            let batch = source.next_batch(Some(2), 1).map_err(|error| error.to_string())?;
            Ok::<_, String>(batch.map_or(0, |batch| batch.records.len()))
        };
        assert_eq!(read(format!("\u{feff}{line}\n{line}\n")), Ok(2));
        assert_eq!(read(format!("\u{feff}\n{line}\n")), Ok(1));
        assert!(read(format!("{line}\n\u{feff}{line}\n")).is_err_and(|error| error.contains("line 2")));
    }
}
