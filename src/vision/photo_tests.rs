//! Decoding of real photos, which are not part of this repository.
//!
//! They are looked for in `FACEID_TEST_DATA` (default `../shared/data`). These tests are ignored unless asked for, as `make
//! test` does where the photos are.

use std::path::{Path, PathBuf};

use super::*;

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 32 << 20, max_pixels: 64_000_000, max_memory: 768 << 20 };

/// The folder of photos.
fn data() -> PathBuf {
    let folder = std::env::var_os("FACEID_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    assert!(folder.is_dir(), "there is no {}; FACEID_TEST_DATA says where the test photos are", folder.display());
    folder
}

/// All files below `folder` that are no notes.
fn photos(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(photos(&path));
        } else if path.extension().is_some_and(|e| e == "jpg" || e == "pgm") {
            found.push(path);
        }
    }
    found
}

#[test]
#[ignore = "needs the test photos"]
fn every_photo_decodes() {
    let data = data();
    for (folder, count, size) in
        [("lfw100", 100, Some((250, 250))), ("orl", 400, Some((92, 112))), ("scenes", 18, None)]
    {
        let photos = photos(&data.join(folder));
        assert_eq!(photos.len(), count, "{folder}");
        for path in photos {
            let bytes = std::fs::read(&path).unwrap();
            let image = decode(&bytes, &LIMITS).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(size.is_none_or(|size| size == image.dimensions()), "{}", path.display());
            let shrunk = shrink(&image, 640);
            assert!(shrunk.image.width().max(shrunk.image.height()) == 640.min(image.width().max(image.height())));
        }
    }
}

#[test]
#[ignore = "needs the test photos"]
fn bad_files_are_errors() {
    let data = data();
    let result = |name: &str| decode(&std::fs::read(data.join("bad").join(name)).unwrap(), &LIMITS);
    assert!(matches!(result("empty.png"), Err(DecodeError::Unsupported { .. })));
    assert!(matches!(result("corrupted.png"), Err(DecodeError::Corrupt { .. })));
    assert!(matches!(result("truncated.jpg"), Err(DecodeError::Corrupt { .. })));
}

#[test]
#[ignore = "needs the test photos"]
fn large_photos_are_alike_when_reduced() {
    let mut reduced = 0;
    for path in photos(&data().join("scenes")) {
        let bytes = std::fs::read(&path).unwrap();
        let whole = decode(&bytes, &LIMITS).unwrap();
        for step in [2, 4, 8] {
            let raster = open(&bytes, &LIMITS).unwrap().decode_reduced(step as f32).unwrap();
            if raster.is_whole() {
                continue;
            }
            reduced += 1;
            let small = raster.into_image();
            let expected = shrink(&whole, small.width().max(small.height())).image;
            let sum: u64 = small.iter().zip(expected.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / small.len() as f64;
            assert!(mean < 3.0, "{} by {step}: {mean}", path.display());
        }
    }
    assert!(reduced > 20, "{reduced}");
}
