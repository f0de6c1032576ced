//! From photos to embeddings.

use std::path::PathBuf;

use super::super::CliError;
use super::super::photos::{Outcome, largest_faces};
use crate::app;
use crate::config::Config;
use crate::engine::{Engine, EngineError};
use crate::registry::Manifest;
use crate::service::ServiceError;
use crate::types::Chip;

/// The embedding of the largest face of each photo, in order, L2-normalised.
pub async fn embed(
    config: &Config,
    manifest: &Manifest,
    photos: &[PathBuf],
) -> Result<Vec<Outcome<Vec<f32>>>, CliError> {
    largest_faces(config, app::normalisation(manifest), photos, embed_one).await
}

async fn embed_one(engine: Engine, chip: Chip) -> Result<Outcome<Vec<f32>>, CliError> {
    match engine.embed(vec![chip]).await {
        Ok(embeddings) => Ok(embeddings.first().map_or(Outcome::NoFace, |it| Outcome::Face(it.as_slice().to_vec()))),
        Err(error @ EngineError::Embedding(_)) => Ok(Outcome::Unreadable(error.to_string())),
        Err(error) => Err(ServiceError::from(error).into()),
    }
}
