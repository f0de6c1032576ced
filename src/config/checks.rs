//! Checks of what a user said, alone and together, on the way to a [`Config`].

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;

use super::defaults::{defaults, embedder_file};
use super::{
    AccessConfig, AuditConfig, ChipKeySource, ClientAuth, Config, ConfigError, DatabaseConfig, DeviceChoice,
    EngineConfig, HttpConfig, JobsConfig, Keys, LogConfig, ModelStoreConfig, ModelsConfig, RecognitionConfig,
    SearchConfig, Secret, Settings, THIS_PROGRAM, TlsConfig, TrialConfig,
};
use crate::limits::{AddressLimits, Limits, Rate};
use crate::types::Threshold;
use crate::vision::Finder;

impl Settings {
    /// Checks the settings together and groups them. Settings that [`ConfigArgs::resolve`](super::ConfigArgs::resolve) made are complete; any
    /// others get the missing values' defaults.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let defaults = defaults(&self)?;
        let default_embedder = defaults.embedder.clone();
        let s = self.or(defaults);
        let embedder_named = s.embedder != default_embedder;
        let (limits, addresses) = (limits(&s)?, address_limits(&s)?);
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
        let (bind, insecure) = (said(s.bind), said(s.insecure));
        Ok(Config {
            access: AccessConfig {
                keys: keys(s.client_key, s.admin_key)?,
                key_secret: s.key_secret.map(key_secret).transpose()?,
                may_be_open: bind.ip().is_loopback() || insecure,
                insecure,
                limits,
            },
            chip_key: ChipKeySource::new(s.chip_key, s.chip_key_file, s.chip_key_command)?,
            http: HttpConfig {
                bind,
                tls: tls(s.tls_cert, s.tls_key, s.tls_client_ca, s.tls_client_auth)?,
                cors_origins: s.cors_origins,
                base_path: said(s.base_path),
                trusted_proxies: s.trusted_proxies.unwrap_or_default(),
                addresses,
                max_body_bytes,
                max_dataset_bytes: in_range("max_dataset_bytes", s.max_dataset_bytes, 1024..=1 << 36)?,
                body_budget: in_range("body_budget", s.body_budget, 2 * max_body_bytes..=1 << 42)?,
                max_connections: in_range("max_connections", s.max_connections, 1..=1_000_000)?,
                request_timeout: Duration::from_secs(in_range("request_timeout", s.request_timeout, 1..=3600)?),
                idle_timeout: Duration::from_secs(in_range("idle_timeout", s.idle_timeout, 1..=86_400)?),
                shutdown_grace: Duration::from_secs(in_range("shutdown_grace", s.shutdown_grace, 0..=3600)?),
                shutdown_timeout: Duration::from_secs(in_range("shutdown_timeout", s.shutdown_timeout, 0..=3600)?),
            },
            jobs: JobsConfig {
                lease: Duration::from_secs(in_range("job_lease", s.job_lease, 1..=3600)?),
                share: in_range("background_share", s.background_share, 0.01..=1.0)?,
                reclaim: said(s.reclaim),
                folder: data_dir.join("jobs"),
                train_threads: in_range("train_threads", s.train_threads, 1..=256)?,
                train_memory: in_range("train_memory", s.train_memory, 256 << 20..=1 << 44)?,
                train_device: named_device("train_device", said(s.train_device))?,
                cuda_libraries: s.cuda_libraries.clone(),
            },
            audit: AuditConfig {
                answers: said(s.audit_answers),
                retention: match in_range("audit_retention", s.audit_retention, 0..=36_500)? {
                    0 => None,
                    days => Some(TimeDelta::days(i64::from(days))),
                },
                signing_key: s.signing_key,
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
                embedder: embedder_file(said(s.embedder), &said(s.weights_dir)),
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
pub(super) fn body_of_two_photos(image: usize) -> usize {
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

/// One key without the other would leave a door open by oversight.
fn keys(client: Option<Secret>, admin: Option<Secret>) -> Result<Option<Keys>, ConfigError> {
    match (client, admin) {
        (Some(client), Some(admin)) => {
            let long = |key: &Secret| key.expose().chars().count() >= 16;
            if client == admin || !long(&client) || !long(&admin) {
                return Err(ConfigError::WeakKeys);
            }
            Ok(Some(Keys { client, admin }))
        }
        (None, None) => Ok(None),
        _ => Err(ConfigError::LoneKey),
    }
}

/// What each caller may have.
fn limits(s: &Settings) -> Result<Limits, ConfigError> {
    let limits = Limits {
        requests_per_second: s.requests_per_second,
        request_burst: s.request_burst,
        megapixels_per_second: s.megapixels_per_second,
        megapixel_burst: s.megapixel_burst,
        concurrent_requests: s.concurrent_requests,
    };
    checked(limits, |name| name)
}

/// Requests a second from an address, and at once, if nothing is said: no client needs as many, and nobody guesses a key with as few.
const ADDRESS_RATE: f64 = 20.0;
const ADDRESS_BURST: u32 = 100;

/// What an address may have. Nobody guesses keys where none is needed, so there a limit holds only if it was asked for.
fn address_limits(s: &Settings) -> Result<AddressLimits, ConfigError> {
    let limits = Limits {
        requests_per_second: s.address_requests_per_second,
        request_burst: s.address_request_burst,
        concurrent_requests: s.address_concurrent_requests,
        ..Limits::default()
    };
    let limits = checked(limits, |name| match name {
        "request_burst" => "address_request_burst",
        "concurrent_requests" => "address_concurrent_requests",
        _ => "address_requests_per_second",
    })?;
    Ok(AddressLimits {
        requests: Rate::new(
            limits.requests_per_second.unwrap_or(ADDRESS_RATE),
            Some(limits.request_burst.unwrap_or(ADDRESS_BURST)),
        ),
        at_open_servers: limits.requests_per_second.is_some(),
        concurrent: limits.allowed().concurrent,
    })
}

fn checked(limits: Limits, setting: impl Fn(&'static str) -> &'static str) -> Result<Limits, ConfigError> {
    limits.checked().map_err(|(name, expected)| ConfigError::OutOfRange {
        name: setting(name),
        value: limits.value_of(name),
        expected,
    })
}

fn key_secret(secret: Secret) -> Result<Secret, ConfigError> {
    if secret.expose().chars().count() >= 32 { Ok(secret) } else { Err(ConfigError::WeakKeySecret) }
}

/// Certificate and key go together, and all else goes with them.
fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    client_auth: Option<ClientAuth>,
) -> Result<Option<TlsConfig>, ConfigError> {
    let auth = client_auth.unwrap_or(if client_ca.is_some() { ClientAuth::Required } else { ClientAuth::Off });
    if auth != ClientAuth::Off && client_ca.is_none() {
        return Err(ConfigError::NoClientCa { auth });
    }
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsConfig { cert, key, client_ca, client_auth: auth })),
        (None, None) if client_ca.is_some() => Err(ConfigError::NoTls { name: "tls_client_ca" }),
        (None, None) => Ok(None),
        _ => Err(ConfigError::LoneTlsFile),
    }
}
