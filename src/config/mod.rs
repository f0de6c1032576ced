//! Configuration: the sole reader of flags, environment and files.
//!
//! [`Settings`] is what a user may say, all of it optional; flags win over the environment, the environment over a
//! TOML file, the file over the defaults. [`Config`] is what the parts are given: complete and checked.

mod choices;
mod settings;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

pub use choices::{DeviceChoice, KernelsChoice, PrecisionChoice, SearchChoice};
pub use settings::{ConfigArgs, LogFormat, Settings, ignore_empty_variables};
pub use store::{ModelStoreConfig, secret_variables};

use crate::types::Threshold;
use crate::vision::Finder;
use settings::defaults;

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
    #[error(
        "refusing to listen on {bind} for everyone: set FACEID_CLIENT_KEY and FACEID_ADMIN_KEY (or client_key and \
         admin_key in the configuration file), or bind to 127.0.0.1, or say --insecure if something else guards this port"
    )]
    OpenToEveryone { bind: SocketAddr },
    #[error("client_key and admin_key must differ, and each needs at least 16 characters")]
    WeakKeys,
    #[error("set both client_key and admin_key, or neither")]
    LoneKey,
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
    pub http: HttpConfig,
    pub database: DatabaseConfig,
    pub engine: EngineConfig,
    pub recognition: RecognitionConfig,
    pub models: ModelsConfig,
    pub jobs: JobsConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub bind: SocketAddr,
    pub keys: Option<Keys>,
    pub max_body_bytes: usize,
    /// Of an upload of a data set.
    pub max_dataset_bytes: u64,
    /// Of all requests together.
    pub body_budget: usize,
    pub max_connections: usize,
    pub request_timeout: Duration,
    pub shutdown_timeout: Duration,
}

/// The keys of a server that is not open.
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

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: String,
}

impl Config {
    /// What is allowed, but hardly meant.
    pub fn warnings(&self) -> Vec<String> {
        let (body, image) = (self.http.max_body_bytes, self.recognition.max_image_bytes);
        let needed = body_of_two_photos(image);
        let warning = format!(
            "max_body_bytes = {body} has no room for two photos of max_image_bytes = {image} in JSON, where base64 makes them \
             longer: POST /verify refuses them with body_too_large; it takes {needed}"
        );
        if body < needed { vec![warning] } else { Vec::new() }
    }
}

impl Settings {
    /// Checks the settings together and groups them. Settings that [`ConfigArgs::resolve`] made are complete; any
    /// others get the missing values' defaults.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let defaults = defaults(&self)?;
        let default_embedder = defaults.embedder.clone();
        let s = self.or(defaults);
        let embedder_named = s.embedder != default_embedder;
        let data_dir = said(s.data_dir);
        let threads = in_range("threads", s.threads, 1..=1024)?;
        let max_requests = in_range("max_requests", s.max_requests, 1..=100_000)?;
        let max_image_pixels = in_range("max_image_pixels", s.max_image_pixels, 1..=1 << 32)?;
        let max_image_bytes = in_range("max_image_bytes", s.max_image_bytes, 1..=1 << 32)?;
        let detector_side: u32 = in_range("detector_side", s.detector_side, 64..=8192)?;
        let least_budget = least_decode_budget(max_image_bytes, max_image_pixels, detector_side);
        let decode_budget = in_range("decode_budget", s.decode_budget, least_budget..=1 << 42)?;
        let max_body_bytes = in_range("max_body_bytes", s.max_body_bytes, 1024..=1 << 34)?;
        roomy(max_body_bytes, max_image_bytes)?;
        let bind = said(s.bind);
        Ok(Config {
            http: HttpConfig {
                bind,
                keys: keys(bind, s.client_key, s.admin_key, said(s.insecure))?,
                max_body_bytes,
                max_dataset_bytes: in_range("max_dataset_bytes", s.max_dataset_bytes, 1024..=1 << 36)?,
                body_budget: in_range("body_budget", s.body_budget, 2 * max_body_bytes..=1 << 42)?,
                max_connections: in_range("max_connections", s.max_connections, 1..=1_000_000)?,
                request_timeout: Duration::from_secs(in_range("request_timeout", s.request_timeout, 1..=3600)?),
                shutdown_timeout: Duration::from_secs(in_range("shutdown_timeout", s.shutdown_timeout, 0..=3600)?),
            },
            jobs: JobsConfig {
                lease: Duration::from_secs(in_range("job_lease", s.job_lease, 1..=3600)?),
                share: in_range("background_share", s.background_share, 0.01..=1.0)?,
                folder: data_dir.join("jobs"),
                train_threads: in_range("train_threads", s.train_threads, 1..=256)?,
                train_memory: in_range("train_memory", s.train_memory, 256 << 20..=1 << 44)?,
                train_device: named_device("train_device", said(s.train_device))?,
                cuda_libraries: s.cuda_libraries.clone(),
            },
            database: DatabaseConfig {
                session_url: session_url(&s.database_url, s.database_session_url)?,
                schema: s.database_schema.map(schema).transpose()?,
                url: s.database_url,
                data_dir: data_dir.clone(),
                postgres_dir: said(s.postgres_dir),
                connections: in_range("database_connections", s.database_connections, 1..=1000)?,
            },
            engine: EngineConfig {
                detector: said(s.detector),
                embedder: settings::embedder_file(said(s.embedder), &said(s.weights_dir)),
                device: said(s.device),
                precision: said(s.precision),
                kernels: said(s.kernels),
                search_device: named_device("search_device", said(s.search_device))?,
                cuda_libraries: s.cuda_libraries,
                threads,
                max_batch: s.max_batch.map(|batch| in_range("max_batch", Some(batch), 1..=1024)).transpose()?,
                max_wait: Duration::from_millis(in_range("max_wait_ms", s.max_wait_ms, 0..=1000)?),
                queue_timeout: Duration::from_secs(in_range("queue_timeout", s.queue_timeout, 1..=3600)?),
                // A request has at most two entries in the queue at once (the two photos of a verification).
                queue_len: 2 * max_requests,
            },
            recognition: RecognitionConfig {
                max_image_bytes,
                max_image_pixels,
                decode_budget,
                detector_side,
                min_detection_score: in_range("min_detection_score", s.min_detection_score, 0.01..=1.0)?,
                threshold: s.threshold.map(threshold).transpose()?,
                fpir: in_range("fpir", s.fpir, RATES)?,
                duplicate_rate: in_range("duplicate_rate", s.duplicate_rate, RATES)?,
                max_requests,
                search: SearchConfig {
                    place: said(s.search),
                    resident_memory: in_range("resident_memory", s.resident_memory, 1 << 20..=1 << 44)?,
                    max_staleness: Duration::from_secs(in_range("max_staleness", s.max_staleness, 0..=3600)?),
                },
            },
            models: ModelsConfig {
                store: ModelStoreConfig::new(s.model_store, &data_dir)?,
                max_bytes: in_range("max_model_bytes", s.max_model_bytes, 1024..=1 << 30)?,
                embedder_named,
                trial: TrialConfig {
                    program: THIS_PROGRAM.into(),
                    // On the CPU, where it is the processor's memory that has a limit.
                    precision: said(s.precision).on_cpu(),
                    kernels: said(s.kernels),
                },
            },
            log: LogConfig { format: said(s.log_format), filter: said(s.log) },
        })
    }
}

/// The largest image must fit as RGB, with what may come along in its file and what the detector is shown of it. Whether it has
/// to be turned, and what its format takes besides, only the image tells.
fn least_decode_budget(max_image_bytes: usize, max_image_pixels: u64, detector_side: u32) -> u64 {
    max_image_pixels * 3 + max_image_bytes as u64 * 3 + Finder::most_memory(detector_side) + (1 << 20)
}

/// A setting that has a default.
fn said<T>(value: Option<T>) -> T {
    value.expect("`defaults` gives every setting that is not optional in `Config` a value")
}

fn in_range<T: PartialOrd + fmt::Display>(
    name: &'static str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    let value = said(value);
    if range.contains(&value) {
        return Ok(value);
    }
    let expected = format!("{} to {}", range.start(), range.end());
    Err(ConfigError::OutOfRange { name, value: value.to_string(), expected })
}

/// Rates at which strangers may be taken for somebody: lower ones are for galleries whose size is known.
const RATES: RangeInclusive<f64> = 1e-4..=0.5;

/// What a request has beside its photos: names, boundaries, headers of parts.
const BESIDE_PHOTOS: usize = 4096;

/// The largest photo must fit a body at least as it is, in a form.
fn roomy(body: usize, image: usize) -> Result<(), ConfigError> {
    let needed = image + BESIDE_PHOTOS;
    if body >= needed {
        return Ok(());
    }
    Err(ConfigError::BodyTooSmall { body, image, needed, needed_by_two: body_of_two_photos(image) })
}

/// Bytes of the largest body: the two photos of a verification, in base64.
fn body_of_two_photos(image: usize) -> usize {
    2 * 4 * image.div_ceil(3) + BESIDE_PHOTOS
}

/// What is not left to chance: a training that may be on either device would have a limit of memory only on one.
fn named_device(name: &'static str, device: DeviceChoice) -> Result<DeviceChoice, ConfigError> {
    match device {
        DeviceChoice::Auto => {
            Err(ConfigError::OutOfRange { name, value: device.to_string(), expected: "cpu, cuda or cuda:N".to_owned() })
        }
        DeviceChoice::Cpu | DeviceChoice::Cuda(_) => Ok(device),
    }
}

fn threshold(value: f32) -> Result<Threshold, ConfigError> {
    Threshold::try_from(value).map_err(|_| ConfigError::OutOfRange {
        name: "threshold",
        value: value.to_string(),
        expected: "a similarity from -1 to 1".to_owned(),
    })
}

fn session_url(url: &Option<Secret>, session_url: Option<Secret>) -> Result<Option<Secret>, ConfigError> {
    if session_url.is_some() && url.is_none() { Err(ConfigError::LoneSessionUrl) } else { Ok(session_url) }
}

/// What Postgres takes as the name of a schema, in whole.
fn schema(name: String) -> Result<String, ConfigError> {
    if (1..=63).contains(&name.len()) && !name.starts_with("pg_") && !name.contains('\0') {
        return Ok(name);
    }
    let expected = "1 to 63 bytes that do not begin with pg_".to_owned();
    Err(ConfigError::OutOfRange { name: "database_schema", value: name, expected })
}

/// Keys are needed beyond loopback; one key without the other would leave a door open by oversight.
fn keys(
    bind: SocketAddr,
    client: Option<Secret>,
    admin: Option<Secret>,
    insecure: bool,
) -> Result<Option<Keys>, ConfigError> {
    match (client, admin) {
        (Some(client), Some(admin)) => {
            let long = |key: &Secret| key.expose().chars().count() >= 16;
            if client == admin || !long(&client) || !long(&admin) {
                return Err(ConfigError::WeakKeys);
            }
            Ok(Some(Keys { client, admin }))
        }
        (None, None) if bind.ip().is_loopback() || insecure => Ok(None),
        (None, None) => Err(ConfigError::OpenToEveryone { bind }),
        _ => Err(ConfigError::LoneKey),
    }
}
