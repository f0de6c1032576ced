//! What is inside a WebP file.
//!
//! A WebP states its size on the canvas and again in each frame, and the decoder allocates by the frame's before it
//! compares the two; so a tiny canvas could hide a frame of 16383x16383.

use image::ImageFormat;

use super::decode::{DecodeError, ImageHeader};
use super::memory::{Buffers, WebP};
use super::vp8l;

/// `RIFF`, a length, `WEBP`.
const FILE_HEADER: usize = 12;
/// What an animation frame's chunk states before the chunks of its image.
const FRAME_HEADER: usize = 16;

/// Looks through the chunks of a file with this header. A lossy frame larger than the canvas is refused. (A lossless
/// frame is compared with the canvas before it is allocated.)
/// Chunk layout: RFC 9649, section 2; frame header: RFC 6386, section 9.1.
pub(super) fn look(bytes: &[u8], header: &ImageHeader) -> Result<Buffers, DecodeError> {
    let (mut kind, mut tables) = (WebP::Lossy, 0);
    for (name, body) in chunks(bytes.get(FILE_HEADER..).unwrap_or_default()) {
        let canvas = (header.width as usize, header.height as usize);
        match (name, kind) {
            (b"VP8 ", _) => check_lossy(body, header)?,
            // A chunk of chunks. The first frame is decoded.
            (b"ANMF", before) => {
                kind = WebP::Animated;
                let frame = chunks(body.get(FRAME_HEADER..).unwrap_or_default());
                for (name, image) in frame {
                    if name == b"VP8 " {
                        check_lossy(image, header)?;
                    }
                    if before != WebP::Animated {
                        tables = tables.max(tables_of(name, image, frame_size(body).unwrap_or(canvas)));
                    }
                }
            }
            (b"VP8L", WebP::Lossy) => kind = WebP::Lossless,
            (b"ALPH", WebP::Lossy | WebP::Lossless) => kind = WebP::LossyWithAlpha,
            _ => {}
        }
        tables = tables.max(tables_of(name, body, canvas));
    }
    Ok(Buffers::WebP { kind, tables })
}

/// Bytes that the decoder takes for the prefix codes of a chunk of pixels or opacity; `size` is that of the frame.
fn tables_of(name: &[u8; 4], body: &[u8], size: (usize, usize)) -> u64 {
    match (name, body) {
        // A signature, then width and height less one in 14 bits each, a bit and a version of three.
        (b"VP8L", [0x2f, a, b, c, d, stream @ ..]) => {
            let sides = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            vp8l::tables(stream, (sides & 0x3fff) + 1, (sides >> 14 & 0x3fff) + 1)
        }
        // The lowest two bits say whether opacity is compressed.
        (b"ALPH", [info, stream @ ..]) if info & 3 == 1 => vp8l::tables(stream, size.0, size.1),
        _ => 0,
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

fn check_lossy(frame: &[u8], canvas: &ImageHeader) -> Result<(), DecodeError> {
    // Three bytes of frame tag, three of start code, then width and height in 14 bits each.
    let Some(&[w0, w1, h0, h1]) = frame.get(6..10) else {
        return Ok(());
    };
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let (width, height) = (side(w0, w1), side(h0, h1));
    if width > canvas.width || height > canvas.height {
        let reason = format!("it has a frame of {width}x{height} on a canvas of {}x{}", canvas.width, canvas.height);
        return Err(DecodeError::Corrupt { format: ImageFormat::WebP, reason });
    }
    Ok(())
}
