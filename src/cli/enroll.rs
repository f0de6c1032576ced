use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use super::backend::{Backend, BackendArgs, EnrolledPhoto, Usual, read_photo};
use super::people::{self, People};
use super::{CliError, print_json, progress_bar};
use crate::service::DEFAULT_GALLERY_NAME;
use crate::service::requests::Expiry;
use crate::types::Name;
use crate::walk::LeftOut;

/// Enroll a folder of photos: one folder per person, named after the person
///
/// The largest face of each photo is taken. A photo that is enrolled for its person already is left as it is, so the same
/// folder can be enrolled again. Files beside the folders, folders within them and hidden files are left out. Whatever is not
/// enrolled is listed with the reason; the exit code is 1 if a photo may have been meant.
///
/// Example: faceid enroll ./people --gallery staff --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Enroll {
    /// Folder with one folder per person
    dir: PathBuf,
    /// Gallery to enroll into; it must exist
    #[arg(long, default_value = DEFAULT_GALLERY_NAME, value_parser = super::parse_name)]
    gallery: Name,
    /// When the people expire, and are erased with all their faces, such as 2030-01-31T12:00:00Z; also of those who are there already
    #[arg(long, value_parser = super::parse_expiry, value_name = "TIME")]
    expires_at: Option<Expiry>,
    /// When the faces that are enrolled expire, and are erased
    #[arg(long, value_parser = super::parse_expiry, value_name = "TIME")]
    face_expires_at: Option<Expiry>,
    /// Photos in work at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64), value_name = "N")]
    jobs: u8,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

#[derive(Default, Serialize)]
struct Tally {
    subjects: usize,
    enrolled: usize,
    /// Photos that were enrolled for the same person before.
    already_there: usize,
    /// Files that are no photos of anybody.
    left_out: Vec<LeftOut>,
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
        let People { photos, left_out } = people::read(&self.dir)?;
        let mut subjects: Vec<&str> = photos.iter().map(|(subject, _)| subject.as_str()).collect();
        subjects.dedup();
        let subjects = subjects.len();
        let backend = Arc::new(self.backend.open().await?);
        backend.check_gallery(&self.gallery).await?;
        let usual = Usual { gallery: self.gallery, expires_at: self.expires_at, face_expires_at: self.face_expires_at };
        let mut outcome = enroll_all(&backend, &usual, photos, self.jobs.into()).await;
        (outcome.subjects, outcome.left_out) = (subjects, left_out);
        if let Ok(backend) = Arc::try_unwrap(backend) {
            backend.close().await;
        }
        if self.json {
            print_json(&outcome)?
        } else {
            print_outcome(&outcome)
        }
        let is_whole = outcome.failed.is_empty() && !outcome.left_out.iter().any(|file| file.may_be_meant);
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn enroll_all(backend: &Arc<Backend>, usual: &Usual, photos: Vec<(Name, PathBuf)>, jobs: usize) -> Tally {
    let bar = progress_bar(Some(photos.len() as u64), "{bar:30} {pos}/{len} photos  {per_sec}  {eta} left");
    let mut outcome = Tally::default();
    let mut running = JoinSet::new();
    let mut waiting = photos.into_iter();
    loop {
        while running.len() < jobs {
            let Some((subject, path)) = waiting.next() else { break };
            let (backend, usual) = (Arc::clone(backend), usual.clone());
            running.spawn(async move {
                let answer = match read_photo(&path).await {
                    Ok(photo) => backend.enroll(&usual, &subject, photo).await,
                    Err(error) => Err(error),
                };
                (subject, path, answer)
            });
        }
        let Some(finished) = running.join_next().await else { break };
        bar.inc(1);
        match finished {
            Ok((.., Ok(EnrolledPhoto::AlreadyThere))) => outcome.already_there += 1,
            Ok((subject, path, Ok(EnrolledPhoto::New(enrolled)))) => {
                outcome.enrolled += 1;
                let name = subject.to_string();
                let others = enrolled.duplicates.into_iter().map(|other| other.subject).filter(|other| *other != name);
                outcome.duplicates.extend(others.map(|other| (name.clone(), other)));
                outcome.mismatches.extend(enrolled.mismatch.map(|_| path));
            }
            Ok((_, path, Err(error))) => {
                outcome.failed.push(Failure { path, reason: error.to_string() });
            }
            Err(error) => outcome.failed.push(Failure { path: PathBuf::new(), reason: error.to_string() }),
        }
    }
    bar.finish();
    outcome.failed.sort_by(|a, b| a.path.cmp(&b.path));
    outcome.duplicates.sort();
    outcome.duplicates.dedup();
    outcome
}

fn print_outcome(outcome: &Tally) {
    super::say(format_args!("enrolled {} photos of {} people", outcome.enrolled, outcome.subjects));
    if outcome.already_there > 0 {
        super::say(format_args!("  {} photos were there already", outcome.already_there));
    }
    for (a, b) in &outcome.duplicates {
        super::say(format_args!("  may be one person: {a}, {b}"));
    }
    for path in &outcome.mismatches {
        super::say(format_args!("  does not resemble the others of its folder: {}", path.display()));
    }
    for LeftOut { path, reason, .. } in &outcome.left_out {
        super::say(format_args!("  left out: {path}: {reason}"));
    }
    for failure in &outcome.failed {
        super::say(format_args!("  not enrolled: {}: {}", failure.path.display(), failure.reason));
    }
}
