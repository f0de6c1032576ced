//! From photos to embeddings.

use std::path::PathBuf;

use super::super::CliError;
use super::super::photos::{Outcome, largest_faces, start_engine};
use crate::app::AppError;
use crate::config::Config;
use crate::engine::{Engine, EngineError, LoadedEmbedder};
use crate::registry::Manifest;
use crate::service::{ServiceError, normalisation};
use crate::types::Chip;

/// The embedding of the largest face of each photo, in order, L2-normalised.
pub async fn embed(
    config: &Config,
    manifest: &Manifest,
    photos: &[PathBuf],
) -> Result<Vec<Outcome<Vec<f32>>>, CliError> {
    let (engine, threads) = start_engine(config).await?;
    let outcomes = embed_with(config, engine, manifest, photos).await;
    // Blocks for the time of a pass at most; nothing else runs here.
    threads.join();
    outcomes
}

async fn embed_with(
    config: &Config,
    engine: Engine,
    manifest: &Manifest,
    photos: &[PathBuf],
) -> Result<Vec<Outcome<Vec<f32>>>, CliError> {
    let embedder = engine.load_embedder_file(&config.engine.embedder, normalisation(manifest)).await;
    let embedder = embedder.map_err(AppError::from)?;
    let work = {
        let engine = engine.clone();
        move |chip| embed_one(engine.clone(), embedder.clone(), chip)
    };
    largest_faces(config, engine, photos, work).await
}

async fn embed_one(engine: Engine, embedder: LoadedEmbedder, chip: Chip) -> Result<Outcome<Vec<f32>>, CliError> {
    match engine.embed(&embedder, vec![chip]).await {
        Ok(embeddings) => Ok(embeddings.first().map_or(Outcome::NoFace, |it| Outcome::Face(it.as_slice().to_vec()))),
        Err(error @ EngineError::Embedding(_)) => Ok(Outcome::Unreadable(error.to_string())),
        Err(error) => Err(ServiceError::from(error).into()),
    }
}
