//! The `faceid` program: arguments in, exit code out.

use std::process::ExitCode;

use faceid::cli::Cli;

fn main() -> ExitCode {
    Cli::of_arguments().run()
}
