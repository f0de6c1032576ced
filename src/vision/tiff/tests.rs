//! Kinds of TIFF that scanners and editors write, made here.

use super::*;
use crate::vision::decode;

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 1 << 16, max_memory: 1 << 24 };

/// A file of one strip with these tags, whose values are shorts, besides the usual ones.
pub(in crate::vision) fn tiff((width, height): (u16, u16), tags: &[(u16, &[u16])], strip: &[u8]) -> Vec<u8> {
    let usual: [(u16, &[u16]); 4] = [(256, &[width]), (257, &[height]), (259, &[1]), (278, &[height])];
    let mut tags: Vec<(u16, Vec<u16>)> =
        usual.iter().chain(tags).map(|(tag, values)| (*tag, values.to_vec())).collect();
    tags.sort_by_key(|(tag, _)| *tag);
    // Of what is given twice, the last counts.
    tags.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            earlier.1 = std::mem::take(&mut later.1);
        }
        is_same
    });
    let directory = 8 + strip.len();
    let mut more = directory + 2 + 12 * (tags.len() + 2) + 4;
    let mut bytes = [b"II*\0".as_slice(), &(directory as u32).to_le_bytes(), strip].concat();
    let entry = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
        [tag.to_le_bytes().as_slice(), &kind.to_le_bytes(), &count.to_le_bytes(), &value].concat()
    };
    bytes.extend((tags.len() as u16 + 2).to_le_bytes());
    bytes.extend(entry(273, 4, 1, 8_u32.to_le_bytes()));
    bytes.extend(entry(279, 4, 1, (strip.len() as u32).to_le_bytes()));
    let mut behind = Vec::new();
    for (tag, values) in tags {
        let stored: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let count = values.len() as u32;
        let mut place = [0; 4];
        if stored.len() <= 4 {
            place[..stored.len()].copy_from_slice(&stored);
        } else {
            place = (more as u32).to_le_bytes();
            more += stored.len();
            behind.extend(stored);
        }
        bytes.extend(entry(tag, 3, count, place));
    }
    bytes.extend([0; 4]);
    bytes.extend(behind);
    bytes
}

#[track_caller]
fn pixels(file: &[u8]) -> Vec<[u8; 3]> {
    decode(file, &LIMITS).unwrap().pixels().map(|pixel| pixel.0).collect()
}

#[test]
fn palettes_are_looked_up() {
    // Three colours: reds, greens, blues.
    let map: Vec<u16> = [[200, 10, 0], [100, 20, 0], [50, 30, 255]].concat();
    let wide: Vec<u16> = map.iter().map(|value| value * 257).collect();
    let colours = [[200, 100, 50], [10, 20, 30], [0, 0, 255]];
    for map in [&map, &wide] {
        let file = tiff((3, 1), &[(258, &[8]), (262, &[3]), (320, map)], &[0, 1, 2]);
        assert_eq!(pixels(&file), colours);
        let file = tiff((3, 1), &[(258, &[4]), (262, &[3]), (320, map)], &[0x01, 0x20]);
        assert_eq!(pixels(&file), colours);
        let file = tiff((3, 1), &[(258, &[2]), (262, &[3]), (320, map)], &[0b0001_1000]);
        assert_eq!(pixels(&file), colours);
    }
    // A value without a colour, and no colours at all.
    assert_eq!(pixels(&tiff((1, 1), &[(258, &[8]), (262, &[3]), (320, &map)], &[9])), [[0; 3]]);
    assert_eq!(pixels(&tiff((1, 1), &[(258, &[8]), (262, &[3])], &[9])), [[0; 3]]);
}

#[test]
fn shades_of_few_bits_are_read() {
    assert_eq!(pixels(&tiff((2, 1), &[(258, &[4]), (262, &[1])], &[0x5f])), [[85; 3], [255; 3]]);
    assert_eq!(pixels(&tiff((2, 1), &[(258, &[2]), (262, &[0])], &[0b0011_0000])), [[255; 3], [0; 3]]);
}

#[test]
fn brightness_and_colour_become_rgb() {
    let strip = [128, 128, 128, 76, 85, 255, 29, 255, 107];
    let file = tiff((3, 1), &[(258, &[8, 8, 8]), (262, &[6]), (277, &[3]), (530, &[1, 1])], &strip);
    for (pixel, expected) in pixels(&file).into_iter().zip([[128; 3], [254, 0, 0], [0, 0, 254]]) {
        assert!(pixel.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 1), "{pixel:?}");
    }
    // Fewer colours than pixels are read in JPEG only.
    let file = tiff((2, 2), &[(258, &[8, 8, 8]), (262, &[6]), (277, &[3]), (530, &[2, 2])], &[0; 6]);
    assert!(matches!(decode(&file, &LIMITS), Err(DecodeError::Unsupported { reason }) if reason.starts_with("TIFF: ")));
}

#[test]
fn white_of_floats_is_found_from_the_samples() {
    let file = |samples: [f32; 3]| {
        tiff((3, 1), &[(258, &[32]), (262, &[1]), (339, &[3])], &samples.map(f32::to_ne_bytes).concat())
    };
    assert_eq!(pixels(&file([0.0, 0.5, 1.0])), [[0; 3], [128; 3], [255; 3]]);
    assert_eq!(pixels(&file([0.0, 100.0, 255.0])), [[0; 3], [100; 3], [255; 3]]);
    assert_eq!(pixels(&file([f32::NAN, 25_700.0, 65_535.0])), [[255; 3], [100; 3], [255; 3]]);
}

#[test]
fn what_is_not_read_is_named() {
    for (tags, named) in [([(259, &[3_u16][..]), (262, &[1])], "Fax3"), ([(258, &[8, 8, 8]), (262, &[8])], "CIELab")] {
        let refused = decode(&tiff((8, 1), &[tags[0], tags[1], (277, &[tags[0].1.len() as u16])], &[0; 24]), &LIMITS);
        assert!(
            matches!(&refused, Err(DecodeError::Unsupported { reason }) if reason.contains(named)),
            "{named}: {refused:?}"
        );
    }
}

#[test]
fn an_orientation_of_any_type_turns_it() {
    let file = tiff((2, 1), &[(258, &[8]), (262, &[1]), (274, &[6])], &[10, 200]);
    let image = decode(&file, &LIMITS).unwrap();
    assert_eq!(image.dimensions(), (1, 2));
}

#[test]
fn lists_are_counted_before_they_are_read() {
    let formats = vec![1; 300_000];
    let file = tiff((2, 1), &[(262, &[1]), (258, &[8]), (339, &formats)], &[0, 255]);
    let needed = 300_000 * VALUE;
    assert!(open(&file, &LIMITS).unwrap().memory() > needed);
    let limits = DecodeLimits { max_memory: needed - 1, ..LIMITS };
    assert!(matches!(open(&file, &limits), Err(DecodeError::TooMuchMemory { needed: said, .. }) if said == needed));
    // The file is cut where the list begins.
    let cut = &file[..file.len() - 2 * formats.len()];
    assert!(matches!(open(cut, &LIMITS), Err(DecodeError::Corrupt { reason, .. }) if reason.contains("claims")));
}
