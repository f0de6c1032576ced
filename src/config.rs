//! Configuration: the sole reader of flags, environment and files.
//!
//! [`Settings`] is what a user may say, all of it optional; flags win over the environment, the environment over a
//! TOML file, the file over the defaults. [`Config`] is what the parts are given: complete and checked.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::types::Threshold;

/// The folder in [`home`] that `make setup` fills with Postgres and pgvector.
const POSTGRES_FOLDER: &str = "postgres-16.14";
const DETECTOR_FILE: &str = "retinaface-mobilenet0.25.onnx";
const EMBEDDER_FILE: &str = "mobilefacenet-512.onnx";

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is not valid: {message}")]
    Malformed { path: PathBuf, message: String },
    #[error("{name} = {value} is out of range: {expected}")]
    OutOfRange { name: &'static str, value: String, expected: &'static str },
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Pretty,
    Json,
}

macro_rules! settings {
    ($($(#[$attribute:meta])* $name:ident: $type:ty,)*) => {
        /// Everything a user may set. The names are those of the flags, of the environment variables
        /// (`FACEID_` + upper case; `DATABASE_URL` for the database) and of the TOML file.
        #[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $($(#[$attribute])* pub $name: Option<$type>,)*
        }

        impl Settings {
            /// `self` where it says something, `other` elsewhere.
            fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }
        }
    };
}

settings! {
    /// Address to listen on
    #[arg(long, env = "FACEID_BIND", value_name = "ADDRESS:PORT")]
    bind: SocketAddr,
    /// Key that callers of the recognition routes send as `x-api-key` or Bearer token
    #[arg(long, env = "FACEID_CLIENT_KEY", hide_env_values = true, value_name = "KEY")]
    client_key: Secret,
    /// Key for /admin (it opens the recognition routes too)
    #[arg(long, env = "FACEID_ADMIN_KEY", hide_env_values = true, value_name = "KEY")]
    admin_key: Secret,
    /// Listen beyond loopback without keys
    #[arg(long, env = "FACEID_INSECURE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    insecure: bool,
    /// Folder of the private Postgres [default: /var/lib/faceid for root, ~/.local/share/faceid for others]
    #[arg(long, env = "FACEID_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Use this Postgres (with pgvector) rather than a private one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Secret,
    /// Most connections to Postgres
    #[arg(long, env = "FACEID_DATABASE_CONNECTIONS", value_name = "N")]
    database_connections: u32,
    /// Postgres binaries with pgvector for the private Postgres [default: those of `make setup`]
    #[arg(long, env = "FACEID_POSTGRES_DIR", value_name = "DIR")]
    postgres_dir: PathBuf,
    /// Folder with the networks [default: that of `make setup`]
    #[arg(long, env = "FACEID_WEIGHTS_DIR", value_name = "DIR")]
    weights_dir: PathBuf,
    /// Detector network (ONNX or TorchScript) [default: retinaface-mobilenet0.25.onnx in weights_dir]
    #[arg(long, env = "FACEID_DETECTOR", value_name = "FILE")]
    detector: PathBuf,
    /// Embedder network (ONNX or TorchScript) [default: mobilefacenet-512.onnx in weights_dir]
    #[arg(long, env = "FACEID_EMBEDDER", value_name = "FILE")]
    embedder: PathBuf,
    /// CPU threads for networks and pixels [default: the cores of the machine]
    #[arg(long, env = "FACEID_THREADS", value_name = "N")]
    threads: usize,
    /// Most images or chips in one pass of a network
    #[arg(long, env = "FACEID_MAX_BATCH", value_name = "N")]
    max_batch: usize,
    /// Most requests in work or waiting; one more gets 503 `overloaded`
    #[arg(long, env = "FACEID_MAX_REQUESTS", value_name = "N")]
    max_requests: usize,
    /// Seconds to receive a request, and again to answer it
    #[arg(long, env = "FACEID_REQUEST_TIMEOUT", value_name = "SECONDS")]
    request_timeout: u64,
    /// Seconds that a shutdown waits for accepted requests
    #[arg(long, env = "FACEID_SHUTDOWN_TIMEOUT", value_name = "SECONDS")]
    shutdown_timeout: u64,
    /// Largest request body in bytes
    #[arg(long, env = "FACEID_MAX_BODY_BYTES", value_name = "N")]
    max_body_bytes: usize,
    /// Largest image file in bytes
    #[arg(long, env = "FACEID_MAX_IMAGE_BYTES", value_name = "N")]
    max_image_bytes: usize,
    /// Largest image in pixels (width times height)
    #[arg(long, env = "FACEID_MAX_IMAGE_PIXELS", value_name = "N")]
    max_image_pixels: u64,
    /// Pixels of all images held at once; further images wait. Three bytes of memory each, six while one is turned
    #[arg(long, env = "FACEID_PIXEL_BUDGET", value_name = "N")]
    pixel_budget: u64,
    /// Longest side of the image that the detector sees; more finds smaller faces, slower
    #[arg(long, env = "FACEID_DETECTOR_SIDE", value_name = "PIXELS")]
    detector_side: u32,
    /// Least detection score of a face, 0..1
    #[arg(long, env = "FACEID_MIN_DETECTION_SCORE", value_name = "SCORE")]
    min_detection_score: f32,
    /// Default similarity threshold, -1..1 [default: the embedder's calibration]
    #[arg(long, env = "FACEID_THRESHOLD", value_name = "SIMILARITY", allow_negative_numbers = true)]
    threshold: f32,
    /// Format of the log on standard error
    #[arg(long, env = "FACEID_LOG_FORMAT", value_name = "FORMAT")]
    log_format: LogFormat,
    /// What to log: a level, or directives such as `info,faceid::http=debug`
    #[arg(long, env = "FACEID_LOG", value_name = "FILTER")]
    log: String,
}

/// Flags that every command which opens the engine or the database takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// TOML file with any of the settings below (underscores for dashes)
    #[arg(long, env = "FACEID_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
}

/// Complete, checked configuration, grouped by the part that it is for.
#[derive(Debug, Clone)]
pub struct Config {
    pub http: HttpConfig,
    pub database: DatabaseConfig,
    pub engine: EngineConfig,
    pub recognition: RecognitionConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub bind: SocketAddr,
    pub keys: Option<Keys>,
    pub max_body_bytes: usize,
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
    pub data_dir: PathBuf,
    pub postgres_dir: PathBuf,
    pub connections: u32,
}

#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub detector: PathBuf,
    pub embedder: PathBuf,
    pub threads: usize,
    pub max_batch: usize,
    /// Entries that may wait in the queue.
    pub queue_len: usize,
}

#[derive(Debug, Clone)]
pub struct RecognitionConfig {
    pub max_image_bytes: usize,
    pub max_image_pixels: u64,
    pub pixel_budget: u64,
    pub detector_side: u32,
    pub min_detection_score: f32,
    /// Overrides the threshold of the embedder's calibration.
    pub threshold: Option<Threshold>,
    pub max_requests: usize,
    /// Images that are decoded or aligned at the same time.
    pub threads: usize,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: String,
}

impl ConfigArgs {
    /// Merges flags, environment, file and defaults.
    pub fn resolve(self) -> Result<Settings, ConfigError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => Settings::default(),
        };
        let said = self.settings.or(file);
        let defaults = defaults(said.weights_dir.clone(), said.threads)?;
        Ok(said.or(defaults))
    }
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| ConfigError::Malformed { path: path.to_owned(), message: error.to_string() })
}

/// Where `make setup` keeps what it fetched: `FACEID_HOME`, else `~/.cache/faceid`.
fn home() -> Result<PathBuf, ConfigError> {
    match std::env::var_os("FACEID_HOME") {
        Some(home) if !home.is_empty() => Ok(PathBuf::from(home)),
        _ => Ok(std::env::home_dir().ok_or(ConfigError::NoHome)?.join(".cache/faceid")),
    }
}

fn default_data_dir() -> Result<PathBuf, ConfigError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/faceid"));
    }
    match std::env::var_os("XDG_DATA_HOME") {
        Some(folder) if !folder.is_empty() => Ok(PathBuf::from(folder).join("faceid")),
        _ => Ok(std::env::home_dir().ok_or(ConfigError::NoHome)?.join(".local/share/faceid")),
    }
}

fn defaults(weights_dir: Option<PathBuf>, threads: Option<usize>) -> Result<Settings, ConfigError> {
    let weights_dir = match weights_dir {
        Some(folder) => folder,
        None => home()?.join("weights"),
    };
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    Ok(Settings {
        bind: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
        client_key: None,
        admin_key: None,
        insecure: Some(false),
        data_dir: Some(default_data_dir()?),
        database_url: None,
        database_connections: Some(16),
        postgres_dir: Some(home()?.join(POSTGRES_FOLDER)),
        detector: Some(weights_dir.join(DETECTOR_FILE)),
        embedder: Some(weights_dir.join(EMBEDDER_FILE)),
        weights_dir: Some(weights_dir),
        threads: Some(threads),
        max_batch: Some(32),
        max_requests: Some(128),
        request_timeout: Some(30),
        shutdown_timeout: Some(30),
        max_body_bytes: Some(32 << 20),
        max_image_bytes: Some(16 << 20),
        max_image_pixels: Some(64_000_000),
        pixel_budget: Some(128_000_000),
        detector_side: Some(640),
        min_detection_score: Some(0.8),
        threshold: None,
        log_format: Some(LogFormat::Pretty),
        log: Some("info,sqlx::postgres::notice=warn".to_owned()),
    })
}

impl Settings {
    /// Checks the settings together and groups them. Settings that [`ConfigArgs::resolve`] made are complete; any
    /// others get the missing values' defaults.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let defaults = defaults(self.weights_dir.clone(), self.threads)?;
        let s = self.or(defaults);
        let threads = in_range("threads", s.threads, 1, 1024)?;
        let max_requests = in_range("max_requests", s.max_requests, 1, 100_000)?;
        let max_image_pixels = in_range("max_image_pixels", s.max_image_pixels, 1, 1 << 32)?;
        let pixel_budget = in_range("pixel_budget", s.pixel_budget, max_image_pixels, 1 << 40)?;
        let bind = said(s.bind);
        Ok(Config {
            http: HttpConfig {
                bind,
                keys: keys(bind, s.client_key, s.admin_key, said(s.insecure))?,
                max_body_bytes: in_range("max_body_bytes", s.max_body_bytes, 1024, 1 << 32)?,
                request_timeout: Duration::from_secs(in_range("request_timeout", s.request_timeout, 1, 3600)?),
                shutdown_timeout: Duration::from_secs(in_range("shutdown_timeout", s.shutdown_timeout, 0, 3600)?),
            },
            database: DatabaseConfig {
                url: s.database_url,
                data_dir: said(s.data_dir),
                postgres_dir: said(s.postgres_dir),
                connections: in_range("database_connections", s.database_connections, 1, 1000)?,
            },
            engine: EngineConfig {
                detector: said(s.detector),
                embedder: said(s.embedder),
                threads,
                max_batch: in_range("max_batch", s.max_batch, 1, 1024)?,
                // A request has at most two entries in the queue at once (the two photos of a verification).
                queue_len: 2 * max_requests,
            },
            recognition: RecognitionConfig {
                max_image_bytes: in_range("max_image_bytes", s.max_image_bytes, 1, 1 << 32)?,
                max_image_pixels,
                pixel_budget,
                detector_side: in_range("detector_side", s.detector_side, 64, 8192)?,
                min_detection_score: in_range("min_detection_score", s.min_detection_score, 0.01, 1.0)?,
                threshold: s.threshold.map(threshold).transpose()?,
                max_requests,
                threads,
            },
            log: LogConfig { format: said(s.log_format), filter: said(s.log) },
        })
    }
}

/// A setting that has a default.
fn said<T>(value: Option<T>) -> T {
    value.expect("`defaults` gives every setting but keys, database_url and threshold a value")
}

fn in_range<T: PartialOrd + fmt::Display>(
    name: &'static str,
    value: Option<T>,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
    let value = said(value);
    // Written so that NaN is refused too.
    if !(value >= least) {
        return Err(ConfigError::OutOfRange { name, value: value.to_string(), expected: "it is too small" });
    }
    if value > most {
        return Err(ConfigError::OutOfRange { name, value: value.to_string(), expected: "it is too large" });
    }
    Ok(value)
}

fn threshold(value: f32) -> Result<Threshold, ConfigError> {
    Threshold::try_from(value).map_err(|_| ConfigError::OutOfRange {
        name: "threshold",
        value: value.to_string(),
        expected: "a similarity is from -1 to 1",
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
    }

    #[test]
    fn beyond_loopback_needs_keys_or_insecure() {
        let open = |s: &mut Settings| s.bind = Some("0.0.0.0:80".parse().unwrap());
        assert!(matches!(settings(open).into_config(), Err(ConfigError::OpenToEveryone { .. })));
        let insecure = settings(|s| {
            open(s);
            s.insecure = Some(true);
        });
        assert!(insecure.into_config().unwrap().http.keys.is_none());
        let keyed = settings(|s| {
            open(s);
            s.client_key = Some("client-key-0123456".to_owned().into());
            s.admin_key = Some("admin-key-01234567".to_owned().into());
        });
        assert!(keyed.clone().into_config().unwrap().http.keys.is_some());
        let lone = Settings { admin_key: None, ..keyed.clone() };
        assert!(matches!(lone.into_config(), Err(ConfigError::LoneKey)));
        let same = Settings { admin_key: keyed.client_key.clone(), ..keyed };
        assert!(matches!(same.into_config(), Err(ConfigError::WeakKeys)));
    }

    #[test]
    fn a_file_fills_in_what_flags_leave_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("faceid.toml");
        std::fs::write(&path, "bind = \"127.0.0.1:9000\"\nthreads = 3\nlog_format = \"json\"\n").unwrap();
        let args = ConfigArgs { config: Some(path), settings: settings(|s| s.threads = Some(1)) };
        let config = args.resolve().unwrap().into_config().unwrap();
        assert_eq!(config.http.bind.port(), 9000);
        assert_eq!(config.engine.threads, 1);
        assert_eq!(config.log.format, LogFormat::Json);
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("faceid.toml");
        std::fs::write(&path, "binf = \"127.0.0.1:9000\"\n").unwrap();
        let args = ConfigArgs { config: Some(path), settings: Settings::default() };
        assert!(args.resolve().unwrap_err().to_string().contains("binf"));
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = settings(|s| s.client_key = Some("client-key-0123456".to_owned().into()));
        assert!(!toml::to_string(&shown).unwrap().contains("0123456"));
        assert!(!format!("{shown:?}").contains("0123456"));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for bad in [
            settings(|s| s.threads = Some(0)),
            settings(|s| s.threshold = Some(1.5)),
            settings(|s| s.pixel_budget = Some(1)),
            settings(|s| s.min_detection_score = Some(f32::NAN)),
        ] {
            assert!(bad.into_config().is_err());
        }
    }
}
