//! What fuzzers feed, one function for each kind of file or body that strangers send, and the test that reads again what fuzzers
//! found worth keeping (fuzz/corpus). Each takes any bytes whatever, and says whether they are of use: what is wrong with them must be
//! an error and never a panic.

pub use crate::http::fuzz_tests::form;
pub use crate::service::fuzz_tests::archive;
pub use crate::transfer::fuzz_tests::gallery;

use bytes::Bytes;

use crate::nn::{Embedder, Format, InputNormalisation, Target};
use crate::vision::{self, DecodeLimits};

/// Low, so that what takes more than it may shows early.
const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_memory: 64 << 20 };

/// Decodes an image whole, and reduced. Returns the bytes of memory that it says it takes, or 0 if it is refused.
pub fn image(bytes: &[u8]) -> u64 {
    let Ok(opened) = vision::open(bytes, &LIMITS) else { return 0 };
    let (memory, (width, height)) = (opened.memory(), opened.upright_size());
    let whole = opened.decode();
    if let Ok(image) = &whole {
        assert_eq!(image.dimensions(), (width, height));
    }
    let reduced = vision::open(bytes, &LIMITS).and_then(|opened| opened.decode_reduced(4.0));
    // Where pixels are missing, it is an error either way.
    assert_eq!(whole.is_ok(), reduced.is_ok(), "{:?} {:?}", whole.err(), reduced.err());
    memory
}

/// Reads an ONNX file and makes the trial runs of an import.
pub fn onnx(bytes: &[u8]) -> bool {
    let content = Bytes::copy_from_slice(bytes);
    Embedder::from_bytes(content, Format::Onnx, &Target::CPU, InputNormalisation::STANDARD).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Reads a file, and says whether it is of use.
    type Read = fn(&[u8]) -> bool;

    #[test]
    fn what_fuzzers_found_is_read() {
        let image = |bytes: &[u8]| super::image(bytes) > 0;
        let targets: [(&str, Read); 5] =
            [("image", image), ("form", form), ("onnx", onnx), ("gallery", gallery), ("archive", archive)];
        for (name, read) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
            let read = files.iter().filter(|file| {
                println!("{}", file.display());
                read(&fs::read(file).unwrap())
            });
            let (read, all) = (read.count(), files.len());
            assert!(read > 0 && all > read, "{name}: {read} of {all} are of use; some should be, and some not");
        }
    }
}
