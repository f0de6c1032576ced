//! The inference engine: one thread owns the networks, everyone else holds a cheap handle.
//!
//! Pixels go in, plain numbers come out; no tensor leaves this module. Requests wait in one bounded queue, from
//! which the thread takes whatever is there and runs it in as few passes as possible (see `batch`).

mod batch;

use std::path::PathBuf;
use std::thread::JoinHandle;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

pub use crate::nn::{Channels, InputNormalisation};

use crate::config::EngineConfig;
use crate::nn::{Detector, Embedder, NetworkError, Target};
use crate::types::{Chip, DetectorOutput, Embedding, InvalidValue};

#[derive(Debug, Error)]
pub enum EngineError {
    /// The queue is full.
    #[error("the inference queue is full")]
    Overloaded,
    /// The engine has been shut down, or its thread died.
    #[error("the inference engine has stopped")]
    Stopped,
    /// A network could not be loaded.
    #[error("{}: {source}", path.display())]
    Network { path: PathBuf, source: NetworkError },
    /// A pass through a network failed.
    #[error("inference failed: {0}")]
    Inference(String),
    #[error(transparent)]
    Embedding(#[from] InvalidValue),
    #[error("cannot start the inference thread: {0}")]
    Thread(std::io::Error),
}

/// An image for the detector: interleaved RGB, `width * height * 3` bytes.
pub struct DetectorInput {
    rgb: Vec<u8>,
    width: u32,
    height: u32,
}

impl From<image::RgbImage> for DetectorInput {
    fn from(image: image::RgbImage) -> Self {
        let (width, height) = image.dimensions();
        Self { rgb: image.into_raw(), width, height }
    }
}

/// What waits in the queue: a piece of work, and whom to tell.
struct Entry<I, O> {
    input: I,
    reply: oneshot::Sender<Result<O, EngineError>>,
}

enum Work {
    Detect(Entry<DetectorInput, DetectorOutput>),
    Embed(Entry<Vec<Chip>, Vec<Embedding>>),
}

/// A handle to the inference thread. Cloning is cheap; the thread ends when the last handle is gone.
#[derive(Clone)]
pub struct Engine {
    queue: mpsc::Sender<Work>,
    dimension: usize,
}

/// The networks of an engine, owned by its thread.
struct Networks {
    detector: Detector,
    embedder: Embedder,
}

impl Engine {
    /// Loads both networks on a new thread and serves them from there. Join the thread after the last handle is
    /// dropped to know that no inference runs any more.
    pub async fn start(
        config: EngineConfig,
        normalisation: InputNormalisation,
    ) -> Result<(Self, JoinHandle<()>), EngineError> {
        let (queue, entries) = mpsc::channel(config.queue_len);
        let (loaded, when_loaded) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || match load(&config, normalisation) {
                Ok(networks) => {
                    let dimension = networks.embedder.dimension();
                    if loaded.send(Ok(dimension)).is_ok() {
                        batch::serve(&networks, entries, config.max_batch);
                    }
                }
                Err(error) => drop(loaded.send(Err(error))),
            })
            .map_err(EngineError::Thread)?;
        let dimension = when_loaded.await.map_err(|_| EngineError::Stopped)??;
        Ok((Self { queue, dimension }, thread))
    }

    /// Components of an embedding of this engine's embedder.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Runs the detector on one image, together with others that wait.
    pub async fn detect(&self, input: DetectorInput) -> Result<DetectorOutput, EngineError> {
        self.submit(input, Work::Detect).await
    }

    /// Embeds the chips, together with others that wait. One embedding per chip, in order.
    pub async fn embed(&self, chips: Vec<Chip>) -> Result<Vec<Embedding>, EngineError> {
        if chips.is_empty() {
            return Ok(Vec::new());
        }
        self.submit(chips, Work::Embed).await
    }

    async fn submit<I, O>(&self, input: I, work: fn(Entry<I, O>) -> Work) -> Result<O, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(work(Entry { input, reply })).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => EngineError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => EngineError::Stopped,
        })?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }
}

fn load(config: &EngineConfig, normalisation: InputNormalisation) -> Result<Networks, EngineError> {
    tch::set_num_threads(i32::try_from(config.threads).unwrap_or(i32::MAX));
    let unusable = |path: &PathBuf| {
        let path = path.clone();
        move |source| EngineError::Network { path, source }
    };
    let detector = Detector::load(&config.detector, &Target::CPU).map_err(unusable(&config.detector))?;
    let embedder = Embedder::load(&config.embedder, &Target::CPU, normalisation).map_err(unusable(&config.embedder))?;
    info!(
        detector = %config.detector.display(),
        embedder = %config.embedder.display(),
        dimension = embedder.dimension(),
        threads = config.threads,
        "networks loaded"
    );
    Ok(Networks { detector, embedder })
}
