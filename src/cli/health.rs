use std::process::ExitCode;
use std::time::Duration;

use super::CliError;
use super::client::{Trust, why};
use crate::config::ConfigArgs;

/// Less than what a container engine gives its health checks, so that the reason gets into its log.
const PATIENCE: Duration = Duration::from_secs(4);

/// Ask a running server whether it is ready: exit code 0 if so, 1 if not
///
/// Without --server it is the one on this machine that the configuration speaks of (--bind, FACEID_BIND or the file), as that on
/// which `faceid serve` listens.
///
/// Example: faceid health --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Health {
    /// Address of the server [default: that of the configuration]
    #[arg(long, env = "FACEID_SERVER", value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Health {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let client = self.trust.apply(reqwest::Client::builder().timeout(PATIENCE))?;
        let (server, client) = match self.server {
            Some(server) => (server.trim_end_matches('/').to_owned(), client),
            // No proxy leads to this machine itself. Its certificate is for names that others know it by; nothing secret is said.
            None => (self.config.local_url()?, client.no_proxy().tls_danger_accept_invalid_certs(true)),
        };
        let unreachable = |error: reqwest::Error| {
            let late = || format!("no answer within {} s", PATIENCE.as_secs());
            let reason = if error.is_timeout() { late() } else { why(&error) };
            CliError::Unreachable { server: server.clone(), reason }
        };
        let client = client.build().map_err(CliError::Client)?;
        let response = client.get(format!("{server}/readyz")).send().await.map_err(unreachable)?;
        let code = if response.status().is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        super::say(format_args!("{}", response.text().await.map_err(unreachable)?));
        Ok(code)
    }
}
