//! The command line: one file per command.

mod audit;
mod backend;
mod bench;
mod client;
mod completions;
mod confine;
mod datasets;
mod enroll;
mod evaluate;
mod export;
mod health;
mod identify;
mod import;
mod jobs;
mod keys;
mod migrate_from;
mod models;
mod openapi;
mod people;
mod person;
mod photos;
mod retrain;
mod serve;
mod train;
mod try_model;
mod verify;

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use thiserror::Error;

use crate::app::AppError;
use crate::bench::BenchError;
use crate::config::{Config, ConfigArgs, ConfigError, ignore_empty_variables};
use crate::db::{Database, DbError, PageError};
use crate::engine::EngineError;
use crate::evaluation::EvaluationError;
use crate::gallery::Galleries;
use crate::http::{Problem, TlsError};
use crate::migration::MigrationError;
use crate::nn::NetworkError;
use crate::service::requests::Expiry;
use crate::service::{ServiceError, training_exit};
use crate::training::TrainingError;
use crate::transfer::TransferError;
use crate::types::{Caller, Name, Threshold};

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
    MigrateFrom(migrate_from::MigrateFrom),
    Audit(audit::Audit),
    Models(models::Models),
    Train(train::Train),
    Datasets(datasets::Datasets),
    Retrain(retrain::Retrain),
    #[command(name = "people")]
    Persons(person::Persons),
    Jobs(jobs::Jobs),
    Keys(keys::Keys),
    Health(health::Health),
    Bench(bench::Bench),
    Openapi(openapi::Openapi),
    Completions(completions::Completions),
    #[command(hide = true)]
    TryModel(try_model::TryModel),
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
    Tls(#[from] TlsError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Training(#[from] TrainingError),
    #[error(transparent)]
    Network(#[from] NetworkError),
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
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// A proxy's, or what did not come about.
    #[error("{reason}")]
    Refused { status: Option<StatusCode>, reason: String },
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

    /// What a server would not do, or what did not come about.
    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { status: None, reason: reason.into() }
    }

    /// Whether it may be over in a moment.
    fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => StatusCode::from_u16(problem.status).is_ok_and(client::is_passing),
            Self::Refused { status, .. } => status.is_some_and(client::is_passing),
            _ => false,
        }
    }

    /// After how many seconds a server says that it is worth another try.
    fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }

    /// What the program ends with.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Training(TrainingError::Network(error)) if error.is_out_of_memory() => training_exit::OUT_OF_MEMORY,
            Self::TrainingDevice(_) => training_exit::NO_DEVICE,
            _ => 1,
        }
    }
}

/// How long threads that are in the middle of something may hold up the end of the program.
const LINGER: Duration = Duration::from_secs(2);

impl Cli {
    /// What the arguments and the environment of the process say; ends the process if that is nothing, or help.
    pub fn of_arguments() -> Self {
        let mut command = ignore_empty_variables(own_thresholds(Self::command()));
        let parsed = Self::from_arg_matches(&command.get_matches_mut());
        parsed.unwrap_or_else(|error| error.format(&mut command).exit())
    }

    /// Runs the command; what goes wrong is said on standard error.
    pub fn run(self) -> ExitCode {
        self.command.run().unwrap_or_else(|error| ExitCode::from(complain(&error)))
    }
}

/// Commands that ask with a threshold of their own: there the setting of a server is not what `--threshold` says, so that what the
/// environment says of servers does not overrule a gallery's policy or get into a manifest.
fn own_thresholds(command: clap::Command) -> clap::Command {
    let server = |command: clap::Command| command.mut_arg("threshold", |arg| arg.long("server-threshold").hide(true));
    let models = |command: clap::Command| command.mut_subcommand("import", server);
    command.mut_subcommand("identify", server).mut_subcommand("verify", server).mut_subcommand("models", models)
}

/// Says what went wrong, and what the program ends with.
fn complain(error: &CliError) -> u8 {
    eprintln!("faceid: {error}");
    error.exit_code()
}

impl Command {
    /// Runs the command on a new async runtime.
    fn run(self) -> Result<ExitCode, CliError> {
        if let Self::Train(command) = &self {
            command.confine()?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(CliError::io("cannot start the async runtime"))?;
        let outcome = runtime.block_on(self.work());
        // A runtime that is dropped waits for its blocking threads, and one of them may load a network for minutes.
        let (ended, has_ended) = mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            let _ = ended.send(());
        });
        if has_ended.recv_timeout(LINGER).is_err() {
            leave(&outcome);
        }
        outcome
    }

    async fn work(self) -> Result<ExitCode, CliError> {
        match self {
            Self::Serve(command) => command.run().await,
            Self::Migrate(command) => command.run().await,
            Self::Enroll(command) => command.run().await,
            Self::Identify(command) => command.run().await,
            Self::Verify(command) => command.run().await,
            Self::Evaluate(command) => command.run().await,
            Self::Export(command) => command.run().await,
            Self::Import(command) => command.run().await,
            Self::MigrateFrom(command) => command.run().await,
            Self::Audit(command) => command.run().await,
            Self::Models(command) => command.run().await,
            Self::Train(command) => command.run().await,
            Self::Datasets(command) => command.run().await,
            Self::Retrain(command) => command.run().await,
            Self::Persons(command) => command.run().await,
            Self::Jobs(command) => command.run().await,
            Self::Keys(command) => command.run().await,
            Self::Health(command) => command.run().await,
            Self::Bench(command) => command.run().await,
            Self::Openapi(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::TryModel(command) => command.run(),
        }
    }
}

/// Ends the program while threads are still in the middle of something.
fn leave(outcome: &Result<ExitCode, CliError>) -> ! {
    tracing::warn!("some work does not end; left behind");
    let code = match outcome {
        Ok(code) => u8::from(*code != ExitCode::SUCCESS),
        Err(error) => complain(error),
    };
    // What was said must be out: nothing else is done on the way out.
    let _ = std::io::stdout().flush();
    crate::nn::exit_at_once(code)
}

impl MigrateArgs {
    async fn run(self) -> Result<ExitCode, CliError> {
        let config = configure(self.config)?;
        crate::app::open_database(&config.database).await?.close().await;
        say(format_args!("the database is up to date"));
        Ok(ExitCode::SUCCESS)
    }
}

/// The database of the configuration with its galleries, also while a server uses it.
async fn reach_galleries(args: ConfigArgs) -> Result<(Database, Galleries), CliError> {
    let config = configure_quietly(args)?;
    let database = crate::app::reach_database(&config.database).await?;
    match crate::app::open_galleries(&database, &config).await {
        Ok(galleries) => Ok((database, galleries.for_caller(&Caller::command()))),
        Err(error) => {
            database.close().await;
            Err(error.into())
        }
    }
}

/// The database of the configuration, also while a server uses it; for what neither reads nor stores chips.
async fn reach_database(args: ConfigArgs) -> Result<Database, CliError> {
    Ok(crate::app::reach_database(&configure_quietly(args)?.database).await?)
}

/// A progress bar and a log do not go well together, unless the log was asked for. That statements are slow is no news here.
fn configure_quietly(mut args: ConfigArgs) -> Result<Config, CliError> {
    args.settings.log.get_or_insert_with(|| "warn,sqlx=error".to_owned());
    configure(args)
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

/// For clap: when something expires.
fn parse_expiry(text: &str) -> Result<Expiry, String> {
    Expiry::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// For clap: a similarity.
fn parse_threshold(text: &str) -> Result<Threshold, String> {
    let value: f32 = text.parse().map_err(|_| "a number from -1 to 1 is expected".to_owned())?;
    Threshold::try_from(value).map_err(|error| error.to_string())
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
