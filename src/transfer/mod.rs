//! A gallery as a file: [`export`] writes one, [`Import`] takes one in. The format is in [`mod@line`].

mod export;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
mod import;
mod json;
pub mod line;
#[cfg(test)]
mod line_tests;
mod source;

use thiserror::Error;

use crate::gallery::{GalleryError, IntakeError};
use crate::registry::{Model, RegistryError};
use line::LineError;

pub use export::{ExportRequest, Exported, export, model_of};
pub use import::{Import, ImportRequest, Imported};

#[derive(Debug, Error)]
pub enum TransferError {
    #[error("line {number}: {source}")]
    Line { number: u64, source: LineError },
    #[error("line {number}: chip: {reason}")]
    Chip { number: u64, reason: String },
    #[error("line {number}: it has more than {max} bytes")]
    LongLine { number: u64, max: usize },
    #[error("line {number}: {source}")]
    Refused { number: u64, source: IntakeError },
    #[error(
        "line {number}: it has no chip to embed anew, and its embedding is of the model {model}, which is retired here; \
         import the model again first (`faceid models import`), or export with chips"
    )]
    RetiredModel { number: u64, model: String },
    #[error("there is no model {0:?} in this database; `faceid serve` registers the one that it runs")]
    NoSuchModel(String),
    #[error("there are several models {0:?} in this database; name one by its sha256")]
    ManyModels(String),
    #[error("no model is active in this database; --model says whose embeddings are meant")]
    NoActiveModel,
    #[error("cannot read the lines: {0}")]
    Read(std::io::Error),
    #[error("cannot write the lines: {0}")]
    Write(std::io::Error),
    #[error("a thread failed: {0}")]
    Thread(String),
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The model that is meant by a sha256 in hex or a name.
fn find_model<'a>(known: &'a [Model], asked: &str) -> Result<&'a Model, TransferError> {
    if let Some(model) = known.iter().find(|model| crate::types::hex(&model.sha256).eq_ignore_ascii_case(asked)) {
        return Ok(model);
    }
    let mut named = known.iter().filter(|model| model.name == asked);
    match (named.next(), named.next()) {
        (Some(model), None) => Ok(model),
        (None, _) => Err(TransferError::NoSuchModel(asked.to_owned())),
        (Some(_), Some(_)) => Err(TransferError::ManyModels(asked.to_owned())),
    }
}
