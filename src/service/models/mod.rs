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
use crate::types::Caller;
pub use files::{ModelFiles, NewModelFile, normalisation};
pub(in crate::service) use missing::{EmbeddedFaces, Pass};
pub use promotion::{GateState, Promoted, Promotion};
pub(in crate::service) use retire::RetirementSettings;
pub use retrain::training_exit;
pub use trial::{TrialAnswer, TrialFormat};

/// What models need, for a caller. Cloning is cheap.
#[derive(Clone)]
pub struct Models {
    parts: Arc<Parts>,
    caller: Caller,
}

struct Parts {
    server_recognition: Recognition,
    engine: Engine,
    /// Searches large galleries, if there is one.
    search_device: Option<Device>,
    all_galleries: Galleries,
    registry: Registry,
    files: ModelFiles,
    all_jobs: Jobs,
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
        let parts = Parts {
            server_recognition: recognition.clone(),
            engine: engine.clone(),
            search_device,
            all_galleries: galleries.clone(),
            registry: registry.clone(),
            files,
            all_jobs: jobs.clone(),
            answers: answers.clone(),
            config: config.clone(),
            following: Mutex::new(()),
            faces_came: Notify::new(),
        };
        Self { parts: Arc::new(parts), caller: Caller::server() }
    }

    /// As it is for somebody.
    pub fn for_caller(&self, caller: Caller) -> Self {
        Self { parts: Arc::clone(&self.parts), caller }
    }

    /// The galleries that there are for the caller.
    fn galleries(&self) -> Galleries {
        self.parts.all_galleries.for_caller(&self.caller)
    }

    /// The jobs that there are for the caller.
    fn jobs(&self) -> Jobs {
        self.parts.all_jobs.for_caller(&self.caller)
    }

    fn recognition(&self) -> Recognition {
        self.parts.server_recognition.for_caller(self.caller.clone())
    }

    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    pub fn files(&self) -> &ModelFiles {
        &self.parts.files
    }

    /// The model that answers.
    pub fn active_model(&self) -> Model {
        self.recognition().serving().loaded.model.clone()
    }

    /// Waits until faces may have come without an embedding of the active model.
    pub(in crate::service) async fn faces_came(&self) {
        self.parts.faces_came.notified().await;
    }

    /// A model that is loaded already, or is loaded now from the model store.
    pub(in crate::service) async fn load(&self, model: &Model) -> Result<Loaded, ServiceError> {
        match self.recognition().served().loaded(model.id) {
            Some(loaded) => Ok(loaded.described(model)),
            None => self.parts.files.load(model).await,
        }
    }

    /// Makes a model ready to answer everybody, with its templates in memory.
    async fn prepare(&self, loaded: Loaded) -> Serving {
        let (recognition, device) = (self.recognition(), self.parts.search_device);
        let serving = Serving::start(&self.parts.all_galleries, loaded, recognition.config(), device);
        serving.resident.filled().await;
        serving
    }

    /// Makes a model ready to embed, with nothing in memory but its network.
    fn prepare_beside(&self, loaded: Loaded) -> Serving {
        Serving::without_memory(&self.parts.all_galleries, loaded, self.recognition().config())
    }
}
