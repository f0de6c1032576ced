//! A photo in memory, with all its pixels or with fewer.

use std::borrow::Cow;

use image::RgbImage;

use super::align::{AlignError, Similarity, align, warp};
use super::shrink::shrink_to;
use crate::types::{Chip, Landmarks, Point};

/// An upright photo, of which squares of `step` x `step` pixels may have been averaged into one. Places in it are given in
/// pixels of the whole photo.
#[derive(Debug, Clone, PartialEq)]
pub struct Raster {
    image: RgbImage,
    step: u32,
}

impl From<RgbImage> for Raster {
    fn from(image: RgbImage) -> Self {
        Self::reduced(image, 1)
    }
}

impl Raster {
    /// An image each of whose pixels is the mean of a square of `step` pixels; the photo has no pixels besides.
    pub(super) fn reduced(image: RgbImage, step: u32) -> Self {
        Self { image, step }
    }

    /// The pixels that are there.
    pub fn into_image(self) -> RgbImage {
        self.image
    }

    /// Width and height of the whole photo.
    pub fn size(&self) -> (u32, u32) {
        (self.image.width() * self.step, self.image.height() * self.step)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        self.image.len() as u64
    }

    /// Whether all pixels are there.
    pub fn is_whole(&self) -> bool {
        self.step == 1
    }

    /// Whether something that is drawn with one pixel for each square of `step` pixels of the photo gets all that can be
    /// seen there; nearly is enough.
    pub fn is_fine_enough(&self, step: f32) -> bool {
        self.is_whole() || self.step as f32 <= 1.1 * step
    }

    /// The chip of a face; see [`align`].
    pub fn chip(&self, landmarks: &Landmarks) -> Result<Chip, AlignError> {
        let here = |v: f32| (v + 0.5) / self.step as f32 - 0.5;
        align(&self.image, &landmarks.points().map(|Point { x, y }| Point { x: here(x), y: here(y) }).into())
    }

    /// The square of `side` pixels whose pixel (u, v) shows the photo at `to_photo` of (u, v).
    pub(super) fn window(&self, to_photo: &Similarity, side: u32) -> RgbImage {
        let step = f64::from(self.step);
        let Similarity { a, b, tx, ty } = *to_photo;
        let here = |v: f64| (v + 0.5) / step - 0.5;
        warp(&self.image, &Similarity { a: a / step, b: b / step, tx: here(tx), ty: here(ty) }, side)
    }

    /// The photo in `size` pixels, on neither side more than there are.
    pub(super) fn shrunk(&self, size: (u32, u32)) -> Cow<'_, RgbImage> {
        shrink_to(&self.image, size)
    }
}
