//! Whom commands trust over TLS, and who they are.

use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder, Identity};

use crate::cli::CliError;

/// Flags of commands that may ask a server over HTTPS.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Trust {
    /// Certificates of the authorities that vouch for the server (PEM) [default: those of the system]
    #[arg(long, env = "FACEID_SERVER_CA", value_name = "FILE")]
    server_ca: Option<PathBuf>,
    /// Certificate and key, both in one file (PEM), to show to a server that asks for them
    #[arg(long, env = "FACEID_SERVER_IDENTITY", value_name = "FILE")]
    server_identity: Option<PathBuf>,
}

impl Trust {
    /// A client that trusts and shows what was said.
    pub fn apply(&self, mut client: ClientBuilder) -> Result<ClientBuilder, CliError> {
        if let Some(path) = &self.server_ca {
            let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(|_| unusable(path, "certificates"))?;
            if authorities.is_empty() {
                return Err(unusable(path, "certificates"));
            }
            client = client.tls_certs_only(authorities);
        }
        if let Some(path) = &self.server_identity {
            let identity = Identity::from_pem(&read(path)?).map_err(|_| unusable(path, "a certificate and its key"))?;
            client = client.identity(identity);
        }
        Ok(client)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(CliError::io(format!("cannot read {}", path.display())))
}

fn unusable(path: &Path, what: &str) -> CliError {
    CliError::Usage(format!("{} does not hold {what} in PEM", path.display()))
}
