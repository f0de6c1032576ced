//! What is inside a WebP file.
//!
//! A WebP states its size on the canvas and again in each frame, and the decoder allocates by the frame's before it
//! compares the two; so a tiny canvas could hide a frame of 16383x16383.

use image::metadata::Orientation;

use super::decode::{DecodeError, Format, ImageHeader};
use super::memory::{Buffers, WebP};
use super::{orientation, vp8l};

/// `RIFF`, a length, `WEBP`.
const FILE_HEADER: usize = 12;
/// What an animation frame's chunk states before the chunks of its image.
const FRAME_HEADER: usize = 16;

/// Looks through the chunks of a file with this header. A frame larger than the canvas is refused.
/// Chunk layout: RFC 9649, section 2; frame header: RFC 6386, section 9.1.
pub(super) fn look(bytes: &[u8], header: &ImageHeader) -> Result<Buffers, DecodeError> {
    let file = || chunks(bytes.get(FILE_HEADER..).unwrap_or_default());
    let canvas = (header.width as usize, header.height as usize);
    let mut kind = WebP::Lossy;
    for (name, body) in file() {
        match (name, kind) {
            (b"VP8 ", _) => check_lossy(body, canvas)?,
            // A chunk of chunks.
            (b"ANMF", _) => {
                kind = WebP::Animated;
                check_size(frame_size(body).unwrap_or(canvas), canvas)?;
                let mut frame = chunks(body.get(FRAME_HEADER..).unwrap_or_default());
                frame
                    .try_for_each(|(name, image)| if name == b"VP8 " { check_lossy(image, canvas) } else { Ok(()) })?;
            }
            (b"VP8L", WebP::Lossy) => kind = WebP::Lossless,
            (b"ALPH", WebP::Lossy | WebP::Lossless) => kind = WebP::LossyWithAlpha,
            _ => {}
        }
    }
    // The decoder reads the first chunk of a kind and, of an animation, the first of the first frame. A file may have a
    // great many others.
    let first = |kind: &[u8; 4]| file().find(|(name, _)| *name == kind);
    let mut tables = 0;
    for (name, body) in [b"VP8L", b"ALPH"].into_iter().filter_map(first) {
        tables = tables.max(tables_of(name, body, canvas)?);
    }
    if let Some((_, frame)) = first(b"ANMF") {
        let image = chunks(frame.get(FRAME_HEADER..).unwrap_or_default()).next();
        let size = frame_size(frame).unwrap_or(canvas);
        tables = tables.max(image.map_or(Ok(0), |(name, body)| tables_of(name, body, size))?);
    }
    Ok(Buffers::WebP { kind, tables })
}

/// Which way is up, by EXIF or else by XMP.
pub(super) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    let all = |kind: &'static [u8; 4]| named(bytes, kind);
    all(b"EXIF").find_map(orientation::from_exif).or_else(|| all(b"XMP ").find_map(orientation::from_xmp))
}

/// The colour profile, empty if there is none.
pub(super) fn profile(bytes: &[u8]) -> &[u8] {
    named(bytes, b"ICCP").next().unwrap_or_default()
}

/// The contents of the chunks of this kind.
fn named<'a>(bytes: &'a [u8], kind: &'static [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    let all = chunks(bytes.get(FILE_HEADER..).unwrap_or_default());
    all.filter(move |(name, _)| *name == kind).map(|(_, body)| body)
}

/// Bytes that the decoder takes for the prefix codes of a chunk of pixels or opacity in a frame of this width and height,
/// which bounds the work.
fn tables_of(name: &[u8; 4], body: &[u8], frame: (usize, usize)) -> Result<u64, DecodeError> {
    match (name, body) {
        // A signature, then width and height less one in 14 bits each, a bit and a version of three.
        (b"VP8L", [0x2f, a, b, c, d, stream @ ..]) => {
            let sides = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            let (width, height) = ((sides & 0x3fff) + 1, (sides >> 14 & 0x3fff) + 1);
            check_size((width, height), frame)?;
            Ok(vp8l::tables(stream, width, height))
        }
        // The lowest two bits say whether opacity is compressed.
        (b"ALPH", [info, stream @ ..]) if info & 3 == 1 => Ok(vp8l::tables(stream, frame.0, frame.1)),
        _ => Ok(0),
    }
}

/// Width and height of an animation frame, each less one in three bytes behind its place of as many.
fn frame_size(frame: &[u8]) -> Option<(usize, usize)> {
    let side = |at: usize| {
        frame.get(at..at + 3).map(|of| usize::from(of[0]) + (usize::from(of[1]) << 8) + (usize::from(of[2]) << 16) + 1)
    };
    Some((side(6)?, side(9)?))
}

/// Names and contents of the chunks that follow each other; the last may be cut off.
fn chunks(mut rest: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (name, body) = rest.split_first_chunk::<4>()?;
        let (length, body) = body.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        // Chunks begin at even offsets.
        rest = body.get(length.saturating_add(length % 2)..).unwrap_or_default();
        Some((name, &body[..length.min(body.len())]))
    })
}

fn check_lossy(frame: &[u8], canvas: (usize, usize)) -> Result<(), DecodeError> {
    // Three bytes of frame tag, three of start code, then width and height in 14 bits each.
    let Some(&[w0, w1, h0, h1]) = frame.get(6..10) else {
        return Ok(());
    };
    let side = |low, high| usize::from(u16::from_le_bytes([low, high]) & 0x3fff);
    check_size((side(w0, w1), side(h0, h1)), canvas)
}

/// A frame lies within what it is a part of, whose pixels were counted.
fn check_size((width, height): (usize, usize), within: (usize, usize)) -> Result<(), DecodeError> {
    if width <= within.0 && height <= within.1 {
        return Ok(());
    }
    let reason = format!("it has a frame of {width}x{height} on a canvas of {}x{}", within.0, within.1);
    Err(DecodeError::Corrupt { format: Format::WebP, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opacity that takes no bits for each pixel costs work by the size that a frame states: it is not believed.
    #[test]
    fn a_frame_of_any_size_is_no_work() {
        let chunk = |name: &[u8], body: &[u8]| [name, &(body.len() as u32).to_le_bytes(), body].concat();
        // A predictor, in blocks of 4x4, by codes of one symbol each.
        let opacity = chunk(b"ALPH", &[1, 0x81, 0x88, 0x88, 0, 0, 0, 0]);
        let frame = [&[0; 6], [0xff; 6].as_slice(), &[0; 4], &opacity].concat();
        let file = [b"RIFF\0\0\0\0WEBP".as_slice(), &chunk(b"ANMF", &frame)].concat();
        let canvas = ImageHeader { format: Format::WebP, width: 64, height: 64 };
        assert!(matches!(look(&file, &canvas), Err(DecodeError::Corrupt { .. })));
    }
}
