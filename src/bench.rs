//! How fast each stage is on this machine, without a server or a database.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use thiserror::Error;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::engine::{Engine, EngineError, InputNormalisation, targets};
use crate::limits::Bill;
use crate::nn::{Detector, Embedder, NetworkError, Target, use_threads};
use crate::service::{PhotoReader, ServiceError};
use crate::types::{Chip, Detection};
use crate::vision::{self, DecodeError, DecodeLimits, DetectOptions, Wanted};

#[derive(Debug, Error)]
pub enum BenchError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Photo { path: PathBuf, source: DecodeError },
    #[error("stage {0} needs photos: name files or folders after --photos")]
    NoPhotos(&'static str),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// A step of a request that is measured alone, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BenchStage {
    /// Bytes to pixels, shrunk for the detector
    Decode,
    /// The detector network, on one made image
    Detect,
    /// Faces to chips, and their quality
    Align,
    /// The embedder network, on made chips
    Embed,
    /// Photo to embeddings through the engine, as the server does it
    Pipeline,
}

/// What to measure.
pub struct Workload {
    pub stages: Vec<BenchStage>,
    /// Chips or images in a pass.
    pub batches: Vec<usize>,
    /// Size of the image for the detector.
    pub size: (u32, u32),
    pub photos: Vec<PathBuf>,
    /// Photos in work at once in the pipeline.
    pub concurrency: usize,
    /// Faces of a photo that go through the pipeline, the largest.
    pub most_faces: usize,
    /// For each figure.
    pub time: Duration,
}

#[derive(Debug, Serialize)]
pub struct BenchReport {
    pub threads: usize,
    pub device: String,
    pub precision: String,
    pub kernels: &'static str,
    pub results: Vec<BenchResult>,
}

/// Speed of one stage.
#[derive(Debug, Serialize)]
pub struct BenchResult {
    pub stage: BenchStage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub photos: Option<usize>,
    /// Chips, images, faces or photos.
    pub items_per_second: f64,
    /// Of one pass, or of one photo.
    pub median_ms: f64,
}

/// Runs the plan; `progress` is told of each stage before it is measured.
pub async fn run(
    config: &Config,
    normalisation: InputNormalisation,
    plan: Workload,
    progress: impl Fn(BenchStage),
) -> Result<BenchReport, BenchError> {
    let target = targets(&config.engine)?.swap_remove(0);
    let photos: Vec<Bytes> = plan.photos.iter().map(read).collect::<Result<_, _>>()?;
    let mut results = Vec::new();
    for stage in &plan.stages {
        progress(*stage);
        match stage {
            BenchStage::Decode => results.push(decode(config, &plan, &photos)?),
            BenchStage::Detect => results.extend(detect(config, &plan, &target)?),
            BenchStage::Align => results.push(align(config, &plan, &photos, &target)?),
            BenchStage::Embed => results.extend(embed(config, &plan, &target, normalisation)?),
            BenchStage::Pipeline => results.push(pipeline(config, &plan, &photos, normalisation).await?),
        }
    }
    Ok(BenchReport {
        threads: config.engine.threads,
        device: target.name(),
        precision: target.precision.to_string(),
        kernels: target.family_name(),
        results,
    })
}

fn read(path: &PathBuf) -> Result<Bytes, BenchError> {
    let content = std::fs::read(path).map_err(|source| BenchError::Read { path: path.clone(), source })?;
    Ok(content.into())
}

/// The times of repeated passes, after a warm-up of a tenth of the time.
fn passes<E>(time: Duration, mut pass: impl FnMut() -> Result<(), E>) -> Result<Vec<Duration>, E> {
    let warm = Instant::now();
    while warm.elapsed() < time / 10 {
        pass()?;
    }
    let (started, mut times) = (Instant::now(), Vec::new());
    while started.elapsed() < time || times.len() < 3 {
        let began = Instant::now();
        pass()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

fn median_ms(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e3
}

/// A network's figure for passes over `batch` items: by the median, which a busy moment does not move.
fn network(stage: BenchStage, batch: usize, size: (u32, u32), mut times: Vec<Duration>) -> BenchResult {
    let median_ms = median_ms(&mut times);
    BenchResult {
        stage,
        batch: Some(batch),
        size: Some(format!("{}x{}", size.0, size.1)),
        photos: None,
        items_per_second: batch as f64 / (median_ms / 1e3),
        median_ms,
    }
}

/// A figure for work on photos: all items in all of the time.
fn photos_per(
    stage: BenchStage,
    photos: usize,
    items: usize,
    elapsed: Duration,
    mut times: Vec<Duration>,
) -> BenchResult {
    let median_ms = median_ms(&mut times);
    let items_per_second = items as f64 / elapsed.as_secs_f64();
    BenchResult { stage, batch: None, size: None, photos: Some(photos), items_per_second, median_ms }
}

/// An image with structure at every scale.
fn made(width: u32, height: u32, seed: usize) -> Vec<u8> {
    let pixel = |i: usize| ((i * 7 + i / 3 % width as usize * seed + i / 997 * 31) % 251) as u8;
    (0..width as usize * height as usize * 3).map(pixel).collect()
}

fn detect(config: &Config, plan: &Workload, target: &Target) -> Result<Vec<BenchResult>, BenchError> {
    let detector = Detector::load(&config.engine.detector, target)?;
    use_threads(config.engine.threads);
    let (width, height) = plan.size;
    let measure = |batch: &usize| {
        let images: Vec<_> = (0..*batch).map(|n| made(width, height, n)).collect();
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let times = passes(plan.time, || detector.forward(&images, width, height).map(drop))?;
        Ok(network(BenchStage::Detect, *batch, plan.size, times))
    };
    plan.batches.iter().map(measure).collect()
}

fn embed(
    config: &Config,
    plan: &Workload,
    target: &Target,
    normalisation: InputNormalisation,
) -> Result<Vec<BenchResult>, BenchError> {
    let embedder = Embedder::load(&config.engine.embedder, target, normalisation)?;
    use_threads(config.engine.threads);
    let side = Chip::SIDE;
    let measure = |batch: &usize| {
        let image = |n| image::RgbImage::from_raw(side, side, made(side, side, n)).unwrap_or_default();
        let chips: Result<Vec<Chip>, _> = (0..*batch).map(|n| Chip::try_from(image(n))).collect();
        let chips = chips.map_err(EngineError::from)?;
        let times = passes(plan.time, || embedder.forward(&chips).map(drop))?;
        Ok(network(BenchStage::Embed, *batch, (side, side), times))
    };
    plan.batches.iter().map(measure).collect()
}

/// Works through the photos on all threads until the time is over: items done, times of single photos.
fn on_all_threads(
    config: &Config,
    plan: &Workload,
    photos: usize,
    work: impl Fn(usize) -> usize + Sync,
) -> (usize, Duration, Vec<Duration>) {
    let (next, done, all) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..config.engine.threads {
            scope.spawn(|| {
                let mut times = Vec::new();
                while started.elapsed() < plan.time {
                    let began = Instant::now();
                    done.fetch_add(work(next.fetch_add(1, Ordering::Relaxed) % photos), Ordering::Relaxed);
                    times.push(began.elapsed());
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).append(&mut times);
            });
        }
    });
    (done.into_inner(), started.elapsed(), all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn limits(config: &Config) -> DecodeLimits {
    let recognition = &config.recognition;
    DecodeLimits {
        max_bytes: recognition.max_image_bytes,
        max_pixels: recognition.max_image_pixels,
        max_memory: recognition.decode_budget,
    }
}

fn decode(config: &Config, plan: &Workload, photos: &[Bytes]) -> Result<BenchResult, BenchError> {
    let limits = limits(config);
    for (photo, path) in photos.iter().zip(&plan.photos) {
        vision::decode(photo, &limits).map_err(|source| BenchError::Photo { path: path.clone(), source })?;
    }
    if photos.is_empty() {
        return Err(BenchError::NoPhotos("decode"));
    }
    let (items, elapsed, times) = on_all_threads(config, plan, photos.len(), |n| {
        let image = vision::decode(&photos[n], &limits);
        image.map_or(0, |image| usize::from(vision::shrink(&image, config.recognition.detector_side).scale.x > 0.0))
    });
    Ok(photos_per(BenchStage::Decode, photos.len(), items, elapsed, times))
}

fn align(config: &Config, plan: &Workload, photos: &[Bytes], target: &Target) -> Result<BenchResult, BenchError> {
    let detector = Detector::load(&config.engine.detector, target)?;
    let options = DetectOptions { min_score: config.recognition.min_detection_score, ..DetectOptions::default() };
    let mut found: Vec<(image::RgbImage, Vec<Detection>)> = Vec::new();
    for (photo, path) in photos.iter().zip(&plan.photos) {
        let unreadable = |source| BenchError::Photo { path: path.clone(), source };
        let image = vision::decode(photo, &limits(config)).map_err(unreadable)?;
        let small = vision::shrink(&image, config.recognition.detector_side);
        let ((width, height), scale) = (small.image.dimensions(), small.scale);
        let output = detector.forward(&[small.image.as_raw()], width, height)?.swap_remove(0);
        let faces = vision::detections(&output, width, height, scale, &options).unwrap_or_default();
        found.push((image, faces));
    }
    found.retain(|(_, faces)| !faces.is_empty());
    if found.is_empty() {
        return Err(BenchError::NoPhotos("align"));
    }
    let (items, elapsed, times) = on_all_threads(config, plan, found.len(), |n| {
        let (image, faces) = &found[n];
        let chips = faces.iter().filter_map(|face| Some((face, vision::align(image, &face.landmarks).ok()?)));
        chips.filter(|(face, chip)| vision::quality(face, chip).score >= 0.0).count()
    });
    Ok(photos_per(BenchStage::Align, found.len(), items, elapsed, times))
}

async fn pipeline(
    config: &Config,
    plan: &Workload,
    photos: &[Bytes],
    normalisation: InputNormalisation,
) -> Result<BenchResult, BenchError> {
    if photos.is_empty() {
        return Err(BenchError::NoPhotos("pipeline"));
    }
    let (engine, threads) = Engine::start(config.engine.clone()).await?;
    let embedder = engine.load_embedder_file(&config.engine.embedder, normalisation).await?;
    let reader = Arc::new(PhotoReader::new(engine.clone(), &config.recognition));
    let next = Arc::new(AtomicUsize::new(0));
    let photos: Arc<[Bytes]> = photos.into();
    let most_faces = plan.most_faces;
    let wanted = Wanted { faces: most_faces, ..Wanted::default() };
    let begin = Instant::now() + plan.time / 10;
    let end = begin + plan.time;
    let mut tasks: JoinSet<Result<Vec<Duration>, ServiceError>> = JoinSet::new();
    for _ in 0..plan.concurrency {
        let (engine, embedder, reader) = (engine.clone(), embedder.clone(), reader.clone());
        let (next, photos) = (next.clone(), photos.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                let bytes = photos[next.fetch_add(1, Ordering::Relaxed) % photos.len()].clone();
                let photo = reader.read("photo", bytes, wanted, most_faces, &Bill::none()).await?;
                engine.embed(&embedder, photo.faces.into_iter().map(|face| face.chip).collect()).await?;
                if began >= begin {
                    times.push(began.elapsed());
                }
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.append(&mut done.map_err(|error| ServiceError::Internal(error.to_string()))??);
    }
    let elapsed = begin.elapsed();
    drop((engine, embedder, reader));
    // Blocks for the time of a pass at most; nothing else runs here.
    threads.join();
    Ok(photos_per(BenchStage::Pipeline, photos.len(), times.len(), elapsed, times))
}
