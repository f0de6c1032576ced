//! What faceid does, without a word of HTTP: one file per use case.

pub mod answers;
mod decide;
mod embed;
mod enroll;
mod error;
pub mod findings;
pub mod galleries;
mod identify;
mod indexes;
mod jobs;
mod photo;
mod ready;
mod reembed;
mod resident;
mod retrain;
mod review;
mod search;
mod verify;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

pub use embed::PhotoRequest;
pub use enroll::{EnrollRequest, FaceChoice};
pub use error::ServiceError;
pub use identify::{IdentifyEmbeddingRequest, IdentifyRequest};
pub use photo::{Photo, PhotoBytes, PhotoFace, PhotoReader};
pub use ready::Readiness;
pub use retrain::{RetrainBase, RetrainRequest};
pub use verify::VerifyRequest;

pub use crate::gallery::DEFAULT_GALLERY_NAME;

use crate::config::RecognitionConfig;
use crate::engine::{Depth, Engine};
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::registry::{Calibration, Model, Registry};
use crate::types::Threshold;
use decide::Tails;
use resident::Resident;

/// Where and how the server trains.
#[derive(Debug, Clone)]
pub struct TrainingSetup {
    /// Where jobs keep their files while they run.
    pub folder: PathBuf,
    /// The active embedder's file.
    pub embedder: PathBuf,
    pub threads: usize,
    /// Bytes of memory that a training may take.
    pub memory: u64,
}

/// The service. Cloning is cheap.
#[derive(Clone)]
pub struct Services(Arc<Parts>);

struct Parts {
    engine: Engine,
    photos: PhotoReader,
    galleries: Galleries,
    resident: Resident,
    search_threads: usize,
    tails: Tails,
    registry: Registry,
    jobs: Jobs,
    training: TrainingSetup,
    /// Becomes true when the server is about to stop.
    closing: watch::Sender<bool>,
    model: Model,
    calibration: Calibration,
    threshold: Threshold,
    requests: Arc<Semaphore>,
    max_requests: usize,
}

impl Services {
    /// `model` is the embedder that `engine` runs, `calibration` what its similarities mean.
    pub fn new(
        engine: Engine,
        galleries: Galleries,
        registry: Registry,
        jobs: Jobs,
        training: TrainingSetup,
        model: Model,
        calibration: Calibration,
        config: &RecognitionConfig,
    ) -> Self {
        Self(Arc::new(Parts {
            photos: PhotoReader::new(engine.clone(), config),
            engine,
            resident: Resident::start(&galleries, &model, &config.search),
            search_threads: config.search.threads,
            tails: Tails::default(),
            galleries,
            registry,
            jobs,
            training,
            closing: watch::Sender::new(false),
            model,
            threshold: config.threshold.unwrap_or(calibration.threshold),
            calibration,
            requests: Arc::new(Semaphore::new(config.max_requests)),
            max_requests: config.max_requests,
        }))
    }

    /// The name of the embedder in use.
    pub fn model_name(&self) -> &str {
        &self.0.model.name
    }

    /// Starts what goes on in the background for as long as the returned set lives.
    pub fn start_upkeep(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().keep_reviewing());
        tasks.spawn(self.clone().keep_indexes());
        tasks
    }

    /// Waits until searches see what was committed before; called after each write.
    async fn settle(&self) {
        self.0.resident.settle().await;
    }

    /// A place among the requests in work, or `Overloaded`: whoever is refused is refused at once.
    fn admit(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        Arc::clone(&self.0.requests).try_acquire_owned().map_err(|_| rejected("service"))
    }

    /// Fails when a request that begins now would be refused once it has arrived: no need to read it.
    ///
    /// It holds no place while it arrives, so that slow clients keep none from others.
    pub fn check_room(&self) -> Result<(), ServiceError> {
        if self.0.requests.available_permits() == 0 { Err(rejected("door")) } else { Ok(()) }
    }

    /// Notes for the metrics how busy the service is now.
    pub fn record_load(&self) {
        let in_work = self.0.max_requests - self.0.requests.available_permits();
        metrics::gauge!("faceid_requests_in_work").set(in_work as f64);
        let resident = self.0.resident.current().map_or(0, |view| view.index.len());
        metrics::gauge!("faceid_resident_templates").set(resident as f64);
        let Depth { first, detect, later, embed } = self.0.engine.depth();
        for (stage, depth) in [("decode", first), ("detect", detect), ("align", later), ("embed", embed)] {
            metrics::gauge!("faceid_queue_depth", "stage" => stage).set(depth as f64);
        }
    }
}

fn rejected(at: &'static str) -> ServiceError {
    metrics::counter!("faceid_rejected_total", "at" => at).increment(1);
    ServiceError::Overloaded
}
