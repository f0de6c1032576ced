//! Builds, starts and stops the parts of the program.

mod models;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use crate::audit::Audit;
use crate::blobs::{BlobError, Blobs};
use crate::config::{ChipKeySource, Config, ConfigError, DatabaseConfig};
use crate::db::{Answers, Database, DbError};
use crate::engine::{Engine, EngineError, EngineThreads, InputNormalisation, search_device};
use crate::gallery::Galleries;
use crate::jobs::{Jobs, Lane};
use crate::nn::NetworkError;
use crate::registry::{Manifest, ManifestError, Registry, RegistryError};
use crate::sealing::{Keyring, KeyringError};
use crate::service::{
    Access, ChainError, Loaded, ModelFiles, ServiceError, Services, StartProgress, StartStage, Stores, normalisation,
};
use crate::signing::PrivateKey;
use crate::telemetry::metrics;
use crate::types::{Caller, hex};

#[derive(Debug, Error)]
pub enum AppError {
    #[error("cannot read the network {path}: {source}; run `make setup`, or set --weights-dir")]
    Weights { path: PathBuf, source: std::io::Error },
    #[error(
        "the active model {name} has no file in the model store: set --model-store to where it is, or --embedder to the file \
         with the sha256 {sha256}"
    )]
    ModelFile { name: String, sha256: String },
    #[error(
        "refusing to listen on {bind} for everyone: make a key (`faceid keys create NAME --role owner`), or set FACEID_CLIENT_KEY \
         and FACEID_ADMIN_KEY (or client_key and admin_key in the configuration file), or bind to 127.0.0.1, or say --insecure if \
         something else guards this port"
    )]
    OpenToEveryone { bind: SocketAddr },
    #[error("cannot sign by {}: {reason}", path.display())]
    SigningKey { path: PathBuf, reason: String },
    #[error("there is no master key of chips in {from}: {error}")]
    ChipKey { from: ChipKeySource, error: KeyringError },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the detector {} cannot be used: {source}", path.display())]
    Detector { path: PathBuf, source: ServiceError },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// How long the threads of the engine may take to end: a batch at most.
const LAST_BATCH: Duration = Duration::from_secs(10);

/// How long the last entries of the audit may take.
const LAST_ENTRIES: Duration = Duration::from_secs(5);

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
    /// Starts a server: as [`Self::open`], then promotes the configured embedder if it is new to the database. `progress` says
    /// meanwhile what it is at.
    pub async fn start(config: &Config, progress: &StartProgress) -> Result<Self, AppError> {
        let app = Self::open(config, progress).await?;
        if let Err(error) = app.check_access(config).await {
            app.stop().await;
            return Err(error);
        }
        let models = &app.services.models;
        match models::new_embedder(config, &models.active_model(), models.registry(), models.files()).await {
            Ok(None) => {}
            Ok(Some(model)) => {
                if let Err(error) = models.promote_configured(model).await {
                    warn!(%error, "--embedder is not promoted; the active model goes on serving");
                }
            }
            Err(error) => {
                app.stop().await;
                return Err(error);
            }
        }
        Ok(app)
    }

    /// Starts the database and the engine side by side, brings the schema up to date, loads the active model and tries all
    /// that a photo needs. Faces that lack an embedding are embedded in the background afterwards.
    pub async fn open(config: &Config, progress: &StartProgress) -> Result<Self, AppError> {
        metrics::start();
        let database = async {
            progress.reach(StartStage::Database);
            let database = open_database(&config.database).await;
            progress.reach(StartStage::Networks);
            database
        };
        let (engine, database) = tokio::join!(Engine::start(config.engine.clone()), database);
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
        match serve_model(config, engine, &database, progress).await {
            Ok(services) => {
                let mut upkeep = services.upkeep.start();
                upkeep.spawn(metrics::upkeep());
                upkeep.spawn(services.access.clone().keep_up());
                upkeep.spawn(services.audit.clone().keep_up());
                let pools = database.pools().clone();
                upkeep.spawn(async move { pools.listen().await });
                Ok(Self { services, database, inference, upkeep, worker: None })
            }
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    /// A server serves nobody whom it should not, and everybody whom it should.
    async fn check_access(&self, config: &Config) -> Result<(), AppError> {
        let access = &self.services.access;
        access.check_secret().await?;
        if access.may_begin() { Ok(()) } else { Err(AppError::OpenToEveryone { bind: config.http.bind }) }
    }

    /// The service, as it is for a command on the database itself.
    pub fn for_command(&self) -> Services {
        self.services.for_caller(&Caller::command())
    }

    /// Begins to work on the database's jobs, as servers do.
    pub fn work_on_jobs(&mut self, lanes: &'static [Lane]) {
        self.worker.get_or_insert_with(|| tokio::spawn(self.services.upkeep.clone().work_on_jobs(lanes)));
    }

    /// Waits for what is in work, then closes the database. Drop every clone of `services` first.
    pub async fn stop(mut self) {
        self.services.upkeep.close();
        if let Some(mut worker) = self.worker.take()
            && tokio::time::timeout(LAST_JOB, &mut worker).await.is_err()
        {
            warn!("a job does not end; left behind");
            worker.abort();
        }
        self.upkeep.shutdown().await;
        self.services.access.note_uses().await;
        if tokio::time::timeout(LAST_ENTRIES, self.services.audit.write_gathered()).await.is_err() {
            warn!("the database does not take the last entries of the audit");
        }
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

/// The galleries, with the master keys of chips that the configuration gives.
pub async fn open_galleries(database: &Database, config: &Config) -> Result<Galleries, AppError> {
    let keyring = match &config.chip_key {
        None => Keyring::default(),
        Some(source) => {
            let keys = source.read().await?;
            let read = Keyring::read(keys.expose());
            read.map_err(|error| AppError::ChipKey { from: source.clone(), error })?
        }
    };
    if let Some(newest) = keyring.newest() {
        let former: Vec<String> = keyring.ids().skip(1).map(|id| id.to_string()).collect();
        info!(%newest, former = former.join(", "), "the keys of chips are encrypted by a master key");
    }
    Ok(Galleries::open(database.pools(), keyring).await.map_err(ServiceError::from)?)
}

/// What finds and embeds faces without a server: the engine, and the active model, which on a new database becomes the configured
/// embedder, as it does when a server starts.
pub async fn start_engine(config: &Config, database: &Database) -> Result<(Engine, EngineThreads, Loaded), AppError> {
    let (engine, threads) = Engine::start(config.engine.clone()).await?;
    let registry = Registry::new(database.pools());
    let files = ModelFiles::new(engine.clone(), Blobs::open(&config.models.store)?, registry.clone(), &config.models);
    let active = models::active(config, &registry, &files).await?;
    Ok((engine, threads, active))
}

/// Loads the active model, then tries all that a photo needs.
async fn serve_model(
    config: &Config,
    engine: Engine,
    database: &Database,
    progress: &StartProgress,
) -> Result<Services, AppError> {
    let access = Access::open(database.pools(), &config.access).await?;
    progress.reach(StartStage::Model);
    let search_device = search_device(config.engine.clone()).await?;
    let registry = Registry::new(database.pools());
    let galleries = open_galleries(database, config).await?;
    let files = ModelFiles::new(engine.clone(), Blobs::open(&config.models.store)?, registry.clone(), &config.models);
    let active = models::active(config, &registry, &files).await?;
    let jobs = Jobs::new(database.pools(), config.jobs.lease);
    let answers = Answers::new(database.pools());
    let audit = Audit::new(database.pools(), config.audit.answers);
    let stores = Stores { galleries, registry, jobs, answers, audit };
    let services = Services::new(access, &engine, search_device, &stores, files, active, config);
    if let Some(path) = &config.audit.signing_key {
        services.enrolment.sign_receipts_by(signing_key(path)?);
    }
    progress.reach(StartStage::SelfTest);
    match services.upkeep.try_chain().await {
        Ok(()) => Ok(services),
        Err(ChainError::Detector(source)) => Err(AppError::Detector { path: config.engine.detector.clone(), source }),
        Err(ChainError::Other(error)) => Err(error.into()),
    }
}

/// Reads the key of an operator.
fn signing_key(path: &Path) -> Result<PrivateKey, AppError> {
    let failed = |reason: String| AppError::SigningKey { path: path.to_owned(), reason };
    let pem = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    PrivateKey::read(&pem).map_err(|error| failed(error.to_string()))
}

/// What is known of an embedder file.
pub async fn manifest(embedder: &Path) -> Result<Manifest, AppError> {
    let path = embedder.to_owned();
    let sha256 = tokio::task::spawn_blocking(move || file_sha256(&path)).await.map_err(join_error)??;
    Ok(Manifest::of(embedder, &hex(&sha256))?)
}

/// What the embedder of a configuration was trained to read.
pub async fn input_normalisation(config: &Config) -> Result<InputNormalisation, AppError> {
    Ok(normalisation(&manifest(&config.engine.embedder).await?))
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
