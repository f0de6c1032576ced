//! The sizes inside a WebP file.
//!
//! A WebP states its size on the canvas and again in each frame, and the decoder allocates by the frame's before it
//! compares the two; so a tiny canvas could hide a frame of 16383x16383.

use image::ImageFormat;

use super::decode::{DecodeError, DecodeLimits, ImageHeader};

/// `RIFF`, a length, `WEBP`.
const FILE_HEADER: usize = 12;
/// A four-letter name and a length.
const CHUNK_HEADER: usize = 8;
/// What an animation frame's chunk states before the chunks of its image.
const FRAME_HEADER: usize = 16;

/// Checks every lossy frame against `limits`. (A lossless frame is compared with the canvas before it is allocated.)
/// Chunk layout: RFC 9649, section 2; frame header: RFC 6386, section 9.1.
pub(super) fn check_frames(bytes: &[u8], limits: &DecodeLimits) -> Result<(), DecodeError> {
    let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
    while let Some((header, body)) = rest.split_at_checked(CHUNK_HEADER) {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        rest = match &header[..4] {
            // An animation frame is a chunk of chunks: go on inside it.
            b"ANMF" => body.get(FRAME_HEADER..).unwrap_or_default(),
            name => {
                if name == b"VP8 " {
                    check_lossy(body, limits)?;
                }
                // Chunks begin at even offsets.
                body.get(length.saturating_add(length % 2)..).unwrap_or_default()
            }
        };
    }
    Ok(())
}

fn check_lossy(frame: &[u8], limits: &DecodeLimits) -> Result<(), DecodeError> {
    // Three bytes of frame tag, three of start code, then width and height in 14 bits each.
    let Some(&[w0, w1, h0, h1]) = frame.get(6..10) else {
        return Ok(());
    };
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    ImageHeader::checked(ImageFormat::WebP, side(w0, w1), side(h0, h1), limits).map(|_| ())
}
