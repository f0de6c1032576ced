//! The `faceid` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use faceid::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
