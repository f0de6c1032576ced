//! What can go wrong with galleries, in their own words.

use thiserror::Error;
use uuid::Uuid;

use super::Duplicate;
use crate::db::{DbError, MayBeLocked, PageError};
use crate::sealing::SealingError;
use crate::types::{ErasureId, FaceId, ModelId};

#[derive(Debug, Error)]
pub enum GalleryError {
    #[error("there is no gallery {0:?}")]
    GalleryNotFound(String),
    #[error("there is no subject {0:?} in this gallery")]
    SubjectNotFound(String),
    #[error("there is no face {0}")]
    FaceNotFound(FaceId),
    #[error("there is no erasure {0}")]
    ErasureNotFound(ErasureId),
    #[error("there is no model {0}")]
    ModelNotFound(ModelId),
    #[error("nothing with the id {0} was set aside")]
    SetAsideNotFound(Uuid),
    /// Another model became active meanwhile: nothing was stored.
    #[error("the model {active} is active, and the face has no embedding of it")]
    OtherModel { active: ModelId },
    #[error("there is already a gallery {0:?}")]
    DuplicateGallery(String),
    /// It would never be found by that name: the id wins.
    #[error("{0:?} is, or may be, the id of another gallery; choose another name")]
    GalleryNameIsId(String),
    #[error("this gallery has as many subjects as it may have: {most}")]
    SubjectQuota { most: u64 },
    #[error("there is already a subject {0:?} in this gallery")]
    DuplicateSubject(String),
    /// Nothing was stored. At least one match; best first.
    #[error("the face matches {} of this gallery", subjects(matches.len()))]
    DuplicateFace { matches: Vec<Duplicate> },
    #[error(
        "the face does not resemble the faces of {subject:?}: its similarity is {similarity:.3}, and {threshold:.3} is the least"
    )]
    SubjectMismatch { subject: String, similarity: f32, threshold: f32 },
    #[error("the face {0} was enrolled without its chip")]
    NoChip(FaceId),
    #[error("the chip of the face {face} cannot be read: {source}")]
    UnreadableChip { face: FaceId, source: SealingError },
    #[error(
        "chips of this database are under master keys that are not given here: {}; give them (chip_key_file, FACEID_CHIP_KEY or \
         chip_key_command), after the newest one if there is another ({})",
        missing.join(", "),
        if given.is_empty() { "none is given".to_owned() } else { format!("given: {}", given.join(", ")) }
    )]
    OtherChipKeys { missing: Vec<String>, given: Vec<String> },
    #[error("work on chips ended early: {0}")]
    Thread(String),
    #[error("a subject cannot be merged into itself")]
    SameSubject,
    /// Nothing was changed: somebody else was faster.
    #[error("it is in another state than this request is for: it has been changed since; read it anew")]
    OtherRevision,
    #[error("{0}")]
    InvalidPolicy(String),
    #[error("{0}")]
    InvalidRetention(&'static str),
    /// It is there for nobody any more, and its name is not free yet.
    #[error("the subject {0:?} has expired and is just being erased; send this again in a few seconds")]
    SubjectExpired(String),
    /// The database holds what it cannot hold.
    #[error("the database is inconsistent: {0}")]
    Inconsistent(&'static str),
    #[error("the gallery `default` cannot be renamed or deleted")]
    DefaultGallery,
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("metadata must be a JSON object")]
    MetadataNotObject,
    #[error("metadata cannot hold the NUL character")]
    MetadataNul,
    #[error("metadata has at most {max} bytes as JSON; this has {0}", max = super::Metadata::MAX_BYTES)]
    MetadataTooLarge(usize),
    #[error("the model's embeddings have {expected} dimensions; this one has {found}")]
    Dimension { expected: usize, found: usize },
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for GalleryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

impl MayBeLocked for GalleryError {
    fn is_locked(&self) -> bool {
        matches!(self, Self::Db(error) if error.is_locked())
    }
}

fn subjects(count: usize) -> String {
    if count == 1 { "a subject".to_owned() } else { format!("{count} subjects") }
}
