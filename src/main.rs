//! The `faceid` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use faceid::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("faceid: {error}");
            error.exit_code()
        }
    }
}
