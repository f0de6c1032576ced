//! JPEG, decoded to RGB in one buffer and without tolerance for missing image data.
//!
//! The `image` crate wraps the same decoder in its lenient mode, in which a photo that was cut off in transfer comes
//! back with a grey lower half. Here headers are read leniently (cameras write odd ones) and the image data strictly; what
//! stands behind it, or is missing there, does not matter once all pixels are known to be there.

use std::cell::Cell;
use std::rc::Rc;

use image::RgbImage;
use image::metadata::Orientation;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::{ZByteIoError, ZByteReaderTrait, ZCursor, ZSeekFrom};
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::{DecodeError, DecodeLimits, DecodeOptions, Format, ImageHeader, Opened};
use super::memory::Buffers;

mod codes;
mod reduced;
mod segments;
mod walk;

use reduced::Reduced;
use walk::{Walked, walk};

/// Encoders write about ten scans into a progressive JPEG; a file of thousands costs far more time than its size says.
const MAX_SCANS: usize = 64;

/// The largest side that the format can express.
const MAX_SIDE: usize = u16::MAX as usize;

/// Reads the headers up to the image data. Decoding reads them again: following the position costs it more than that.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    open_turned(bytes, limits, Orientation::NoTransforms)
}

/// The same for one inside another file, which says which way is up if the JPEG does not.
pub(super) fn open_turned<'a>(
    bytes: &'a [u8],
    limits: &DecodeLimits,
    upright: Orientation,
) -> Result<Opened<'a>, DecodeError> {
    let position = Rc::new(Cell::new(0));
    let source = Watched { bytes: ZCursor::new(bytes), position: Rc::clone(&position) };
    let decoder = decoder(source)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| corrupt("it states no size".into()))?;
    // A side has 16 bits in the file.
    let header = ImageHeader::checked(Format::Jpeg, width as u32, height as u32, limits)?;
    let orientation = segments::orientation(bytes).unwrap_or(upright);
    let planes = usize::from(decoder.info().map_or(0, |info| info.components));
    let planes = planes.max(decoder.input_colorspace().map_or(0, |colours| colours.num_components()));
    let scan = bytes.get(..position.get()).unwrap_or_default();
    let is_only_scan = is_only_scan(scan, planes);
    let buffers = Buffers::Jpeg { planes: planes as u64, kept: !is_only_scan };
    let plain = is_only_scan && matches!(decoder.input_colorspace(), Some(ColorSpace::YCbCr | ColorSpace::Luma));
    let stored = move |options| decode(bytes, &header, plain, options);
    let opened = Opened::reducible(header, orientation, buffers, bytes, limits, stored)?;
    opened.with_profile(segments::profile_length(bytes), limits, move || segments::profile(bytes))
}

/// A decoder that has read the headers.
fn decoder<T: ZByteReaderTrait>(source: T) -> Result<zune_jpeg::JpegDecoder<T>, DecodeError> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(source, options);
    decoder.decode_headers().map_err(from_zune)?;
    Ok(decoder)
}

/// RGB as stored, smaller on each side by the step that is wanted or by less, and by how much; whole unless it is `plain`. No pixel
/// may be missing; what else is wrong does not matter.
///
/// For a whole image all codes are read first, a fifth of the time of decoding: where an end marker comes too early, the decoder
/// goes on with zeros.
fn decode(
    bytes: &[u8],
    header: &ImageHeader,
    plain: bool,
    options: DecodeOptions,
) -> Result<(RgbImage, u32), DecodeError> {
    if plain && options.step > 1 {
        match reduced::decode(bytes, header, options.step) {
            Reduced::Image(image, step) => return Ok((image, step)),
            Reduced::Cut => return Err(corrupt("it ends too early".into())),
            Reduced::Unknown => {}
        }
    }
    let whole = |bytes: &[u8]| Ok((decode_strictly(bytes, header)?, 1));
    if options.known {
        return whole(bytes);
    }
    match walk(bytes, (header.width, header.height)) {
        // Else without what the decoder stumbles over behind the image data.
        Walked::Whole { end } => {
            whole(bytes).or_else(|_| whole(&[&bytes[..end], &[0xff, segments::END_OF_IMAGE]].concat()))
        }
        Walked::Cut => Err(corrupt("it ends too early".into())),
        Walked::Unknown => whole(bytes),
    }
}

fn decode_strictly(bytes: &[u8], header: &ImageHeader) -> Result<RgbImage, DecodeError> {
    let mut decoder = decoder(ZCursor::new(bytes))?;
    decoder.set_options(decoder.options().set_strict_mode(true));
    let mut image = RgbImage::new(header.width, header.height);
    decoder.decode_into(&mut image).map_err(from_zune)?;
    Ok(image)
}

/// Whether the scan whose header ends these bytes brings all planes with all their coefficients, so that none has to be
/// kept for a later one. Only then, with these values, does the decoder write pixels as it reads them; a progressive
/// JPEG whose first scan says so is refused at its first block.
fn is_only_scan(bytes: &[u8], planes: usize) -> bool {
    // Length in two bytes, number of planes, two bytes for each, the range of coefficients, and their bits.
    let header = |planes: usize| bytes.len().checked_sub(6 + 2 * planes).map(|start| &bytes[start..]);
    let fits = |planes: usize| header(planes).is_some_and(|h| h[..3] == [0, 6 + 2 * planes as u8, planes as u8]);
    // What looks like the header of fewer planes could be a part of the true one.
    let found = (1..=4).find(|planes| fits(*planes));
    found == Some(planes) && matches!(bytes, [.., 0, 63, _])
}

/// The bytes of a file, with the position up to which they have been read.
struct Watched<'a> {
    bytes: ZCursor<&'a [u8]>,
    position: Rc<Cell<usize>>,
}

impl Watched<'_> {
    fn note<T>(&mut self, result: T) -> T {
        self.position.set(self.bytes.z_position().unwrap_or_default() as usize);
        result
    }
}

impl ZByteReaderTrait for Watched<'_> {
    #[inline(always)]
    fn read_byte_no_error(&mut self) -> u8 {
        self.bytes.read_byte_no_error()
    }

    #[inline(always)]
    fn read_exact_bytes(&mut self, buffer: &mut [u8]) -> Result<(), ZByteIoError> {
        let read = self.bytes.read_exact_bytes(buffer);
        self.note(read)
    }

    #[inline(always)]
    fn read_bytes(&mut self, buffer: &mut [u8]) -> Result<usize, ZByteIoError> {
        self.bytes.read_bytes(buffer)
    }

    #[inline(always)]
    fn peek_bytes(&mut self, buffer: &mut [u8]) -> Result<usize, ZByteIoError> {
        self.bytes.peek_bytes(buffer)
    }

    #[inline(always)]
    fn peek_exact_bytes(&mut self, buffer: &mut [u8]) -> Result<(), ZByteIoError> {
        self.bytes.peek_exact_bytes(buffer)
    }

    #[inline(always)]
    fn z_seek(&mut self, from: ZSeekFrom) -> Result<u64, ZByteIoError> {
        self.bytes.z_seek(from)
    }

    #[inline(always)]
    fn is_eof(&mut self) -> Result<bool, ZByteIoError> {
        self.bytes.is_eof()
    }

    #[inline(always)]
    fn z_position(&mut self) -> Result<u64, ZByteIoError> {
        self.bytes.z_position()
    }

    fn read_remaining(&mut self, sink: &mut Vec<u8>) -> Result<usize, ZByteIoError> {
        self.bytes.read_remaining(sink)
    }
}

fn from_zune(error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::Unsupported(scheme) => DecodeError::Unsupported { reason: format!("JPEG: {scheme:?}") },
        DecodeErrors::ExhaustedData => corrupt("it ends too early".into()),
        error => corrupt(error.to_string()),
    }
}

fn corrupt(reason: String) -> DecodeError {
    DecodeError::Corrupt { format: Format::Jpeg, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without what catches panics of decoders.
    #[test]
    fn damage_does_not_stop_reduced_decoding() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/jpeg_restarts.jpg");
        let whole = std::fs::read(file).unwrap();
        let header = ImageHeader { format: Format::Jpeg, width: 48, height: 32 };
        assert!(matches!(reduced::decode(&whole, &header, 2), Reduced::Image(_, 2)));
        let mut images = 0;
        for at in 2..whole.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                images += usize::from(matches!(reduced::decode(&bytes, &header, 8), Reduced::Image(..)));
            }
            let _ = reduced::decode(&whole[..at], &header, 4);
        }
        assert!(images > 100, "{images}");
    }

    #[test]
    fn a_scan_of_all_planes_is_told_from_a_first_one() {
        let scan = |header: &[u8]| is_only_scan(&[&[0xff, 0xda], header].concat(), 3);
        assert!(scan(&[0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0]));
        // Progressive; one plane of three; other coefficients; no header at all.
        assert!(!scan(&[0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 0, 1]));
        assert!(!scan(&[0, 8, 1, 1, 0, 0, 63, 0]));
        assert!(!scan(&[0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 1, 63, 0]));
        assert!(!scan(&[]));
        // The ids and tables of three planes look like the header of a scan of one, or the other way round.
        assert!(!scan(&[0, 12, 3, 7, 0, 8, 1, 9, 0x11, 0, 63, 0]));
    }
}
