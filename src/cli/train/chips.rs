//! From photos to chips: the largest face of each, through the detector as a server does it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::super::CliError;
use super::super::backend::read_photo;
use super::super::evaluate::sources;
use crate::app::{self, AppError};
use crate::config::Config;
use crate::engine::Engine;
use crate::service::{PhotoBytes, PhotoReader, ServiceError};
use crate::training::Dataset;
use crate::types::Chip;

/// Photos in work at once for each thread.
const PHOTOS_PER_THREAD: usize = 4;

/// Photos that gave no chip.
#[derive(Debug, Default)]
pub struct LeftOut {
    pub without_face: usize,
    pub unreadable: usize,
}

enum Outcome {
    Face(Chip),
    NoFace,
    Unreadable,
}

/// The chips of folders that have one folder for each person.
pub async fn read(config: &Config, folders: &[PathBuf]) -> Result<(Dataset, LeftOut), CliError> {
    let source = sources::of_folders(folders)?;
    let normalisation = app::input_normalisation(config).await?;
    let started = Engine::start(config.engine.clone(), normalisation).await;
    let (engine, threads) = started.map_err(AppError::from)?;
    let reader = Arc::new(PhotoReader::new(engine.clone(), &config.recognition));
    let outcomes = read_all(&reader, &source.photos, config.engine.threads * PHOTOS_PER_THREAD).await;
    drop((engine, reader));
    // Blocks for the time of a pass at most; nothing else runs here.
    threads.join();
    let (mut chips, mut left_out) = (Vec::new(), LeftOut::default());
    for (path, outcome) in source.photos.iter().zip(outcomes?) {
        match outcome {
            Outcome::Face(chip) => chips.push((person(path), chip)),
            Outcome::NoFace => left_out.without_face += 1,
            Outcome::Unreadable => left_out.unreadable += 1,
        }
    }
    Ok((Dataset::new(chips), left_out))
}

/// The name of the folder that a photo is in.
fn person(photo: &Path) -> String {
    photo.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
}

async fn read_all(reader: &Arc<PhotoReader>, photos: &[PathBuf], in_work: usize) -> Result<Vec<Outcome>, CliError> {
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
            let (reader, path) = (Arc::clone(reader), path.clone());
            running.spawn(async move { (number, read_one(&reader, &path).await) });
        }
        let Some(finished) = running.join_next().await else { break };
        let (number, outcome) = finished.map_err(|error| ServiceError::Internal(error.to_string()))?;
        outcomes[number] = Some(outcome?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(outcomes.into_iter().flatten().collect())
}

async fn read_one(reader: &PhotoReader, path: &Path) -> Result<Outcome, CliError> {
    let Ok(bytes) = read_photo(path).await else { return Ok(Outcome::Unreadable) };
    match reader.read(PhotoBytes { field: "photo", bytes }, 1).await {
        Ok(photo) => Ok(photo.faces.into_iter().next().map_or(Outcome::NoFace, |face| Outcome::Face(face.chip))),
        Err(ServiceError::Image { .. }) => Ok(Outcome::Unreadable),
        Err(error) => Err(error.into()),
    }
}
