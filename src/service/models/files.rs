//! Model files: from the store into the engine, and into the store after a look at them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::warn;

use super::trial;
use crate::blobs::{self, Blobs};
use crate::config::{ModelsConfig, TrialConfig};
use crate::engine::{Channels, Engine, EngineError, Format, InputNormalisation, LoadedEmbedder};
use crate::registry::{ChannelOrder, Manifest, Model, ModelFormat, ModelSource, NewModel, Registry, RegistryError};
use crate::service::ServiceError;
use crate::service::recognition::Loaded;
use crate::types::{Actor, ModelId, hex};

/// A model file that somebody brings.
pub struct NewModelFile {
    pub content: Bytes,
    pub manifest: Manifest,
    pub source: ModelSource,
    /// The model that it was trained from.
    pub parent: Option<ModelId>,
    /// Whether it may be a program.
    pub allow_code: bool,
}

/// The files of models, and the engine that runs them. Cheap to clone.
#[derive(Clone)]
pub struct ModelFiles {
    engine: Engine,
    blobs: Blobs,
    registry: Registry,
    max_bytes: usize,
    trial: TrialConfig,
    /// Held by the one file that is tried out: several would take several times the memory.
    trials: Arc<Semaphore>,
}

impl ModelFiles {
    pub fn new(engine: Engine, blobs: Blobs, registry: Registry, config: &ModelsConfig) -> Self {
        let ModelsConfig { max_bytes, trial, .. } = config;
        let trials = Arc::new(Semaphore::new(1));
        Self { engine, blobs, registry, max_bytes: *max_bytes, trial: trial.clone(), trials }
    }

    /// Looks at a file, stores it and registers it as a candidate; `false`: it is known already, and stays as it is.
    ///
    /// A file that an operator brings is tried out in a process of its own before it is loaded here.
    pub async fn import(&self, file: NewModelFile, actor: &Actor) -> Result<(Loaded, bool), ServiceError> {
        let NewModelFile { content, manifest, source, parent, allow_code } = file;
        let bytes = content.len();
        if bytes > self.max_bytes {
            return Err(ServiceError::ModelTooLarge { bytes, limit: self.max_bytes });
        }
        let format = Format::of(&content);
        if format == Format::TorchScript && !allow_code {
            return Err(ServiceError::CodeRefused);
        }
        let embedder = self.look_at(&content, format, &manifest, source).await?;
        let dimension = u32::try_from(embedder.dimension()).unwrap_or(u32::MAX);
        if dimension > Registry::MAX_DIMENSION {
            return Err(RegistryError::InvalidDimension(dimension).into());
        }
        let sha256 = self.blobs.put(content.clone()).await?;
        let format = match format {
            Format::Onnx => ModelFormat::Onnx,
            Format::TorchScript => ModelFormat::TorchScript,
        };
        let new = NewModel { sha256, dimension, manifest: &manifest, format, bytes: bytes as u64, source, parent };
        let (model, is_new) = match self.registry.import(&new, actor).await {
            Ok(imported) => imported,
            Err(error) => {
                if let Err(error) = self.delete_unneeded(&sha256).await {
                    warn!(%error, sha256 = %hex(&sha256), "the file of a refused model stays in the model store");
                }
                return Err(error.into());
            }
        };
        // Until it was registered nobody seemed to need the file: it may have been deleted.
        if !self.blobs.has(&sha256).await? {
            self.blobs.put(content).await?;
        }
        // Of a known model more may be known than what was said now.
        let calibration = model.manifest.as_ref().unwrap_or(&manifest).calibration();
        Ok((Loaded { model, embedder, calibration }, is_new))
    }

    /// Loads a file that is new here, after a trial if an operator brings it.
    async fn look_at(
        &self,
        content: &Bytes,
        format: Format,
        manifest: &Manifest,
        source: ModelSource,
    ) -> Result<LoadedEmbedder, ServiceError> {
        // The file of a known model was tried out when it became one.
        let known = self.registry.of_weights(&blobs::digest(content.clone()).await).await?;
        if source == ModelSource::Import && !known.is_some_and(|known| known.is_loadable()) {
            let _only = self.trials.acquire().await.map_err(|error| ServiceError::Internal(error.to_string()))?;
            trial::try_out(&self.trial, content, format, normalisation(manifest)).await?;
        }
        let loading = self.engine.load_embedder(content.clone(), format, normalisation(manifest));
        loading.await.map_err(|error| match error {
            EngineError::Embedder(_) => ServiceError::InvalidModel(error.to_string()),
            error => error.into(),
        })
    }

    /// The content of a model's file.
    pub async fn content(&self, model: &Model) -> Result<Bytes, ServiceError> {
        if model.file.is_none() {
            return Err(ServiceError::NoModelFile { model: model.name.clone() });
        }
        Ok(self.blobs.get(&model.sha256).await?)
    }

    /// Loads a model from the store.
    pub async fn load(&self, model: &Model) -> Result<Loaded, ServiceError> {
        let (Some(manifest), Some((format, _))) = (&model.manifest, model.file) else {
            return Err(ServiceError::NoModelFile { model: model.name.clone() });
        };
        let format = match format {
            ModelFormat::Onnx => Format::Onnx,
            ModelFormat::TorchScript => Format::TorchScript,
        };
        let content = self.blobs.get(&model.sha256).await?;
        let embedder = self.engine.load_embedder(content, format, normalisation(manifest)).await?;
        self.check_dimension(model, &embedder)?;
        Ok(Loaded { model: model.clone(), embedder, calibration: manifest.calibration() })
    }

    /// How a file is to be registered: as it is known, else by `manifest`, with the part of a hash added to a name that
    /// another model has.
    pub async fn manifest_for(&self, content: &Bytes, manifest: Manifest) -> Result<Manifest, ServiceError> {
        let sha256 = blobs::digest(content.clone()).await;
        let models = self.registry.list().await?;
        let known = models.iter().find(|it| it.sha256 == sha256 && it.is_loadable());
        if let Some(known) = known.and_then(|known| known.manifest.clone()) {
            return Ok(known);
        }
        if !models.iter().any(|it| it.name == manifest.name && it.sha256 != sha256) {
            return Ok(manifest);
        }
        let name = format!("{}-{}", manifest.name, &hex(&sha256)[..8]);
        manifest.named(name).map_err(|error| ServiceError::InvalidModel(error.to_string()))
    }

    /// The store that they are in.
    pub(in crate::service) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(in crate::service) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Deletes a file, unless a model has it.
    pub(in crate::service) async fn delete_unneeded(&self, sha256: &[u8; 32]) -> Result<(), ServiceError> {
        let Some(_unneeded) = self.registry.hold_unneeded(sha256).await? else { return Ok(()) };
        Ok(self.blobs.delete(sha256).await?)
    }

    fn check_dimension(&self, model: &Model, embedder: &LoadedEmbedder) -> Result<(), ServiceError> {
        if embedder.dimension() == model.dimension as usize {
            return Ok(());
        }
        let (name, registered) = (model.name.clone(), model.dimension);
        let given = u32::try_from(embedder.dimension()).unwrap_or(u32::MAX);
        Err(RegistryError::OtherDimension { name, registered, given }.into())
    }
}

/// How an embedder wants its chips.
pub fn normalisation(manifest: &Manifest) -> InputNormalisation {
    InputNormalisation {
        mean: manifest.mean,
        scale: manifest.scale,
        channels: match manifest.channels {
            ChannelOrder::Rgb => Channels::Rgb,
            ChannelOrder::Bgr => Channels::Bgr,
        },
        crop: manifest.part(),
        size: manifest.input_size(),
    }
}
