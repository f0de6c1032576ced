//! The first looks at a photo: the whole, and parts of it in which smaller faces are seen.

use serde::{Deserialize, Serialize};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{HINTED, Look, SURE, shrunk_size};

/// How thoroughly a photo is searched for faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// One look at the whole photo, shrunk to the detector's base size.
    Fast,
    /// Finer looks where the photo is larger than that, and second ones at what is doubtful.
    #[default]
    Auto,
    /// Every pixel that the photo has, up to a bound, and all of it in four turns.
    Full,
}

/// The width of the box of the smallest face that is wanted; of a face that lies on its side, the height. From 1 on in pixels of the
/// upright photo, below 1 as a share of its longer side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub enum MinFace {
    /// Pixels of the upright photo.
    Pixels(f32),
    /// Of the photo's longer side, 0..1.
    Share(f32),
}

impl TryFrom<f32> for MinFace {
    type Error = &'static str;

    fn try_from(value: f32) -> Result<Self, Self::Error> {
        match value {
            pixels if pixels.is_finite() && pixels >= 1.0 => Ok(Self::Pixels(pixels)),
            share if share > 0.0 && share < 1.0 => Ok(Self::Share(share)),
            _ => Err("pixels, from 1 on, or a share of the longer side between 0 and 1 are expected"),
        }
    }
}

impl PartialSchema for MinFace {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number).exclusive_minimum(Some(0.0)).examples([40]);
        number
            .description(Some("From 1 on in pixels of the upright photo, below 1 as a share of its longer side."))
            .into()
    }
}

impl ToSchema for MinFace {}

impl From<MinFace> for f32 {
    fn from(min_face: MinFace) -> Self {
        match min_face {
            MinFace::Pixels(value) | MinFace::Share(value) => value,
        }
    }
}

impl MinFace {
    pub(super) fn pixels(self, size: (u32, u32)) -> f32 {
        match self {
            Self::Pixels(pixels) => pixels,
            Self::Share(share) => share * size.0.max(size.1) as f32,
        }
    }
}

/// Which faces of a photo are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    pub detail: Detail,
    /// Smaller ones are left out. Without it, `auto` looks for faces of a hundredth of the longer side, but not for those
    /// of less than 20 pixels.
    pub min_face: Option<MinFace>,
    /// Those of which the detector is less sure, 0..=1, are left out.
    pub min_score: f32,
    /// So many, the largest: once they are found in the whole photo, its parts are not looked at.
    pub faces: usize,
    /// The image is no photo but a chip, whose face need not be found: no finder looks at it.
    pub aligned: bool,
    /// The image was cut out around one face: all of it counts as that face, with the points that are found in it.
    pub crop: bool,
}

impl Wanted {
    /// The largest face.
    pub fn one() -> Self {
        Self { faces: 1, ..Self::default() }
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self { detail: Detail::Auto, min_face: None, min_score: 0.0, faces: usize::MAX, aligned: false, crop: false }
    }
}

/// What `auto` looks for.
const LEAST_SHARE: f32 = 0.01;
const LEAST_PIXELS: f32 = 20.0;

/// Pixels to which a photo is shrunk for its parts, whatever is asked for; their overlaps add half of it at most.
pub(super) const MOST_AREA: u64 = 4 << 20;

/// Parts overlap by so many pixels of the base look, at their own size: a face that reaches over an edge is whole in the next
/// part or, if it is larger, seen by the base look.
const OVERLAP: f32 = SURE;

/// Sides of parts, at most: beyond that a network runs out of its processor's cache.
const MOST_SIDE: u32 = 832;

/// Sides of parts are multiples of it, so that parts of several photos can be in one pass.
const STEP: u32 = 32;

/// The first looks.
pub(super) struct FirstLooks {
    pub base: Look,
    /// None if the base look is fine enough.
    pub parts: Vec<Look>,
    least: f32,
}

impl FirstLooks {
    pub fn new(size: (u32, u32), base_side: u32, wanted: &Wanted) -> Self {
        let whole = shrunk_size(size, base_side);
        let base = Look::part((0, 0), whole, size, whole);
        let longest = size.0.max(size.1) as f32;
        let least = match (wanted.min_face, wanted.detail) {
            (Some(least), _) => least.pixels(size).max(1.0),
            (None, Detail::Full) => HINTED,
            (None, Detail::Auto) => (LEAST_SHARE * longest).max(LEAST_PIXELS),
            (None, Detail::Fast) => f32::INFINITY,
        };
        let coarse = |base| Self { base, parts: Vec::new(), least };
        let needed = if wanted.detail == Detail::Fast { SURE } else { HINTED };
        // The base look may be a little coarser than the parts.
        if least >= 0.95 * needed * base.step() {
            return coarse(base);
        }
        let bound = (MOST_AREA as f64 / (f64::from(size.0) * f64::from(size.1))).sqrt().min(1.0);
        let scale = f64::from(needed / least).min(bound);
        let side = (f64::from(size.0.max(size.1)) * scale).round().max(1.0) as u32;
        let fine = shrunk_size(size, side);
        if fine.0.max(fine.1) <= whole.0.max(whole.1) {
            return coarse(base);
        }
        Self { base, parts: parts(size, fine, base_overlap(whole, fine)), least }
    }

    /// Pixels of the detector's input.
    pub fn area(&self) -> u64 {
        self.base.area() + self.parts.iter().map(Look::area).sum::<u64>()
    }

    /// Pixels of the smallest face that is wanted.
    pub fn least(&self) -> f32 {
        self.least
    }

    /// Pixels of the photo, on a side, for one of the finest looks.
    pub fn step(&self) -> f32 {
        self.parts.first().unwrap_or(&self.base).step()
    }
}

/// [`OVERLAP`] in pixels of a photo that is shrunk to `fine`, not to `whole`.
fn base_overlap(whole: (u32, u32), fine: (u32, u32)) -> u32 {
    (OVERLAP * fine.0.max(fine.1) as f32 / whole.0.max(whole.1) as f32).ceil() as u32
}

/// The parts of a photo that is shrunk from `size` to `fine`.
fn parts(size: (u32, u32), fine: (u32, u32), overlap: u32) -> Vec<Look> {
    let ((columns, width), (rows, height)) = (split(fine.0, overlap), split(fine.1, overlap));
    let look = |top: u32, left: u32| Look::part((left, top), (width, height), size, fine);
    rows.iter().flat_map(|top| columns.iter().map(move |left| look(*top, *left))).collect()
}

/// Where the parts of a side begin, and how long each is.
fn split(side: u32, overlap: u32) -> (Vec<u32>, u32) {
    if side <= MOST_SIDE {
        return (vec![0], side);
    }
    let overlap = overlap.min(MOST_SIDE / 2);
    let count = (side - overlap).div_ceil(MOST_SIDE - overlap);
    let length = (side + (count - 1) * overlap).div_ceil(count).next_multiple_of(STEP).min(side);
    ((0..count).map(|n| (u64::from(n) * u64::from(side - length) / u64::from(count - 1)) as u32).collect(), length)
}
