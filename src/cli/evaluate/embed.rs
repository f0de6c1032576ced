//! From photos to embeddings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::CliError;
use super::super::photos::{Outcome, WhichFace, chosen_faces, start_engine};
use crate::app::AppError;
use crate::config::Config;
use crate::engine::{Engine, EngineError, LoadedEmbedder};
use crate::registry::Manifest;
use crate::service::{ServiceError, normalisation};
use crate::types::Chip;

/// The embeddings of one face of each photo, in order, L2-normalised: one by each of the embedder files.
pub async fn embed<const N: usize>(
    config: &Config,
    embedders: [(&Path, &Manifest); N],
    photos: &[PathBuf],
    which: WhichFace,
) -> Result<Vec<Outcome<[Vec<f32>; N]>>, CliError> {
    let (engine, threads) = start_engine(config).await?;
    let outcomes = embed_with(config, engine, embedders, photos, which).await;
    // Blocks for the time of a pass at most; nothing else runs here.
    threads.join();
    outcomes
}

async fn embed_with<const N: usize>(
    config: &Config,
    engine: Engine,
    embedders: [(&Path, &Manifest); N],
    photos: &[PathBuf],
    which: WhichFace,
) -> Result<Vec<Outcome<[Vec<f32>; N]>>, CliError> {
    let mut loaded = Vec::new();
    for (file, manifest) in embedders {
        loaded.push(engine.load_embedder_file(file, normalisation(manifest)).await.map_err(AppError::from)?);
    }
    let loaded: Arc<[LoadedEmbedder]> = loaded.into();
    let work = {
        let engine = engine.clone();
        move |chip| embed_one(engine.clone(), Arc::clone(&loaded), chip)
    };
    chosen_faces(config, engine, photos, which, work).await
}

async fn embed_one<const N: usize>(
    engine: Engine,
    embedders: Arc<[LoadedEmbedder]>,
    chip: Chip,
) -> Result<Outcome<[Vec<f32>; N]>, CliError> {
    let mut embedded = Vec::with_capacity(N);
    for embedder in embedders.iter() {
        match engine.embed(embedder, vec![chip.clone()]).await {
            Ok(embeddings) => embedded.extend(embeddings.first().map(|it| it.as_slice().to_vec())),
            Err(error @ EngineError::Embedding(_)) => return Ok(Outcome::Unreadable(error.to_string())),
            Err(error) => return Err(ServiceError::from(error).into()),
        }
    }
    Ok(embedded.try_into().map_or(Outcome::NoFace, Outcome::Face))
}
