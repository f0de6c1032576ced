//! Configuration: the sole reader of flags, environment and files.
//!
//! [`Settings`] is what a user may say, all of it optional; flags win over the environment, the environment over a
//! TOML file, the file over the defaults. [`Config`] is what the parts are given: complete and checked.

mod checks;
mod chip_key;
mod choices;
mod defaults;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod web;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

pub use chip_key::ChipKeySource;
pub use choices::{DeviceChoice, KernelsChoice, PrecisionChoice, ReclaimChoice, SearchChoice};
pub use settings::{ConfigArgs, LogFormat, Settings, ignore_empty_variables};
pub use store::{ModelStoreConfig, secret_variables};
pub use web::{BasePath, ClientAuth, CorsOrigins, TlsConfig, TrustedProxies};

use crate::limits::{AddressLimits, Limits};
use crate::types::Threshold;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is not valid, line {line}: {message}")]
    Malformed { path: PathBuf, line: usize, message: String },
    #[error("{name} = {value} is out of range: {expected} is expected")]
    OutOfRange { name: &'static str, value: String, expected: String },
    #[error(
        "max_body_bytes = {body} has no room for a photo of max_image_bytes = {image}: it takes {needed} at least, and \
         {needed_by_two} for two photos in JSON; raise max_body_bytes (and body_budget, if that is less than twice as much), or lower max_image_bytes"
    )]
    BodyTooSmall { body: usize, image: usize, needed: usize, needed_by_two: usize },
    #[error("there is no home folder to keep data in: set --data-dir")]
    NoHome,
    #[error("client_key and admin_key must differ, and each needs at least 16 characters")]
    WeakKeys,
    #[error("set both client_key and admin_key, or neither")]
    LoneKey,
    #[error("set both tls_cert and tls_key, or neither")]
    LoneTlsFile,
    #[error("{name} is for a server with TLS: set tls_cert and tls_key as well")]
    NoTls { name: &'static str },
    #[error("tls_client_auth = {auth} needs tls_client_ca, the certificates of the authorities that vouch for clients")]
    NoClientCa { auth: ClientAuth },
    #[error("key_secret (FACEID_KEY_SECRET) needs at least 32 characters, such as `openssl rand -hex 32` prints")]
    WeakKeySecret,
    #[error(
        "say once where the master key of chips is: by chip_key (FACEID_CHIP_KEY), chip_key_file or chip_key_command"
    )]
    SeveralChipKeys,
    #[error("cannot read the master key of chips (chip_key_file), {path}: {source}")]
    UnreadableChipKey { path: PathBuf, source: std::io::Error },
    #[error("chip_key_command does not print the master key of chips: {reason}")]
    ChipKeyCommand { reason: String },
    #[error(
        "the model store {url} is in S3, and the environment holds no credentials for it; {found} is not read: set \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`aws configure export-credentials --format env` shows them), or, for \
         the role of an EC2 instance, AWS_METADATA_ENDPOINT=http://169.254.169.254"
    )]
    AwsProfile { url: String, found: String },
    #[error(
        "database_session_url (FACEID_DATABASE_SESSION_URL) goes beside database_url (DATABASE_URL), which is not set"
    )]
    LoneSessionUrl,
}

/// A value that never shows in logs, errors or `--print-config`.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Complete, checked configuration, grouped by the part that it is for.
#[derive(Debug, Clone)]
pub struct Config {
    pub access: AccessConfig,
    /// `None`: no master key wraps the keys of chips.
    pub chip_key: Option<ChipKeySource>,
    pub http: HttpConfig,
    pub database: DatabaseConfig,
    pub engine: EngineConfig,
    pub recognition: RecognitionConfig,
    pub models: ModelsConfig,
    pub jobs: JobsConfig,
    pub audit: AuditConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub bind: SocketAddr,
    /// `None`: HTTP as it is.
    pub tls: Option<TlsConfig>,
    /// `None`: pages of other origins cannot read answers.
    pub cors_origins: Option<CorsOrigins>,
    pub base_path: BasePath,
    /// Whose word is taken for where a request comes from.
    pub trusted_proxies: TrustedProxies,
    /// Of each address.
    pub addresses: AddressLimits,
    pub max_body_bytes: usize,
    /// Of an upload of a data set.
    pub max_dataset_bytes: u64,
    /// Of all requests together.
    pub body_budget: usize,
    pub max_connections: usize,
    pub request_timeout: Duration,
    /// How long a connection may rest between requests.
    pub idle_timeout: Duration,
    /// How long newcomers are served after the signal to stop.
    pub shutdown_grace: Duration,
    pub shutdown_timeout: Duration,
}

/// Who may call, beside whoever has a key of the database.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    pub keys: Option<Keys>,
    /// By what keys of the database are hashed; `None`: by the database's own secret.
    pub key_secret: Option<Secret>,
    /// Whether the server may let everybody in while there are no keys: it is reached from its own machine alone, or `insecure`.
    pub may_be_open: bool,
    /// Whether something else guards the port.
    pub insecure: bool,
    /// Of each caller, where their key says nothing else.
    pub limits: Limits,
}

/// The two keys of a configuration.
#[derive(Debug, Clone)]
pub struct Keys {
    pub client: Secret,
    pub admin: Secret,
}

#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `None`: the private Postgres in `data_dir`.
    pub url: Option<Secret>,
    /// For what needs a session, if `url` leads to a pooler that lends its connections by transaction.
    pub session_url: Option<Secret>,
    /// The schema of the tables; `None`: the first of the role's `search_path`.
    pub schema: Option<String>,
    pub data_dir: PathBuf,
    pub postgres_dir: PathBuf,
    pub connections: u32,
}

#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub detector: PathBuf,
    pub embedder: PathBuf,
    pub device: DeviceChoice,
    pub precision: PrecisionChoice,
    pub kernels: KernelsChoice,
    /// Where large galleries in memory are searched; never [`DeviceChoice::Auto`].
    pub search_device: DeviceChoice,
    /// Where CUDA's part of libtorch is, if not on the library path.
    pub cuda_libraries: Option<PathBuf>,
    /// Threads that decode, align and, without a GPU, run networks.
    pub threads: usize,
    /// `None`: what suits the device.
    pub max_batch: Option<usize>,
    /// How long a batch may wait to fill while there is other work.
    pub max_wait: Duration,
    /// Entries that may wait for each network, and how long.
    pub queue_len: usize,
    pub queue_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct ModelsConfig {
    pub store: ModelStoreConfig,
    /// Largest file that is imported.
    pub max_bytes: usize,
    /// Whether the engine's embedder was asked for by name, rather than by default.
    pub embedder_named: bool,
    pub trial: TrialConfig,
}

/// How a file that somebody brings is tried out.
#[derive(Debug, Clone)]
pub struct TrialConfig {
    /// Runs `faceid try-model`: this program, whatever has become of its file.
    pub program: PathBuf,
    pub precision: PrecisionChoice,
    pub kernels: KernelsChoice,
}

/// This program, whatever has become of its file: an upgrade may have replaced it.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

#[derive(Debug, Clone)]
pub struct RecognitionConfig {
    pub max_image_bytes: usize,
    pub max_image_pixels: u64,
    /// Bytes of memory that all images may take together; the largest fits if it is RGB.
    pub decode_budget: u64,
    pub detector_side: u32,
    pub min_detection_score: f32,
    /// Overrides the threshold of the embedder's calibration.
    pub threshold: Option<Threshold>,
    /// Share of strangers who may be taken for somebody of a gallery, where no threshold is chosen.
    pub fpir: f64,
    /// Share of new subjects who may be held for somebody who is enrolled.
    pub duplicate_rate: f64,
    pub max_requests: usize,
    pub search: SearchConfig,
}

#[derive(Debug, Clone)]
pub struct SearchConfig {
    pub place: SearchChoice,
    /// Bytes that templates may take in memory.
    pub resident_memory: u64,
    /// How old templates in memory may be that answer an identification, if they are not up to date; 0: then they do not.
    pub max_staleness: Duration,
}

/// Long tasks.
#[derive(Debug, Clone)]
pub struct JobsConfig {
    /// How long a job of a server that died waits until another takes it over.
    pub lease: Duration,
    /// Share of the time that work in the background takes, above 0 to 1; the rest is for requests.
    pub share: f64,
    /// When the bytes of what was erased are reclaimed.
    pub reclaim: ReclaimChoice,
    /// Where jobs keep their files while they run.
    pub folder: PathBuf,
    /// Threads of a training.
    pub train_threads: usize,
    /// Bytes of memory that a training may take on the CPU.
    pub train_memory: u64,
    /// Never [`DeviceChoice::Auto`].
    pub train_device: DeviceChoice,
    /// As in [`EngineConfig`].
    pub cuda_libraries: Option<PathBuf>,
}

/// The record of what was asked and changed.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Whether questions are noted.
    pub answers: bool,
    /// How long entries are kept; `None`: for ever.
    pub retention: Option<TimeDelta>,
    /// The file of the key by which receipts are signed.
    pub signing_key: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: String,
}

impl Config {
    /// What is allowed, but hardly meant.
    pub fn warnings(&self) -> Vec<String> {
        let (body, image) = (self.http.max_body_bytes, self.recognition.max_image_bytes);
        let needed = checks::body_of_two_photos(image);
        let warning = format!(
            "max_body_bytes = {body} has no room for two photos of max_image_bytes = {image} in JSON, where base64 makes them \
             longer: POST /verify refuses them with body_too_large; it takes {needed}"
        );
        if body < needed { vec![warning] } else { Vec::new() }
    }
}
