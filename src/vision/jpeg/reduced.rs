//! JPEG decoded smaller than it is: of each block of 8x8 pixels only as many frequencies are turned into pixels as are wanted,
//! which takes a fraction of the time.

use std::io::Cursor;

use image::RgbImage;
use jpeg_decoder::{Decoder, PixelFormat};

use super::ImageHeader;

/// Factors by which the sides of a block can be made smaller.
const STEPS: [u32; 3] = [8, 4, 2];

/// RGB as stored, smaller by the largest factor up to `most` that leaves no rest, and that factor.
///
/// `None` if there is none, and where the other decoder shall judge.
pub(super) fn decode(bytes: &[u8], header: &ImageHeader, most: u32) -> Option<(RgbImage, u32)> {
    let fits = |step: &u32| *step <= most && header.width % step == 0 && header.height % step == 0;
    let step = STEPS.into_iter().find(fits)?;
    let (width, height) = (header.width / step, header.height / step);
    let mut decoder = Decoder::new(Cursor::new(bytes));
    let scaled = decoder.scale(u16::try_from(width).ok()?, u16::try_from(height).ok()?).ok()?;
    if (u32::from(scaled.0), u32::from(scaled.1)) != (width, height) {
        return None;
    }
    let pixels = decoder.decode().ok()?;
    let pixels = match decoder.info()?.pixel_format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.into_iter().flat_map(|grey| [grey; 3]).collect(),
        _ => return None,
    };
    Some((RgbImage::from_raw(width, height, pixels)?, step))
}
