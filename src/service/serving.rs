//! What answers requests: one model with everything that belongs to it.
//!
//! A request takes a snapshot when it begins and keeps it to its end, so every answer comes from exactly one model and
//! names it, whatever is promoted meanwhile. What nobody holds any more is freed.

use std::sync::{Arc, PoisonError, RwLock};

use super::resident::Resident;
use super::{ModelFiles, ServiceError, Services};
use crate::config::{RecognitionConfig, SearchChoice, SearchConfig};
use crate::engine::{Device, LoadedEmbedder};
use crate::gallery::Galleries;
use crate::registry::{Calibration, Manifest, Model, Registry};
use crate::types::{GalleryId, ModelId, SubjectId, Threshold};

/// A model that is loaded, and what its similarities mean.
#[derive(Clone)]
pub struct Loaded {
    pub model: Model,
    pub embedder: LoadedEmbedder,
    pub calibration: Calibration,
}

impl Loaded {
    /// The same with what the database says of the model now.
    pub fn described(self, model: &Model) -> Self {
        let calibration = model.manifest.as_ref().map_or(self.calibration, Manifest::calibration);
        Self { model: model.clone(), calibration, embedder: self.embedder }
    }

    /// Whether what is said of the model is the same.
    fn is_described_by(&self, model: &Model) -> bool {
        (&self.model.name, &self.model.manifest) == (&model.name, &model.manifest)
    }
}

/// The model that answers, and what is known and held in memory for it.
pub(super) struct Serving {
    pub loaded: Loaded,
    /// From which similarity on two faces count as one person, if nothing else is said.
    pub threshold: Threshold,
    /// Whether somebody chose that threshold, rather than the model's calibration.
    pub threshold_given: bool,
    /// The rate of strangers who may be taken for somebody, if no threshold was chosen.
    pub fpir: f64,
    pub resident: Resident,
}

impl Serving {
    /// Starts to fill the memory with the templates of a model.
    pub fn start(
        galleries: &Galleries,
        loaded: Loaded,
        config: &RecognitionConfig,
        search_device: Option<Device>,
    ) -> Self {
        Self {
            resident: Resident::start(galleries, &loaded.model, &config.search, search_device),
            threshold: config.threshold.unwrap_or(loaded.calibration.threshold),
            threshold_given: config.threshold.is_some(),
            fpir: config.fpir,
            loaded,
        }
    }

    /// Keeps nothing in memory but the network: searches go to the database.
    pub fn without_memory(galleries: &Galleries, loaded: Loaded, config: &RecognitionConfig) -> Self {
        let search = SearchConfig { place: SearchChoice::Pgvector, ..config.search.clone() };
        Self::start(galleries, loaded, &RecognitionConfig { search, ..config.clone() }, None)
    }

    pub fn id(&self) -> ModelId {
        self.loaded.model.id
    }

    /// The name of the model, for answers.
    pub fn name(&self) -> &str {
        &self.loaded.model.name
    }

    pub fn calibration(&self) -> &Calibration {
        &self.loaded.calibration
    }
}

/// By what new faces are embedded as well.
#[derive(Clone)]
pub(super) struct Target {
    pub serving: Arc<Serving>,
    /// Share of the probes that it answers in the shadow, if it does.
    pub shadow: Option<f64>,
}

impl Target {
    /// Whether it is what the database says.
    pub fn is(&self, model: &Model) -> bool {
        self.serving.id() == model.id && self.shadow == model.shadow && self.serving.loaded.is_described_by(model)
    }
}

/// All that is loaded at present.
#[derive(Clone)]
struct Onstage {
    serving: Arc<Serving>,
    /// About to take its place.
    incoming: Option<Arc<Serving>>,
    target: Option<Target>,
}

/// Where requests find the model that answers.
pub(super) struct Stage(RwLock<Onstage>);

impl Stage {
    pub fn new(serving: Serving) -> Self {
        Self(RwLock::new(Onstage { serving: Arc::new(serving), incoming: None, target: None }))
    }

    fn read(&self) -> Onstage {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Onstage) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn serving(&self) -> Arc<Serving> {
        self.read().serving
    }

    pub fn target(&self) -> Option<Target> {
        self.read().target
    }

    /// The models that are loaded, or about to answer.
    pub fn models(&self) -> Vec<ModelId> {
        let Onstage { serving, incoming, target } = self.read();
        let target = target.map(|target| target.serving.id());
        let others = incoming.map(|incoming| incoming.id()).into_iter().chain(target);
        std::iter::once(serving.id()).chain(others).collect()
    }

    pub fn set_target(&self, target: Option<Target>) {
        // Weights may be freed here, and not while others wait.
        let _former = self.change(|stage| std::mem::replace(&mut stage.target, target));
    }

    /// The serving model or the target, if it is this one.
    pub fn loaded(&self, model: ModelId) -> Option<Loaded> {
        let stage = self.read();
        if stage.serving.id() == model {
            return Some(stage.serving.loaded.clone());
        }
        stage.target.filter(|target| target.serving.id() == model).map(|target| target.serving.loaded.clone())
    }

    /// Lets another model answer from now on. What was written before is in its memory when requests see it.
    pub async fn replace(&self, next: Serving) {
        let next = Arc::new(next);
        // From here on whoever writes waits for the next one's memory as well; the settling waits for those before.
        self.change(|stage| stage.incoming = Some(Arc::clone(&next)));
        next.resident.settle().await;
        let _former = self.change(|stage| {
            stage.incoming = None;
            if stage.target.as_ref().is_some_and(|target| target.serving.id() == next.id()) {
                stage.target = None;
            }
            std::mem::replace(&mut stage.serving, next)
        });
    }

    /// Takes over what is said anew of the model that answers: its name, its calibration.
    pub fn describe_anew(&self, model: &Model, config: &RecognitionConfig) {
        let former = self.serving();
        if former.loaded.is_described_by(model) || model.manifest.is_none() {
            return;
        }
        let loaded = former.loaded.clone().described(model);
        let next = Serving {
            threshold: config.threshold.unwrap_or(loaded.calibration.threshold),
            resident: former.resident.clone(),
            threshold_given: former.threshold_given,
            fpir: former.fpir,
            loaded,
        };
        self.change(|stage| stage.serving = Arc::new(next));
    }

    /// Waits until searches see what was committed before.
    pub async fn settle(&self) {
        let Onstage { serving, incoming, .. } = self.read();
        match incoming {
            Some(incoming) => _ = tokio::join!(serving.resident.settle(), incoming.resident.settle()),
            None => serving.resident.settle().await,
        }
    }

    /// Takes a gallery that has been deleted out of memory, for good and at once.
    pub fn forget_gallery(&self, gallery: GalleryId) {
        self.memories().for_each(|resident| resident.forget_gallery(gallery));
    }

    /// Takes a subject that has been deleted out of memory, for good and at once.
    pub fn forget_subject(&self, gallery: GalleryId, subject: SubjectId) {
        self.memories().for_each(|resident| resident.forget_subject(gallery, subject));
    }

    fn memories(&self) -> impl Iterator<Item = Resident> {
        let Onstage { serving, incoming, .. } = self.read();
        std::iter::once(serving).chain(incoming).map(|serving| serving.resident.clone())
    }
}

impl Services {
    /// What answers a request that begins now.
    pub(super) fn serving(&self) -> Arc<Serving> {
        self.0.stage.serving()
    }

    /// The model that answers.
    pub fn active_model(&self) -> Model {
        self.serving().loaded.model.clone()
    }

    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub fn model_files(&self) -> &ModelFiles {
        &self.0.models
    }

    /// The name of the model that answers.
    pub fn model_name(&self) -> String {
        self.serving().name().to_owned()
    }

    /// Waits until searches see what was committed before; called after each write.
    pub(super) async fn settle(&self) {
        self.0.stage.settle().await;
    }

    /// A model that is loaded already, or is loaded now from the model store.
    pub(super) async fn load(&self, model: &Model) -> Result<Loaded, ServiceError> {
        match self.0.stage.loaded(model.id) {
            Some(loaded) => Ok(loaded.described(model)),
            None => self.0.models.load(model).await,
        }
    }

    /// Makes a model ready to answer, with its templates in memory.
    pub(super) async fn prepare(&self, loaded: Loaded) -> Serving {
        let serving = Serving::start(&self.0.galleries, loaded, &self.0.recognition, self.0.search_device);
        serving.resident.filled().await;
        serving
    }
}
