//! What is inside a WebP file.
//!
//! A WebP states its size on the canvas and again in each frame, and the decoder allocates by the frame's before it
//! compares the two; so a tiny canvas could hide a frame of 16383x16383.

use image::ImageFormat;

use super::decode::{DecodeError, ImageHeader};
use super::memory::WebP;

/// `RIFF`, a length, `WEBP`.
const FILE_HEADER: usize = 12;
/// What an animation frame's chunk states before the chunks of its image.
const FRAME_HEADER: usize = 16;

/// Looks through the chunks of a file with this header. A lossy frame larger than the canvas is refused. (A lossless
/// frame is compared with the canvas before it is allocated.)
/// Chunk layout: RFC 9649, section 2; frame header: RFC 6386, section 9.1.
pub(super) fn look(bytes: &[u8], header: &ImageHeader) -> Result<WebP, DecodeError> {
    let mut kind = WebP::Lossy;
    for (name, body) in chunks(bytes.get(FILE_HEADER..).unwrap_or_default()) {
        match (name, kind) {
            (b"VP8 ", _) => check_lossy(body, header)?,
            // A chunk of chunks.
            (b"ANMF", _) => {
                kind = WebP::Animated;
                let frame = chunks(body.get(FRAME_HEADER..).unwrap_or_default());
                frame.filter(|(name, _)| *name == b"VP8 ").try_for_each(|(_, body)| check_lossy(body, header))?;
            }
            (b"VP8L", WebP::Lossy) => kind = WebP::Lossless,
            (b"ALPH", WebP::Lossy | WebP::Lossless) => kind = WebP::LossyWithAlpha,
            _ => {}
        }
    }
    Ok(kind)
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
