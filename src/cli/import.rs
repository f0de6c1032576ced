use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::export::is_standard;
use super::{CliError, print_json, progress_bar, reach_galleries, say};
use crate::config::ConfigArgs;
use crate::gallery::Ids;
use crate::registry::Registry;
use crate::transfer::{self, ImportRequest, Imported};
use crate::types::{Caller, Name};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Add the faces of a file to a gallery: one of `faceid export`, or lines with a subject and an embedding
///
/// A line of your own needs `subject` and `embedding`, an array of numbers. A running server finds the faces within
/// seconds. A bad line stops the import; everything before its batch of 5,000 lines stays.
///
/// Example: faceid import staff.jsonl --gallery staff
#[derive(clap::Args)]
pub struct Import {
    /// File to read, or - for standard input
    file: PathBuf,
    /// Gallery to add to, created if there is none [default: the one of the file]
    #[arg(long, value_parser = super::parse_name)]
    gallery: Option<Name>,
    /// Model that made the embeddings, by name or sha256 [default: the one of the file, or the active one]
    #[arg(long)]
    model: Option<String>,
    /// Give faces and subjects new ids, so that a gallery can be copied within a database
    #[arg(long, conflicts_with = "skip_existing")]
    new_ids: bool,
    /// Leave out faces whose id exists in the gallery, to continue an import that was stopped
    #[arg(long)]
    skip_existing: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Import {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let (reader, length) = open(&self.file)?;
        let (database, galleries) = reach_galleries(self.config).await?;
        let registry = Registry::new(database.pools()).by(Caller::command().actor());
        let ids = match (self.new_ids, self.skip_existing) {
            (true, _) => Ids::New,
            (_, true) => Ids::SkipExisting,
            _ => Ids::Keep,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let request = ImportRequest { gallery: self.gallery, model: self.model, ids, threads };
        let mut import = transfer::Import::new(galleries, registry, request);
        let bar = match length {
            Some(_) => progress_bar(length, "{bar:30} {percent}%  {msg} faces  {bytes_per_sec}  {eta} left"),
            None => progress_bar(None, "{spinner} {msg} faces  {bytes_per_sec}  {elapsed}"),
        };
        let done = import
            .run(reader, |imported| {
                bar.set_message((imported.faces + imported.skipped).to_string());
                bar.set_position(imported.bytes);
            })
            .await;
        bar.finish();
        database.close().await;
        let imported = import.imported();
        match done {
            Ok(()) if self.json => print_json(imported)?,
            Ok(()) => describe(imported),
            Err(error) => {
                if imported.lines > 0 {
                    let Imported { faces, lines, .. } = imported;
                    eprintln!("faceid: {faces} faces were stored before this, from the lines up to {lines}");
                }
                return Err(error.into());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What to read, and how long it is if that is known.
fn open(path: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>), CliError> {
    if is_standard(path) {
        return Ok((Box::new(BufReader::with_capacity(BUFFER, stdin())), None));
    }
    let failed = || CliError::io(format!("cannot read {}", path.display()));
    let file = File::open(path).map_err(failed())?;
    let about = file.metadata().map_err(failed())?;
    // Of a pipe the length is not known.
    let length = about.is_file().then_some(about.len());
    Ok((Box::new(BufReader::with_capacity(BUFFER, file)), length))
}

fn describe(imported: &Imported) {
    let Imported { gallery, faces, subjects_created, skipped, expired, to_embed, not_found, .. } = imported;
    let new = if imported.gallery_created { "new " } else { "" };
    say(format_args!("imported {faces} faces and {subjects_created} new subjects into the {new}gallery {gallery}"));
    if *skipped > 0 {
        say(format_args!("  left out {skipped} faces that exist already"));
    }
    if *expired > 0 {
        say(format_args!("  left out {expired} faces and subjects that have expired"));
    }
    if let Some(model) = &imported.retired_model {
        say(format_args!("  the embeddings are of {model}, which is retired, and were left out"));
    }
    match (&imported.model, &imported.active_model) {
        (Some(model), Some(active)) if model != active => {
            say(format_args!("  the embeddings are of {model}, but {active} is the active model"));
        }
        (Some(model), None) => {
            say(format_args!("  the embeddings are of {model}; no server has run on this database yet"));
        }
        _ => {}
    }
    if *to_embed > 0 {
        say(format_args!("  {to_embed} faces will be found when a server has embedded their chips"));
    }
    if *not_found > 0 {
        say(format_args!("  {not_found} faces have no chip, so that they are found only while that model is active"));
    }
}
