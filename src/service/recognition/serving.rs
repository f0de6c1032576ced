//! What answers requests: one model with everything that belongs to it.
//!
//! A request takes a snapshot when it begins and keeps it to its end, so every answer comes from exactly one model and
//! names it, whatever is promoted meanwhile. What nobody holds any more is freed.

use std::sync::{Arc, PoisonError, RwLock};

use super::PhotoFace;
use crate::config::{RecognitionConfig, SearchChoice, SearchConfig};
use crate::engine::{Device, LoadedEmbedder};
use crate::gallery::Galleries;
use crate::registry::{Calibration, Manifest, Model};
use crate::resident::Resident;
use crate::service::ServiceError;
use crate::service::answers::Usability;
use crate::types::{Embedding, GalleryId, ModelId, SubjectId, Threshold};
use crate::vision::Weakness;

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
pub(in crate::service) struct Serving {
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
pub(in crate::service) struct Secondary {
    pub serving: Arc<Serving>,
    /// Share of the probes that it answers in the shadow, if it does.
    pub shadow: Option<f64>,
}

impl Secondary {
    /// Whether it is what the database says.
    pub fn is(&self, model: &Model) -> bool {
        self.serving.id() == model.id && self.shadow == model.shadow && self.serving.loaded.is_described_by(model)
    }
}

/// All that is loaded at present.
#[derive(Clone)]
struct Held {
    serving: Arc<Serving>,
    /// About to take its place.
    incoming: Option<Arc<Serving>>,
    secondary: Option<Secondary>,
}

/// The models that answer requests, or are about to.
pub(in crate::service) struct ServedModels(RwLock<Held>);

impl ServedModels {
    pub fn new(serving: Serving) -> Self {
        Self(RwLock::new(Held { serving: Arc::new(serving), incoming: None, secondary: None }))
    }

    fn read(&self) -> Held {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn serving(&self) -> Arc<Serving> {
        self.read().serving
    }

    pub fn secondary(&self) -> Option<Secondary> {
        self.read().secondary
    }

    /// The models that are loaded, or about to answer.
    pub fn models(&self) -> Vec<ModelId> {
        let Held { serving, incoming, secondary } = self.read();
        let secondary = secondary.map(|secondary| secondary.serving.id());
        let others = incoming.map(|incoming| incoming.id()).into_iter().chain(secondary);
        std::iter::once(serving.id()).chain(others).collect()
    }

    pub fn set_secondary(&self, secondary: Option<Secondary>) {
        // Weights may be freed here, and not while others wait.
        let _former = self.change(|held| std::mem::replace(&mut held.secondary, secondary));
    }

    /// The active model or the secondary one, if it is this one.
    pub fn loaded(&self, model: ModelId) -> Option<Loaded> {
        let held = self.read();
        if held.serving.id() == model {
            return Some(held.serving.loaded.clone());
        }
        held.secondary
            .filter(|secondary| secondary.serving.id() == model)
            .map(|secondary| secondary.serving.loaded.clone())
    }

    /// Lets another model answer from now on. What was written before is in its memory when requests see it.
    pub async fn replace(&self, next: Serving) {
        let next = Arc::new(next);
        // From here on whoever writes waits for the next one's memory as well; catching up waits for those before.
        self.change(|held| held.incoming = Some(Arc::clone(&next)));
        next.resident.catch_up().await;
        let _former = self.change(|held| {
            held.incoming = None;
            if held.secondary.as_ref().is_some_and(|secondary| secondary.serving.id() == next.id()) {
                held.secondary = None;
            }
            std::mem::replace(&mut held.serving, next)
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
        self.change(|held| held.serving = Arc::new(next));
    }

    /// Waits until searches see what was committed before.
    pub async fn catch_up(&self) {
        let Held { serving, incoming, .. } = self.read();
        match incoming {
            Some(incoming) => _ = tokio::join!(serving.resident.catch_up(), incoming.resident.catch_up()),
            None => serving.resident.catch_up().await,
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
        let Held { serving, incoming, .. } = self.read();
        std::iter::once(serving).chain(incoming).map(|serving| serving.resident.clone())
    }
}

impl Serving {
    /// What a face is worth for recognition at a threshold.
    ///
    /// By the length of its embedding, if the model is calibrated for it: no part of quality says nearly as much. Else a
    /// face without a weakness is usable.
    pub(in crate::service) fn usability(&self, face: &PhotoFace, embedding: &Embedding, threshold: f32) -> Usability {
        let usable = self.calibration().is_usable(embedding.norm()).unwrap_or(face.weaknesses.is_empty());
        let reasons = match (usable, face.weaknesses.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => vec![Weakness::Unclear],
            (false, false) => face.weaknesses.clone(),
        };
        Usability { usable, missed: self.calibration().missed(embedding.norm(), threshold), reasons }
    }
}

impl Usability {
    /// Refuses a face that cannot be recognised.
    pub(in crate::service) fn accepted(self, field: &'static str) -> Result<Self, ServiceError> {
        if self.usable { Ok(self) } else { Err(ServiceError::UnusableFace { field, reasons: self.reasons }) }
    }
}
