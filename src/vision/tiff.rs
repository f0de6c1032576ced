//! TIFF, converted strip by strip or tile by tile: of the file's samples, one strip is held at a time.

use std::io::{Cursor, Read, Seek, SeekFrom};

use image::RgbImage;
use image::metadata::Orientation;
use tiff::TiffError;
use tiff::decoder::{Decoder, TiffCodingUnit};
use tiff::tags::{CompressionMethod, PhotometricInterpretation, Tag};

use super::decode::{DecodeError, DecodeLimits, Format, ImageHeader, Opened};
use super::ifd::Tags;
use super::memory::Buffers;

mod samples;

use super::{icc, jpeg, orientation};
use samples::Samples;

const FORMAT: Format = Format::Tiff;

const ICC_PROFILE: u16 = 0x8773;

type TiffDecoder<'a> = Decoder<Overlaid<'a>>;

pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    let lists = memory_of_lists(bytes, limits)?;
    let (source, palette) = Overlaid::new(bytes);
    let mut decoder = Decoder::new(source).map_err(from_tiff)?;
    let (width, height) = decoder.dimensions().map_err(from_tiff)?;
    let header = ImageHeader::checked(FORMAT, width, height, limits)?;
    let mut samples = Samples::of(&mut decoder, palette)?;
    let upright = orientation::from_exif(bytes).unwrap_or(Orientation::NoTransforms);
    // The first part has the most rows and columns.
    let part = decoder.image_coding_unit_layout(TiffCodingUnit(0)).map_err(from_tiff)?;
    let (part_width, part_height) = decoder.chunk_dimensions();
    let packed = packed_part(&mut decoder, bytes, limits, u64::from(part_width) * u64::from(part_height))?;
    let buffers = Buffers::Tiff { part: part.complete_len as u64, row: u64::from(width) * 8, packed, lists };
    let opened = Opened::new(header, upright, buffers, bytes, limits, move || {
        let mut image = RgbImage::new(width, height);
        let mut buffer = vec![0; part.complete_len];
        let (across, down) = (width.div_ceil(part_width), height.div_ceil(part_height));
        if samples.is_unknown_range() {
            for number in 0..across * down {
                let part = read(&mut decoder, TiffCodingUnit(number), &mut buffer)?;
                samples.note_range(part);
            }
        }
        for (number, (y, x)) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))).enumerate() {
            let unit = TiffCodingUnit(number as u32);
            let part = read(&mut decoder, unit, &mut buffer)?;
            let layout = decoder.image_coding_unit_layout(unit).map_err(from_tiff)?;
            let (columns, rows) = decoder.chunk_data_dimensions(unit.0);
            let area = Area { x: x * part_width, y: y * part_height, columns, rows };
            samples.draw(part, &layout, &area, &mut image)?;
        }
        Ok(image)
    })?;
    let profile = Tags::new(bytes).and_then(|tags| tags.first()).map_or(&[][..], |found| found.bytes(ICC_PROFILE));
    opened.with_profile(profile.len(), limits, move || icc::read(profile))
}

/// Tags that the decoder reads.
const READ: [Tag; 21] = [
    Tag::NewSubfileType,
    Tag::SubfileType,
    Tag::ImageWidth,
    Tag::ImageLength,
    Tag::BitsPerSample,
    Tag::Compression,
    Tag::PhotometricInterpretation,
    Tag::StripOffsets,
    Tag::SamplesPerPixel,
    Tag::RowsPerStrip,
    Tag::StripByteCounts,
    Tag::PlanarConfiguration,
    Tag::Predictor,
    Tag::TileWidth,
    Tag::TileLength,
    Tag::TileOffsets,
    Tag::TileByteCounts,
    Tag::ExtraSamples,
    Tag::SampleFormat,
    Tag::JPEGTables,
    Tag::ChromaSubsampling,
];

/// Bytes that the decoder takes for a value of a tag, and once more as a number.
const VALUE: u64 = 32 + 8;

/// Bytes that the decoder takes for the longest list of values that it reads, which it does before anything is known of the image.
fn memory_of_lists(bytes: &[u8], limits: &DecodeLimits) -> Result<u64, DecodeError> {
    let Some(directory) = Tags::new(bytes).and_then(|tags| tags.first()) else { return Ok(0) };
    let claims = directory.claims().ok_or_else(|| corrupt("it has more tags than are of use"))?;
    let mut most = 0;
    for claim in claims.filter(|claim| READ.iter().any(|tag| tag.to_u16() == claim.tag)) {
        if claim.bytes > bytes.len() as u64 {
            return Err(corrupt("a tag claims more values than the file has bytes for"));
        }
        most = most.max(claim.values);
    }
    let needed = most * VALUE;
    if needed > limits.max_memory {
        return Err(DecodeError::TooMuchMemory { format: FORMAT, limit: limits.max_memory, needed });
    }
    Ok(needed)
}

/// Reads a strip or tile into the beginning of the buffer.
fn read<'b>(
    decoder: &mut TiffDecoder<'_>,
    unit: TiffCodingUnit,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], DecodeError> {
    let layout = decoder.image_coding_unit_layout(unit).map_err(from_tiff)?;
    let part = buffer.get_mut(..layout.complete_len).ok_or_else(|| corrupt("its parts differ in size"))?;
    decoder.read_coding_unit_bytes(unit, part).map_err(from_tiff)?;
    Ok(part)
}

/// The bytes of a file, two of which may read as others.
///
/// The decoder refuses images with a palette, but reads their values as those of a grey image if the file says that it is
/// one.
struct Overlaid<'a> {
    bytes: Cursor<&'a [u8]>,
    overlay: Option<(u64, [u8; 2])>,
}

impl<'a> Overlaid<'a> {
    /// Says of an image with a palette that it is grey, and takes out the palette.
    fn new(bytes: &'a [u8]) -> (Self, Option<Vec<[u8; 3]>>) {
        let [palette, grey] = [PhotometricInterpretation::RGBPalette, PhotometricInterpretation::BlackIsZero];
        let directory = Tags::new(bytes).and_then(|tags| tags.first());
        let kind = Tag::PhotometricInterpretation.to_u16();
        let found = directory.filter(|found| found.value(kind) == Some(palette.to_u16().into()));
        let Some((directory, at)) = found.and_then(|found| Some((found, found.offset(kind)?))) else {
            return (Self { bytes: Cursor::new(bytes), overlay: None }, None);
        };
        let grey = if bytes.starts_with(b"MM") { grey.to_u16().to_be_bytes() } else { grey.to_u16().to_le_bytes() };
        // All reds, then all greens, then all blues, in 16 bits; some writers leave the upper eight empty.
        let values = directory.values(Tag::ColorMap.to_u16());
        let shift = if values.iter().all(|value| *value < 256) { 0 } else { 8 };
        let count = values.len() / 3;
        let colour = |index| [0, 1, 2].map(|channel| (values[channel * count + index] >> shift) as u8);
        let overlay = Some((at as u64, grey));
        (Self { bytes: Cursor::new(bytes), overlay }, Some((0..count).map(colour).collect()))
    }
}

impl Read for Overlaid<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let start = self.bytes.position();
        let length = self.bytes.read(buffer)?;
        if let Some((at, overlay)) = self.overlay {
            for (place, byte) in (at..).zip(overlay) {
                if let Some(read) = place.checked_sub(start).and_then(|place| buffer[..length].get_mut(place as usize))
                {
                    *read = byte;
                }
            }
        }
        Ok(length)
    }
}

impl Seek for Overlaid<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.bytes.seek(to)
    }
}

/// A part of the image.
struct Area {
    x: u32,
    y: u32,
    columns: u32,
    rows: u32,
}

/// The most bytes that a JPEG inside the file takes while it is unpacked; 0 if there is none.
///
/// Such a JPEG states its own size, and its decoder believes it: one larger than the part of the image that it is for is
/// refused.
fn packed_part(
    decoder: &mut TiffDecoder<'_>,
    bytes: &[u8],
    limits: &DecodeLimits,
    pixels: u64,
) -> Result<u64, DecodeError> {
    let compression = decoder.find_tag_unsigned::<u16>(Tag::Compression).map_err(from_tiff)?;
    if compression != Some(CompressionMethod::ModernJPEG.to_u16()) {
        return Ok(0);
    }
    let tables = decoder.find_tag(Tag::JPEGTables).map_err(from_tiff)?;
    let tables = tables.map(|tables| tables.into_u8_vec()).transpose().map_err(from_tiff)?;
    let mut lists = [Tag::StripOffsets, Tag::StripByteCounts, Tag::TileOffsets, Tag::TileByteCounts]
        .map(|tag| decoder.find_tag_unsigned_vec::<u64>(tag).map(Option::unwrap_or_default));
    let [offsets, lengths] = match &mut lists {
        [Ok(offsets), Ok(lengths), ..] if !offsets.is_empty() => [offsets, lengths],
        [_, _, Ok(offsets), Ok(lengths)] => [offsets, lengths],
        _ => return Err(corrupt("it does not say where its image is")),
    };
    let limits = DecodeLimits { max_pixels: limits.max_pixels.min(pixels), ..*limits };
    let mut most = 0;
    for (offset, length) in offsets.iter().zip(lengths.iter()) {
        let range = usize::try_from(*offset).ok().zip(usize::try_from(*length).ok());
        let jpeg = range.and_then(|(offset, length)| bytes.get(offset..)?.get(..length));
        let jpeg = jpeg.ok_or_else(|| corrupt("it ends too early"))?;
        // As the decoder joins them: tables without their end, image without its beginning.
        let joined = match &tables {
            Some(tables) if tables.len() > 2 => {
                [&tables[..tables.len() - 2], jpeg.get(2..).unwrap_or_default()].concat()
            }
            _ => jpeg.to_vec(),
        };
        let jpeg = jpeg::open(&joined, &limits)?;
        let ImageHeader { width, height, .. } = jpeg.header();
        // As it is stored, with a fourth plane perhaps.
        most = most.max(jpeg.memory() + u64::from(width) * u64::from(height));
    }
    Ok(most)
}

fn from_tiff(error: TiffError) -> DecodeError {
    match error {
        TiffError::UnsupportedError(error) => unsupported(error.to_string()),
        TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => corrupt("it ends too early"),
        error => corrupt(&error.to_string()),
    }
}

fn unsupported(reason: String) -> DecodeError {
    DecodeError::Unsupported { reason: format!("TIFF: {reason}") }
}

fn corrupt(reason: &str) -> DecodeError {
    DecodeError::Corrupt { format: FORMAT, reason: reason.to_owned() }
}

#[cfg(test)]
pub(in crate::vision) mod tests;
