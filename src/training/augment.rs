//! Chips as another camera, another moment or another detector would have given them.

use std::io::Cursor;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ExtendedColorType, RgbImage};

use super::config::{Augmentation, Input};
use crate::evaluation::Random;
use crate::types::Chip;

const SIDE: usize = Chip::SIDE as usize;

/// A varied chip, RGB; the same for the same random numbers.
pub fn vary(chip: &Chip, settings: &Augmentation, random: &mut Random) -> RgbImage {
    let mut image = warp(chip.as_rgb(), settings, random);
    let chance = |probability: f64, random: &mut Random| probability > 0.0 && random.unit() < probability;
    if settings.gamma > 0.0 {
        gamma(&mut image, between(random, -settings.gamma, settings.gamma).exp());
    }
    if chance(settings.grey, random) {
        image = DynamicImage::ImageLuma8(imageops::grayscale(&image)).to_rgb8();
    }
    if chance(settings.low_resolution, random) {
        let side = between(random, 24.0, 72.0) as u32;
        let small = imageops::resize(&image, side, side, FilterType::Triangle);
        image = imageops::resize(&small, Chip::SIDE, Chip::SIDE, FilterType::Triangle);
    }
    if chance(settings.blur, random) {
        image = imageops::fast_blur(&image, between(random, 0.5, 2.0) as f32);
    }
    if chance(settings.jpeg, random) {
        let quality = between(random, 20.0, 90.0) as u8;
        // An image that cannot be stored stays as it is.
        image = recompress(&image, quality).unwrap_or(image);
    }
    if chance(settings.occlusion, random) {
        occlude(&mut image, random);
    }
    image
}

/// The numbers that a network reads of an RGB image of a chip's size, -1..=1, channel by channel.
pub fn to_input(rgb: &[u8], input: Input) -> Vec<f32> {
    let scaled = |value: f32| (value - 127.5) / 127.5;
    match input {
        Input::Rgb112 => (0..3)
            .flat_map(|channel| rgb.iter().skip(channel).step_by(3).map(|value| scaled(f32::from(*value))))
            .collect(),
        Input::Grey56 => {
            let half = SIDE / 2;
            let grey = |x: usize, y: usize| {
                let pixel = &rgb[(y * SIDE + x) * 3..][..3];
                LUMA.iter().zip(pixel).map(|(weight, value)| weight * f32::from(*value)).sum::<f32>()
            };
            let mean = |x: usize, y: usize| (grey(x, y) + grey(x + 1, y) + grey(x, y + 1) + grey(x + 1, y + 1)) / 4.0;
            (0..half * half).map(|place| scaled(mean(place % half * 2, place / half * 2))).collect()
        }
    }
}

/// How bright red, green and blue are (ITU-R BT.601).
pub const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

fn between(random: &mut Random, low: f64, high: f64) -> f64 {
    low + (high - low) * random.unit()
}

/// Mirrors, turns, scales and shifts about the centre. What comes from outside continues the edge.
fn warp(rgb: &[u8], settings: &Augmentation, random: &mut Random) -> RgbImage {
    let Augmentation { flip, shift, scale, rotation, .. } = *settings;
    let mirror = if random.unit() < flip { -1.0 } else { 1.0 };
    let angle = between(random, -rotation, rotation).to_radians();
    let size = 1.0 + between(random, -scale, scale);
    let (sin, cos) = (angle.sin() / size, angle.cos() / size);
    let centre = (SIDE as f64 - 1.0) / 2.0;
    let [dx, dy] = [0, 1].map(|_| between(random, -shift, shift) * SIDE as f64);
    let mut output = vec![0; SIDE * SIDE * 3];
    for (place, pixel) in output.chunks_exact_mut(3).enumerate() {
        let (u, v) = ((place % SIDE) as f64 - centre - dx, (place / SIDE) as f64 - centre - dy);
        sample(rgb, mirror * (cos * u - sin * v) + centre, sin * u + cos * v + centre, pixel);
    }
    // There are three bytes for each pixel, so this never falls back.
    RgbImage::from_raw(Chip::SIDE, Chip::SIDE, output).unwrap_or_default()
}

/// Bilinear, with the edge continued.
fn sample(rgb: &[u8], x: f64, y: f64, pixel: &mut [u8]) {
    let last = (SIDE - 1) as f64;
    let (x, y) = (x.clamp(0.0, last), y.clamp(0.0, last));
    let (left, top) = ((x as usize).min(SIDE - 2), (y as usize).min(SIDE - 2));
    let (fx, fy) = ((x - left as f64) as f32, (y - top as f64) as f32);
    let at = (top * SIDE + left) * 3;
    let [above, below] = [at, at + SIDE * 3].map(|start| &rgb[start..start + 6]);
    for channel in 0..3 {
        let along = |row: &[u8]| {
            let (left, right) = (f32::from(row[channel]), f32::from(row[channel + 3]));
            left + (right - left) * fx
        };
        let (above, below) = (along(above), along(below));
        pixel[channel] = (above + (below - above) * fy + 0.5) as u8;
    }
}

fn gamma(image: &mut RgbImage, exponent: f64) {
    let table: Vec<u8> =
        (0..256).map(|value| ((f64::from(value) / 255.0).powf(exponent) * 255.0 + 0.5) as u8).collect();
    image.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

fn recompress(image: &RgbImage, quality: u8) -> Option<RgbImage> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    encoder.encode(image, image.width(), image.height(), ExtendedColorType::Rgb8).ok()?;
    let decoder = JpegDecoder::new(Cursor::new(bytes)).ok()?;
    Some(DynamicImage::from_decoder(decoder).ok()?.to_rgb8())
}

/// Covers a rectangle of up to a third of the side with one colour (Zhong et al. 2017, arXiv:1708.04896).
fn occlude(image: &mut RgbImage, random: &mut Random) {
    let [width, height] = [0, 1].map(|_| between(random, 0.1, 0.35) * SIDE as f64);
    let left = between(random, 0.0, SIDE as f64 - width) as u32;
    let top = between(random, 0.0, SIDE as f64 - height) as u32;
    let colour = image::Rgb([0, 1, 2].map(|_| random.below(256) as u8));
    for y in top..top + height as u32 {
        (left..left + width as u32).for_each(|x| image.put_pixel(x, y, colour));
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn chip() -> Chip {
        let image = RgbImage::from_fn(112, 112, |x, y| Rgb([(x * 2) as u8, (y * 2) as u8, ((x + y) % 256) as u8]));
        Chip::try_from(image).unwrap()
    }

    #[test]
    fn no_change_leaves_the_chip() {
        let chip = chip();
        assert_eq!(vary(&chip, &Augmentation::NONE, &mut Random::new(1, 1)).as_raw().as_slice(), chip.as_rgb());
        let mirrored = Augmentation { flip: 1.0, ..Augmentation::NONE };
        let image = vary(&chip, &mirrored, &mut Random::new(1, 1));
        assert_eq!(image.get_pixel(0, 5), &Rgb([222, 10, 116]));
    }

    #[test]
    fn every_change_is_repeatable_and_changes_something() {
        let chip = chip();
        let one = |change: fn(&mut Augmentation)| {
            let mut settings = Augmentation::NONE;
            change(&mut settings);
            settings
        };
        for settings in [
            one(|a| a.shift = 0.1),
            one(|a| a.scale = 0.2),
            one(|a| a.rotation = 10.0),
            one(|a| a.gamma = 0.5),
            one(|a| a.blur = 1.0),
            one(|a| a.jpeg = 1.0),
            one(|a| a.low_resolution = 1.0),
            one(|a| a.grey = 1.0),
            one(|a| a.occlusion = 1.0),
            Augmentation::default(),
        ] {
            let image = vary(&chip, &settings, &mut Random::new(3, 9));
            assert_eq!(image.dimensions(), (112, 112));
            assert_ne!(image.as_raw().as_slice(), chip.as_rgb(), "{settings:?}");
            assert_eq!(image, vary(&chip, &settings, &mut Random::new(3, 9)), "{settings:?}");
        }
    }

    #[test]
    fn inputs_are_what_the_networks_read() {
        let image = RgbImage::from_pixel(112, 112, Rgb([255, 0, 0]));
        let rgb = to_input(image.as_raw(), Input::Rgb112);
        assert_eq!((rgb.len(), rgb[0], rgb[112 * 112]), (3 * 112 * 112, 1.0, -1.0));
        let grey = to_input(image.as_raw(), Input::Grey56);
        assert_eq!(grey.len(), 56 * 56);
        assert!((grey[100] - (0.299 * 2.0 - 1.0)).abs() < 1e-5);
    }
}
