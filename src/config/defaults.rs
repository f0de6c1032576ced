//! What holds where nothing is said.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::choices::{DeviceChoice, KernelsChoice, PrecisionChoice, ReclaimChoice, SearchChoice};
use super::settings::{LogFormat, Settings};
use super::web::BasePath;

/// Where a server listens if nothing is said.
pub(super) const BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The folder in [`setup_folder`] that `make setup` fills with Postgres and pgvector.
const POSTGRES_FOLDER: &str = "postgres-16.14";
const DETECTOR_FILE: &str = "retinaface-mobilenet0.25.onnx";
const EMBEDDER_FILE: &str = "sface-128.onnx";

/// The embedders of `make setup`, by the names that `embedder` may have in place of a path.
const BUNDLED: [(&str, &str); 2] = [("accurate", EMBEDDER_FILE), ("fast", "mobilefacenet-512.onnx")];

/// Where `make setup` keeps what it fetched: the folder that `FACEID_HOME` names, else `.cache/faceid` in the user's home. Who has
/// no home, as in many containers, keeps everything in the data directory.
pub(super) fn setup_folder(named: Option<OsString>, user_home: Option<PathBuf>, data_dir: &Path) -> PathBuf {
    match (named.filter(|name| !name.is_empty()), user_home) {
        (Some(named), _) => PathBuf::from(named),
        (None, Some(home)) => home.join(".cache/faceid"),
        (None, None) => data_dir.to_owned(),
    }
}

/// The user's, if there is one.
pub(super) fn home_folder() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

fn default_data_dir() -> Result<PathBuf, ConfigError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/faceid"));
    }
    match std::env::var_os("XDG_DATA_HOME") {
        Some(folder) if !folder.is_empty() => Ok(PathBuf::from(folder).join("faceid")),
        _ => Ok(home_folder().ok_or(ConfigError::NoHome)?.join(".local/share/faceid")),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What holds where nothing is said. Some of what is said decides the defaults of other settings.
pub(super) fn defaults(said: &Settings) -> Result<Settings, ConfigError> {
    let data_dir = match &said.data_dir {
        Some(folder) => folder.clone(),
        None => default_data_dir()?,
    };
    let home = setup_folder(std::env::var_os("FACEID_HOME"), home_folder(), &data_dir);
    let weights_dir = said.weights_dir.clone().unwrap_or_else(|| home.join("weights"));
    let threads = said.threads.unwrap_or_else(cores);
    Ok(Settings {
        bind: Some(BIND),
        client_key: None,
        admin_key: None,
        key_secret: None,
        chip_key: None,
        chip_key_file: None,
        chip_key_command: None,
        insecure: Some(false),
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        tls_client_auth: None,
        cors_origins: None,
        base_path: Some(BasePath::default()),
        trusted_proxies: None,
        requests_per_second: None,
        request_burst: None,
        megapixels_per_second: None,
        megapixel_burst: None,
        concurrent_requests: None,
        address_requests_per_second: None,
        address_request_burst: None,
        address_concurrent_requests: None,
        data_dir: Some(data_dir),
        database_url: None,
        database_session_url: None,
        database_schema: None,
        database_connections: Some(16),
        postgres_dir: Some(home.join(POSTGRES_FOLDER)),
        detector: Some(weights_dir.join(DETECTOR_FILE)),
        embedder: Some(weights_dir.join(EMBEDDER_FILE)),
        model_store: None,
        max_model_bytes: Some(512 << 20),
        background_share: Some(0.5),
        weights_dir: Some(weights_dir),
        threads: Some(threads),
        device: Some(DeviceChoice::Auto),
        precision: Some(PrecisionChoice::Auto),
        kernels: Some(KernelsChoice::Auto),
        cuda_libraries: None,
        max_batch: None,
        max_wait_ms: Some(5),
        queue_timeout: Some(10),
        max_requests: Some(24 * threads),
        request_timeout: Some(30),
        idle_timeout: Some(75),
        shutdown_grace: Some(5),
        shutdown_timeout: Some(30),
        max_body_bytes: Some(176 << 20),
        max_dataset_bytes: Some(2 << 30),
        body_budget: Some(512 << 20),
        max_connections: Some(512),
        max_image_bytes: Some(64 << 20),
        max_image_pixels: Some(200_000_000),
        decode_budget: Some(896 << 20),
        detector_side: Some(640),
        min_detection_score: Some(0.8),
        threshold: None,
        fpir: Some(0.01),
        duplicate_rate: Some(0.01),
        search: Some(SearchChoice::Auto),
        search_device: Some(DeviceChoice::Cpu),
        resident_memory: Some(2 << 30),
        max_staleness: Some(60),
        job_lease: Some(30),
        reclaim: Some(ReclaimChoice::Soon),
        train_threads: Some((cores() / 2).max(1)),
        train_memory: Some(4 << 30),
        train_device: Some(DeviceChoice::Cpu),
        audit_answers: Some(true),
        signing_key: None,
        audit_retention: Some(0),
        log_format: Some(LogFormat::Pretty),
        log: Some("info".to_owned()),
    })
}

/// The file of an embedder that is given by name or path.
pub(super) fn embedder_file(embedder: PathBuf, weights_dir: &std::path::Path) -> PathBuf {
    let named = BUNDLED.iter().find(|(name, _)| embedder.as_os_str() == *name);
    named.map_or(embedder, |(_, file)| weights_dir.join(file))
}
