//! TIFF, converted strip by strip or tile by tile: of the file's samples, one strip is held at a time.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};
use tiff::TiffError;
use tiff::decoder::{BufferLayoutPreference, Decoder, TiffCodingUnit};
use tiff::tags::{CompressionMethod, PlanarConfiguration, SampleFormat, Tag};

use super::decode::{DecodeError, DecodeLimits, ImageHeader, Opened};
use super::memory::Buffers;
use super::samples::{Channels, from_float, rgb_row, rounded};
use super::{jpeg, orientation};

const FORMAT: ImageFormat = ImageFormat::Tiff;

type TiffDecoder<'a> = Decoder<Cursor<&'a [u8]>>;

pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(from_tiff)?;
    let (width, height) = decoder.dimensions().map_err(from_tiff)?;
    let header = ImageHeader::checked(FORMAT, width, height, limits)?;
    let samples = Samples::of(&mut decoder)?;
    let upright = orientation::from_exif(bytes).unwrap_or(Orientation::NoTransforms);
    // The first part has the most rows and columns.
    let part = decoder.image_coding_unit_layout(TiffCodingUnit(0)).map_err(from_tiff)?;
    let (part_width, part_height) = decoder.chunk_dimensions();
    let packed = packed_part(&mut decoder, bytes, limits, u64::from(part_width) * u64::from(part_height))?;
    let buffers = Buffers::Tiff { part: part.complete_len as u64, row: u64::from(width) * 8, packed };
    Opened::new(header, upright, buffers, bytes, limits, move || {
        let mut image = RgbImage::new(width, height);
        let mut buffer = vec![0; part.complete_len];
        let (across, down) = (width.div_ceil(part_width), height.div_ceil(part_height));
        for (number, (y, x)) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))).enumerate() {
            let unit = TiffCodingUnit(number as u32);
            let layout = decoder.image_coding_unit_layout(unit).map_err(from_tiff)?;
            let part = buffer.get_mut(..layout.complete_len).ok_or_else(|| corrupt("its parts differ in size"))?;
            decoder.read_coding_unit_bytes(unit, part).map_err(from_tiff)?;
            let (columns, rows) = decoder.chunk_data_dimensions(unit.0);
            let area = Area { x: x * part_width, y: y * part_height, columns, rows };
            samples.draw(part, &layout, &area, &mut image)?;
        }
        Ok(image)
    })
}

/// A part of the image.
struct Area {
    x: u32,
    y: u32,
    columns: u32,
    rows: u32,
}

/// How samples are stored.
#[derive(Clone, Copy)]
struct Samples {
    channels: Channels,
    bits: u8,
    /// One channel after the other, rather than one pixel after the other.
    planar: bool,
}

impl Samples {
    fn of(decoder: &mut TiffDecoder<'_>) -> Result<Self, DecodeError> {
        use tiff::ColorType;
        let colour = decoder.colortype().map_err(from_tiff)?;
        let (channels, bits) = match colour {
            ColorType::Gray(bits @ (1 | 8 | 16)) => (Channels::Grey, bits),
            ColorType::GrayA(bits @ (8 | 16)) => (Channels::GreyAlpha, bits),
            ColorType::RGB(bits @ (8 | 16 | 32)) => (Channels::Rgb, bits),
            ColorType::RGBA(bits @ (8 | 16 | 32)) => (Channels::RgbAlpha, bits),
            ColorType::CMYK(bits @ (8 | 16)) => (Channels::Cmyk, bits),
            other => return Err(unsupported(format!("TIFF: colours of the kind {other:?}"))),
        };
        let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).map_err(from_tiff)?;
        let expected = if bits == 32 { SampleFormat::IEEEFP } else { SampleFormat::Uint };
        if let Some(other) = formats.into_iter().flatten().find(|format| *format != expected.to_u16()) {
            return Err(unsupported(format!("TIFF: samples of {bits} bits in the format {other}")));
        }
        let planar = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).map_err(from_tiff)?;
        let planar = channels.count() > 1 && planar == Some(PlanarConfiguration::Planar.to_u16());
        if planar && channels == Channels::Cmyk {
            return Err(unsupported("TIFF: CMYK in planes".to_owned()));
        }
        Ok(Self { channels, bits, planar })
    }

    fn draw(
        self,
        part: &[u8],
        layout: &BufferLayoutPreference,
        area: &Area,
        image: &mut RgbImage,
    ) -> Result<(), DecodeError> {
        let row_stride = layout.row_stride.map_or(0, |stride| stride.get());
        let plane_stride = layout.plane_stride.map_or(0, |stride| stride.get());
        let stride = image.width() as usize * 3;
        let mut pixels = Vec::new();
        for row in 0..area.rows {
            let start = (area.y + row) as usize * stride + area.x as usize * 3;
            let out = image.get_mut(start..start + area.columns as usize * 3);
            let stored = part.get(row as usize * row_stride..);
            let (Some(out), Some(stored)) = (out, stored) else {
                return Err(corrupt("its parts do not make up the image"));
            };
            if self.planar {
                self.interleave(stored, plane_stride, area.columns, &mut pixels)?;
                self.convert(&pixels, out);
            } else {
                self.convert(stored, out);
            }
        }
        Ok(())
    }

    /// Gathers the pixels of a row from the planes.
    fn interleave(
        self,
        stored: &[u8],
        plane_stride: usize,
        columns: u32,
        pixels: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let (size, channels) = (usize::from(self.bits) / 8, self.channels.count());
        let length = columns as usize * size;
        pixels.resize(length * channels, 0);
        for channel in 0..channels {
            let plane = stored.get(channel * plane_stride..).and_then(|plane| plane.get(..length));
            let plane = plane.ok_or_else(|| corrupt("one of its planes is missing"))?;
            for (sample, pixel) in plane.chunks_exact(size).zip(pixels.chunks_exact_mut(size * channels)) {
                pixel[channel * size..][..size].copy_from_slice(sample);
            }
        }
        Ok(())
    }

    fn convert(self, row: &[u8], out: &mut [u8]) {
        match self.bits {
            1 => out.as_chunks_mut::<3>().0.iter_mut().enumerate().for_each(|(x, rgb)| {
                *rgb = [if row.get(x / 8).is_some_and(|byte| byte << (x % 8) & 0x80 != 0) { 255 } else { 0 }; 3];
            }),
            8 => rgb_row(row, self.channels, out, |[sample]| sample),
            16 => rgb_row(row, self.channels, out, |sample| rounded(u16::from_ne_bytes(sample))),
            _ => rgb_row(row, self.channels, out, |sample| from_float(f32::from_ne_bytes(sample))),
        }
    }
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
    DecodeError::Unsupported { reason }
}

fn corrupt(reason: &str) -> DecodeError {
    DecodeError::Corrupt { format: FORMAT, reason: reason.to_owned() }
}
