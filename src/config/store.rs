//! Where model files are kept.

use std::path::{Path, PathBuf};

use url::Url;

use super::Secret;

/// Variables of the environment that say how to reach a provider's store: credentials, region, endpoint.
const PROVIDERS: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

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
    pub(super) fn new(said: Option<String>, data_dir: &Path) -> Self {
        match said {
            None => Self::Folder(data_dir.join("models")),
            Some(text) => match Url::parse(&text) {
                Ok(url) => Self::Url { url, options: provider_options() },
                Err(_) => Self::Folder(text.into()),
            },
        }
    }
}

/// Names of the variables that are set and hold secrets, or lead to some: what other programs need not inherit.
pub fn secret_variables() -> Vec<String> {
    let own = ["FACEID_CONFIG", "FACEID_CLIENT_KEY", "FACEID_ADMIN_KEY", "DATABASE_URL", "FACEID_DATABASE_SESSION_URL"];
    own.map(str::to_owned).into_iter().chain(provider_variables().map(|(name, _)| name)).collect()
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
