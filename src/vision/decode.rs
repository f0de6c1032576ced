//! Bytes of an image file become an upright 8-bit RGB image, or an error that its sender understands.

use std::io::Cursor;
use std::panic::catch_unwind;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use thiserror::Error;

use super::{jpeg, webp};

/// Why bytes did not become an image. The messages are meant for the sender of the bytes.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum DecodeError {
    #[error("the image is empty (0 bytes)")]
    Empty,
    #[error("the image has {actual} bytes, more than the limit of {limit}")]
    TooManyBytes { limit: usize, actual: usize },
    #[error("the image is {width}x{height} pixels, more than the limit of {limit} pixels")]
    TooManyPixels { limit: u64, width: u32, height: u32 },
    #[error("decoding this {format:?} image would take more memory than its size explains")]
    TooMuchMemory { format: ImageFormat },
    #[error("not an image of a kind that is read here (JPEG, PNG, WebP, BMP, GIF, TIFF, PNM): {reason}")]
    Unsupported { reason: String },
    #[error("the {format:?} image is damaged or incomplete")]
    Corrupt { format: ImageFormat, reason: String },
}

/// What an image may cost; checked before anything of the image's size is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest file, in bytes.
    pub max_bytes: usize,
    /// Largest width times height.
    pub max_pixels: u64,
}

/// What the first bytes of an image say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// Found from the content, never from a name or a media type.
    pub format: ImageFormat,
    /// Size as stored: an EXIF orientation may exchange width and height.
    pub width: u32,
    pub height: u32,
}

impl ImageHeader {
    /// The header of a `width` x `height` image that respects `limits`.
    pub(super) fn checked(
        format: ImageFormat,
        width: u32,
        height: u32,
        limits: &DecodeLimits,
    ) -> Result<Self, DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::Corrupt { format, reason: format!("its size is {width}x{height}") });
        }
        if u64::from(width) * u64::from(height) > limits.max_pixels {
            return Err(DecodeError::TooManyPixels { limit: limits.max_pixels, width, height });
        }
        Ok(Self { format, width, height })
    }
}

/// Whether a file that begins like this says that it is an image.
pub fn is_image(start: &[u8]) -> bool {
    image::guess_format(start).is_ok()
}

/// Reads format and size of an image and checks them against `limits`, without decoding a pixel.
pub fn read_header(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageHeader, DecodeError> {
    let format = sniff(bytes, limits)?;
    guarded(format, || match format {
        ImageFormat::Jpeg => jpeg::open(bytes, limits).map(|(_, header)| header),
        _ => open(bytes, format, limits).map(|(_, header)| header),
    })
}

/// Decodes an image file to upright 8-bit RGB.
///
/// Reads JPEG (baseline, progressive, grey, RGB, CMYK, YCCK), PNG, WebP, BMP, GIF, TIFF and PNM; of an animation, the
/// first frame. EXIF orientation is applied, transparency is laid on white, 16-bit samples are rounded to 8 bits.
/// Colour profiles are not applied. A file that ends before its image does is an error, never half an image.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    let format = sniff(bytes, limits)?;
    let (stored, orientation) = guarded(format, || match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, limits),
        _ => decode_other(bytes, format, limits),
    })?;
    let mut upright = DynamicImage::ImageRgb8(stored);
    upright.apply_orientation(orientation);
    Ok(upright.into_rgb8())
}

/// What to tell the sender of bytes that no reader here knows.
fn unknown_format(bytes: &[u8]) -> &'static str {
    // ISO base media files begin with a box of type `ftyp`.
    match bytes.get(4..8) {
        Some(b"ftyp") => "HEIC, AVIF and videos are not read; convert it to JPEG",
        _ => "its first bytes are those of no known image format",
    }
}

/// The format of `bytes` by their content.
fn sniff(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { limit: limits.max_bytes, actual: bytes.len() });
    }
    image::guess_format(bytes).map_err(|_| DecodeError::Unsupported { reason: unknown_format(bytes).into() })
}

/// Runs a decoder so that a panic inside it is a damaged image.
///
/// Decoders are large, written by others and fed by strangers: a panic that one hostile file provokes must cost that
/// file's request only. They hold no state between calls, so there is nothing to find half-changed afterwards.
fn guarded<T>(
    format: ImageFormat,
    decode: impl FnOnce() -> Result<T, DecodeError> + std::panic::UnwindSafe,
) -> Result<T, DecodeError> {
    catch_unwind(decode)
        .unwrap_or_else(|_| Err(DecodeError::Corrupt { format, reason: "the decoder gave up on it".into() }))
}

/// A decoder for any format but JPEG, its size checked, its own memory limit set as a second line.
fn open<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    limits: &DecodeLimits,
) -> Result<(impl ImageDecoder + 'a, ImageHeader), DecodeError> {
    let mut memory = Limits::default();
    memory.max_alloc = Some(match format {
        // Counts only what comes with the pixels: a few kilobytes of colour profile can unpack to gigabytes.
        ImageFormat::Png => 32 << 20,
        // The widest pixel is 16 bytes (32-bit float RGBA), and some decoders need a second buffer of that size.
        _ => limits.max_pixels.saturating_mul(32).saturating_add(1 << 20),
    });
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(memory);
    let decoder = reader.into_decoder().map_err(|error| from_image(format, error))?;
    let (width, height) = decoder.dimensions();
    let header = ImageHeader::checked(format, width, height, limits)?;
    if format == ImageFormat::WebP {
        webp::check_frames(bytes, limits)?;
    }
    Ok((decoder, header))
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    limits: &DecodeLimits,
) -> Result<(RgbImage, Orientation), DecodeError> {
    let (mut decoder, _) = open(bytes, format, limits)?;
    // Unreadable metadata is no reason to refuse readable pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(|error| from_image(format, error))?;
    Ok((on_white(image), orientation))
}

/// Drops transparency by laying the image on white, as viewers do: what hides under transparent pixels is arbitrary,
/// and a portrait that was cut out was cut out to stand on a page.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let mut pixels = rgba.into_raw();
    let mut end = 0;
    for start in (0..pixels.len()).step_by(4) {
        let alpha = u32::from(pixels[start + 3]);
        for channel in 0..3 {
            let value = u32::from(pixels[start + channel]);
            pixels[end + channel] = ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        }
        end += 3;
    }
    pixels.truncate(end);
    // The buffer has three bytes for each of the width x height pixels, so this never falls back.
    RgbImage::from_raw(width, height, pixels).unwrap_or_default()
}

fn from_image(format: ImageFormat, error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(error) => DecodeError::Unsupported { reason: error.to_string() },
        ImageError::Limits(_) => DecodeError::TooMuchMemory { format },
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Corrupt { format, reason: "it ends too early".into() }
        }
        error => DecodeError::Corrupt { format, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
