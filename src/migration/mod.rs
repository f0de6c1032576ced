//! Galleries of other products, taken over: readers say what a source holds, one mechanism takes it in.
//!
//! A reader yields [`Item`]s: whose face it is, under which id, and a photo, a crop or an embedding. [`Migration`] finds and embeds
//! the faces with the engine of this process and stores them in batches. What is there already is passed over by its id, so a
//! migration that was stopped goes on where it was when it is begun again.

mod comparison;
mod compreface;
mod csv;
mod deepface;
mod folder;
mod insightface;
mod item;
mod keys;
mod reading;
mod report;
mod run;

use std::path::PathBuf;

use thiserror::Error;

use crate::access::AccessError;
use crate::gallery::{GalleryError, IntakeError};
use crate::registry::RegistryError;
use crate::service::ServiceError;

pub use self::csv::table;
pub use comparison::compare;
pub use compreface::{CompreFace, Service, ServiceKind};
pub use deepface::{database as deepface_database, pickle as deepface_pickle};
pub use folder::{Layout, folder};
pub use insightface::answers;
pub use item::{Content, Item, Refusal, Source};
pub use keys::{KeyOutcome, TakenKey, take_keys};
pub use reading::{FaceChosen, Reader};
pub use report::{ChangedDecision, Comparison, Decision, Event, Migrated, Refused};
pub use run::Migration;

#[derive(Debug, Error)]
pub enum MigrationError {
    #[error("--from is no URL of a PostgreSQL: {0}")]
    Url(String),
    #[error("cannot reach the database of --from: {0}")]
    Unreachable(String),
    #[error("cannot read the database of --from: {0}")]
    Database(sqlx::Error),
    #[error("the database of --from is none of {product}: it has no table {table:?}")]
    OtherDatabase { product: &'static str, table: &'static str },
    /// What was asked for does not go with what the source holds.
    #[error("{0}")]
    Choice(String),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("cannot write the report: {0}")]
    Report(std::io::Error),
    #[error("a thread failed: {0}")]
    Thread(String),
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}
