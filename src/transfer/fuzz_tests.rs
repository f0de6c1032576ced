//! A file of a gallery, as fuzzers make it.

use super::source::Source;

/// Reads the lines as an import does, up to the database.
pub fn gallery(bytes: &[u8]) {
    let Ok((mut source, header)) = Source::open(bytes) else { return };
    let dimension = header.model.map(|model| model.dimension as usize);
    while let Ok(Some(batch)) = source.next_batch(dimension, 1) {
        assert_eq!(batch.records.len(), batch.lines.len());
    }
}
