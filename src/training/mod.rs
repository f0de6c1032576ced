//! Training an embedder on chips of known subjects.
//!
//! A run reads as data, loss, step: `sampler` chooses faces, [`augment`] varies them, `network` embeds them, `loss`
//! says how well they are told apart, `optimiser` changes the weights. All that looks random is a function of the
//! seed and the step, so that a run can be repeated, and resumed from a `checkpoint` to the same bits.
//!
//! Shapes of tensors follow from the settings, which are checked, so libtorch's operations are used in their panicking
//! form: a panic here is a mistake of ours.

pub mod augment;
mod card;
mod checkpoint;
mod config;
mod dataset;
mod export;
mod feed;
mod files;
mod loss;
mod model;
mod network;
mod optimiser;
mod params;
mod replicas;
mod sampler;
mod trainer;

use std::path::PathBuf;

use thiserror::Error;

use crate::nn::NetworkError;

pub use card::{Base, Basis, Card, Counts, Course, Data, Evaluation};
pub use config::{
    Architecture, Augmentation, BatchShape, FineTuning, HeldOut, Input, Loss, Optimiser, Stopping, TrainConfig,
};
pub use dataset::{Dataset, Repeated, Split};
pub use feed::Sets;
pub use files::{check_writable, write_atomically};
pub use model::{BaseFile, Setup};
pub use trainer::{Event, Record, Trainer, Validation};

/// Why a network could not be trained.
#[derive(Debug, Error)]
pub enum TrainingError {
    #[error("these settings cannot be trained with: {0}")]
    Config(String),
    #[error("there is too little to train on: {0}")]
    Data(String),
    #[error("training diverged at step {step}: the loss is {loss}; a lower learning rate may help")]
    Diverged { step: u64, loss: f64 },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is no checkpoint that can be resumed: {reason}", path.display())]
    Checkpoint { path: PathBuf, reason: String },
    /// The file would not do what the network does: a mistake of ours, so nothing was written.
    #[error("{} would embed otherwise than the trained network (cosine {cosine}), and was not written", path.display())]
    Export { path: PathBuf, cosine: f32 },
    #[error(transparent)]
    Network(#[from] NetworkError),
}
