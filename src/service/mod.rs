//! What faceid does, without a word of HTTP: one file per use case.

pub mod answers;
mod calibrate;
mod datasets;
mod embed;
mod enroll;
mod enrolled;
mod error;
pub mod findings;
mod follow;
pub mod galleries;
mod identify;
mod indexes;
mod jobs;
mod model_files;
mod models;
mod photo;
mod promote;
mod promotions;
mod ready;
mod resident;
mod retrain;
mod review;
mod scheduler;
mod search;
mod serving;
mod shadow;
mod targets;
mod thresholds;
mod trial;
mod usability;
mod verify;
mod worth;

use std::sync::Arc;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

pub use datasets::NewDataset;
pub use embed::PhotoRequest;
pub use enroll::{EnrollRequest, FaceChoice, QualityDemand};
pub use error::ServiceError;
pub use identify::{IdentifyEmbeddingRequest, IdentifyRequest};
pub use model_files::{ModelFiles, NewModelFile, normalisation};
pub use models::ManifestFields;
pub use photo::{Photo, PhotoBytes, PhotoFace, PhotoReader};
pub use promote::{GateState, Promoted, Promotion};
use ready::Health;
pub use ready::{ChainError, Readiness, StartProgress, StartStage, Starting};
pub use retrain::{EvaluateRequest, RetrainBase, RetrainRequest, training_exit};
pub use shadow::ShadowRequest;
pub use trial::{TrialAnswer, TrialFormat};
pub use verify::VerifyRequest;

pub use crate::gallery::DEFAULT_GALLERY_NAME;

use crate::config::{Config, JobsConfig, RecognitionConfig};
use crate::engine::{Depth, Device, Engine};
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::registry::Registry;
pub use scheduler::Deleted;
pub use serving::Loaded;
use serving::{Serving, Stage};
use shadow::Sampler;
use thresholds::Known;

/// Everything that the database holds.
pub struct Stores {
    pub galleries: Galleries,
    pub registry: Registry,
    pub jobs: Jobs,
}

/// The service. Cloning is cheap.
#[derive(Clone)]
pub struct Services(Arc<Parts>);

struct Parts {
    engine: Engine,
    photos: PhotoReader,
    galleries: Galleries,
    registry: Registry,
    models: ModelFiles,
    jobs: Jobs,
    work: JobsConfig,
    /// Becomes true when the server is about to stop.
    closing: watch::Sender<bool>,
    stage: Stage,
    health: Health,
    /// Probes for the candidate in the shadow.
    sampler: Sampler,
    /// What was measured of galleries.
    known: Known,
    /// Held while the models that are held ready change.
    following: Mutex<()>,
    /// Faces may have come without an embedding of the active model.
    faces_came: Notify,
    recognition: RecognitionConfig,
    search_device: Option<Device>,
    requests: Arc<Semaphore>,
    /// Searches in the database while galleries should be in memory.
    database_searches: Arc<Semaphore>,
}

impl Services {
    /// `active` is the database's active model; `search_device` searches large galleries, if there is one.
    pub fn new(
        engine: Engine,
        search_device: Option<Device>,
        Stores { galleries, registry, jobs }: Stores,
        models: ModelFiles,
        active: Loaded,
        config: &Config,
    ) -> Self {
        let recognition = config.recognition.clone();
        let serving = Serving::start(&galleries, active, &recognition, search_device);
        Self(Arc::new(Parts {
            photos: PhotoReader::new(engine.clone(), &recognition),
            engine,
            galleries,
            registry,
            jobs,
            work: config.jobs.clone(),
            closing: watch::Sender::new(false),
            models,
            stage: Stage::new(serving),
            health: Health::default(),
            sampler: Sampler::new(),
            known: Known::default(),
            following: Mutex::new(()),
            faces_came: Notify::new(),
            requests: Arc::new(Semaphore::new(recognition.max_requests)),
            // Whatever else requests need the database for finds connections left.
            database_searches: Arc::new(Semaphore::new((config.database.connections as usize / 2).max(1))),
            recognition,
            search_device,
        }))
    }

    /// Starts what goes on in the background for as long as the returned set lives.
    pub fn start_upkeep(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().keep_looking());
        tasks.spawn(self.clone().keep_following());
        tasks.spawn(self.clone().keep_comparing());
        tasks.spawn(self.clone().keep_known());
        tasks
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
        let in_work = self.0.recognition.max_requests - self.0.requests.available_permits();
        metrics::gauge!("faceid_requests_in_work").set(in_work as f64);
        let serving = self.serving();
        let resident = serving.resident.current().map_or(0, |held| held.view.index.len());
        metrics::gauge!("faceid_resident_templates").set(resident as f64);
        let age = serving.resident.age().unwrap_or_default();
        metrics::gauge!("faceid_resident_age_seconds").set(age.as_secs_f64());
        let Depth { first, detect, later, embed, search } = self.0.engine.depth();
        let depths = [("decode", first), ("detect", detect), ("align", later), ("embed", embed), ("search", search)];
        for (stage, depth) in depths {
            metrics::gauge!("faceid_queue_depth", "stage" => stage).set(depth as f64);
        }
    }
}

fn rejected(at: &'static str) -> ServiceError {
    metrics::counter!("faceid_rejected_total", "at" => at).increment(1);
    ServiceError::Overloaded
}
