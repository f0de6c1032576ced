//! What faceid does, without a word of HTTP: one file per use case.

pub mod answers;
mod embed;
mod enroll;
mod error;
pub mod galleries;
mod identify;
mod photo;
mod ready;
mod reembed;
mod verify;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use enroll::{EnrollRequest, FaceChoice};
pub use error::ServiceError;
pub use identify::IdentifyRequest;
pub use photo::{Photo, PhotoBytes, PhotoFace, PhotoReader};
pub use ready::Readiness;
pub use verify::VerifyRequest;

pub use crate::gallery::DEFAULT_GALLERY_NAME;

use crate::config::RecognitionConfig;
use crate::engine::Engine;
use crate::gallery::Galleries;
use crate::registry::{Calibration, Model, Registry};
use crate::types::Threshold;

/// The service. Cloning is cheap.
#[derive(Clone)]
pub struct Services(Arc<Parts>);

struct Parts {
    engine: Engine,
    photos: PhotoReader,
    galleries: Galleries,
    registry: Registry,
    model: Model,
    calibration: Calibration,
    threshold: Threshold,
    requests: Arc<Semaphore>,
}

impl Services {
    /// `model` is the embedder that `engine` runs, `calibration` what its similarities mean.
    pub fn new(
        engine: Engine,
        galleries: Galleries,
        registry: Registry,
        model: Model,
        calibration: Calibration,
        config: &RecognitionConfig,
    ) -> Self {
        Self(Arc::new(Parts {
            photos: PhotoReader::new(engine.clone(), config),
            engine,
            galleries,
            registry,
            model,
            threshold: config.threshold.unwrap_or(calibration.threshold),
            calibration,
            requests: Arc::new(Semaphore::new(config.max_requests)),
        }))
    }

    /// The name of the embedder in use.
    pub fn model_name(&self) -> &str {
        &self.0.model.name
    }

    /// A place among the requests in work, or `Overloaded`: whoever is refused is refused at once.
    fn admit(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        Arc::clone(&self.0.requests).try_acquire_owned().map_err(|_| ServiceError::Overloaded)
    }

    /// The threshold that a request asked for, or the default.
    fn threshold(&self, asked: Option<Threshold>) -> Threshold {
        asked.unwrap_or(self.0.threshold)
    }
}
