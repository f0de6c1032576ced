//! Bytes of an image file become an upright 8-bit RGB image, or an error that its sender understands.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use thiserror::Error;

#[cfg(feature = "heic")]
use super::heic;
use super::memory::Buffers;
use super::raster::Raster;
use super::sniff::{self, Kind};
use super::{gif, icc, jpeg, png, raw, samples, tiff, webp};

/// Why bytes did not become an image. The messages are meant for the sender of the bytes.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum DecodeError {
    #[error("the image is empty (0 bytes)")]
    Empty,
    #[error("the image has {actual} bytes, more than the limit of {limit}")]
    TooManyBytes { limit: usize, actual: usize },
    #[error("the image is {width}x{height} pixels, more than the limit of {limit} pixels")]
    TooManyPixels { limit: u64, width: u32, height: u32 },
    #[error(
        "decoding this {} image would take {} MB of memory, more than the limit of {} MB",
        format, needed.div_ceil(1_000_000), limit / 1_000_000
    )]
    TooMuchMemory { format: Format, limit: u64, needed: u64 },
    #[error("not an image of a kind that is read here (JPEG, PNG, WebP, HEIC, BMP, GIF, TIFF, PNM): {reason}")]
    Unsupported { reason: String },
    #[error("the {format} image is damaged or incomplete")]
    Corrupt { format: Format, reason: String },
}

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Pnm,
    Heic,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Pnm => "PNM",
            Self::Heic => "HEIC",
        })
    }
}

/// What an image may cost; checked before anything of the image's size is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest file, in bytes.
    pub max_bytes: usize,
    /// Largest width times height.
    pub max_pixels: u64,
    /// Most bytes of memory that decoding may take, the result included.
    pub max_memory: u64,
}

/// What the first bytes of an image say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// Found from the content, never from a name or a media type.
    pub format: Format,
    /// Size as stored: an EXIF orientation may exchange width and height.
    pub width: u32,
    pub height: u32,
}

impl ImageHeader {
    /// The header of a `width` x `height` image that respects `limits`.
    pub(super) fn checked(format: Format, width: u32, height: u32, limits: &DecodeLimits) -> Result<Self, DecodeError> {
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
    !matches!(sniff::kind(start), Kind::Video | Kind::Unknown)
}

/// An image whose header was read, and whose pixels were not.
pub struct Opened<'a> {
    header: ImageHeader,
    orientation: Orientation,
    memory: u64,
    stored: Box<Stored<'a>>,
}

/// Decodes an image as it is stored, and says by how much it is smaller on each side.
type Stored<'a> = dyn FnOnce(DecodeOptions) -> Result<(RgbImage, u32), DecodeError> + 'a;

/// How an image is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecodeOptions {
    /// By how much it may be smaller on each side, at least 1.
    pub step: u32,
    /// The file was decoded before: no pixel is missing.
    pub known: bool,
}

impl<'a> Opened<'a> {
    /// An image that takes these buffers while `stored` decodes it as it is stored; refused if `limits` allow less.
    pub(super) fn new(
        header: ImageHeader,
        orientation: Orientation,
        buffers: Buffers,
        bytes: &[u8],
        limits: &DecodeLimits,
        stored: impl FnOnce() -> Result<RgbImage, DecodeError> + 'a,
    ) -> Result<Self, DecodeError> {
        Self::reducible(header, orientation, buffers, bytes, limits, move |_| Ok((stored()?, 1)))
    }

    /// The same for one that can be decoded smaller than it is.
    pub(super) fn reducible(
        header: ImageHeader,
        orientation: Orientation,
        buffers: Buffers,
        bytes: &[u8],
        limits: &DecodeLimits,
        stored: impl FnOnce(DecodeOptions) -> Result<(RgbImage, u32), DecodeError> + 'a,
    ) -> Result<Self, DecodeError> {
        let needed = buffers.peak(header.width, header.height, is_turned(orientation), bytes.len());
        if needed > limits.max_memory {
            return Err(DecodeError::TooMuchMemory { format: header.format, limit: limits.max_memory, needed });
        }
        Ok(Self { header, orientation, memory: needed, stored: Box::new(stored) })
    }

    /// The same with a colour profile of this length, which `read` gets once the pixels are there.
    pub(super) fn with_profile(
        self,
        length: usize,
        limits: &DecodeLimits,
        read: impl FnOnce() -> Option<Vec<u8>> + 'a,
    ) -> Result<Self, DecodeError> {
        let Self { header, orientation, memory, stored } = self;
        let needed = memory + icc::memory(length);
        if needed > limits.max_memory {
            return Err(DecodeError::TooMuchMemory { format: header.format, limit: limits.max_memory, needed });
        }
        let converted = move |options| {
            let (mut image, step) = stored(options)?;
            if let Some(profile) = read() {
                icc::to_srgb(&mut image, &profile);
            }
            Ok((image, step))
        };
        Ok(Self { header, orientation, memory: needed, stored: Box::new(converted) })
    }

    pub fn header(&self) -> ImageHeader {
        self.header
    }

    /// The most bytes of memory that [`Opened::decode`] takes, its result included. Nothing that grows with the image
    /// has been allocated yet.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Width and height of the upright image.
    pub fn upright_size(&self) -> (u32, u32) {
        let ImageHeader { width, height, .. } = self.header;
        if is_turned(self.orientation) { (height, width) } else { (width, height) }
    }

    /// Upright 8-bit RGB.
    pub fn decode(self) -> Result<RgbImage, DecodeError> {
        self.decode_as(DecodeOptions { step: 1, known: false }).map(Raster::into_image)
    }

    /// The same, with one pixel at least for each square of `step` pixels: fewer are decoded where the format allows that.
    pub fn decode_reduced(self, step: f32) -> Result<Raster, DecodeError> {
        self.decode_as(DecodeOptions { step: step.max(1.0) as u32, known: false })
    }

    /// The same for a file that was decoded before.
    pub fn decode_again(self, step: f32) -> Result<Raster, DecodeError> {
        self.decode_as(DecodeOptions { step: step.max(1.0) as u32, known: true })
    }

    fn decode_as(self, options: DecodeOptions) -> Result<Raster, DecodeError> {
        let stored = self.stored;
        let (stored, step) = guarded(self.header.format, || stored(options))?;
        let mut upright = DynamicImage::ImageRgb8(stored);
        upright.apply_orientation(self.orientation);
        Ok(Raster::reduced(upright.into_rgb8(), step))
    }
}

/// Whether width and height are exchanged.
fn is_turned(orientation: Orientation) -> bool {
    match orientation {
        Orientation::NoTransforms
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical
        | Orientation::Rotate180 => false,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            true
        }
    }
}

/// Reads what an image says of itself and checks it against `limits`, without decoding a pixel.
///
/// This copies no more than the file's bytes, but may look at each of them: call it where work of the processor may be
/// done.
pub fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { limit: limits.max_bytes, actual: bytes.len() });
    }
    let format = match sniff::kind(bytes) {
        Kind::Image(format) => format,
        Kind::Raw => return guarded(Format::Jpeg, || raw::open(bytes, limits)),
        other => return Err(unsupported(other)),
    };
    guarded(format, || match format {
        Format::Jpeg => jpeg::open(bytes, limits),
        Format::Png => png::open(bytes, limits),
        Format::Gif => gif::open(bytes, limits),
        Format::Tiff => tiff::open(bytes, limits),
        Format::Heic => open_heic(bytes, limits),
        Format::WebP => open_other(bytes, format, ImageFormat::WebP, limits),
        Format::Bmp => open_other(bytes, format, ImageFormat::Bmp, limits),
        Format::Pnm => open_other(bytes, format, ImageFormat::Pnm, limits),
    })
}

#[cfg(feature = "heic")]
fn open_heic<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    heic::open(bytes, limits)
}

#[cfg(not(feature = "heic"))]
fn open_heic<'a>(_: &'a [u8], _: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    let reason = "HEIC is not built into this server; convert it to JPEG (an iPhone takes JPEG if Settings, Camera, Formats \
                  is set to Most Compatible)";
    Err(DecodeError::Unsupported { reason: reason.to_owned() })
}

/// Decodes an image file to upright 8-bit RGB.
///
/// Reads JPEG (baseline, progressive, grey, RGB, CMYK, YCCK), PNG, WebP, HEIC, BMP, GIF, TIFF and PNM, and the large
/// previews of cameras' raw files; of an animation, the first frame. EXIF orientation is applied, transparency is laid on
/// white, 16-bit samples are rounded to 8 bits, colours of an RGB profile become those of sRGB. A file that ends before its image does is an error, never half an image.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    open(bytes, limits)?.decode()
}

/// What to tell the sender of bytes that no reader here knows.
fn unsupported(kind: Kind) -> DecodeError {
    let reason = match kind {
        Kind::Avif => "AVIF is not read; convert it to JPEG or PNG".to_owned(),
        Kind::Video => "it is a video, or something else in the container of one; send a photo".to_owned(),
        Kind::Other(format) => format!("{format:?} is not read; convert it to JPEG or PNG"),
        Kind::Image(_) | Kind::Raw | Kind::Unknown => "its first bytes are those of no known image format".to_owned(),
    };
    DecodeError::Unsupported { reason }
}

/// Runs a decoder so that a panic inside it is a damaged image.
///
/// Decoders are large, written by others and fed by strangers: a panic that one hostile file provokes must cost that
/// file's request only. They hold no state between calls, so there is nothing to find half-changed afterwards.
fn guarded<T>(format: Format, decode: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(DecodeError::Corrupt { format, reason: "the decoder gave up on it".into() }))
}

/// WebP, BMP and PNM.
fn open_other<'a>(
    bytes: &'a [u8],
    format: Format,
    reader: ImageFormat,
    limits: &DecodeLimits,
) -> Result<Opened<'a>, DecodeError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), reader);
    // What it takes is counted below.
    reader.limits(Limits::no_limits());
    let decoder = reader.into_decoder().map_err(|error| from_image(format, error))?;
    let (width, height) = decoder.dimensions();
    let header = ImageHeader::checked(format, width, height, limits)?;
    let buffers = match format {
        Format::WebP => webp::look(bytes, &header)?,
        _ => Buffers::Samples(decoder.color_type()),
    };
    let (orientation, profile) = match format {
        Format::WebP => (webp::orientation(bytes), webp::profile(bytes)),
        _ => (None, &[][..]),
    };
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let opened = Opened::new(header, orientation, buffers, bytes, limits, move || {
        let image = DynamicImage::from_decoder(decoder).map_err(|error| from_image(format, error))?;
        Ok(on_white(image))
    })?;
    opened.with_profile(profile.len(), limits, move || icc::read(profile))
}

/// Drops transparency by laying the image on white; where nothing at all is visible, colours stay (see
/// [`samples::Opacity`]).
pub(super) fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let mut pixels = rgba.into_raw();
    let is_blank = pixels.as_chunks::<4>().0.iter().all(|[.., alpha]| *alpha == 0);
    let mut end = 0;
    for start in (0..pixels.len()).step_by(4) {
        let [red, green, blue, alpha] = [0, 1, 2, 3].map(|channel| pixels[start + channel]);
        let alpha = if is_blank { 255 } else { alpha };
        pixels[end..end + 3].copy_from_slice(&samples::on_white([red, green, blue], alpha));
        end += 3;
    }
    pixels.truncate(end);
    pixels.shrink_to_fit();
    // The buffer has three bytes for each of the width x height pixels, so this never falls back.
    RgbImage::from_raw(width, height, pixels).unwrap_or_default()
}

fn from_image(format: Format, error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(error) => DecodeError::Unsupported { reason: error.to_string() },
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Corrupt { format, reason: "it ends too early".into() }
        }
        error => DecodeError::Corrupt { format, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
