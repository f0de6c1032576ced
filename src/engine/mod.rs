//! The inference engine: threads that own the cores and the networks; everyone else holds a cheap handle.
//!
//! Pixels go in, plain numbers come out; no tensor leaves this module. Work waits in lanes, one for each network, two for
//! what is done to pixels and one for searches in memory (`lanes` says which goes first); as many threads as the machine
//! has cores for us take it from there, so that decoding, inference and scans never fight for a core.

mod device;
mod embedders;
mod lanes;
mod memory;
mod pool;
mod run;
mod spent;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use thiserror::Error;
use tokio::sync::oneshot;
use tracing::{Span, info};

pub use crate::nn::{Channels, Device, Format, InputNormalisation, NetworkError};
pub use device::{search_device, targets};
pub use embedders::{LoadedEmbedder, try_embedder};
pub use lanes::{Depth, Step};
pub use memory::{Held, MemoryBudget};
pub use spent::Spent;

use crate::config::EngineConfig;
use crate::index::{Hits, Index, Query};
use crate::nn::{Detector, Target};
use crate::types::{Chip, DetectorOutput, Embedding, GalleryId, InvalidValue};
use lanes::{DetectInput, EmbedInput, Entry, SearchInput, Task};
use pool::{Pool, Role};

#[derive(Debug, Error)]
pub enum EngineError {
    /// A lane is full, or the work waited longer than it may.
    #[error("the inference queue is full")]
    Overloaded,
    /// The engine has been shut down, or its threads died.
    #[error("the inference engine has stopped")]
    Stopped,
    /// A network could not be loaded.
    #[error("{}: {source}", path.display())]
    Network { path: PathBuf, source: NetworkError },
    /// The content of an embedder's file is refused.
    #[error(transparent)]
    Embedder(NetworkError),
    /// The device or precision that was asked for is not to be had.
    #[error("{0}")]
    Device(String),
    /// A pass through a network failed.
    #[error("inference failed: {0}")]
    Inference(String),
    /// Work on pixels or a search panicked.
    #[error("work on an image or a search failed unexpectedly")]
    Panicked,
    #[error("loading a network failed unexpectedly")]
    Loading,
    #[error(transparent)]
    Embedding(#[from] InvalidValue),
    #[error("cannot start a thread of the engine: {0}")]
    Thread(std::io::Error),
}

/// An image for the detector: interleaved RGB, `width * height * 3` bytes.
pub struct DetectorInput {
    rgb: Vec<u8>,
    width: u32,
    height: u32,
    /// Given back when the last image of it is dropped, whoever has left.
    _held: Option<Arc<Held>>,
}

impl DetectorInput {
    /// The image with the bytes of a budget that it and others hold.
    pub fn holding(image: image::RgbImage, held: Option<Arc<Held>>) -> Self {
        Self { _held: held, ..image.into() }
    }
}

impl From<image::RgbImage> for DetectorInput {
    fn from(image: image::RgbImage) -> Self {
        let (width, height) = image.dimensions();
        Self { rgb: image.into_raw(), width, height, _held: None }
    }
}

/// A handle to the engine. Cloning is cheap; the threads end when the last handle is gone and the lanes are empty.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    pool: Arc<Pool>,
    /// Devices, by number.
    targets: Arc<[Target]>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.pool.close();
    }
}

/// The threads of an engine. Join them after the last handle is dropped to know that nothing runs any more.
pub struct EngineThreads(Vec<JoinHandle<()>>);

impl EngineThreads {
    /// Blocks until all threads have ended.
    pub fn join(self) {
        for thread in self.0 {
            // Threads catch panics; one that died all the same has nothing left to say.
            let _ = thread.join();
        }
    }
}

/// What a thread needs to run networks on one device; embedders come with what they are to embed.
struct Networks {
    device: usize,
    detector: Detector,
}

impl Networks {
    fn load(config: &EngineConfig, device: usize, target: &Target) -> Result<Self, EngineError> {
        let detector = Detector::load(&config.detector, target)
            .map_err(|source| EngineError::Network { path: config.detector.clone(), source })?;
        Ok(Self { device, detector })
    }

    /// Another handle on the same weights.
    fn share(&self) -> Self {
        Self { device: self.device, detector: self.detector.share() }
    }
}

impl Engine {
    /// Chooses devices and precision, loads the detector onto each device, and starts the threads.
    ///
    /// On the CPU, `config.threads` threads do everything. With GPUs, as many work on pixels, and one more for each
    /// GPU runs its networks.
    pub async fn start(config: EngineConfig) -> Result<(Self, EngineThreads), EngineError> {
        let loading = tokio::task::spawn_blocking(move || {
            let targets = targets(&config)?;
            let networks = targets.iter().enumerate().map(|(device, target)| Networks::load(&config, device, target));
            let networks: Result<Vec<_>, _> = networks.collect();
            start(&config, targets, networks?)
        });
        loading.await.map_err(|_| EngineError::Stopped)?
    }

    /// Loads an embedder's file, beside those that are loaded already.
    pub async fn load_embedder_file(
        &self,
        path: &Path,
        normalisation: InputNormalisation,
    ) -> Result<LoadedEmbedder, EngineError> {
        let (path, targets) = (path.to_owned(), Arc::clone(&self.0.targets));
        let loading = tokio::task::spawn_blocking(move || LoadedEmbedder::load(&path, &targets, normalisation));
        loading.await.map_err(|_| EngineError::Loading)?
    }

    /// Loads the content of an embedder's file, beside those that are loaded already. A TorchScript file is a program:
    /// load only those that you trust.
    pub async fn load_embedder(
        &self,
        content: bytes::Bytes,
        format: Format,
        normalisation: InputNormalisation,
    ) -> Result<LoadedEmbedder, EngineError> {
        let targets = Arc::clone(&self.0.targets);
        let load = move || LoadedEmbedder::from_bytes(&content, format, &targets, normalisation);
        tokio::task::spawn_blocking(load).await.map_err(|_| EngineError::Loading)?
    }

    /// What waits.
    pub fn depth(&self) -> Depth {
        self.0.pool.depth()
    }

    /// Runs the detector on the images of one photo, those of one size together with others of that size that wait. One
    /// answer per image, in order.
    pub async fn detect(&self, images: Vec<DetectorInput>) -> Result<Vec<DetectorOutput>, EngineError> {
        let mut outputs = vec![DetectorOutput::default(); images.len()];
        let mut by_size: BTreeMap<(u32, u32), (Vec<usize>, Vec<DetectorInput>)> = BTreeMap::new();
        for (place, image) in images.into_iter().enumerate() {
            let (places, images) = by_size.entry((image.width, image.height)).or_default();
            places.push(place);
            images.push(image);
        }
        let mut waiting = Vec::with_capacity(by_size.len());
        for (size, (places, images)) in by_size {
            let (entry, answer) = Entry::new(DetectInput { size, images });
            self.0.pool.push_detect(entry)?;
            waiting.push((places, answer));
        }
        for (places, answer) in waiting {
            let answers = answer.await.map_err(|_| EngineError::Stopped)??;
            places.into_iter().zip(answers).for_each(|(place, output)| outputs[place] = output);
        }
        Ok(outputs)
    }

    /// Embeds the chips as one batch, together with others that wait for the same embedder. One embedding per chip, in
    /// order.
    pub async fn embed(&self, embedder: &LoadedEmbedder, chips: Vec<Chip>) -> Result<Vec<Embedding>, EngineError> {
        if chips.is_empty() {
            return Ok(Vec::new());
        }
        let (entry, answer) = Entry::new(EmbedInput { embedder: embedder.clone(), chips });
        self.0.pool.push_embed(entry)?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    /// Searches a gallery in memory, in one pass with others that wait for it in the same index. For each query its hits,
    /// in order.
    ///
    /// All searches at once use at most as many threads as the engine has for the processor. Fails with `Overloaded` if
    /// the lane is full or the search waited too long, and with `Panicked` if this search panics.
    pub async fn search(
        &self,
        index: &Arc<Index>,
        gallery: GalleryId,
        queries: Vec<Query>,
    ) -> Result<Hits, EngineError> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let (index, most_threads) = (Arc::clone(index), index.most_threads(gallery));
        let (entry, answer) = Entry::new(SearchInput { index, gallery, queries, most_threads });
        self.0.pool.push_search(entry)?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    /// Does CPU work on a thread of the engine. It does not begin once its caller has gone.
    pub async fn on_cpu<T: Send + 'static>(
        &self,
        step: Step,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        let span = Span::current();
        let task = Task::new(move |began: Instant| {
            if reply.is_closed() {
                return false;
            }
            let result = span.in_scope(|| run::caught(work));
            run::measured(step.name(), began);
            // A caller who left meanwhile needs no answer.
            let _ = reply.send(result);
            true
        });
        self.0.pool.push_task(step, task)?;
        answer.await.map_err(|_| EngineError::Stopped)?.ok_or(EngineError::Panicked)
    }
}

/// Starts the threads of networks that are loaded, one set for each target.
fn start(
    config: &EngineConfig,
    targets: Vec<Target>,
    networks: Vec<Networks>,
) -> Result<(Engine, EngineThreads), EngineError> {
    let on_gpu = targets.iter().any(|target| target.is_gpu());
    let limits = lanes::Limits {
        max_batch: config.max_batch.unwrap_or(if on_gpu { GPU_BATCH } else { CPU_BATCH }),
        max_wait: config.max_wait,
        max_age: config.queue_timeout,
        max_entries: config.queue_len,
    };
    let pool = Arc::new(Pool::new(limits, config.threads, if on_gpu { networks.len() } else { 0 }));
    let mut threads = Vec::new();
    let mut spawn = |name: String, role: Role, networks: Option<Networks>| {
        let pool = Arc::clone(&pool);
        let thread = std::thread::Builder::new().name(name).spawn(move || run::serve(&pool, role, networks.as_ref()));
        thread.map(|thread| threads.push(thread)).map_err(EngineError::Thread)
    };
    let started = if on_gpu {
        let pixels = (0..config.threads).try_for_each(|n| spawn(format!("pixels-{n}"), Role::Pixels, None));
        let mut networks = networks.into_iter().enumerate();
        pixels.and_then(|()| networks.try_for_each(|(n, own)| spawn(format!("gpu-{n}"), Role::Networks, Some(own))))
    } else {
        let shared = networks.first().map(Networks::share);
        (0..config.threads)
            .try_for_each(|n| spawn(format!("engine-{n}"), Role::Everything, shared.as_ref().map(Networks::share)))
    };
    if let Err(error) = started {
        pool.close();
        return Err(error);
    }
    announce(config, &targets, limits.max_batch);
    Ok((Engine(Arc::new(Handle { pool, targets: targets.into() })), EngineThreads(threads)))
}

/// Default batch limits: beyond them passes gain little and callers wait longer. On the CPU a long one also leaves the other threads
/// without work (benches/RESULTS.md, "Several photos in one request").
const CPU_BATCH: usize = 8;
const GPU_BATCH: usize = 256;

fn announce(config: &EngineConfig, targets: &[Target], max_batch: usize) {
    for target in targets {
        info!(
            device = %target.name(),
            precision = %target.precision,
            kernels = target.family_name(),
            detector = %config.detector.display(),
            threads = config.threads,
            max_batch,
            "engine ready"
        );
        let labels = [
            ("device", target.name()),
            ("precision", target.precision.to_string()),
            ("kernels", target.family_name().to_owned()),
        ];
        metrics::gauge!("faceid_engine_info", &labels).set(1.0);
    }
}
