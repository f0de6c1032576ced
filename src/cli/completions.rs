use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CliError};

/// Print what a shell needs to complete commands and flags
///
/// Example: faceid completions bash > ~/.local/share/bash-completion/completions/faceid
#[derive(clap::Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<ExitCode, CliError> {
        clap_complete::generate(self.shell, &mut Cli::command(), "faceid", &mut std::io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}
