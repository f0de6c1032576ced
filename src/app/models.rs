//! Which model a server begins with: the one that the database says is active; on a new database the configured one.

use std::path::Path;

use bytes::Bytes;
use tracing::{info, warn};

use super::AppError;
use crate::blobs::{self, BlobError};
use crate::config::Config;
use crate::nn::{NetworkError, read_network};
use crate::registry::{Manifest, Model, ModelSource, ModelState, Registry, RegistryError};
use crate::service::{Loaded, ModelFiles, NewModelFile, ServiceError};
use crate::types::{Caller, ModelId, hex};

/// The configured embedder.
struct Configured {
    content: Bytes,
    sha256: [u8; 32],
    manifest: Manifest,
}

/// The active model, loaded. On a new database that becomes the configured embedder.
pub async fn active(config: &Config, registry: &Registry, files: &ModelFiles) -> Result<Loaded, AppError> {
    let active = match registry.active().await {
        Ok(active) => active,
        Err(RegistryError::NoActiveModel) => {
            let loaded = import(Configured::read(&config.engine.embedder).await?, files).await?;
            match registry.activate_first(loaded.model.id, &Caller::server().actor()).await? {
                Some(model) => {
                    info!(model = %model.name, "the first model of this database");
                    return Ok(Loaded { model, ..loaded });
                }
                // Another server was faster.
                None => registry.active().await?,
            }
        }
        Err(error) => return Err(error.into()),
    };
    let active = renewed(registry, active).await?;
    match files.load(&active).await {
        Err(ServiceError::NoModelFile { .. } | ServiceError::Blob(BlobError::Missing { .. })) => {
            restore(config, &active, files).await
        }
        loaded => Ok(loaded?),
    }
}

/// Gives a bundled model the calibration of this version in place of one that an earlier version brought.
async fn renewed(registry: &Registry, active: Model) -> Result<Model, AppError> {
    let Some(manifest) = active.manifest.as_ref().and_then(|manifest| manifest.renewed(&active.sha256)) else {
        return Ok(active);
    };
    let details = serde_json::json!({"reason": "its calibration was that of an earlier version"});
    registry.calibrate(active.id, &manifest, &Caller::server().actor(), details).await?;
    info!(model = %active.name, "rates are those measured on thousands of people now; an earlier version had them from fifty");
    Ok(registry.active().await?)
}

/// Brings the file of the active model into the store, if it is the configured one: the database may be of a version that
/// kept none, or the store may be of this server alone.
async fn restore(config: &Config, active: &Model, files: &ModelFiles) -> Result<Loaded, AppError> {
    let configured = Configured::read(&config.engine.embedder).await?;
    if configured.sha256 != active.sha256 {
        return Err(AppError::ModelFile { name: active.name.clone(), sha256: hex(&active.sha256) });
    }
    import(configured, files).await
}

/// What an embedder that was named in the configuration asks for: if the database has never served it, it is imported, and
/// is to be promoted.
pub async fn new_embedder(
    config: &Config,
    active: &Model,
    registry: &Registry,
    files: &ModelFiles,
) -> Result<Option<ModelId>, AppError> {
    let follows = !config.models.embedder_named && was_default(active);
    if !config.models.embedder_named && !follows {
        return Ok(None);
    }
    let configured = Configured::read(&config.engine.embedder).await?;
    if configured.sha256 == active.sha256 {
        configured.compare(active);
        return Ok(None);
    }
    match registry.of_weights(&configured.sha256).await? {
        // Whoever went back to the former default stays with it.
        Some(known) if matches!(known.state, ModelState::Former | ModelState::Retired) && follows => Ok(None),
        Some(known) if matches!(known.state, ModelState::Former | ModelState::Retired) => {
            warn!(
                model = %active.name, embedder = %known.name,
                "the active model answers, not --embedder, which was active before; `faceid models promote` makes it active"
            );
            Ok(None)
        }
        Some(known) if known.is_loadable() => {
            configured.compare(&known);
            Ok(Some(known.id))
        }
        _ => {
            let imported = import(configured, files).await?.model;
            match follows {
                true => info!(
                    model = %active.name, next = %imported.name,
                    "the default embedder is another one since this database was begun, with a third of the misses: all faces \
                     are embedded anew while the former one answers, then it is promoted; `--embedder fast` stays with the \
                     former one"
                ),
                false => {
                    info!(model = %active.name, next = %imported.name, "--embedder is new here and will be promoted")
                }
            }
            Ok(Some(imported.id))
        }
    }
}

/// Whether a model came with an earlier version as its default, and nobody chose it.
fn was_default(model: &Model) -> bool {
    model.source == ModelSource::Configured && Manifest::is_former_default(&model.sha256)
}

async fn import(configured: Configured, files: &ModelFiles) -> Result<Loaded, AppError> {
    let Configured { content, manifest, .. } = configured;
    let manifest = files.manifest_for(&content, manifest).await?;
    // Whoever configures the server chose the file.
    let file = NewModelFile { content, manifest, source: ModelSource::Configured, parent: None, allow_code: true };
    Ok(files.import(file, &Caller::server().actor()).await?.0)
}

impl Configured {
    async fn read(path: &Path) -> Result<Self, AppError> {
        let file = path.to_owned();
        let reading = tokio::task::spawn_blocking(move || read_network(&file));
        let content = reading.await.map_err(super::join_error)?.map_err(|error| match error {
            NetworkError::Read { path: missing, source } if missing == path => {
                AppError::Weights { path: missing, source }
            }
            other => other.into(),
        })?;
        let content = Bytes::from(content);
        let sha256 = blobs::digest(content.clone()).await;
        let manifest = Manifest::of(path, &hex(&sha256))?;
        Ok(Self { content, sha256, manifest })
    }

    /// Says so if its manifest is not what the database knows, by which it answers.
    fn compare(&self, known: &Model) {
        let differences = known.manifest.as_ref().map(|known| self.manifest.differences(known)).unwrap_or_default();
        if !differences.is_empty() {
            let differences = differences.join(", ");
            warn!(model = %known.name, %differences, "the manifest of --embedder is not heeded: the database knows the model");
        }
    }
}
