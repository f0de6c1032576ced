//! What a user may say, where it comes from, and what holds where nothing is said.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use serde::{Deserialize, Serialize};

use super::choices::{DeviceChoice, KernelsChoice, PrecisionChoice, ReclaimChoice, SearchChoice};
use super::defaults::{BIND, defaults};
use super::web::{BasePath, ClientAuth, CorsOrigins, TrustedProxies};
use super::{ConfigError, Secret};
use crate::types::without_mark;

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
            pub(super) fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }
        }
    };
}

settings! {
    /// Address to listen on [default: 127.0.0.1:8080]
    #[arg(long, env = "FACEID_BIND", value_name = "IP:PORT")]
    bind: SocketAddr,
    /// Key that callers of the recognition routes send as `x-api-key` or Bearer token
    #[arg(long, env = "FACEID_CLIENT_KEY", hide_env_values = true, value_name = "KEY")]
    client_key: Secret,
    /// Key for /admin (it opens the recognition routes too)
    #[arg(long, env = "FACEID_ADMIN_KEY", hide_env_values = true, value_name = "KEY")]
    admin_key: Secret,
    /// Secret by which the keys of the database are hashed, 32 characters at least; the same for all servers of a database
    /// [default: one that the database holds]
    #[arg(long, env = "FACEID_KEY_SECRET", hide_env_values = true, value_name = "SECRET")]
    key_secret: Secret,
    /// The master key of chips, by FACEID_CHIP_KEY or the file: there is no flag, as flags show in the list of processes
    #[arg(skip)]
    chip_key: Secret,
    /// File with the master key that encrypts the keys of chips: 32 bytes in hexadecimal or base64; former master keys on the lines below
    /// it. FACEID_CHIP_KEY gives the key itself [default: no master key]
    #[arg(long, env = "FACEID_CHIP_KEY_FILE", value_name = "FILE")]
    chip_key_file: PathBuf,
    /// Shell command that prints the master key of chips, such as that of a key management service [default: none]
    #[arg(long, env = "FACEID_CHIP_KEY_COMMAND", value_name = "COMMAND")]
    chip_key_command: String,
    /// Listen beyond loopback without keys
    #[arg(long, env = "FACEID_INSECURE", num_args = 0..=1, default_missing_value = "true",
        value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    insecure: bool,
    /// Certificate for TLS, with those that vouch for it (PEM); the server then speaks HTTPS alone
    #[arg(long, env = "FACEID_TLS_CERT", value_name = "FILE")]
    tls_cert: PathBuf,
    /// Key of that certificate (PEM)
    #[arg(long, env = "FACEID_TLS_KEY", value_name = "FILE")]
    tls_key: PathBuf,
    /// Certificates of the authorities that vouch for clients (PEM)
    #[arg(long, env = "FACEID_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: PathBuf,
    /// Whether clients must show a certificate: off, optional or required [default: required with tls_client_ca, else off]
    #[arg(long, env = "FACEID_TLS_CLIENT_AUTH", value_name = "WHETHER")]
    tls_client_auth: ClientAuth,
    /// Origins whose pages may call the server from a browser, such as https://a.example,https://b.example, or * for all
    /// [default: none]
    #[arg(long, env = "FACEID_CORS_ORIGINS", value_name = "ORIGINS")]
    cors_origins: CorsOrigins,
    /// Path below which the server answers, such as /faces, for a proxy that hands it on [default: none]
    #[arg(long, env = "FACEID_BASE_PATH", value_name = "PATH")]
    base_path: BasePath,
    /// Networks of proxies, such as 10.0.0.0/8,::1/128, whose X-Forwarded-For and Forwarded headers are trusted for the client's
    /// address [default: none]
    #[arg(long, env = "FACEID_TRUSTED_PROXIES", value_name = "NETWORKS")]
    trusted_proxies: TrustedProxies,
    /// Requests a second of each caller; one more gets 429 `rate_limited`. Keys may have limits of their own; 0: any number
    /// [default: 0]
    #[arg(long, env = "FACEID_REQUESTS_PER_SECOND", value_name = "RATE")]
    requests_per_second: f64,
    /// Requests that a caller may send at once after a pause [default: those of ten seconds]
    #[arg(long, env = "FACEID_REQUEST_BURST", value_name = "N")]
    request_burst: u32,
    /// Megapixels of photos a second of each caller; more gets 429 `rate_limited`; 0: any number [default: 0]
    #[arg(long, env = "FACEID_MEGAPIXELS_PER_SECOND", value_name = "RATE")]
    megapixels_per_second: f64,
    /// Megapixels that a caller may send at once after a pause; a request with more is refused for good [default: those of ten
    /// seconds]
    #[arg(long, env = "FACEID_MEGAPIXEL_BURST", value_name = "N")]
    megapixel_burst: u32,
    /// Requests of a caller in work at a time; one more gets 429 `too_many_concurrent`; 0: any number [default: 0]
    #[arg(long, env = "FACEID_CONCURRENT_REQUESTS", value_name = "N")]
    concurrent_requests: u32,
    /// Requests a second without a valid key from an address, of IPv6 from a /64; 0: any number [default: 20, at a server without
    /// keys 0]
    #[arg(long, env = "FACEID_ADDRESS_REQUESTS_PER_SECOND", value_name = "RATE")]
    address_requests_per_second: f64,
    /// Requests without a valid key that may come from an address at once after a pause [default: 100]
    #[arg(long, env = "FACEID_ADDRESS_REQUEST_BURST", value_name = "N")]
    address_request_burst: u32,
    /// Requests from an address in work at a time, with a key or without; 0: any number [default: 0]
    #[arg(long, env = "FACEID_ADDRESS_CONCURRENT_REQUESTS", value_name = "N")]
    address_concurrent_requests: u32,
    /// Folder of the private Postgres and of jobs [default: /var/lib/faceid for root, ~/.local/share/faceid for others]
    #[arg(long, env = "FACEID_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Use this Postgres (with pgvector) rather than a private one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Secret,
    /// Postgres URL of the same database for what needs a session, where DATABASE_URL leads to a pooler that lends its
    /// connections by transaction
    #[arg(long, env = "FACEID_DATABASE_SESSION_URL", hide_env_values = true, value_name = "URL")]
    database_session_url: Secret,
    /// Schema of the tables; created if it is missing [default: the first of the database role's search_path]
    #[arg(long, env = "FACEID_DATABASE_SCHEMA", value_name = "NAME")]
    database_schema: String,
    /// Most connections to Postgres for requests; up to 22 more are for jobs and for what goes on in the background
    /// [default: 16]
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
    /// Embedder network (ONNX or TorchScript) of a database without models: `accurate` (sface-128.onnx in weights_dir), `fast`
    /// (mobilefacenet-512.onnx there) or a file; one that the database has not seen is promoted [default: accurate]
    #[arg(long, env = "FACEID_EMBEDDER", value_name = "FILE")]
    embedder: PathBuf,
    /// Where model files are kept: a folder or a URL (s3://, gs://, az://, file://), the same for all servers of a database
    /// [default: models in data_dir]
    #[arg(long, env = "FACEID_MODEL_STORE", value_name = "URL")]
    model_store: String,
    /// Largest model file in bytes that is imported [default: 512 MiB]
    #[arg(long, env = "FACEID_MAX_MODEL_BYTES", value_name = "N")]
    max_model_bytes: usize,
    /// Share of the time, 0.01..1, that work in the background takes, such as erasing, embedding chips anew and reviewing; the
    /// rest is for requests [default: 0.5]
    #[arg(long, env = "FACEID_BACKGROUND_SHARE", value_name = "SHARE")]
    background_share: f64,
    /// Where networks run: auto (every GPU, else the CPU), cpu, cuda or cuda:N [default: auto]
    #[arg(long, env = "FACEID_DEVICE", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Number format of the networks: auto, fp32, bf16, or fp16 on a GPU [default: auto, the fastest that changes no
    /// decision]
    #[arg(long, env = "FACEID_PRECISION", value_name = "FORMAT")]
    precision: PrecisionChoice,
    /// Convolutions of the networks on the CPU: auto (the fastest that the processor runs), avx512, avx2, or libtorch's own
    /// [default: auto]
    #[arg(long, env = "FACEID_KERNELS", value_name = "KERNELS")]
    kernels: KernelsChoice,
    /// Folder with libtorch_cuda.so of the same libtorch [default: the library path]
    #[arg(long, env = "FACEID_CUDA_LIBRARIES", value_name = "DIR")]
    cuda_libraries: PathBuf,
    /// CPU threads for networks and pixels [default: the cores of the machine]
    #[arg(long, env = "FACEID_THREADS", value_name = "N")]
    threads: usize,
    /// Most images or chips in one pass of a network [default: 32 on the CPU, 256 on a GPU]
    #[arg(long, env = "FACEID_MAX_BATCH", value_name = "N")]
    max_batch: usize,
    /// Milliseconds that a batch may wait to fill while there is other work; nothing waits on an idle server
    /// [default: 5]
    #[arg(long, env = "FACEID_MAX_WAIT_MS", value_name = "MS")]
    max_wait_ms: u64,
    /// Seconds that work may wait for a network before it gets 503 `overloaded` [default: 10]
    #[arg(long, env = "FACEID_QUEUE_TIMEOUT", value_name = "SECONDS")]
    queue_timeout: u64,
    /// Most requests in work or waiting; one more gets 503 `overloaded` [default: 24 for each thread]
    #[arg(long, env = "FACEID_MAX_REQUESTS", value_name = "N")]
    max_requests: usize,
    /// Seconds to receive a request, and again to answer it [default: 30]
    #[arg(long, env = "FACEID_REQUEST_TIMEOUT", value_name = "SECONDS")]
    request_timeout: u64,
    /// Seconds that a connection may rest between two requests [default: 75]
    #[arg(long, env = "FACEID_IDLE_TIMEOUT", value_name = "SECONDS")]
    idle_timeout: u64,
    /// Seconds for which a server that gets SIGTERM still takes new requests, while /readyz says that it is about to stop
    /// [default: 5]
    #[arg(long, env = "FACEID_SHUTDOWN_GRACE", value_name = "SECONDS")]
    shutdown_grace: u64,
    /// Seconds that a shutdown waits for accepted requests [default: 30]
    #[arg(long, env = "FACEID_SHUTDOWN_TIMEOUT", value_name = "SECONDS")]
    shutdown_timeout: u64,
    /// Largest request body in bytes [default: 176 MiB, two images of 64 MiB in base64]
    #[arg(long, env = "FACEID_MAX_BODY_BYTES", value_name = "N")]
    max_body_bytes: usize,
    /// Largest upload of a data set in bytes, an archive of photos [default: 2 GiB]
    #[arg(long, env = "FACEID_MAX_DATASET_BYTES", value_name = "N")]
    max_dataset_bytes: u64,
    /// Bytes of all request bodies held at once; more gets 503 `overloaded` [default: 512 MiB]
    #[arg(long, env = "FACEID_BODY_BUDGET", value_name = "N")]
    body_budget: usize,
    /// Most connections at once; one more closes another, first those that have shown no valid key [default: 512]
    #[arg(long, env = "FACEID_MAX_CONNECTIONS", value_name = "N")]
    max_connections: usize,
    /// Largest image file in bytes [default: 64 MiB]
    #[arg(long, env = "FACEID_MAX_IMAGE_BYTES", value_name = "N")]
    max_image_bytes: usize,
    /// Largest image in pixels, width times height [default: 200 million]
    #[arg(long, env = "FACEID_MAX_IMAGE_PIXELS", value_name = "N")]
    max_image_pixels: u64,
    /// Bytes of memory that images may take while they are decoded and looked at, all together; further ones wait, and
    /// one that needs more alone is refused. At least three for each of `max_image_pixels`, and three for each of
    /// `max_image_bytes` [default: 896 MiB]
    #[arg(long, env = "FACEID_DECODE_BUDGET", value_name = "N")]
    decode_budget: u64,
    /// Longest side of the image that the detector sees; more finds smaller faces, slower [default: 640]
    #[arg(long, env = "FACEID_DETECTOR_SIDE", value_name = "PIXELS")]
    detector_side: u32,
    /// Least detection score of a face, 0..1 [default: 0.8]
    #[arg(long, env = "FACEID_MIN_DETECTION_SCORE", value_name = "SCORE")]
    min_detection_score: f32,
    /// Similarity from which on two faces count as one person, -1..1; if it is set, identification decides by it as well,
    /// whatever the size of the gallery [default: the embedder's calibration, for pairs alone]
    #[arg(long, env = "FACEID_THRESHOLD", value_name = "SIMILARITY", allow_negative_numbers = true)]
    threshold: f32,
    /// Share of strangers who may be taken for somebody of a gallery, where neither the request nor the gallery nor
    /// `threshold` says otherwise, 0.0001..0.5 [default: 0.01]
    #[arg(long, env = "FACEID_FPIR", value_name = "RATE")]
    fpir: f64,
    /// Share of new subjects who may be held for somebody who is enrolled, 0.0001..0.5 [default: 0.01]
    #[arg(long, env = "FACEID_DUPLICATE_RATE", value_name = "RATE")]
    duplicate_rate: f64,
    /// Where galleries are searched: resident (in memory), pgvector (in Postgres), or auto: in memory while they fit
    /// [default: auto]
    #[arg(long, env = "FACEID_SEARCH", value_name = "PLACE")]
    search: SearchChoice,
    /// What searches large galleries in memory: cpu, cuda (the first GPU) or cuda:N [default: cpu]
    #[arg(long, env = "FACEID_SEARCH_DEVICE", value_name = "DEVICE")]
    search_device: DeviceChoice,
    /// Bytes of memory that galleries may take for searches, about 1.7 KB a subject of 512 dimensions [default: 2 GiB]
    #[arg(long, env = "FACEID_RESIDENT_MEMORY", value_name = "N")]
    resident_memory: u64,
    /// Seconds for which galleries in memory go on answering identifications, which then say how old they are, while the
    /// database is slow or away; 0: never [default: 60]
    #[arg(long, env = "FACEID_MAX_STALENESS", value_name = "SECONDS")]
    max_staleness: u64,
    /// Seconds after which another server takes over the jobs of one that died [default: 30]
    #[arg(long, env = "FACEID_JOB_LEASE", value_name = "SECONDS")]
    job_lease: u64,
    /// When the bytes of people who were erased are made to go from the files of the database, for which its largest tables are written
    /// anew: soon, never, or between two hours of the day, in UTC, such as 02-05 [default: soon]
    #[arg(long, env = "FACEID_RECLAIM", value_name = "WHEN")]
    reclaim: ReclaimChoice,
    /// CPU threads for a training that the server was asked for [default: half of the cores]
    #[arg(long, env = "FACEID_TRAIN_THREADS", value_name = "N")]
    train_threads: usize,
    /// Bytes of memory that such a training may take on the CPU; one that needs more fails, the server goes on
    /// [default: 4 GiB]
    #[arg(long, env = "FACEID_TRAIN_MEMORY", value_name = "N")]
    train_memory: u64,
    /// Where such a training runs: cpu, cuda (every GPU) or cuda:N [default: cpu]
    #[arg(long, env = "FACEID_TRAIN_DEVICE", value_name = "DEVICE")]
    train_device: DeviceChoice,
    /// Whether the audit notes identifications, verifications and comparisons; changes are noted always [default: true]
    #[arg(long, env = "FACEID_AUDIT_ANSWERS", num_args = 0..=1, default_missing_value = "true",
        value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    audit_answers: bool,
    /// Ed25519 key of an operator (PEM, PKCS#8) by which receipts of erasures are signed [default: none]
    #[arg(long, env = "FACEID_SIGNING_KEY", value_name = "FILE")]
    signing_key: PathBuf,
    /// Days after which entries of the audit are dropped; 0: never [default: 0]
    #[arg(long, env = "FACEID_AUDIT_RETENTION", value_name = "DAYS")]
    audit_retention: u32,
    /// Format of the log on standard error [default: pretty]
    #[arg(long, env = "FACEID_LOG_FORMAT", value_name = "FORMAT")]
    log_format: LogFormat,
    /// What to log: a level, or directives such as `info,faceid::http=debug` [default: info]
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

impl ConfigArgs {
    /// Merges flags, environment, file and defaults.
    pub fn resolve(self) -> Result<Settings, ConfigError> {
        let said = self.said()?;
        let defaults = defaults(&said)?;
        Ok(said.or(defaults))
    }

    /// Merges flags, environment and file: what was said, without defaults.
    pub fn said(self) -> Result<Settings, ConfigError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => Settings::default(),
        };
        let mut said = self.settings.or(file);
        // As with other settings, the environment wins over the file.
        said.chip_key = super::chip_key::variable().or(said.chip_key);
        Ok(said)
    }

    /// Where a server of this configuration is reached from its own machine.
    pub fn local_url(self) -> Result<String, ConfigError> {
        let said = self.said()?;
        let mut address = said.bind.unwrap_or(BIND);
        // "Every address" is one to listen on, not one to call.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let scheme = if said.tls_cert.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{address}{}", said.base_path.unwrap_or_default()))
    }
}

/// Takes a variable that is set but empty as one that is not set, wherever a command reads one: `FACEID_BIND=` in a file of
/// variables means that there is none.
pub fn ignore_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(ignore_empty_variables)
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let text = without_mark(&text);
    toml::from_str(text).map_err(|error| {
        // Without the line itself, which may hold a secret.
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        ConfigError::Malformed { path: path.to_owned(), line, message: error.message().to_owned() }
    })
}
