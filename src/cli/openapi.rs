use std::process::ExitCode;

use super::CliError;

/// Print the OpenAPI document
///
/// Example: faceid openapi > openapi.yaml
#[derive(clap::Args)]
pub struct Openapi {}

impl Openapi {
    pub fn run(self) -> Result<ExitCode, CliError> {
        let document = crate::http::openapi::yaml().map_err(|error| CliError::Render(error.to_string()))?;
        super::say(format_args!("{}", document.trim_end()));
        Ok(ExitCode::SUCCESS)
    }
}
