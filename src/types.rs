//! The words that every layer shares: ids, names, chips, embeddings, thresholds and geometry.
//!
//! A value of one of these types is valid by construction, so no layer checks it twice.

mod actor;
mod caller;
mod detector;
mod input;
mod name;
mod request_key;
mod scaled;
mod shown_key;
mod text;

use half::f16;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::actor::Actor;
pub use self::caller::{Caller, Permission, Role, Scope};
pub use self::detector::{DetectorKind, DetectorOutput};
pub use self::input::{ChipCrop, InputSize};
pub use self::name::{Name, NamePrefix, nfc};
pub use self::request_key::RequestKey;
pub use self::scaled::SimilarityScale;
pub use self::shown_key::ShownKey;
pub use self::text::{bytes_without_mark, without_mark};

/// Why a value could not become one of the types of this module.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum InvalidValue {
    #[error("a name has 1 to 255 characters; this one has {0}")]
    NameLength(usize),
    #[error("a name neither begins nor ends with white space")]
    NameSpace,
    #[error("no name begins with white space, so a prefix does not either")]
    PrefixSpace,
    #[error("a name has no control characters; character {at} of this one is U+{code:04X}")]
    NameControl { at: usize, code: u32 },
    #[error(
        "character {at} of this name is U+FFFD, which stands for what could not be read: it was read by the wrong character set"
    )]
    NameReplacement { at: usize },
    #[error("a key has 1 to 255 characters of ASCII that can be seen, and no spaces")]
    RequestKey,
    #[error("a threshold is a number from -1 to 1; this is {0}")]
    Threshold(f32),
    #[error("a chip is a 112x112 RGB image; this is {width}x{height}")]
    ChipSize { width: u32, height: u32 },
    #[error("an embedding needs finite numbers that are not all zero; the length of this one is {0}")]
    EmbeddingNorm(f32),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id. Ids are UUIDv7, so they sort by time of creation.
            #[allow(clippy::new_without_default, reason = "a default id would be a different one each time")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/// A gallery.
    GalleryId);
id!(/// A subject of a gallery.
    SubjectId);
id!(/// One enrolled image of a subject.
    FaceId);
id!(/// One set of embedder weights.
    ModelId);
id!(/// A long task.
    JobId);
id!(/// A file that was uploaded for a job.
    UploadId);
id!(/// A key that a caller shows.
    KeyId);
id!(/// What was erased at once, and the receipt for it.
    ErasureId);

/// A similarity at or above which two faces count as one person.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "f32")]
#[schema(minimum = -1.0, maximum = 1.0)]
pub struct Threshold(f32);

impl Threshold {
    /// The threshold as a cosine, -1..=1.
    pub fn get(self) -> f32 {
        self.0
    }
}

impl TryFrom<f32> for Threshold {
    type Error = InvalidValue;

    fn try_from(value: f32) -> Result<Self, InvalidValue> {
        if (-1.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(InvalidValue::Threshold(value)) }
    }
}

/// A point in pixels of the upright image; pixel centres lie at integer coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

/// A rectangle in pixels of the upright image. It may reach beyond the image's edges when the face does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BoundingBox {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    pub width: f32,
    pub height: f32,
}

impl BoundingBox {
    pub fn area(&self) -> f32 {
        self.width.max(0.0) * self.height.max(0.0)
    }
}

/// The five points that alignment works on, in pixels of the upright image. Left and right are the viewer's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Landmarks {
    pub left_eye: Point,
    pub right_eye: Point,
    pub nose: Point,
    pub left_mouth: Point,
    pub right_mouth: Point,
}

impl Landmarks {
    /// The points in the order of the ArcFace template: eyes, nose, corners of the mouth, left before right.
    pub fn points(&self) -> [Point; 5] {
        [self.left_eye, self.right_eye, self.nose, self.left_mouth, self.right_mouth]
    }
}

impl From<[Point; 5]> for Landmarks {
    fn from([left_eye, right_eye, nose, left_mouth, right_mouth]: [Point; 5]) -> Self {
        Self { left_eye, right_eye, nose, left_mouth, right_mouth }
    }
}

/// A face that the detector found, in pixels of the upright image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    pub bounding_box: BoundingBox,
    pub landmarks: Landmarks,
    /// The detector's confidence, 0..=1.
    pub score: f32,
}

/// How usable a face is for recognition, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quality {
    /// The parts as one number, 0..=1: the smallest of the parts after each was mapped to 0..=1.
    pub score: f32,
    /// The detector's confidence, 0..=1.
    pub detection: f32,
    /// Distance between the eyes in pixels of the upright image.
    pub eye_distance: f32,
    /// Sharpness of the chip, 0..=1.
    pub sharpness: f32,
    /// Head pose estimated from the five points.
    pub pose: Pose,
}

/// Rough head pose in degrees; 0, 0, 0 looks into the camera.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pose {
    /// Turned to a side: positive towards the viewer's right.
    pub yaw: f32,
    /// Nodding: positive looks up.
    pub pitch: f32,
    /// Tilted in the image plane: positive is clockwise.
    pub roll: f32,
}

/// The aligned 112x112 RGB crop that the embedder reads: rows from the top, three bytes a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Chip(Vec<u8>);

impl Chip {
    /// Width and height in pixels.
    pub const SIDE: u32 = 112;

    /// `SIDE * SIDE * 3` bytes, interleaved RGB.
    pub fn as_rgb(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Chip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chip(112x112)")
    }
}

impl TryFrom<image::RgbImage> for Chip {
    type Error = InvalidValue;

    fn try_from(image: image::RgbImage) -> Result<Self, InvalidValue> {
        match image.dimensions() {
            (Self::SIDE, Self::SIDE) => Ok(Self(image.into_raw())),
            (width, height) => Err(InvalidValue::ChipSize { width, height }),
        }
    }
}

/// An L2-normalised vector of a face; all components are finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    vector: Vec<f32>,
    norm: f32,
}

impl Embedding {
    /// Scales `raw` to length 1. An all-zero or non-finite vector is an error.
    pub fn normalised(mut raw: Vec<f32>) -> Result<Self, InvalidValue> {
        let norm = raw.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if !norm.is_finite() || norm < 1e-6 {
            return Err(InvalidValue::EmbeddingNorm(norm as f32));
        }
        raw.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        Ok(Self { vector: raw, norm: norm as f32 })
    }

    pub fn as_slice(&self) -> &[f32] {
        &self.vector
    }

    pub fn dimension(&self) -> usize {
        self.vector.len()
    }

    /// Length of the vector before it was normalised: networks give short vectors for what is no face
    /// (Meng et al. 2021, "MagFace", use it as quality).
    pub fn norm(&self) -> f32 {
        self.norm
    }

    /// Cosine of the angle between two embeddings of one model, -1..=1.
    pub fn similarity(&self, other: &Self) -> f32 {
        debug_assert_eq!(self.dimension(), other.dimension());
        self.vector.iter().zip(&other.vector).map(|(a, b)| a * b).sum::<f32>().clamp(-1.0, 1.0)
    }
}

/// An embedding as it is stored and searched: in 16-bit floats, of length 1 but for their rounding.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEmbedding(Box<[f16]>);

impl StoredEmbedding {
    /// Only for vectors of length 1.
    pub fn new(vector: Vec<f16>) -> Self {
        Self(vector.into())
    }

    pub fn as_slice(&self) -> &[f16] {
        &self.0
    }

    pub fn dimension(&self) -> usize {
        self.0.len()
    }

    /// The similarity that every search ranks by, -1..=1 but for rounding of the vectors.
    ///
    /// It is exact, so it is the same on every processor and in whatever order it is summed: a product of two 16-bit
    /// floats is a multiple of 2^-48, and no partial sum of unit vectors reaches 2, which takes 50 bits of the 53 that a
    /// double has.
    pub fn similarity(&self, other: &Self) -> f64 {
        exact_similarity(&self.0, &other.0)
    }
}

impl From<&Embedding> for StoredEmbedding {
    fn from(embedding: &Embedding) -> Self {
        Self(embedding.vector.iter().map(|value| f16::from_f32(*value)).collect())
    }
}

/// Bytes in hexadecimal, such as a sha256.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `N` bytes that a text of twice as many hexadecimal digits says.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

/// [`StoredEmbedding::similarity`] of two vectors of one length.
pub fn exact_similarity(a: &[f16], b: &[f16]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.to_f32() * b.to_f32())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_have_length_one() {
        let e = Embedding::normalised(vec![3.0, 4.0]).unwrap();
        assert_eq!(e.as_slice(), [0.6, 0.8]);
        assert!((e.similarity(&e) - 1.0).abs() < 1e-6);
        for bad in [vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0]] {
            assert!(Embedding::normalised(bad).is_err());
        }
    }

    #[test]
    fn stored_similarities_do_not_depend_on_the_order() {
        let raw = |seed: u32| (0..512).map(|i| ((i * 7919 + seed) % 1009) as f32 - 504.0).collect();
        let [a, b] = [1, 5].map(|seed| StoredEmbedding::from(&Embedding::normalised(raw(seed)).unwrap()));
        let backwards = |e: &StoredEmbedding| StoredEmbedding::new(e.as_slice().iter().rev().copied().collect());
        assert_eq!(a.similarity(&b).to_bits(), backwards(&a).similarity(&backwards(&b)).to_bits());
        assert!((a.similarity(&a) - 1.0).abs() < 1e-3);
    }

    #[test]
    fn thresholds_are_cosines() {
        assert!(Threshold::try_from(0.4).is_ok());
        assert!(Threshold::try_from(1.1).is_err());
        assert!(Threshold::try_from(f32::NAN).is_err());
    }
}
