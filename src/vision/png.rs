//! PNG, converted row by row: nothing of the image's size is held but the result.
//!
//! The decoder skips colour profiles and texts: a few kilobytes of them can unpack to gigabytes. What of them matters is
//! looked for in `chunks`.

use std::io::Cursor;

use image::RgbImage;
use image::metadata::Orientation;
use png::{BitDepth, ColorType, DecodingError, InterlaceInfo, Limits, Reader, Transformations};

use super::decode::{DecodeError, DecodeLimits, Format, ImageHeader, Opened};
use super::memory::Buffers;
use super::samples::{Channels, Opacity, rgb_row, rounded};

mod chunks;

const FORMAT: Format = Format::Png;

pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    // What is allocated before the size is checked are copies of what the file holds.
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: usize::MAX });
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_ignore_text_chunk(true);
    // Palettes and less than eight bits become eight bits.
    decoder.set_transformations(Transformations::EXPAND);
    let (width, height) = decoder.read_header_info().map_err(from_png)?.size();
    let header = ImageHeader::checked(FORMAT, width, height, limits)?;
    let reader = decoder.read_info().map_err(from_png)?;
    let exif_bytes = reader.info().exif_metadata.as_ref().map_or(0, |exif| exif.len() as u64);
    let orientation = chunks::orientation(bytes).unwrap_or(Orientation::NoTransforms);
    let (colour, depth) = reader.output_color_type();
    let channels = match colour {
        ColorType::Grayscale => Channels::Grey,
        ColorType::GrayscaleAlpha => Channels::GreyAlpha,
        ColorType::Rgb => Channels::Rgb,
        ColorType::Rgba => Channels::RgbAlpha,
        ColorType::Indexed => return Err(corrupt("its palette is missing")),
    };
    let is_deep = depth == BitDepth::Sixteen;
    let pixel = channels.count() * if is_deep { 2 } else { 1 };
    let row = u64::from(width) * pixel as u64;
    let convert = move |row: &[u8], opacity: &mut Opacity, out: &mut [u8]| match is_deep {
        true => rgb_row(row, channels, opacity, out, |sample| rounded(u16::from_be_bytes(sample))),
        false => rgb_row(row, channels, opacity, out, |[sample]| sample),
    };
    let is_rgb = channels == Channels::Rgb && !is_deep;
    let buffers = Buffers::Png { row, exif: exif_bytes };
    let opened = Opened::new(header, orientation, buffers, bytes, limits, move || {
        let mut image = RgbImage::new(width, height);
        match (reader.info().interlaced, is_rgb) {
            (true, _) => read_interlaced(reader, &mut image, pixel, convert),
            (false, true) => read_rgb(reader, &mut image),
            (false, false) => read_rows(reader, &mut image, convert),
        }?;
        Ok(image)
    })?;
    opened.with_profile(chunks::profile_length(bytes), limits, move || chunks::profile(bytes))
}

type PngReader<'a> = Reader<Cursor<&'a [u8]>>;

/// Rows that are what the result has.
fn read_rgb(mut reader: PngReader<'_>, image: &mut RgbImage) -> Result<(), DecodeError> {
    for row in image.rows_mut_bytes() {
        reader.read_row(row).map_err(from_png)?.ok_or_else(|| corrupt("it ends too early"))?;
    }
    finish(reader)
}

fn read_rows(
    mut reader: PngReader<'_>,
    image: &mut RgbImage,
    convert: impl Fn(&[u8], &mut Opacity, &mut [u8]),
) -> Result<(), DecodeError> {
    let stride = image.width() as usize * 3;
    let mut opacity = Opacity::default();
    let pixels: &mut [u8] = image;
    for start in (0..pixels.len()).step_by(stride) {
        let row = reader.next_row().map_err(from_png)?.ok_or_else(|| corrupt("it ends too early"))?;
        convert(row.data(), &mut opacity, &mut pixels[start..start + stride]);
        if opacity.begins() {
            pixels[..start].fill(255);
        }
    }
    finish(reader)
}

/// Seven passes, each over some pixels of some rows; a pixel is stored in `pixel` bytes.
fn read_interlaced(
    mut reader: PngReader<'_>,
    image: &mut RgbImage,
    pixel: usize,
    convert: impl Fn(&[u8], &mut Opacity, &mut [u8]),
) -> Result<(), DecodeError> {
    let stride = image.width() as usize * 3;
    let mut rgb = vec![0; stride];
    let mut opacity = Opacity::default();
    while let Some(row) = reader.next_interlaced_row().map_err(from_png)? {
        let InterlaceInfo::Adam7(pass) = *row.interlace() else {
            return Err(corrupt("its passes are mixed up"));
        };
        let rgb = &mut rgb[..row.data().len() / pixel * 3];
        convert(row.data(), &mut opacity, rgb);
        if opacity.begins() {
            image.fill(255);
        }
        png::expand_interlaced_row(image, stride, rgb, &pass, 24);
    }
    Ok(())
}

/// Notices damage behind the last row.
fn finish(mut reader: PngReader<'_>) -> Result<(), DecodeError> {
    reader.next_row().map_err(from_png).map(|_| ())
}

trait RowsMut {
    fn rows_mut_bytes(&mut self) -> std::slice::ChunksExactMut<'_, u8>;
}

impl RowsMut for RgbImage {
    fn rows_mut_bytes(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        let stride = self.width() as usize * 3;
        self.chunks_exact_mut(stride)
    }
}

fn from_png(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt("it ends too early")
        }
        error => corrupt(&error.to_string()),
    }
}

fn corrupt(reason: &str) -> DecodeError {
    DecodeError::Corrupt { format: FORMAT, reason: reason.to_owned() }
}
