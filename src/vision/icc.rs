//! Colours that mean something else than those of sRGB, such as the wider ones of phones, become those of sRGB.

use std::io::Read;

use image::RgbImage;
use moxcms::{ColorProfile, DataColorSpace, Layout, ParsingOptions, RenderingIntent, TransformOptions};

/// Longest profile that is read; those of cameras and screens have some kilobytes.
const MOST_BYTES: usize = 4 << 20;
/// Of tables inside it.
const MOST_TABLE: usize = 4 << 20;

/// What a header says: length, kind of colours, signature.
const HEADER: usize = 128;

/// How far colours may lie from those of sRGB and count as these: what rounding in profiles makes of them.
const SAME: u8 = 2;

/// Memory that a profile of this length takes until an image is converted: itself, what is read from it, and the tables
/// that colours are looked up in.
pub(super) fn memory(length: usize) -> u64 {
    if length == 0 { 0 } else { 4 * length.min(MOST_BYTES) as u64 + (2 << 20) }
}

/// The length that a profile of RGB colours states; `None` if it is none, or longer than it may be.
pub(super) fn length(profile: impl Read) -> Option<usize> {
    header(profile).map(|(_, length)| length)
}

/// A profile of RGB colours, no longer than it may be.
pub(super) fn read(mut profile: impl Read) -> Option<Vec<u8>> {
    let (mut bytes, length) = header(&mut profile)?;
    profile.take((length - HEADER) as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn header(mut profile: impl Read) -> Option<(Vec<u8>, usize)> {
    let mut bytes = vec![0; HEADER];
    profile.read_exact(&mut bytes).ok()?;
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let is_rgb = &bytes[16..20] == b"RGB " && &bytes[36..40] == b"acsp";
    (is_rgb && (HEADER..=MOST_BYTES).contains(&length)).then_some((bytes, length))
}

/// Converts an image with this profile, in place. A profile that is broken, or that says what sRGB is, changes nothing.
pub(super) fn to_srgb(image: &mut RgbImage, profile: &[u8]) {
    if let Some(convert) = converter(profile) {
        let stride = image.width() as usize * 3;
        let mut row = vec![0; stride];
        for pixels in image.chunks_exact_mut(stride.max(1)) {
            row.copy_from_slice(pixels);
            if convert(&row, pixels).is_none() {
                pixels.copy_from_slice(&row);
            }
        }
    }
}

/// Converts a row of pixels into another.
type Convert = dyn Fn(&[u8], &mut [u8]) -> Option<()>;

fn converter(profile: &[u8]) -> Option<Box<Convert>> {
    let limits = ParsingOptions {
        max_profile_size: MOST_BYTES,
        max_allowed_clut_size: MOST_TABLE,
        max_allowed_trc_size: 1 << 16,
    };
    let profile = ColorProfile::new_from_slice_with_options(profile, limits).ok()?;
    if profile.color_space != DataColorSpace::Rgb {
        return None;
    }
    let options = TransformOptions { rendering_intent: RenderingIntent::RelativeColorimetric, ..Default::default() };
    let transform = profile.create_transform_8bit(Layout::Rgb, &ColorProfile::new_srgb(), Layout::Rgb, options).ok()?;
    let convert = move |from: &[u8], to: &mut [u8]| transform.transform(from, to).ok();
    let differs = samples().any(|colour| {
        let mut converted = colour;
        convert(&colour, &mut converted).is_some()
            && converted.iter().zip(colour).any(|(after, before)| after.abs_diff(before) > SAME)
    });
    differs.then(|| Box::new(convert) as Box<Convert>)
}

/// Colours from all over the cube.
fn samples() -> impl Iterator<Item = [u8; 3]> {
    let steps = || [0, 51, 102, 153, 204, 255].into_iter();
    steps().flat_map(move |red| steps().flat_map(move |green| steps().map(move |blue| [red, green, blue])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(profile: &[u8], colour: [u8; 3]) -> [u8; 3] {
        let mut image = RgbImage::from_pixel(5, 3, image::Rgb(colour));
        to_srgb(&mut image, profile);
        assert!(image.pixels().all(|pixel| pixel == image.get_pixel(0, 0)));
        image.get_pixel(0, 0).0
    }

    #[test]
    fn wide_colours_become_those_of_srgb() {
        let p3 = ColorProfile::new_display_p3().encode().unwrap();
        let adobe = ColorProfile::new_adobe_rgb().encode().unwrap();
        // Skin: a little more red than it says.
        let skin = converted(&p3, [200, 150, 120]);
        assert!(skin[0] > 203 && skin[2] < 119, "{skin:?}");
        assert_ne!(converted(&adobe, [200, 150, 120]), [200, 150, 120]);
        for profile in [&p3, &adobe] {
            let grey = converted(profile, [128; 3]);
            assert!(grey.iter().all(|value| value.abs_diff(128) <= 2), "{grey:?}");
            assert_eq!(converted(profile, [255; 3]), [255; 3]);
        }
    }

    #[test]
    fn what_is_srgb_or_broken_changes_nothing() {
        let srgb = ColorProfile::new_srgb().encode().unwrap();
        let colour = [200, 150, 121];
        assert_eq!(converted(&srgb, colour), colour);
        let p3 = ColorProfile::new_display_p3().encode().unwrap();
        for end in 0..p3.len() / 2 {
            assert_eq!(converted(&p3[..end], colour), colour);
        }
        assert_eq!(converted(&[0xff; 4096], colour), colour);
    }

    #[test]
    fn only_profiles_of_rgb_are_read() {
        let p3 = ColorProfile::new_display_p3().encode().unwrap();
        let padded = [p3.as_slice(), &[7; 9]].concat();
        assert_eq!(read(padded.as_slice()), Some(p3.clone()));
        let mut other = p3.clone();
        other[16..20].copy_from_slice(b"CMYK");
        assert_eq!(read(other.as_slice()), None);
        let mut long = p3;
        long[..4].copy_from_slice(&(MOST_BYTES as u32 + 1).to_be_bytes());
        assert_eq!(read(long.as_slice()), None);
        assert_eq!(read(&b""[..]), None);
    }

    #[test]
    fn profiles_are_found_in_every_format() {
        use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, tiff::TiffEncoder, webp::WebPEncoder};
        use image::{ExtendedColorType::Rgb8, ImageEncoder};

        use crate::vision::{DecodeLimits, decode};

        let mut p3 = ColorProfile::new_display_p3().encode().unwrap();
        // In several parts of a JPEG.
        p3.resize(200_000, 0);
        p3[..4].copy_from_slice(&200_000_u32.to_be_bytes());
        let colour = [200, 150, 120];
        let expected = converted(&p3, colour);
        let pixels = colour.repeat(256);
        let [mut jpeg, mut png, mut webp, mut tiff] = [const { Vec::new() }; 4];
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 100);
        encoder.set_icc_profile(p3.clone()).unwrap();
        encoder.write_image(&pixels, 16, 16, Rgb8).unwrap();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_icc_profile(p3.clone()).unwrap();
        encoder.write_image(&pixels, 16, 16, Rgb8).unwrap();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        encoder.set_icc_profile(p3.clone()).unwrap();
        encoder.write_image(&pixels, 16, 16, Rgb8).unwrap();
        let mut encoder = TiffEncoder::new(std::io::Cursor::new(&mut tiff));
        encoder.set_icc_profile(p3).unwrap();
        encoder.write_image(&pixels, 16, 16, Rgb8).unwrap();
        let limits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 256, max_memory: 1 << 23 };
        for (name, bytes) in [("JPEG", jpeg), ("PNG", png), ("WebP", webp), ("TIFF", tiff)] {
            let found = decode(&bytes, &limits).unwrap().get_pixel(8, 8).0;
            let near = found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 2);
            assert!(near, "{name}: {found:?}, {expected:?}");
        }
    }
}
