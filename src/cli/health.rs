use std::process::ExitCode;
use std::time::Duration;

use super::CliError;

/// Ask a running server whether it is ready: exit code 0 if so, 1 if not
///
/// Example: faceid health --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Health {
    /// Address of the server
    #[arg(long, env = "FACEID_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    server: String,
}

impl Health {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let url = format!("{}/readyz", self.server.trim_end_matches('/'));
        let unreachable = |source| CliError::Unreachable { server: self.server.clone(), source };
        let request = super::http_client()?.get(url).timeout(Duration::from_secs(10));
        let response = request.send().await.map_err(unreachable)?;
        let code = if response.status().is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        super::say(format_args!("{}", response.text().await.map_err(unreachable)?));
        Ok(code)
    }
}
