//! Builds, starts and stops the parts of the program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use crate::config::{Config, DatabaseConfig};
use crate::db::{Database, DbError};
use crate::engine::{Channels, Engine, EngineError, EngineThreads, InputNormalisation};
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::registry::{ChannelOrder, Manifest, ManifestError, Registry, RegistryError};
use crate::service::{ServiceError, Services, TrainingSetup};
use crate::telemetry::metrics;
use crate::types::hex;

#[derive(Debug, Error)]
pub enum AppError {
    #[error("cannot read the network {path}: {source}; run `make setup`, or set --weights-dir")]
    Weights { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// How long the threads of the engine may take to end: a batch at most.
const LAST_BATCH: Duration = Duration::from_secs(30);

/// How long jobs may take to be given back: longer than each of them has.
const LAST_JOB: Duration = Duration::from_secs(30);

/// The running parts. [`App::stop`] ends them in order; without it, what is left behind is cleaned up at next start.
pub struct App {
    pub services: Services,
    database: Database,
    inference: EngineThreads,
    upkeep: JoinSet<()>,
    worker: Option<JoinHandle<()>>,
}

impl App {
    /// Starts the database and the engine side by side, then brings schema, model and embeddings up to date.
    pub async fn start(config: &Config) -> Result<Self, AppError> {
        metrics::start();
        let (manifest, sha256) = manifest(&config.engine.embedder).await?;
        let normalisation = normalisation(&manifest);
        let (engine, database) =
            tokio::join!(Engine::start(config.engine.clone(), normalisation), open_database(&config.database));
        // Whichever failed, the other must still be stopped.
        let (engine, inference) = match engine {
            Ok(started) => started,
            Err(error) => {
                if let Ok(database) = database {
                    database.close().await;
                }
                return Err(error.into());
            }
        };
        let database = database?;
        match serve_model(config, &manifest, sha256, engine, &database).await {
            Ok(services) => {
                let mut upkeep = services.start_upkeep();
                upkeep.spawn(metrics::upkeep());
                Ok(Self { services, database, inference, upkeep, worker: None })
            }
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    /// Begins to work on the database's jobs, as servers do.
    pub fn work_on_jobs(&mut self) {
        self.worker.get_or_insert_with(|| tokio::spawn(self.services.clone().work_on_jobs()));
    }

    /// Waits for what is in work, then closes the database. Drop every clone of `services` first.
    pub async fn stop(mut self) {
        self.services.close();
        if let Some(mut worker) = self.worker.take()
            && tokio::time::timeout(LAST_JOB, &mut worker).await.is_err()
        {
            warn!("a job does not end; left behind");
            worker.abort();
        }
        self.upkeep.shutdown().await;
        drop(self.services);
        let inference = tokio::task::spawn_blocking(move || self.inference.join());
        if tokio::time::timeout(LAST_BATCH, inference).await.is_err() {
            warn!("the engine is still busy; left behind");
        }
        self.database.close().await;
        info!("stopped");
    }
}

/// Opens the configured Postgres, or starts the private one, and migrates it.
pub async fn open_database(config: &DatabaseConfig) -> Result<Database, DbError> {
    migrated(Database::open(config).await?).await
}

/// As [`open_database`], but works beside a server that runs the private Postgres.
pub async fn reach_database(config: &DatabaseConfig) -> Result<Database, DbError> {
    migrated(Database::reach(config).await?).await
}

async fn migrated(database: Database) -> Result<Database, DbError> {
    match database.migrate().await {
        Ok(()) => Ok(database),
        Err(error) => {
            database.close().await;
            Err(error)
        }
    }
}

/// Makes the engine's embedder the database's active model, with an embedding for every face.
async fn serve_model(
    config: &Config,
    manifest: &Manifest,
    sha256: [u8; 32],
    engine: Engine,
    database: &Database,
) -> Result<Services, AppError> {
    let registry = Registry::new(database.pool().clone());
    let galleries = Galleries::new(database.pool().clone());
    let dimension = u32::try_from(engine.dimension()).unwrap_or(u32::MAX);
    if let Ok(former) = registry.active().await
        && former.sha256 != sha256
    {
        info!(former = %former.name, next = %manifest.name, "another embedder takes over");
    }
    let model = registry.register(&manifest.name, sha256, dimension).await?;
    let id = model.id;
    let calibration = manifest.calibration();
    let jobs = Jobs::new(database.pool().clone(), config.jobs.lease);
    let training = TrainingSetup {
        folder: config.jobs.folder.clone(),
        embedder: config.engine.embedder.clone(),
        threads: config.jobs.train_threads,
        memory: config.jobs.train_memory,
    };
    let services =
        Services::new(engine, galleries, registry.clone(), jobs, training, model, calibration, &config.recognition);
    services.embed_missing_faces().await?;
    registry.activate(id).await?;
    Ok(services)
}

/// What is known of an embedder file, and its sha256.
pub async fn manifest(embedder: &Path) -> Result<(Manifest, [u8; 32]), AppError> {
    let path = embedder.to_owned();
    let sha256 = tokio::task::spawn_blocking(move || file_sha256(&path)).await.map_err(join_error)??;
    Ok((Manifest::of(embedder, &hex(&sha256))?, sha256))
}

/// What the embedder of a configuration was trained to read.
pub async fn input_normalisation(config: &Config) -> Result<InputNormalisation, AppError> {
    Ok(normalisation(&manifest(&config.engine.embedder).await?.0))
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
    }
}

fn file_sha256(path: &Path) -> Result<[u8; 32], AppError> {
    let failed = |source| AppError::Weights { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(failed)?;
    Ok(hash.finalize().into())
}

fn join_error(error: tokio::task::JoinError) -> AppError {
    ServiceError::Internal(error.to_string()).into()
}
