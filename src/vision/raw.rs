//! Raw files of cameras: not the values of the sensor, which only the camera's maker can make a photo of, but the
//! preview that the camera has put beside them, if it is a large one.

use image::metadata::Orientation;

use super::decode::{DecodeError, DecodeLimits, Opened};
use super::ifd::{Directory, Tags};
use super::{jpeg, orientation};

/// Longer side of a preview that is used however large the photo is.
const LARGE: u64 = 1024;

const WIDTH: u16 = 0x0100;
const HEIGHT: u16 = 0x0101;
const COMPRESSION: u16 = 0x0103;
const PHOTOMETRIC: u16 = 0x0106;
const STRIP_OFFSETS: u16 = 0x0111;
const STRIP_LENGTHS: u16 = 0x0117;
const JPEG_OFFSET: u16 = 0x0201;
const JPEG_LENGTH: u16 = 0x0202;
const DNG_VERSION: u16 = 0xc612;
/// Of Panasonic.
const PANASONIC_JPEG: u16 = 0x002e;

/// Values of single colours as a sensor has them, and of all three.
const SENSOR: [u64; 2] = [32_803, 34_892];
/// Of Nikon, Sony, Pentax, and packed in some other ways.
const COMPRESSIONS: [u64; 4] = [34_713, 32_767, 65_535, 32_769];

const FUJIFILM: &[u8] = b"FUJIFILMCCD-RAW";
/// Of Olympus and Panasonic, in place of the number of TIFF.
const OTHER_TIFF: [&[u8]; 5] = [b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"MM\0U"];
const CANON_3: &[u8] = b"ftypcrx ";

/// Whether this is a raw file, as far as these bytes tell.
pub(super) fn is_raw(bytes: &[u8]) -> bool {
    let has_signature = bytes.starts_with(FUJIFILM)
        || OTHER_TIFF.iter().any(|start| bytes.starts_with(start))
        || bytes.get(4..12) == Some(CANON_3)
        || bytes.get(8..10) == Some(b"CR") && Tags::new(bytes).is_some_and(|tags| tags.magic() == 42);
    has_signature || Tags::new(bytes).is_some_and(|tags| tags.directories().iter().any(is_of_sensor))
}

fn is_of_sensor(directory: &Directory<'_>) -> bool {
    directory.value(PHOTOMETRIC).is_some_and(|kind| SENSOR.contains(&kind))
        || directory.value(COMPRESSION).is_some_and(|kind| COMPRESSIONS.contains(&kind))
        || directory.value(DNG_VERSION).is_some()
}

/// Opens the largest preview; refuses a file that has none but thumbnails.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    let tags = Tags::new(bytes);
    let directories = tags.map(|tags| tags.directories()).unwrap_or_default();
    let upright = match tags {
        Some(_) => orientation::from_exif(bytes),
        None => canon_exif(bytes).and_then(orientation::from_exif),
    };
    let sides = directories
        .iter()
        .map(|directory| [WIDTH, HEIGHT].map(|side| directory.value(side).unwrap_or(0)).into_iter().max().unwrap_or(0));
    let least = LARGE.min(sides.max().filter(|side| *side > 0).unwrap_or(u64::MAX).div_ceil(2));
    let mut refused = None;
    let previews = previews(bytes, &directories).into_iter().filter_map(|preview| {
        match jpeg::open_turned(preview, limits, upright.unwrap_or(Orientation::NoTransforms)) {
            Ok(opened) => Some(opened),
            Err(error @ (DecodeError::TooManyPixels { .. } | DecodeError::TooMuchMemory { .. })) => {
                refused = Some(error);
                None
            }
            // The values of the sensor may be in a JPEG as well, of a kind that nobody reads.
            Err(_) => None,
        }
    });
    let area = |opened: &Opened<'_>| u64::from(opened.header().width) * u64::from(opened.header().height);
    let largest = previews.max_by_key(area);
    match largest.filter(|opened| u64::from(opened.header().width.max(opened.header().height)) >= least) {
        Some(opened) => Ok(opened),
        None => Err(refused.unwrap_or_else(|| DecodeError::Unsupported {
            reason: "it is a camera's raw file without a large preview; export it as JPEG".to_owned(),
        })),
    }
}

/// All that may be JPEGs in the file.
fn previews<'a>(bytes: &'a [u8], directories: &[Directory<'a>]) -> Vec<&'a [u8]> {
    let part = |offset: u64, length: u64| {
        let (start, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        bytes.get(start..)?.get(..length)
    };
    let mut found = Vec::new();
    for directory in directories {
        let pair = |offset, length| part(directory.value(offset)?, directory.value(length)?);
        found.extend(pair(JPEG_OFFSET, JPEG_LENGTH));
        if let [offset] = directory.values(STRIP_OFFSETS)[..] {
            found.extend(directory.value(STRIP_LENGTHS).and_then(|length| part(offset, length)));
        }
        found.push(directory.bytes(PANASONIC_JPEG));
    }
    if bytes.starts_with(FUJIFILM) {
        let number = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        found.extend(number(84).zip(number(88)).and_then(|(offset, length)| part(offset.into(), length.into())));
    }
    if bytes.get(4..12) == Some(CANON_3) {
        found.extend(canon_preview(bytes));
    }
    found.retain(|preview| preview.starts_with(&[0xff, 0xd8, 0xff]));
    found
}

/// The preview of Canon's newer raw files: in a box of its own, behind its size.
fn canon_preview(bytes: &[u8]) -> Option<&[u8]> {
    let start = memchr::memmem::find(bytes, b"PRVW")? + 4;
    let header: &[u8; 16] = bytes.get(start..)?.first_chunk()?;
    let length = u32::from_be_bytes([header[12], header[13], header[14], header[15]]) as usize;
    bytes.get(start + 16..)?.get(..length)
}

/// The tags of Canon's newer raw files.
fn canon_exif(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(memchr::memmem::find(bytes, b"CMT1")? + 4..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::tiff::tests::tiff;
    use crate::vision::{decode, is_image};

    const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 22, max_pixels: 1 << 22, max_memory: 1 << 26 };

    fn photo(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(width, height).write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    }

    /// A raw file of 2,000 by 1,000 pixels, turned by a quarter, with a preview.
    fn raw(preview: &[u8]) -> Vec<u8> {
        // The JPEG begins behind the header of the file.
        let length = [preview.len() as u16, (preview.len() >> 16) as u16];
        let tags: [(u16, &[u16]); 4] = [(262, &[32_803]), (274, &[6]), (513, &[8]), (514, &length[..1])];
        assert_eq!(length[1], 0);
        tiff((2000, 1000), &tags, preview)
    }

    #[track_caller]
    fn assert_refused(bytes: &[u8]) {
        assert!(is_image(&bytes[..16]));
        match decode(bytes, &LIMITS) {
            Err(DecodeError::Unsupported { reason }) => assert!(reason.contains("raw file"), "{reason}"),
            other => panic!("{:?}", other.map(|image| image.dimensions())),
        }
    }

    #[test]
    fn a_large_preview_is_taken_and_turned() {
        assert_eq!(decode(&raw(&photo(1600, 800)), &LIMITS).unwrap().dimensions(), (800, 1600));
        assert_eq!(decode(&raw(&photo(1000, 500)), &LIMITS).unwrap().dimensions(), (500, 1000));
    }

    #[test]
    fn a_thumbnail_is_never_taken_for_the_photo() {
        assert_refused(&raw(&photo(160, 80)));
        assert_refused(&raw(b""));
        assert_refused(b"IIU\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_refused(b"FUJIFILMCCD-RAW 0201");
        assert_refused(b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom");
        let mut thumbnail = b"FUJIFILMCCD-RAW ".to_vec();
        thumbnail.resize(84, 0);
        let small = photo(160, 80);
        thumbnail.extend(92_u32.to_be_bytes());
        thumbnail.extend((small.len() as u32).to_be_bytes());
        thumbnail.extend(small);
        assert_refused(&thumbnail);
    }

    #[test]
    fn previews_of_other_makers_are_found() {
        let large = photo(1200, 900);
        let length = (large.len() as u32).to_be_bytes();
        let mut fujifilm = b"FUJIFILMCCD-RAW ".to_vec();
        fujifilm.resize(84, 0);
        let fujifilm = [&fujifilm, &92_u32.to_be_bytes()[..], &length, &large].concat();
        let canon = [b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom....PRVW", [0; 12].as_slice(), &length, &large].concat();
        for file in [fujifilm, canon] {
            assert_eq!(decode(&file, &LIMITS).unwrap().dimensions(), (1200, 900));
        }
    }
}
