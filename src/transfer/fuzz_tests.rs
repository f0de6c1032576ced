//! A file of a gallery, as fuzzers make it.

use super::source::Source;

/// Reads the lines as an import does, up to the database.
pub fn gallery(bytes: &[u8]) -> bool {
    let Ok((mut source, header)) = Source::open(bytes) else { return false };
    let dimension = header.model.map(|model| model.dimension as usize);
    let mut any = false;
    loop {
        match source.next_batch(dimension, 1) {
            Ok(Some(batch)) => assert_eq!(batch.records.len(), batch.lines.len()),
            Ok(None) => return any,
            Err(_) => return false,
        }
        any = true;
    }
}
