//! The largest or the most central face of each of many photos, through the engine as a server does it, without a database.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::backend::read_photo;
use super::{CliError, progress_bar};
use crate::app::AppError;
use crate::config::Config;
use crate::engine::{Engine, EngineThreads};
use crate::limits::Bill;
use crate::service::{Photo, PhotoFace, PhotoReader, ServiceError};
use crate::types::{BoundingBox, Chip};
use crate::vision::Wanted;

/// Photos in work at once for each thread.
const PHOTOS_PER_THREAD: usize = 4;

/// Which face of a photo counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WhichFace {
    /// The one with the largest box.
    #[default]
    Largest,
    /// The one whose box is nearest to the middle of the photo.
    Central,
}

/// What came of a photo.
#[derive(Debug)]
pub enum Outcome<T> {
    /// Of the face that counts.
    Face(T),
    NoFace,
    Unreadable(String),
}

/// The engine of a command; once its handles are dropped, join the threads.
pub async fn start_engine(config: &Config) -> Result<(Engine, EngineThreads), CliError> {
    Ok(Engine::start(config.engine.clone()).await.map_err(AppError::from)?)
}

/// What `work` makes of the largest face of each photo, in their order, under a progress bar.
pub async fn largest_faces<T, W, F>(
    config: &Config,
    engine: Engine,
    photos: &[PathBuf],
    work: W,
) -> Result<Vec<Outcome<T>>, CliError>
where
    T: Send + 'static,
    W: Fn(Chip) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Outcome<T>, CliError>> + Send,
{
    chosen_faces(config, engine, photos, WhichFace::Largest, work).await
}

/// As [`largest_faces`], of the face of each photo that `which` says.
pub async fn chosen_faces<T, W, F>(
    config: &Config,
    engine: Engine,
    photos: &[PathBuf],
    which: WhichFace,
    work: W,
) -> Result<Vec<Outcome<T>>, CliError>
where
    T: Send + 'static,
    W: Fn(Chip) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Outcome<T>, CliError>> + Send,
{
    let reader = Arc::new(PhotoReader::new(engine, &config.recognition));
    all(&reader, photos, which, config.engine.threads * PHOTOS_PER_THREAD, work).await
}

async fn all<T, W, F>(
    reader: &Arc<PhotoReader>,
    photos: &[PathBuf],
    which: WhichFace,
    in_work: usize,
    work: W,
) -> Result<Vec<Outcome<T>>, CliError>
where
    T: Send + 'static,
    W: Fn(Chip) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Outcome<T>, CliError>> + Send,
{
    let bar = progress_bar(Some(photos.len() as u64), "{bar:30} {pos}/{len} photos  {per_sec}  {eta} left");
    let mut outcomes: Vec<Option<Outcome<T>>> = photos.iter().map(|_| None).collect();
    let mut running = JoinSet::new();
    let mut waiting = photos.iter().enumerate();
    loop {
        while running.len() < in_work {
            let Some((number, path)) = waiting.next() else { break };
            let (reader, path, work) = (Arc::clone(reader), path.clone(), work.clone());
            running.spawn(async move {
                let outcome = match chip(&reader, &path, which).await {
                    Ok(Outcome::Face(chip)) => work(chip).await,
                    Ok(Outcome::NoFace) => Ok(Outcome::NoFace),
                    Ok(Outcome::Unreadable(reason)) => Ok(Outcome::Unreadable(reason)),
                    Err(error) => Err(error),
                };
                (number, outcome)
            });
        }
        let Some(finished) = running.join_next().await else { break };
        let (number, outcome) = finished.map_err(|error| ServiceError::Internal(error.to_string()))?;
        outcomes[number] = Some(outcome?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(outcomes.into_iter().flatten().collect())
}

async fn chip(reader: &PhotoReader, path: &Path, which: WhichFace) -> Result<Outcome<Chip>, CliError> {
    let bytes = match read_photo(path).await {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Outcome::Unreadable(error.to_string())),
    };
    let most = match which {
        WhichFace::Largest => 1,
        WhichFace::Central => usize::MAX,
    };
    match reader.read("photo", bytes, Wanted::one(), most, &Bill::none()).await {
        Ok(photo) => Ok(chosen(photo, which).map_or(Outcome::NoFace, |face| Outcome::Face(face.chip))),
        Err(ServiceError::Image { source, .. }) => Ok(Outcome::Unreadable(source.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// The faces of a photo come largest first; of two that are as near to the middle the larger one counts.
fn chosen(photo: Photo, which: WhichFace) -> Option<PhotoFace> {
    let middle = [photo.width, photo.height].map(|side| side as f32 / 2.0);
    let distance = |face: &PhotoFace| {
        let BoundingBox { x, y, width, height } = face.found.detection.bounding_box;
        (x + width / 2.0 - middle[0]).hypot(y + height / 2.0 - middle[1])
    };
    match which {
        WhichFace::Largest => photo.faces.into_iter().next(),
        WhichFace::Central => photo.faces.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b))),
    }
}
