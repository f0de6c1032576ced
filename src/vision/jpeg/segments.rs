//! The segments of a JPEG, and what they say of the whole image: which way is up, and what its colours mean.

use std::io::Read;

use image::metadata::Orientation;

use crate::vision::icc;
use crate::vision::orientation::{self, EXIF_PREFIX};

pub(super) const START_OF_SCAN: u8 = 0xda;
pub(super) const START_OF_IMAGE: u8 = 0xd8;
pub(super) const END_OF_IMAGE: u8 = 0xd9;
const APP1: u8 = 0xe1;
const APP2: u8 = 0xe2;

const XMP_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const ICC_PREFIX: &[u8] = b"ICC_PROFILE\0";

/// What stands between a marker and the next.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    pub marker: u8,
    pub body: &'a [u8],
    /// Offset in the file of what follows.
    pub end: usize,
}

/// The segment whose marker is the first one at or behind `from`. Bytes in front of it are passed over, as other readers
/// do: cameras fill up with zeros.
pub(super) fn segment(bytes: &[u8], from: usize) -> Option<Segment<'_>> {
    let mut at = from;
    let marker = loop {
        at += memchr::memchr(0xff, bytes.get(at..)?)? + 1;
        match *bytes.get(at)? {
            0xff => {}
            // Not markers of segments: a byte of image data, what the format does not know, restarts.
            0..=0xbf | 0xd0..=0xd7 => at += 1,
            marker => break marker,
        }
    };
    let start = at + 1;
    if matches!(marker, START_OF_IMAGE | END_OF_IMAGE) {
        return Some(Segment { marker, body: &[], end: start });
    }
    let length = usize::from(u16::from_be_bytes(bytes.get(start..start + 2)?.try_into().ok()?));
    let end = start + length;
    Some(Segment { marker, body: bytes.get(start + 2..end)?, end })
}

/// The segments up to the first image data.
pub(super) fn headers(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut next = Some(2);
    std::iter::from_fn(move || {
        let found = segment(bytes, next?).filter(|segment| segment.marker != END_OF_IMAGE)?;
        next = (found.marker != START_OF_SCAN).then_some(found.end);
        Some(found)
    })
}

/// The first orientation in EXIF, wherever it is, or else in XMP.
pub(super) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    let app1 = || headers(bytes).filter(|segment| segment.marker == APP1).map(|segment| segment.body);
    let exif = || app1().filter(|body| body.starts_with(EXIF_PREFIX));
    let xmp = || app1().filter_map(|body| body.strip_prefix(XMP_PREFIX));
    exif().find_map(orientation::from_exif).or_else(|| xmp().find_map(orientation::from_xmp))
}

/// The parts of the colour profile, with their number and how many there are.
fn profile_parts(bytes: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    let all = headers(bytes).filter(|segment| segment.marker == APP2);
    all.filter_map(|segment| match segment.body.strip_prefix(ICC_PREFIX)? {
        [number, of, part @ ..] => Some((*number, *of, part)),
        _ => None,
    })
}

/// Length of the colour profile, 0 if there is none.
pub(super) fn profile_length(bytes: &[u8]) -> usize {
    profile_parts(bytes).map(|(.., part)| part.len()).sum()
}

/// The colour profile, put together from its parts; `None` if there is none of RGB, or one that is not whole.
pub(super) fn profile(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<(u8, u8, &[u8])> = profile_parts(bytes).collect();
    parts.sort_by_key(|(number, ..)| *number);
    let is_whole = parts.iter().zip(1..).all(|((number, of, _), at)| *number == at && usize::from(*of) == parts.len());
    let mut whole: Box<dyn Read> = Box::new(std::io::empty());
    for (.., part) in parts.into_iter().filter(|_| is_whole) {
        whole = Box::new(whole.chain(part));
    }
    icc::read(whole)
}
