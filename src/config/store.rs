//! Where model files are kept.

use std::path::{Path, PathBuf};

use url::Url;

use super::defaults::home_folder;
use super::{ConfigError, Secret};

/// Variables of the environment that say how to reach a provider's store: credentials, region, endpoint.
const PROVIDERS: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Any of these says how to come by credentials for S3. Without one, the metadata service of an instance is asked.
const AWS_CREDENTIALS: [&str; 7] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
    "AWS_METADATA_ENDPOINT",
];

/// Where model files are kept.
#[derive(Debug, Clone)]
pub enum ModelStoreConfig {
    Folder(PathBuf),
    Url {
        url: Url,
        /// What the environment says of providers, by the names of its variables in lower case.
        options: Vec<(String, Secret)>,
    },
}

impl ModelStoreConfig {
    /// A text that is no URL is a folder.
    pub(super) fn new(said: Option<String>, data_dir: &Path) -> Result<Self, ConfigError> {
        let Some(text) = said else { return Ok(Self::Folder(data_dir.join("models"))) };
        let Ok(url) = Url::parse(&text) else { return Ok(Self::Folder(text.into())) };
        if is_s3(&url)
            && !provider_variables().any(|(name, _)| AWS_CREDENTIALS.contains(&name.as_str()))
            && let Some(found) = aws_profile()
        {
            return Err(ConfigError::AwsProfile { url: text, found });
        }
        Ok(Self::Url { url, options: provider_options() })
    }
}

fn is_s3(url: &Url) -> bool {
    matches!(url.scheme(), "s3" | "s3a") || url.host_str().is_some_and(|host| host.ends_with(".amazonaws.com"))
}

/// What speaks of profiles, which only Amazon's own programs read.
fn aws_profile() -> Option<String> {
    let variables = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"];
    let set = |name: &str| provider_variables().find(|(set, _)| set == name);
    let named = variables.iter().find_map(|name| set(name)).map(|(name, value)| format!("{name}={value}"));
    named.or_else(|| {
        let folder = home_folder()?.join(".aws");
        let files = ["credentials", "config"].map(|name| folder.join(name));
        files.into_iter().find(|file| file.exists()).map(|file| file.display().to_string())
    })
}

/// Names of the variables that are set and hold secrets, or lead to some: what other programs need not inherit.
pub fn secret_variables() -> Vec<String> {
    let own = [
        "FACEID_CONFIG",
        "FACEID_CLIENT_KEY",
        "FACEID_ADMIN_KEY",
        "FACEID_KEY_SECRET",
        "FACEID_SIGNING_KEY",
        "FACEID_TLS_KEY",
        "DATABASE_URL",
        "FACEID_DATABASE_SESSION_URL",
    ];
    let of_chips = ["FACEID_CHIP_KEY", "FACEID_CHIP_KEY_FILE", "FACEID_CHIP_KEY_COMMAND"];
    own.into_iter().chain(of_chips).map(str::to_owned).chain(provider_variables().map(|(name, _)| name)).collect()
}

fn provider_options() -> Vec<(String, Secret)> {
    provider_variables().map(|(name, value)| (name.to_ascii_lowercase(), Secret::from(value))).collect()
}

/// Those that are not empty; whoever writes `AWS_REGION=` into a file of variables means that there is none.
fn provider_variables() -> impl Iterator<Item = (String, String)> {
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, value)| !value.is_empty() && PROVIDERS.iter().any(|start| name.starts_with(start)))
}
