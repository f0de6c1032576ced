use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use super::backend::{Backend, BackendArgs, read_photo};
use super::{CliError, print_json, progress_bar};
use crate::service::DEFAULT_GALLERY_NAME;
use crate::service::requests::{EnrollRequest, FaceChoice, FileBytes};
use crate::types::Name;

/// Enroll a folder of photos: one folder per person, named after the person
///
/// The largest face of each photo is taken. Files beside the folders, folders within them and hidden files are left
/// out. Photos that cannot be enrolled are listed with the reason; the exit code
/// is 1 if there were any.
///
/// Example: faceid enroll ./people --gallery staff --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Enroll {
    /// Folder with one folder per person
    dir: PathBuf,
    /// Gallery to enroll into; it must exist
    #[arg(long, default_value = DEFAULT_GALLERY_NAME, value_parser = super::parse_name)]
    gallery: Name,
    /// Photos in work at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64), value_name = "N")]
    jobs: u8,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

/// A photo of a person.
struct Item {
    subject: Name,
    path: PathBuf,
}

#[derive(Default, Serialize)]
struct Tally {
    subjects: usize,
    enrolled: usize,
    failed: Vec<Failure>,
    /// Pairs of names that look like one person.
    duplicates: Vec<(String, String)>,
    /// Photos that do not resemble the others of their person.
    mismatches: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Failure {
    path: PathBuf,
    reason: String,
}

impl Enroll {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        if !self.dir.is_dir() {
            return Err(CliError::Usage(format!("{} is not a folder", self.dir.display())));
        }
        let items = photos(&self.dir)?;
        if items.is_empty() {
            return Err(CliError::Usage(format!("{} has no folder with photos in it", self.dir.display())));
        }
        let mut subjects: Vec<&str> = items.iter().map(|item| item.subject.as_str()).collect();
        subjects.dedup();
        let subjects = subjects.len();
        let backend = Arc::new(self.backend.open().await?);
        backend.check_gallery(&self.gallery).await?;
        let mut outcome = enroll_all(&backend, &self.gallery, items, self.jobs.into()).await;
        outcome.subjects = subjects;
        if let Ok(backend) = Arc::try_unwrap(backend) {
            backend.close().await;
        }
        if self.json {
            print_json(&outcome)?
        } else {
            print_outcome(&outcome)
        }
        Ok(if outcome.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The photos of `dir`, person by person.
fn photos(dir: &Path) -> Result<Vec<Item>, CliError> {
    let mut items = Vec::new();
    for folder in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let subject =
            Name::try_from(name).map_err(|error| CliError::Usage(format!("{}: {error}", folder.display())))?;
        for path in entries(&folder)?.into_iter().filter(|path| path.is_file()) {
            items.push(Item { subject: subject.clone(), path });
        }
    }
    Ok(items)
}

/// What a folder holds, by name, without hidden files.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    let failed = || CliError::io(format!("cannot read {}", dir.display()));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

async fn enroll_all(backend: &Arc<Backend>, gallery: &Name, items: Vec<Item>, jobs: usize) -> Tally {
    let bar = progress_bar(Some(items.len() as u64), "{bar:30} {pos}/{len} photos  {per_sec}  {eta} left");
    let mut outcome = Tally::default();
    let mut running = JoinSet::new();
    let mut waiting = items.into_iter();
    loop {
        while running.len() < jobs {
            let Some(item) = waiting.next() else { break };
            let (backend, gallery) = (Arc::clone(backend), gallery.clone());
            running.spawn(async move {
                let answer = match read_photo(&item.path).await {
                    Ok(photo) => {
                        let new = EnrollRequest::new(FileBytes(photo), item.subject.clone(), gallery);
                        backend.enroll(EnrollRequest { face: FaceChoice::Largest, ..new }).await
                    }
                    Err(error) => Err(error),
                };
                (item, answer)
            });
        }
        let Some(finished) = running.join_next().await else { break };
        bar.inc(1);
        match finished {
            Ok((item, Ok(enrolled))) => {
                outcome.enrolled += 1;
                let name = item.subject.to_string();
                let others = enrolled.duplicates.into_iter().map(|other| other.subject).filter(|other| *other != name);
                outcome.duplicates.extend(others.map(|other| (name.clone(), other)));
                outcome.mismatches.extend(enrolled.mismatch.map(|_| item.path));
            }
            Ok((item, Err(error))) => {
                outcome.failed.push(Failure { path: item.path, reason: error.to_string() });
            }
            Err(error) => outcome.failed.push(Failure { path: PathBuf::new(), reason: error.to_string() }),
        }
    }
    bar.finish();
    outcome.duplicates.sort();
    outcome.duplicates.dedup();
    outcome
}

fn print_outcome(outcome: &Tally) {
    super::say(format_args!("enrolled {} photos of {} people", outcome.enrolled, outcome.subjects));
    for (a, b) in &outcome.duplicates {
        super::say(format_args!("  may be one person: {a}, {b}"));
    }
    for path in &outcome.mismatches {
        super::say(format_args!("  does not resemble the others of its folder: {}", path.display()));
    }
    for failure in &outcome.failed {
        super::say(format_args!("  not enrolled: {}: {}", failure.path.display(), failure.reason));
    }
}
