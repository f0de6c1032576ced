//! An archive of photos, as fuzzers make it.

use std::io::Cursor;

use super::archive::Archive;

/// Bytes of a photo at most.
const MOST: usize = 1 << 20;

/// Photos that are read: an archive may name the same bytes very often.
const READ: usize = 8;

/// Reads the archive as an upload and its job do.
pub fn archive(bytes: &[u8]) -> bool {
    let Ok(mut archive) = Archive::open(Cursor::new(bytes)) else { return false };
    let accepted = archive.check().is_ok();
    for number in 0..archive.files().len().min(READ) {
        if let Ok(photo) = archive.read(number, MOST) {
            assert!(photo.len() <= MOST);
        }
    }
    accepted
}
