//! The life of models: imported or trained, tried, judged, promoted, retired; and following which one is active.

mod catalogue;
mod enrolled;
mod files;
mod follow;
mod missing;
mod promotion;
mod retire;
mod retrain;
mod secondary;
mod shadow;
mod trial;

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};

use crate::config::JobsConfig;
use crate::db::Answers;
use crate::engine::{Device, Engine};
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::registry::{Model, Registry};
use crate::service::ServiceError;
use crate::service::recognition::{Loaded, Recognition, Serving};
pub use files::{ModelFiles, NewModelFile, normalisation};
pub(in crate::service) use missing::{EmbeddedFaces, Pass};
pub use promotion::{GateState, Promoted, Promotion};
pub(in crate::service) use retire::RetirementSettings;
pub use retrain::training_exit;
pub use trial::{TrialAnswer, TrialFormat};

/// What models need. Cloning is cheap.
#[derive(Clone)]
pub struct Models(Arc<Parts>);

struct Parts {
    recognition: Recognition,
    engine: Engine,
    /// Searches large galleries, if there is one.
    search_device: Option<Device>,
    galleries: Galleries,
    registry: Registry,
    files: ModelFiles,
    jobs: Jobs,
    answers: Answers,
    config: JobsConfig,
    /// Held while the models that are loaded change.
    following: Mutex<()>,
    /// Faces may have come without an embedding of the active model.
    faces_came: Notify,
}

impl Models {
    pub fn new(
        recognition: &Recognition,
        (engine, search_device): (&Engine, Option<Device>),
        (galleries, registry, jobs, answers): (&Galleries, &Registry, &Jobs, &Answers),
        files: ModelFiles,
        config: &JobsConfig,
    ) -> Self {
        Self(Arc::new(Parts {
            recognition: recognition.clone(),
            engine: engine.clone(),
            search_device,
            galleries: galleries.clone(),
            registry: registry.clone(),
            files,
            jobs: jobs.clone(),
            answers: answers.clone(),
            config: config.clone(),
            following: Mutex::new(()),
            faces_came: Notify::new(),
        }))
    }

    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub fn files(&self) -> &ModelFiles {
        &self.0.files
    }

    /// The model that answers.
    pub fn active_model(&self) -> Model {
        self.0.recognition.serving().loaded.model.clone()
    }

    /// Waits until faces may have come without an embedding of the active model.
    pub(in crate::service) async fn faces_came(&self) {
        self.0.faces_came.notified().await;
    }

    /// A model that is loaded already, or is loaded now from the model store.
    pub(in crate::service) async fn load(&self, model: &Model) -> Result<Loaded, ServiceError> {
        match self.0.recognition.served().loaded(model.id) {
            Some(loaded) => Ok(loaded.described(model)),
            None => self.0.files.load(model).await,
        }
    }

    /// Makes a model ready to answer, with its templates in memory.
    async fn prepare(&self, loaded: Loaded) -> Serving {
        let config = self.0.recognition.config();
        let serving = Serving::start(&self.0.galleries, loaded, config, self.0.search_device);
        serving.resident.filled().await;
        serving
    }
}
