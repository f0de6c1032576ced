//! Galleries as a whole: read in one consistent state, and filled with many faces at once.

mod copy;
mod intake;
mod owners;
mod placed;
mod snapshot;

use chrono::{DateTime, Utc};
use thiserror::Error;

use super::{GalleryError, Metadata};
use crate::types::{BoundingBox, FaceId, Landmarks, Name, Quality, StoredEmbedding, SubjectId};

pub use intake::{Intake, Stored};
pub use snapshot::Snapshot;

/// A subject with one of its faces, or without any.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub subject: SubjectRecord,
    pub face: Option<FaceRecord>,
}

/// What is stored of a subject itself. Whatever is missing is made when it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectRecord {
    pub id: Option<SubjectId>,
    pub name: Name,
    pub metadata: Metadata,
    pub created_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// What is stored of a face, with its embedding of one model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FaceRecord {
    pub id: Option<FaceId>,
    pub metadata: Metadata,
    pub created_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Of the image that was sent.
    pub image_sha256: Option<[u8; 32]>,
    pub bounding_box: Option<BoundingBox>,
    pub landmarks: Option<Landmarks>,
    pub detection_score: Option<f32>,
    pub quality: Option<Quality>,
    pub embedding: Option<StoredEmbedding>,
    /// Length of the embedding before it was scaled to 1.
    pub norm: Option<f32>,
    /// The aligned crop as JPEG.
    pub chip: Option<Vec<u8>>,
}

/// Which ids stored faces and subjects get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ids {
    /// Those that they bring; one that exists already is an error.
    #[default]
    Keep,
    /// Those that they bring; a face whose id exists already in the gallery is left out.
    SkipExisting,
    /// New ones.
    New,
}

/// Why faces were not taken in.
#[derive(Debug, Error)]
pub enum IntakeError {
    #[error("the face {0} exists already; --skip-existing leaves such faces out, --new-ids gives new ids")]
    FaceExists(FaceId),
    #[error("the face {id} exists already, in the gallery {gallery:?}; --new-ids gives new ids")]
    FaceElsewhere { id: FaceId, gallery: String },
    #[error("some of these faces or subjects are just being erased; import them when that is done, or take --new-ids")]
    BeingErased,
    #[error("the model whose embeddings these are was retired meanwhile, and they would be deleted; begin anew")]
    ModelRetired,
    #[error("the subject {id} exists already, not as {name:?} in this gallery; --new-ids gives new ids")]
    SubjectExists { id: SubjectId, name: String },
    #[error("the name {name:?} is the id of another subject of this gallery")]
    NameIsId { name: String },
    #[error(transparent)]
    Gallery(#[from] GalleryError),
}

impl From<sqlx::Error> for IntakeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Gallery(error.into())
    }
}
