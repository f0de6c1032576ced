//! The `faceid` program: arguments in, exit code out.

use std::process::ExitCode;

use faceid::cli::Cli;

fn main() -> ExitCode {
    match Cli::of_arguments().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("faceid: {error}");
            error.exit_code()
        }
    }
}
