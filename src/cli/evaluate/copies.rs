//! Photos that are there more than once: identical files, which tell nothing of how well faces are told apart.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// For each photo, the number of the first one with the same content. What cannot be read is like nothing else.
pub fn originals(photos: &[PathBuf]) -> Vec<usize> {
    let mut of_length: HashMap<u64, Vec<usize>> = HashMap::new();
    for (number, path) in photos.iter().enumerate() {
        if let Ok(metadata) = path.metadata() {
            of_length.entry(metadata.len()).or_default().push(number);
        }
    }
    let mut originals: Vec<usize> = (0..photos.len()).collect();
    // Most photos have a length of their own, and need not be read for this.
    for alike in of_length.into_values().filter(|alike| alike.len() > 1) {
        let mut first_of = HashMap::new();
        for number in alike {
            if let Ok(hash) = hash(&photos[number]) {
                originals[number] = *first_of.entry(hash).or_insert(number);
            }
        }
    }
    originals
}

fn hash(path: &Path) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().into())
}
