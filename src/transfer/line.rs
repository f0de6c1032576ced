//! The lines of a gallery in a file: JSON Lines, a header first, then a line for each face, and one for each subject
//! without faces. Knows neither files nor databases.

use std::io::Write;

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

use super::json::{Bytes, Vector};
use crate::gallery::{FaceRecord, GalleryError, Metadata, Policy, Record, SubjectRecord};
use crate::types::{
    BoundingBox, Embedding, FaceId, InvalidValue, Landmarks, Name, Point, Quality, StoredEmbedding, SubjectId, hex,
    unhex,
};

/// The version of the format, in the header.
pub const VERSION: u32 = 1;

/// How far from 1 the length of an embedding in 16-bit floats may be; rounding takes it 0.0005 away.
const LENGTH_TOLERANCE: f64 = 0.005;

/// Why a line cannot be taken in.
#[derive(Debug, Error)]
pub enum LineError {
    #[error("{0}")]
    Json(String),
    #[error("the file has format {0}; this faceid reads format {VERSION}")]
    Version(u32),
    #[error("{field}: {source}")]
    Name { field: &'static str, source: InvalidValue },
    #[error("{field}: {source}")]
    Metadata { field: &'static str, source: GalleryError },
    #[error("policy: {0}")]
    Policy(GalleryError),
    #[error("{field}: {reason}")]
    Value { field: &'static str, reason: &'static str },
    #[error("a face needs an embedding or a chip")]
    NothingToMatch,
    #[error("embedding: it has {found} numbers, where the model gives {expected}")]
    Dimension { expected: usize, found: usize },
    #[error("embedding: base64 holds vectors of length 1; this one has {0}")]
    Length(f64),
    #[error("embedding: nothing says which model it is of; --model does")]
    NoModel,
}

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Header {
    pub gallery: Option<Name>,
    /// Whose embeddings the lines hold.
    pub model: Option<HeaderModel>,
    pub policy: Option<Policy>,
    pub exported_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HeaderModel {
    pub name: String,
    pub sha256: [u8; 32],
    pub dimension: u32,
}

#[derive(Serialize, Deserialize)]
struct RawHeader {
    faceid: u32,
    gallery: Option<String>,
    model: Option<RawModel>,
    policy: Option<Policy>,
    exported_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
struct RawModel {
    name: String,
    sha256: String,
    dimension: u32,
}

/// A line but for whose it is; the order is that of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_created_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_expires_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    face_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_sha256: Option<String>,
    #[serde(rename = "box", skip_serializing_if = "Option::is_none")]
    bounding_box: Option<BoundingBox>,
    #[serde(skip_serializing_if = "Option::is_none")]
    landmarks: Option<Landmarks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detection_score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chip: Option<Bytes>,
}

/// The header in a first line; `None` if the line is something else.
pub fn parse_header(line: &[u8]) -> Result<Option<Header>, LineError> {
    #[derive(Deserialize)]
    struct Peek {
        faceid: Option<u32>,
    }
    match serde_json::from_slice::<Peek>(line) {
        Ok(Peek { faceid: Some(VERSION) }) => {}
        Ok(Peek { faceid: Some(other) }) => return Err(LineError::Version(other)),
        _ => return Ok(None),
    }
    let raw: RawHeader = from_json(line)?;
    let model = raw.model.map(|model| {
        let sha256 = unhex(&model.sha256).ok_or_else(|| not_sha256("model.sha256"))?;
        Ok(HeaderModel { name: model.name, sha256, dimension: model.dimension })
    });
    Ok(Some(Header {
        gallery: raw.gallery.map(|gallery| name("gallery", gallery)).transpose()?,
        model: model.transpose()?,
        policy: raw.policy.map(Policy::checked).transpose().map_err(LineError::Policy)?,
        exported_at: raw.exported_at,
    }))
}

/// Writes the header and its line break.
pub fn write_header(out: &mut impl Write, header: &Header) -> std::io::Result<()> {
    let model = header.model.as_ref().map(|model| RawModel {
        name: model.name.clone(),
        sha256: hex(&model.sha256),
        dimension: model.dimension,
    });
    let gallery = header.gallery.as_ref().map(Name::to_string);
    let raw = RawHeader { faceid: VERSION, gallery, model, policy: header.policy, exported_at: header.exported_at };
    write_line(out, &raw)
}

/// The record in a line after the header. What it holds is valid, but for the chip, which is any bytes. `dimension` is
/// that of the model, if there is one.
pub fn parse(line: &[u8], dimension: Option<usize>) -> Result<Record, LineError> {
    let mut raw: RawLine = from_json(line)?;
    let subject = SubjectRecord {
        id: id("subject_id", raw.subject_id.take())?.map(SubjectId),
        name: name("subject", std::mem::take(&mut raw.subject))?,
        metadata: metadata("subject_metadata", raw.subject_metadata.take())?,
        created_at: time("subject_created_at", raw.subject_created_at.take())?,
        expires_at: time("subject_expires_at", raw.subject_expires_at.take())?,
    };
    let face = if raw.has_face() { Some(face(raw, dimension)?) } else { None };
    Ok(Record { subject, face })
}

/// Writes a record and its line break.
pub fn write(out: &mut impl Write, record: &Record) -> std::io::Result<()> {
    let subject = &record.subject;
    let face = record.face.as_ref();
    let metadata = |metadata: &Metadata| Value::Object(metadata.as_object().clone());
    let raw = RawLine {
        subject: subject.name.to_string(),
        subject_id: subject.id.map(|id| id.0),
        subject_metadata: Some(metadata(&subject.metadata)),
        subject_created_at: subject.created_at,
        subject_expires_at: subject.expires_at,
        face_id: face.and_then(|face| face.id).map(|id| id.0),
        metadata: face.map(|face| metadata(&face.metadata)),
        created_at: face.and_then(|face| face.created_at),
        expires_at: face.and_then(|face| face.expires_at),
        image_sha256: face.and_then(|face| face.image_sha256).map(|sha256| hex(&sha256)),
        bounding_box: face.and_then(|face| face.bounding_box),
        landmarks: face.and_then(|face| face.landmarks),
        detection_score: face.and_then(|face| face.detection_score),
        quality: face.and_then(|face| face.quality),
        embedding: face.and_then(|face| face.embedding.as_ref()).map(|e| Vector::Halfs(e.as_slice().to_vec())),
        norm: face.and_then(|face| face.norm),
        chip: face.and_then(|face| face.chip.clone()).map(Bytes),
    };
    write_line(out, &raw)
}

impl RawLine {
    /// Whether it says anything about a face.
    fn has_face(&self) -> bool {
        let Self { face_id, metadata, created_at, image_sha256, bounding_box, landmarks, .. } = self;
        let Self { expires_at, detection_score, quality, embedding, norm, chip, .. } = self;
        let found = bounding_box.is_some() || landmarks.is_some() || detection_score.is_some() || quality.is_some();
        let matched = embedding.is_some() || norm.is_some() || chip.is_some();
        let timed = created_at.is_some() || expires_at.is_some();
        found || matched || timed || face_id.is_some() || metadata.is_some() || image_sha256.is_some()
    }
}

fn face(raw: RawLine, dimension: Option<usize>) -> Result<FaceRecord, LineError> {
    if raw.embedding.is_none() && raw.chip.is_none() {
        return Err(LineError::NothingToMatch);
    }
    let sha256 = raw.image_sha256.map(|text| unhex(&text).ok_or_else(|| not_sha256("image_sha256")));
    let share = |value: &f32| (0.0..=1.0).contains(value);
    let length = |value: &f32| value.is_finite() && *value >= 0.0;
    Ok(FaceRecord {
        id: id("face_id", raw.face_id)?.map(FaceId),
        metadata: metadata("metadata", raw.metadata)?,
        created_at: time("created_at", raw.created_at)?,
        expires_at: time("expires_at", raw.expires_at)?,
        image_sha256: sha256.transpose()?,
        bounding_box: checked("box", "its numbers must be finite", raw.bounding_box, is_finite_box)?,
        landmarks: checked("landmarks", "their numbers must be finite", raw.landmarks, |landmarks| {
            landmarks.points().iter().all(|Point { x, y }| x.is_finite() && y.is_finite())
        })?,
        detection_score: checked("detection_score", "it is a number from 0 to 1", raw.detection_score, share)?,
        quality: checked("quality", "its numbers must be finite", raw.quality, is_finite_quality)?,
        embedding: raw.embedding.map(|vector| embedding(vector, dimension)).transpose()?,
        norm: checked("norm", "it is a number from 0 on", raw.norm, length)?,
        chip: raw.chip.map(|chip| chip.0),
    })
}

/// Vectors in base64 are taken as they are; others are scaled to length 1.
fn embedding(vector: Vector, dimension: Option<usize>) -> Result<StoredEmbedding, LineError> {
    let expected = dimension.ok_or(LineError::NoModel)?;
    let found = match &vector {
        Vector::Halfs(halfs) => halfs.len(),
        Vector::Numbers(numbers) => numbers.len(),
    };
    if found != expected {
        return Err(LineError::Dimension { expected, found });
    }
    match vector {
        Vector::Halfs(halfs) => {
            let length = halfs.iter().map(|half| half.to_f64().powi(2)).sum::<f64>().sqrt();
            // Not for NaN, either.
            if (length - 1.0).abs() <= LENGTH_TOLERANCE {
                Ok(StoredEmbedding::new(halfs))
            } else {
                Err(LineError::Length(length))
            }
        }
        Vector::Numbers(numbers) => Embedding::normalised(numbers)
            .map(|embedding| StoredEmbedding::from(&embedding))
            .map_err(|_| invalid("embedding", "its numbers must be finite and not all zero")),
    }
}

fn is_finite_box(b: &BoundingBox) -> bool {
    [b.x, b.y, b.width, b.height].iter().all(|number| number.is_finite())
}

fn is_finite_quality(q: &Quality) -> bool {
    let pose = [q.pose.yaw, q.pose.pitch, q.pose.roll];
    [q.score, q.detection, q.eye_distance, q.sharpness].iter().chain(&pose).all(|number| number.is_finite())
}

fn checked<T>(
    field: &'static str,
    reason: &'static str,
    value: Option<T>,
    good: impl FnOnce(&T) -> bool,
) -> Result<Option<T>, LineError> {
    match value {
        Some(value) if !good(&value) => Err(invalid(field, reason)),
        value => Ok(value),
    }
}

/// The nil UUID would be missed by lists, which begin after it.
fn id(field: &'static str, id: Option<Uuid>) -> Result<Option<Uuid>, LineError> {
    checked(field, "the nil UUID is no id", id, |id| !id.is_nil())
}

fn name(field: &'static str, text: String) -> Result<Name, LineError> {
    Name::try_from(text).map_err(|source| LineError::Name { field, source })
}

fn metadata(field: &'static str, value: Option<Value>) -> Result<Metadata, LineError> {
    value.map_or_else(
        || Ok(Metadata::default()),
        |value| Metadata::try_from(value).map_err(|source| LineError::Metadata { field, source }),
    )
}

fn time(field: &'static str, time: Option<DateTime<Utc>>) -> Result<Option<DateTime<Utc>>, LineError> {
    checked(field, "it is a time of the years 1 to 9999", time, |time| (1..=9999).contains(&time.year()))
}

fn not_sha256(field: &'static str) -> LineError {
    invalid(field, "a sha256 has 64 hexadecimal digits")
}

fn invalid(field: &'static str, reason: &'static str) -> LineError {
    LineError::Value { field, reason }
}

fn from_json<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, LineError> {
    serde_json::from_slice(line).map_err(|error| {
        // It has one line as far as the parser knows.
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        LineError::Json(format!("{reason} (column {})", error.column()))
    })
}

fn write_line(out: &mut impl Write, raw: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, raw)?;
    out.write_all(b"\n")
}
