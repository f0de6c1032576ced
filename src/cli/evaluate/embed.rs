//! From photos to embeddings, through the engine as a server does it, without a database.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::super::CliError;
use super::super::backend::read_photo;
use crate::app::{self, AppError};
use crate::config::Config;
use crate::engine::{Engine, EngineError};
use crate::registry::Manifest;
use crate::service::{PhotoBytes, PhotoReader, ServiceError};

/// Photos in work at once for each thread.
const PHOTOS_PER_THREAD: usize = 4;

/// What came of a photo.
#[derive(Debug)]
pub enum Outcome {
    /// The embedding of its largest face, L2-normalised.
    Face(Vec<f32>),
    NoFace,
    Unreadable(String),
}

/// What came of each photo, in order.
pub async fn embed(config: &Config, manifest: &Manifest, photos: &[PathBuf]) -> Result<Vec<Outcome>, CliError> {
    let started = Engine::start(config.engine.clone(), app::normalisation(manifest)).await;
    let (engine, threads) = started.map_err(AppError::from)?;
    let reader = Arc::new(PhotoReader::new(engine.clone(), &config.recognition));
    let outcomes = embed_all(&engine, &reader, photos, config.engine.threads * PHOTOS_PER_THREAD).await;
    drop((engine, reader));
    // Blocks for the time of a pass at most; nothing else runs here.
    threads.join();
    outcomes
}

async fn embed_all(
    engine: &Engine,
    reader: &Arc<PhotoReader>,
    photos: &[PathBuf],
    in_work: usize,
) -> Result<Vec<Outcome>, CliError> {
    let bar = ProgressBar::new(photos.len() as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} photos  {per_sec}  {eta} left")
            .expect("the template above is valid"),
    );
    let mut outcomes: Vec<Option<Outcome>> = photos.iter().map(|_| None).collect();
    let mut running = JoinSet::new();
    let mut waiting = photos.iter().enumerate();
    loop {
        while running.len() < in_work {
            let Some((number, path)) = waiting.next() else { break };
            let (engine, reader, path) = (engine.clone(), Arc::clone(reader), path.clone());
            running.spawn(async move { (number, embed_one(&engine, &reader, &path).await) });
        }
        let Some(finished) = running.join_next().await else { break };
        let (number, outcome) = finished.map_err(|error| ServiceError::Internal(error.to_string()))?;
        outcomes[number] = Some(outcome?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(outcomes.into_iter().flatten().collect())
}

async fn embed_one(engine: &Engine, reader: &PhotoReader, path: &Path) -> Result<Outcome, CliError> {
    let bytes = match read_photo(path).await {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Outcome::Unreadable(error.to_string())),
    };
    let photo = match reader.read(PhotoBytes { field: "photo", bytes }, 1).await {
        Ok(photo) => photo,
        Err(ServiceError::Image { source, .. }) => return Ok(Outcome::Unreadable(source.to_string())),
        Err(error) => return Err(error.into()),
    };
    let Some(face) = photo.faces.into_iter().next() else { return Ok(Outcome::NoFace) };
    match engine.embed(vec![face.chip]).await {
        Ok(embeddings) => Ok(embeddings.first().map_or(Outcome::NoFace, |it| Outcome::Face(it.as_slice().to_vec()))),
        Err(error @ EngineError::Embedding(_)) => Ok(Outcome::Unreadable(error.to_string())),
        Err(error) => Err(ServiceError::from(error).into()),
    }
}
