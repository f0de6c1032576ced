//! Why a use case failed.

use thiserror::Error;

use crate::access::AccessError;
use crate::audit::AuditError;
use crate::blobs::BlobError;
use crate::db::DbError;
use crate::engine::EngineError;
use crate::gallery::GalleryError;
use crate::jobs::JobError;
use crate::limits::Refusal;
use crate::registry::RegistryError;
use crate::types::InvalidValue;
use crate::vision::{DecodeError, Weakness};

#[derive(Debug, Error)]
pub enum ServiceError {
    /// An image cannot be read.
    #[error("{field}: {source}")]
    Image { field: &'static str, source: DecodeError },
    #[error("no face was found in {field}")]
    NoFace { field: &'static str },
    #[error("{field} shows {count} faces, one is expected; `face=largest` takes the largest")]
    MultipleFaces { field: &'static str, count: usize },
    #[error(
        "the face in {field} is of little use for recognition: {}; `quality=any` takes it all the same",
        reasons.iter().map(Weakness::to_string).collect::<Vec<_>>().join(", ")
    )]
    UnusableFace { field: &'static str, reasons: Vec<Weakness> },
    #[error("the server has as many requests in work as it takes; try again shortly")]
    Overloaded,
    #[error("the model's embeddings have {expected} components; this one has {found}")]
    EmbeddingDimension { expected: usize, found: usize },
    /// Of the caller's.
    #[error(transparent)]
    Embedding(InvalidValue),
    /// A rate was asked for.
    #[error("the model {model} has no calibration of false match rates; say `threshold`")]
    Uncalibrated { model: String },
    /// A rate was asked for that nobody has measured, nor anything near it.
    #[error(
        "a rate of {rate:e} is beyond what was measured: with {subjects} subjects the lowest that can be answered is {least:.1e}"
    )]
    RateBeyondMeasured { rate: f64, least: f64, subjects: u64 },
    /// A model's file.
    #[error("a model file may have {limit} bytes here; this one has {bytes}")]
    ModelTooLarge { bytes: usize, limit: usize },
    #[error("a TorchScript file is a program: it is taken only with `allow_code`, and by a server that asks for keys")]
    CodeRefused,
    #[error("{0}")]
    InvalidModel(String),
    #[error("the model {model} has no file in the model store; import it first")]
    NoModelFile { model: String },
    /// Or never was, where its figures are asked for.
    #[error("the model {model} is not in the shadow")]
    NoShadow { model: String },
    #[error("the gate refuses the model {model}: {}; `force` promotes it all the same", reasons.join("; "))]
    GateRefused { model: String, reasons: Vec<String> },
    #[error(
        "{faces} faces have neither a chip nor an embedding of this model, so they could not be found any more; `force` \
         leaves them behind"
    )]
    FacesWithoutChips { faces: u64 },
    /// This server does not get to the active model.
    #[error("the active model changes at present; try again shortly")]
    ModelChanges,
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// An archive is no data set.
    #[error("{0}")]
    InvalidDataset(String),
    /// A field is needed, as things are.
    #[error("{field} is missing: {reason}")]
    MissingField { field: &'static str, reason: &'static str },
    /// A field has a value that it cannot have.
    #[error("{field}: {reason}")]
    InvalidField { field: &'static str, reason: String },
    /// Nothing of it can be compared: it has no face, or the model has not embedded it.
    #[error("this {what} has no embedding by the model that answers: it has no face, or none that could be embedded")]
    NotEmbedded { what: &'static str },
    /// A gallery has too few faces to do with it what was asked for.
    #[error("{field}: {reason}")]
    TooFewSubjects { field: &'static str, reason: String },
    /// A key stands for one request.
    #[error("this key came with another request in the last 24 hours")]
    KeyReused,
    #[error("this request was carried out, and somebody whom its answer named was erased since")]
    AnswerErased,
    /// Who asks shows none.
    #[error("a key is needed: `x-api-key: KEY` or `Authorization: Bearer KEY`")]
    NoKey,
    #[error("this key is not known here")]
    UnknownKey,
    /// It was one: only its holder is told so.
    #[error("this key {0}")]
    KeyOver(&'static str),
    /// The key allows less.
    #[error("{0}")]
    Forbidden(String),
    /// They have had what they may have.
    #[error(transparent)]
    Limited(#[from] Refusal),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}
