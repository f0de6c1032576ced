//! The models that the database knows: listed, and imported.

use sha2::{Digest, Sha256};

use super::{Models, NewModelFile};
use crate::engine::Step;
use crate::registry::{self, GateVerdict, Manifest, ManifestError, Model, ModelFormat, ModelSource, ModelState};
use crate::service::ServiceError;
use crate::service::answers::{ModelDetails, ModelEntry};
use crate::service::requests::ModelUpload;
use crate::types::{ModelId, hex};

impl Models {
    /// The models that the database knows, oldest first.
    pub async fn list_models(&self) -> Result<Vec<ModelEntry>, ServiceError> {
        let rollback = self.rollback_id().await?;
        let models = self.parts.registry.list().await?.into_iter();
        Ok(models.map(|model| entry(model, rollback)).collect())
    }

    /// A model given by id, sha256 or name, with its figures.
    pub async fn get_model(&self, model: &str) -> Result<ModelDetails, ServiceError> {
        let model = self.find_model(model).await?;
        let galleries = &self.galleries();
        let (embeddings, missing, without_chip) = tokio::try_join!(
            galleries.count_embeddings(model.id),
            galleries.count_missing_embeddings(model.id),
            galleries.count_without_chip(model.id),
        )?;
        let rollback = self.rollback_id().await?;
        let manifest = model.manifest.as_ref().map(serde_json::to_value).transpose();
        Ok(ModelDetails {
            manifest: manifest.map_err(|error| ServiceError::Internal(error.to_string()))?,
            verdict: model.verdict.clone().map(Into::into),
            embeddings,
            missing,
            without_chip,
            entry: entry(model, rollback),
        })
    }

    /// A model given by id, sha256 or name.
    pub async fn find_model(&self, model: &str) -> Result<Model, ServiceError> {
        Ok(self.parts.registry.find(model).await?)
    }

    /// Takes in a file that somebody brings, with what they say of it. `false`: it is known already, and nothing changed.
    pub async fn add_model(&self, upload: ModelUpload) -> Result<(ModelEntry, bool), ServiceError> {
        let (content, hashed) = (upload.file.0.clone(), upload.file.0.clone());
        let sha256 = self.parts.engine.on_cpu(Step::Chips, move || Sha256::digest(&hashed).into()).await?;
        // Where nobody needs a key, nobody has shown that they may run programs here.
        let allow_code = upload.allow_code && !self.caller.is_anyone();
        let manifest = self.manifest_of(&sha256, upload).await?;
        let file = NewModelFile { content, manifest, source: ModelSource::Import, parent: None, allow_code };
        let (loaded, is_new) = self.parts.files.import(file, &self.caller.actor()).await?;
        Ok((entry(loaded.model, self.rollback_id().await?), is_new))
    }

    /// What is said of weights, else what is known of them.
    async fn manifest_of(&self, sha256: &[u8; 32], fields: ModelUpload) -> Result<Manifest, ServiceError> {
        let invalid = |field: &'static str| {
            move |error: ManifestError| ServiceError::InvalidField { field, reason: error.to_string() }
        };
        let known = match fields.manifest {
            Some(text) => Some(Manifest::from_toml(&text).map_err(invalid("manifest"))?),
            None => self.known_manifest(sha256, &fields).await?,
        };
        let mut manifest = match (known.or_else(|| Manifest::known(sha256)), &fields.name, fields.threshold) {
            (Some(manifest), ..) => manifest,
            (None, Some(name), Some(_)) => Manifest::uncalibrated(name.clone()),
            (None, None, _) => return Err(missing("name")),
            (None, Some(_), None) => return Err(missing("threshold")),
        };
        manifest.mean = fields.mean.unwrap_or(manifest.mean);
        manifest.scale = fields.scale.unwrap_or(manifest.scale);
        manifest.channels = fields.channels.unwrap_or(manifest.channels);
        if let Some(threshold) = fields.threshold {
            manifest = manifest.with_threshold(threshold);
        }
        let name = fields.name.unwrap_or_else(|| manifest.name.clone());
        manifest.named(name).map_err(invalid("name"))
    }

    /// What is known of weights. Of a retired model that counts only if nothing is said: it may have been described wrongly.
    async fn known_manifest(&self, sha256: &[u8; 32], fields: &ModelUpload) -> Result<Option<Manifest>, ServiceError> {
        let ModelUpload { file: _, manifest: _, name, threshold, mean, scale, channels, allow_code: _ } = fields;
        let is_said = name.is_some() || threshold.is_some() || mean.is_some() || scale.is_some() || channels.is_some();
        let known = self.parts.registry.of_weights(sha256).await?;
        Ok(known.filter(|model| model.state != ModelState::Retired || !is_said).and_then(|model| model.manifest))
    }

    /// The largest file that is taken in, in bytes.
    pub fn max_model_bytes(&self) -> usize {
        self.parts.files.max_bytes()
    }

    /// Keeps what the gate said of a model; a promotion goes by it.
    pub async fn set_verdict(&self, model: ModelId, verdict: &GateVerdict) -> Result<(), ServiceError> {
        Ok(self.parts.registry.set_verdict(model, verdict).await?)
    }

    async fn rollback_id(&self) -> Result<Option<ModelId>, ServiceError> {
        match self.parts.registry.rollback_model().await {
            Ok(model) => Ok(Some(model.id)),
            Err(registry::RegistryError::NoFormerModel) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn missing(field: &'static str) -> ServiceError {
    let reason = "it is needed, unless `manifest` says it".to_owned();
    ServiceError::InvalidField { field, reason }
}

fn entry(model: Model, rollback: Option<ModelId>) -> ModelEntry {
    let is_rollback = rollback == Some(model.id) && model.state == ModelState::Former;
    ModelEntry {
        id: model.id.0,
        name: model.name,
        sha256: hex(&model.sha256),
        dimension: model.dimension,
        state: model.state.as_str().to_owned(),
        source: model.source.as_str().to_owned(),
        format: model.file.map(|(format, _): (ModelFormat, u64)| format.as_str().to_owned()),
        bytes: model.file.map(|(_, bytes)| bytes),
        parent: model.parent.map(|parent| parent.0),
        created_at: model.created_at,
        activated_at: model.activated_at,
        is_secondary: model.is_secondary,
        shadow: model.shadow,
        is_rollback,
    }
}

impl From<GateVerdict> for crate::service::answers::Verdict {
    fn from(verdict: GateVerdict) -> Self {
        let GateVerdict { outcome, passed, reasons, figures, at } = verdict;
        Self { outcome, passed, reasons, figures, at }
    }
}
