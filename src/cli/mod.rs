//! The command line: one file per command.

mod backend;
mod bench;
mod client;
mod datasets;
mod enroll;
mod evaluate;
mod export;
mod health;
mod identify;
mod import;
mod jobs;
mod models;
mod openapi;
mod photos;
mod remote;
mod retrain;
mod serve;
mod train;
mod verify;

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;

use crate::app::AppError;
use crate::bench::BenchError;
use crate::config::{Config, ConfigArgs, ConfigError, ignore_empty_variables};
use crate::db::{Database, DbError};
use crate::engine::EngineError;
use crate::evaluation::EvaluationError;
use crate::service::{ServiceError, training_exit};
use crate::training::TrainingError;
use crate::transfer::TransferError;
use crate::types::Name;

/// Face recognition: enroll people with one photo, identify and verify them.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Migrate(MigrateArgs),
    Enroll(enroll::Enroll),
    Identify(identify::Identify),
    Verify(verify::Verify),
    Evaluate(evaluate::Evaluate),
    Export(export::Export),
    Import(import::Import),
    Models(models::Models),
    Train(train::Train),
    Datasets(datasets::Datasets),
    Retrain(retrain::Retrain),
    Jobs(jobs::Jobs),
    Health(health::Health),
    Bench(bench::Bench),
    Openapi(openapi::Openapi),
}

/// Bring the database's schema up to date, then exit
///
/// Example: DATABASE_URL=postgres://faceid@db/faceid faceid migrate
#[derive(clap::Args)]
struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Training(#[from] TrainingError),
    #[error(transparent)]
    TrainingDevice(EngineError),
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error("{action}: {source}")]
    Io { action: String, source: std::io::Error },
    #[error("cannot ask servers: {0}")]
    Client(reqwest::Error),
    #[error("cannot reach {server}: {reason}")]
    Unreachable { server: String, reason: String },
    /// A server's answer that is not a success.
    #[error("{0}")]
    Refused(String),
    /// Something the user said makes no sense.
    #[error("{0}")]
    Usage(String),
    #[error("cannot show the answer: {0}")]
    Render(String),
}

impl CliError {
    fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// A server to which or from which something did not get through.
    fn unreachable(server: &str, error: &reqwest::Error) -> Self {
        Self::Unreachable { server: server.to_owned(), reason: client::why(error) }
    }

    /// What the program ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Training(TrainingError::Network(error)) if error.is_out_of_memory() => {
                training_exit::OUT_OF_MEMORY.into()
            }
            Self::TrainingDevice(_) => training_exit::NO_DEVICE.into(),
            _ => ExitCode::FAILURE,
        }
    }
}

impl Cli {
    /// What the arguments and the environment of the process say; ends the process if that is nothing, or help.
    pub fn of_arguments() -> Self {
        let mut command = ignore_empty_variables(Self::command());
        let parsed = Self::from_arg_matches(&command.get_matches_mut());
        parsed.unwrap_or_else(|error| error.format(&mut command).exit())
    }

    /// Runs the command on a new async runtime.
    pub fn run(self) -> Result<ExitCode, CliError> {
        if let Command::Train(command) = &self.command {
            command.confine()?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(CliError::io("cannot start the async runtime"))?;
        runtime.block_on(async {
            match self.command {
                Command::Serve(command) => command.run().await,
                Command::Migrate(command) => command.run().await,
                Command::Enroll(command) => command.run().await,
                Command::Identify(command) => command.run().await,
                Command::Verify(command) => command.run().await,
                Command::Evaluate(command) => command.run().await,
                Command::Export(command) => command.run().await,
                Command::Import(command) => command.run().await,
                Command::Models(command) => command.run().await,
                Command::Train(command) => command.run().await,
                Command::Datasets(command) => command.run().await,
                Command::Retrain(command) => command.run().await,
                Command::Jobs(command) => command.run().await,
                Command::Health(command) => command.run().await,
                Command::Bench(command) => command.run().await,
                Command::Openapi(command) => command.run(),
            }
        })
    }
}

impl MigrateArgs {
    async fn run(self) -> Result<ExitCode, CliError> {
        let config = configure(self.config)?;
        crate::app::open_database(&config.database).await?.close().await;
        say(format_args!("the database is up to date"));
        Ok(ExitCode::SUCCESS)
    }
}

/// The database of the configuration, also while a server uses it.
async fn reach_database(mut args: ConfigArgs) -> Result<Database, CliError> {
    // A progress bar and a log do not go well together, unless the log was asked for. That statements are slow is no
    // news here.
    args.settings.log.get_or_insert_with(|| "warn,sqlx=error".to_owned());
    Ok(crate::app::reach_database(&configure(args)?.database).await?)
}

/// A progress bar on standard error, which a template describes.
fn progress_bar(length: Option<u64>, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates of the commands are valid");
    length.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style)
}

/// Checked configuration, and logging as it says.
fn configure(args: ConfigArgs) -> Result<Config, CliError> {
    let config = args.resolve()?.into_config()?;
    crate::telemetry::start(&config.log).map_err(CliError::Usage)?;
    Ok(config)
}

/// For clap: a name of a gallery or subject.
fn parse_name(text: &str) -> Result<Name, String> {
    Name::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// Writes a line to standard output. A reader that has read enough, such as `head`, is no reason to complain.
fn say(line: fmt::Arguments) {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => eprintln!("faceid: cannot write the output: {error}"),
        _ => {}
    }
}

/// An answer as indented JSON on standard output.
fn print_json(answer: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(answer).map_err(|error| CliError::Render(error.to_string()))?;
    say(format_args!("{text}"));
    Ok(())
}
