//! JPEG, decoded to RGB in one buffer and without tolerance for missing image data.
//!
//! The `image` crate wraps the same decoder in its lenient mode, in which a photo that was cut off in transfer comes
//! back with a grey lower half. Here headers are read leniently (cameras write odd ones) and the image data strictly.

use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::{DecodeError, DecodeLimits, ImageHeader};

type Decoder<'a> = zune_jpeg::JpegDecoder<ZCursor<&'a [u8]>>;

/// Encoders write about ten scans into a progressive JPEG; a file of thousands costs far more time than its size says.
const MAX_SCANS: usize = 64;

/// The largest side that the format can express.
const MAX_SIDE: usize = u16::MAX as usize;

/// Reads the headers up to the image data and checks the size.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<(Decoder<'a>, ImageHeader), DecodeError> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = Decoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(from_zune)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| corrupt("it states no size".into()))?;
    // A side has 16 bits in the file.
    let header = ImageHeader::checked(ImageFormat::Jpeg, width as u32, height as u32, limits)?;
    Ok((decoder, header))
}

/// Decodes to RGB as stored, with the EXIF orientation that makes it upright.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<(RgbImage, Orientation), DecodeError> {
    let (mut decoder, header) = open(bytes, limits)?;
    let orientation =
        decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms);
    decoder.set_options(decoder.options().set_strict_mode(true));
    let mut image = RgbImage::new(header.width, header.height);
    decoder.decode_into(&mut image).map_err(from_zune)?;
    Ok((image, orientation))
}

fn from_zune(error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::Unsupported(scheme) => DecodeError::Unsupported { reason: format!("JPEG: {scheme:?}") },
        DecodeErrors::ExhaustedData => corrupt("it ends too early".into()),
        error => corrupt(error.to_string()),
    }
}

fn corrupt(reason: String) -> DecodeError {
    DecodeError::Corrupt { format: ImageFormat::Jpeg, reason }
}
