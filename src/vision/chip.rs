//! Chips as small JPEGs, kept so that faces can be embedded again without their photos.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageError};
use thiserror::Error;

use super::align::TEMPLATE;
use super::decode::{DecodeError, DecodeLimits, decode};
use super::finder::Found;
use super::look::Turn;
use crate::types::{BoundingBox, Chip, Detection, InvalidValue, Landmarks, Point};

/// High enough that the embedding of the stored chip is nearly that of the chip (the encoder keeps colour at full
/// resolution); about 8 KB.
const QUALITY: u8 = 95;

const LIMITS: DecodeLimits =
    DecodeLimits { max_bytes: 1 << 20, max_pixels: (Chip::SIDE * Chip::SIDE) as u64, max_memory: 1 << 24 };

/// Why a chip could not be stored or read back.
#[derive(Debug, Error)]
pub enum ChipError {
    #[error("the chip could not be encoded: {0}")]
    Encode(#[from] ImageError),
    #[error("the stored chip could not be decoded: {0}")]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Size(#[from] InvalidValue),
}

/// The chip as a JPEG file.
pub fn encode_chip(chip: &Chip) -> Result<Vec<u8>, ChipError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode(
        chip.as_rgb(),
        Chip::SIDE,
        Chip::SIDE,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

/// An image of a chip's size, such as [`encode_chip`] stores.
pub fn decode_chip(bytes: &[u8]) -> Result<Chip, ChipError> {
    Ok(Chip::try_from(decode(bytes, &LIMITS)?)?)
}

/// The face that a chip shows: all of it, with its points where alignment puts them. Nobody doubts it.
pub fn whole_face() -> Found {
    let side = Chip::SIDE as f32;
    let detection = Detection {
        bounding_box: BoundingBox { x: 0.0, y: 0.0, width: side, height: side },
        landmarks: Landmarks::from(TEMPLATE),
        score: 1.0,
    };
    Found { detection, turned: Turn::Upright, doubtful: false }
}

/// The face of an image that was cut out around it: all of the image, with the points that were found in it, else those that it
/// would have as a chip.
pub fn cropped_face(found: Option<Found>, (width, height): (u32, u32)) -> Found {
    let (width, height) = (width as f32, height as f32);
    let mut face = found.unwrap_or_else(|| {
        let side = Chip::SIDE as f32;
        let points = TEMPLATE.map(|Point { x, y }| Point { x: x * width / side, y: y * height / side });
        let whole = whole_face();
        Found { detection: Detection { landmarks: Landmarks::from(points), ..whole.detection }, ..whole }
    });
    face.detection.bounding_box = BoundingBox { x: 0.0, y: 0.0, width, height };
    face.detection.score = 1.0;
    face
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn a_chip_survives_storage() {
        let image = RgbImage::from_fn(112, 112, |x, y| {
            let wave = |a: f32| (128.0 + 100.0 * (a / 9.0).sin()) as u8;
            Rgb([wave(x as f32), wave(y as f32), wave((x + y) as f32)])
        });
        let chip = Chip::try_from(image).unwrap();
        let bytes = encode_chip(&chip).unwrap();
        assert!(bytes.len() < 12_000, "{} bytes", bytes.len());
        let back = decode_chip(&bytes).unwrap();
        let worst = chip.as_rgb().iter().zip(back.as_rgb()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(6), "off by {worst:?}");
    }

    #[test]
    fn only_chips_are_read_back() {
        let mut small = Vec::new();
        JpegEncoder::new(&mut small).encode(&[0; 12], 2, 2, ExtendedColorType::Rgb8).unwrap();
        assert!(matches!(decode_chip(&small), Err(ChipError::Size(_))));
        assert!(matches!(decode_chip(b"nonsense"), Err(ChipError::Decode(_))));
    }
}
