//! How the samples of a TIFF are stored, and what colours they are.

use image::RgbImage;
use tiff::ColorType;
use tiff::decoder::BufferLayoutPreference;
use tiff::tags::{PlanarConfiguration, SampleFormat, Tag};

use super::{Area, TiffDecoder, corrupt, from_tiff, unsupported};
use crate::vision::decode::DecodeError;
use crate::vision::samples::{Channels, Opacity, from_float, rgb_row, rounded};

/// How samples are stored.
pub(super) struct Samples {
    channels: Channels,
    bits: u8,
    /// One channel after the other, rather than one pixel after the other.
    planar: bool,
    /// Colours of the values of a palette.
    palette: Option<Vec<[u8; 3]>>,
    /// What is white, of floats.
    white: f32,
    opacity: Opacity,
}

impl Samples {
    /// With a palette, values count as shades of grey to the decoder.
    pub fn of(decoder: &mut TiffDecoder<'_>, palette: Option<Vec<[u8; 3]>>) -> Result<Self, DecodeError> {
        let colour = decoder.colortype().map_err(from_tiff)?;
        let (channels, bits) = match colour {
            ColorType::Gray(bits @ (1 | 2 | 4 | 8)) => (Channels::Grey, bits),
            ColorType::Gray(bits @ (16 | 32)) if palette.is_none() => (Channels::Grey, bits),
            ColorType::GrayA(bits @ (8 | 16)) | ColorType::Multiband { bit_depth: bits @ (8 | 16), num_samples: 2 }
                if palette.is_none() =>
            {
                (Channels::GreyAlpha, bits)
            }
            ColorType::RGB(bits @ (8 | 16 | 32)) => (Channels::Rgb, bits),
            ColorType::RGBA(bits @ (8 | 16 | 32)) => (Channels::RgbAlpha, bits),
            ColorType::CMYK(bits @ (8 | 16)) => (Channels::Cmyk, bits),
            ColorType::YCbCr(8) => (Channels::YCbCr, 8),
            other => return Err(unsupported(format!("colours of the kind {other:?}"))),
        };
        let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).map_err(from_tiff)?;
        let expected = if bits == 32 { SampleFormat::IEEEFP } else { SampleFormat::Uint };
        if let Some(other) = formats.into_iter().flatten().find(|format| *format != expected.to_u16()) {
            return Err(unsupported(format!("samples of {bits} bits in the format {other}")));
        }
        let planar = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).map_err(from_tiff)?;
        let planar = channels.count() > 1 && planar == Some(PlanarConfiguration::Planar.to_u16());
        if planar && channels == Channels::Cmyk {
            return Err(unsupported("CMYK in planes".to_owned()));
        }
        Ok(Self { channels, bits, planar, palette, white: 1.0, opacity: Opacity::default() })
    }

    /// Whether what is white shows only in the samples: no tag says it of shades of grey in floats.
    pub fn is_unknown_range(&self) -> bool {
        self.channels == Channels::Grey && self.bits == 32
    }

    /// Takes the smallest of the usual values of white that no sample is far above.
    pub fn note_range(&mut self, part: &[u8]) {
        let floats = part.as_chunks::<4>().0.iter().map(|sample| f32::from_ne_bytes(*sample));
        let most = floats.filter(|sample| sample.is_finite()).fold(0.0, f32::max);
        let white = if most < 2.0 {
            1.0
        } else if most < 256.0 {
            255.0
        } else {
            65_535.0
        };
        self.white = self.white.max(white);
    }

    pub fn draw(
        &mut self,
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
            let end = start + area.columns as usize * 3;
            let stored = part.get(row as usize * row_stride..);
            let (Some(out), Some(stored)) = (image.get_mut(start..end), stored) else {
                return Err(corrupt("its parts do not make up the image"));
            };
            if self.planar {
                self.interleave(stored, plane_stride, area.columns, &mut pixels)?;
                self.convert(&pixels, out);
            } else {
                self.convert(stored, out);
            }
            if self.opacity.begins() {
                let (before, rest) = image.split_at_mut(start);
                before.fill(255);
                rest[end - start..].fill(255);
            }
        }
        Ok(())
    }

    /// Gathers the pixels of a row from the planes.
    fn interleave(
        &self,
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

    fn convert(&mut self, row: &[u8], out: &mut [u8]) {
        let Self { channels, white, ref mut opacity, .. } = *self;
        match (&self.palette, self.bits) {
            (Some(palette), bits) => small(row, bits, out, |value| *palette.get(usize::from(value)).unwrap_or(&[0; 3])),
            (None, bits @ 1..8) => small(row, bits, out, |value| [value * (255 / ((1 << bits) - 1)); 3]),
            (None, 8) => rgb_row(row, channels, opacity, out, |[sample]| sample),
            (None, 16) => rgb_row(row, channels, opacity, out, |sample| rounded(u16::from_ne_bytes(sample))),
            _ => rgb_row(row, channels, opacity, out, |sample| from_float(f32::from_ne_bytes(sample) / white)),
        }
    }
}

/// Pixels of up to 8 bits, the highest bits of a byte first.
fn small(row: &[u8], bits: u8, out: &mut [u8], colour: impl Fn(u8) -> [u8; 3]) {
    let in_byte = usize::from(8 / bits);
    for (x, rgb) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let byte = row.get(x / in_byte).copied().unwrap_or(0);
        *rgb = colour((byte << (x % in_byte * usize::from(bits))) >> (8 - bits));
    }
}
