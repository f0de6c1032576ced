//! Where the files are: a folder, or a bucket of a provider.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use tracing::warn;
use url::Url;

use super::{BlobError, Blobs};
use crate::config::{ModelStoreConfig, Secret};

/// How long one request to a provider may take: a part that is uploaded, or a model file that is fetched.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How often a request that failed for a reason that may pass is made again, and for how long.
const RETRIES: usize = 5;
const RETRY_FOR: Duration = Duration::from_secs(600);

impl Blobs {
    /// Opens the store; a folder is created if there is none. A provider is asked nothing yet.
    pub fn open(config: &ModelStoreConfig) -> Result<Self, BlobError> {
        match config {
            ModelStoreConfig::Folder(path) => folder(path.clone()),
            ModelStoreConfig::Url { url, options } => bucket(url, options),
        }
    }
}

fn folder(path: PathBuf) -> Result<Blobs, BlobError> {
    std::fs::create_dir_all(&path).map_err(|source| BlobError::Folder { path: path.clone(), source })?;
    let store = LocalFileSystem::new_with_prefix(&path)?.with_fsync(true);
    Ok(Blobs { store: Arc::new(store), prefix: Path::default(), folder: Some(path) })
}

/// The builders of object_store have these functions alike, but no trait.
macro_rules! build {
    ($builder:ty, $url:expr, $options:expr) => {{
        let client = ClientOptions::new().with_timeout(TIMEOUT);
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
        let builder = <$builder>::new().with_url($url.as_str()).with_client_options(client).with_retry(retry);
        // What the environment says of anything else is not for us.
        let known = $options.iter().filter_map(|(name, value)| Some((name.parse().ok()?, value.expose())));
        Arc::new(known.fold(builder, |builder, (key, value)| builder.with_config(key, value)).build()?)
    }};
}

fn bucket(url: &Url, options: &[(String, Secret)]) -> Result<Blobs, BlobError> {
    let unusable = || BlobError::Scheme { scheme: url.scheme().to_owned() };
    let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|_| unusable())?;
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::Local => return folder(url.to_file_path().map_err(|()| unusable())?),
        ObjectStoreScheme::AmazonS3 => {
            if options.iter().any(|(name, _)| name == "aws_profile") {
                warn!("AWS_PROFILE is not read; keys and region come from AWS_ACCESS_KEY_ID and the like");
            }
            build!(AmazonS3Builder, url, options)
        }
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder, url, options),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder, url, options),
        _ => return Err(unusable()),
    };
    Ok(Blobs { store, prefix, folder: None })
}
