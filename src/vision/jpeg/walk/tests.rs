//! Files with and without all of their pixels.

use super::*;
use crate::vision::{DecodeError, DecodeLimits, decode};

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_memory: 1 << 26 };

const FILES: [(&str, &[u8]); 6] = [
    ("baseline", include_bytes!("../../../../tests/fixtures/images/jpeg_baseline.jpg")),
    ("restarts", include_bytes!("../../../../tests/fixtures/images/jpeg_restarts.jpg")),
    ("cmyk", include_bytes!("../../../../tests/fixtures/images/jpeg_cmyk.jpg")),
    ("grey", include_bytes!("../../../../tests/fixtures/images/jpeg_grey.jpg")),
    ("progressive", include_bytes!("../../../../tests/fixtures/images/jpeg_progressive.jpg")),
    ("grey, progressive", include_bytes!("../../../../tests/fixtures/images/jpeg_grey_progressive.jpg")),
];

#[test]
fn the_end_of_the_image_data_is_found() {
    for (name, bytes) in FILES {
        assert_eq!(
            walk(bytes, decode(bytes, &LIMITS).unwrap().dimensions()),
            Walked::Whole { end: bytes.len() - 2 },
            "{name}"
        );
    }
}

#[test]
fn whatever_stands_behind_the_pixels_does_no_harm() {
    for (name, bytes) in FILES {
        let expected = decode(bytes, &LIMITS).unwrap();
        let data = &bytes[..bytes.len() - 2];
        for tail in [
            &b""[..],
            b"\xff",
            b"\x12\x34\x56\x78\xff\xd9",
            b"\xff\x12\0\x40junk",
            b"\xff\xc4\xff\xff",
            b"\xff\xd8\xff\xe0\0\x04\0\0\xff\xd9",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_DataSEFHk\0\0\0SEFT",
        ] {
            let image = decode(&[data, tail].concat(), &LIMITS);
            assert!(image.as_ref() == Ok(&expected), "{name}, {tail:?}: {:?}", image.err());
        }
    }
}

/// But for the last bits, which may be no more than what fills up a byte.
#[test]
fn a_file_that_was_cut_off_anywhere_is_refused() {
    for (name, bytes) in FILES {
        let expected = decode(bytes, &LIMITS).unwrap();
        for end in 20..bytes.len() - 2 {
            for zeros in [0, 2, 64, 4096] {
                match decode(&[&bytes[..end], &vec![0; zeros]].concat(), &LIMITS) {
                    Err(DecodeError::Corrupt { .. }) => {}
                    result => assert!(result.as_ref() == Ok(&expected), "{name}, {end}, {zeros}: {:?}", result.err()),
                }
            }
        }
    }
}
