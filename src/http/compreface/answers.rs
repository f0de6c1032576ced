//! What is answered, with exactly the members that CompreFace has: typed clients refuse others.

use std::collections::BTreeMap;

use serde::Serialize;

use super::options::Options;
use crate::service::Recognition;
use crate::service::answers::FoundFace;
use crate::types::{BoundingBox, Embedding, Landmarks, Point, SimilarityScale};

/// What most routes answer.
#[derive(Serialize)]
pub struct Answer<T> {
    pub result: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins_versions: Option<BTreeMap<&'static str, String>>,
}

/// A face of a photo, and what a route says of it.
#[derive(Serialize)]
pub struct FaceWith<T> {
    #[serde(flatten)]
    pub face: Face,
    #[serde(flatten)]
    pub more: T,
}

#[derive(Serialize)]
pub struct Face {
    #[serde(rename = "box")]
    bounding_box: Bounds,
    #[serde(skip_serializing_if = "Option::is_none")]
    landmarks: Option<[[i32; 2]; 5]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pose: Option<Pose>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time: Option<BTreeMap<&'static str, f64>>,
}

#[derive(Serialize)]
struct Bounds {
    probability: f64,
    x_min: i32,
    y_min: i32,
    x_max: i32,
    y_max: i32,
}

/// Degrees.
#[derive(Serialize)]
struct Pose {
    pitch: f64,
    roll: f64,
    yaw: f64,
}

/// How much a face resembles another one.
#[derive(Serialize)]
pub struct Similarity {
    similarity: f64,
    /// Of ours, on request alone.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    calibration: Option<Calibration>,
}

/// What a similarity stands for.
#[derive(Serialize)]
struct Calibration {
    cosine: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
}

/// A subject and how much a face resembles them.
#[derive(Serialize)]
pub struct OfSubject {
    pub subject: String,
    #[serde(flatten)]
    pub similarity: Similarity,
}

/// The subjects that a face resembles.
#[derive(Serialize)]
pub struct Subjects {
    pub subjects: Vec<OfSubject>,
}

/// One photo with all faces of another.
#[derive(Serialize)]
pub struct Verification {
    pub source_image_face: Face,
    pub face_matches: Vec<FaceWith<Similarity>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins_versions: Option<BTreeMap<&'static str, String>>,
}

/// An embedding that was sent, and how much it resembles another one.
#[derive(Serialize)]
pub struct EmbeddingSimilarity {
    pub embedding: Vec<f32>,
    pub similarity: f64,
}

/// An embedding that was sent, and the subjects that it resembles.
#[derive(Serialize)]
pub struct EmbeddingSubjects {
    pub embedding: Vec<f32>,
    pub similarities: Vec<OfSubject>,
}

/// An example: a face of ours.
#[derive(Serialize)]
pub struct Example {
    pub image_id: String,
    pub subject: String,
}

/// Shows faces and similarities as a request wants them.
pub struct Shown<'a> {
    options: &'a Options,
    scale: SimilarityScale,
    execution_time: Option<BTreeMap<&'static str, f64>>,
}

impl<'a> Shown<'a> {
    pub fn by(recognition: &Recognition, options: &'a Options) -> Self {
        Self { options, scale: recognition.similarity_scale(), execution_time: options.execution_time() }
    }

    pub fn face(&self, face: &FoundFace, embedding: Option<Vec<f32>>) -> Face {
        let (plugins, pose) = (self.options.plugins, face.quality.pose);
        Face {
            bounding_box: shown_box(face.bounding_box, face.detection_score),
            landmarks: plugins.landmarks.then(|| shown_points(face.landmarks)),
            embedding: embedding.filter(|_| plugins.calculator),
            pose: plugins.pose.then(|| Pose {
                pitch: rounded(pose.pitch),
                roll: rounded(pose.roll),
                yaw: rounded(pose.yaw),
            }),
            execution_time: self.execution_time.clone(),
        }
    }

    pub fn embedded(&self, face: &FoundFace, embedding: &Embedding) -> Face {
        self.face(face, self.options.plugins.calculator.then(|| embedding.as_slice().to_vec()))
    }

    pub fn similarity(&self, cosine: f32, probability: Option<f32>) -> Similarity {
        let calibration = || Calibration { cosine: rounded(cosine), probability: probability.map(rounded) };
        Similarity {
            similarity: self.scale.of(cosine),
            calibration: self.options.plugins.calibration.then(calibration),
        }
    }
}

fn shown_box(BoundingBox { x, y, width, height }: BoundingBox, score: f32) -> Bounds {
    Bounds {
        probability: rounded(score),
        // A face at the edge reaches beyond it, and clients cut by these numbers.
        x_min: pixel(x).max(0),
        y_min: pixel(y).max(0),
        x_max: pixel(x + width),
        y_max: pixel(y + height),
    }
}

fn shown_points(landmarks: Landmarks) -> [[i32; 2]; 5] {
    landmarks.points().map(|Point { x, y }| [pixel(x), pixel(y)])
}

fn pixel(coordinate: f32) -> i32 {
    coordinate.round() as i32
}

/// To five decimals.
fn rounded(number: f32) -> f64 {
    (f64::from(number) * 1e5).round() / 1e5
}
