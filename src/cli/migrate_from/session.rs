//! What migrations have in common: the database, the engine, a bar and a report.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::ProgressBar;

use super::outcome::describe;
use crate::app;
use crate::cli::{CliError, configure_quietly, print_json, progress_bar};
use crate::config::{Config, ConfigArgs};
use crate::db::Database;
use crate::engine::EngineThreads;
use crate::migration::{Event, FaceChosen, Migrated, Migration, MigrationError, Reader, Source};
use crate::registry::Registry;
use crate::types::Caller;

/// What every source can be told.
#[derive(clap::Args)]
pub struct Common {
    /// Which face of a photo that shows several
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    pub face: FaceChosen,
    /// Photos in work at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    jobs: u16,
    /// File for what was refused, a line of JSON for each, with the reason; it is written anew
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A migration under way.
pub struct Session {
    pub config: Config,
    pub database: Database,
    pub migration: Migration,
    pub migrated: Migrated,
    pub report: Report,
    threads: EngineThreads,
    json: bool,
}

impl Session {
    /// `embeddings_of` names the model that made the embeddings of the source.
    pub async fn open(common: Common, embeddings_of: Option<&str>) -> Result<Self, CliError> {
        let Common { face, jobs, report, json, config } = common;
        let config = configure_quietly(config)?;
        let report = Report::open(report.as_deref())?;
        let database = app::reach_database(&config.database).await?;
        let opened = async {
            let galleries = app::open_galleries(&database, &config).await?.for_caller(&Caller::command());
            let (engine, threads, model) = app::start_engine(&config, &database).await?;
            let known = match embeddings_of {
                Some(name) => Some(Registry::new(database.pools()).find(name).await.map_err(MigrationError::from)?),
                None => None,
            };
            let reader = Reader::new(engine, &config.recognition, model, face, known);
            Ok::<_, CliError>((Migration::new(galleries, reader, jobs.into()), threads))
        };
        match opened.await {
            Ok((migration, threads)) => {
                Ok(Self { config, database, migration, migrated: Migrated::default(), report, threads, json })
            }
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    /// Takes over what the source yields, and shows how far it is.
    pub async fn run(&mut self, source: Source) -> Result<(), CliError> {
        let bar = match source.total {
            Some(total) => progress_bar(Some(total), "{bar:30} {pos}/{len}  {msg}  {eta} left"),
            None => progress_bar(None, "{spinner} {pos}  {msg}  {elapsed}"),
        };
        let report = &mut self.report;
        let told = |event: Event<'_>| {
            if let Event::Progress(migrated) = &event {
                show(&bar, migrated);
            }
            report.write(&event)
        };
        let done = self.migration.run(source, &mut self.migrated, told).await;
        bar.finish();
        Ok(done?)
    }

    /// Ends all that was started, and says what came of it.
    pub async fn close(self, done: Result<(), CliError>) -> Result<ExitCode, CliError> {
        let Self { config: _, database, migration, migrated, report, threads, json } = self;
        drop(migration);
        // Blocks for the time of a pass at most; nothing else runs here.
        threads.join();
        database.close().await;
        let written = report.finish();
        if let Err(error) = done {
            let Migrated { taken_over, .. } = migrated;
            if taken_over > 0 {
                eprintln!(
                    "faceid: {taken_over} faces were taken over before this; they are passed over when it is begun again"
                );
            }
            return Err(error);
        }
        written?;
        if json {
            print_json(&migrated)?;
        } else {
            describe(&migrated);
        }
        Ok(if migrated.refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn show(bar: &ProgressBar, migrated: &Migrated) {
    let mut message = format!("{:.1} photos/s", migrated.photos_per_second);
    for (count, what) in [(migrated.already_there, "already there"), (migrated.refused, "refused")] {
        if count > 0 {
            message += &format!("  {count} {what}");
        }
    }
    bar.set_message(message);
    bar.set_position(migrated.done());
}

/// The lines of what was refused and of decisions that change, if they are asked for.
pub struct Report(Option<BufWriter<File>>);

impl Report {
    /// It names people: only its owner may read it.
    fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let open = |path: &Path| {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
            file.map(BufWriter::new).map_err(CliError::io(format!("cannot write {}", path.display())))
        };
        path.map(open).transpose().map(Self)
    }

    pub fn write(&mut self, event: &Event<'_>) -> Result<(), MigrationError> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let line = match event {
            Event::Progress(_) => return Ok(()),
            Event::Refused(refused) => serde_json::to_string(refused),
            Event::Changed(changed) => serde_json::to_string(changed),
        };
        let line = line.map_err(|error| MigrationError::Report(error.into()))?;
        writeln!(file, "{line}").map_err(MigrationError::Report)
    }

    fn finish(self) -> Result<(), CliError> {
        let flushed = self.0.map_or(Ok(()), |mut file| file.flush());
        Ok(flushed.map_err(MigrationError::Report)?)
    }
}
