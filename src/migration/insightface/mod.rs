//! What users of InsightFace's servers have. InsightFace-REST has no gallery, so its users keep what /extract answered; InsightFace
//! Server keeps face samples of persons in SQLite, from which SQLite itself writes lines of JSON.

mod answers;
mod samples;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::folder::person_of_file;
use super::item::{Content, Item, Refusal, Source, derived_id};
use super::{FaceChosen, MigrationError};
use crate::gallery::Metadata;
use crate::types::Name;
use answers::{Answer, choose};
use samples::Sample;

/// Items that are handed on at once: each holds its chip.
const PAGE: usize = 100;

/// How deep folders are looked into: people, and their answers.
const DEPTH: usize = 2;

/// A value of a file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "it is neither an answer of /extract nor a face sample")]
enum Line {
    Answer(Answer),
    Sample(Box<Sample>),
}

/// A file of answers, and whose they are unless they say so themselves.
struct AnswerFile {
    path: PathBuf,
    identity: String,
    subject: String,
}

/// The answers in a file or a folder. Those of a folder within it are of whom it is named after; others of whom their file is.
pub fn answers(root: &Path, face: FaceChosen, gallery: &Name) -> Result<Source, MigrationError> {
    let mut files = Vec::new();
    if root.is_dir() {
        collect(root, root, DEPTH, &mut files)
            .map_err(|source| MigrationError::Read { path: root.to_owned(), source })?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if files.is_empty() {
            let reason = "it has no files that end with .json or .jsonl".to_owned();
            return Err(MigrationError::File { path: root.to_owned(), reason });
        }
    } else {
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(AnswerFile { path: root.to_owned(), subject: person_of_file(&name), identity: name });
    }
    let (sender, receiver) = mpsc::channel(2);
    let gallery = gallery.clone();
    // Not one of the runtime's, which would wait for it at the end.
    std::thread::spawn(move || {
        for file in files {
            if let Err(error) = file.read(face, &gallery, &mut |page| sender.blocking_send(Ok(page)).is_ok()) {
                // Nobody listens after a failure.
                let _ = sender.blocking_send(Err(error));
                return;
            }
        }
    });
    let pages = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    Ok(Source { pages: pages.boxed(), total: None })
}

fn collect(root: &Path, folder: &Path, depth: usize, files: &mut Vec<AnswerFile>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth > 1 {
                collect(root, &path, depth - 1, files)?;
            }
            continue;
        }
        if path.extension().is_some_and(|end| end == "json" || end == "jsonl" || end == "ndjson") {
            let within = path.strip_prefix(root).unwrap_or(&path);
            let of_folder = within.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
            let subject = of_folder.unwrap_or_else(|| person_of_file(&name));
            files.push(AnswerFile { identity: within.to_string_lossy().into_owned(), subject, path });
        }
    }
    Ok(())
}

impl AnswerFile {
    /// Hands on the faces of all answers, until nobody wants more.
    fn read(
        &self,
        face: FaceChosen,
        gallery: &Name,
        hand_on: &mut impl FnMut(Vec<Item>) -> bool,
    ) -> Result<(), MigrationError> {
        let file = File::open(&self.path).map_err(|source| MigrationError::Read { path: self.path.clone(), source })?;
        let lines = serde_json::Deserializer::from_reader(BufReader::new(file)).into_iter::<Line>();
        let mut page = Vec::new();
        for (number, line) in (1..).zip(lines) {
            let line = line.map_err(|error| {
                let reason = format!("value {number}: {error}");
                MigrationError::File { path: self.path.clone(), reason }
            })?;
            match line {
                Line::Answer(answer) => {
                    let subject = answer.subject.unwrap_or_else(|| self.subject.clone());
                    for (image, about) in (1..).zip(answer.data) {
                        let identity = format!("{}#{number}.{image}", self.identity);
                        page.push(item(gallery, subject.clone(), identity, choose(about, face)));
                    }
                }
                Line::Sample(sample) => page.push(sample.item(gallery, &self.identity, number)),
            }
            if page.len() >= PAGE && !hand_on(std::mem::take(&mut page)) {
                return Ok(());
            }
        }
        hand_on(page);
        Ok(())
    }
}

fn item(gallery: &Name, subject: String, identity: String, content: Result<Content, Refusal>) -> Item {
    let id = derived_id("insightface-server", gallery, &subject, &identity);
    let metadata = Metadata::default();
    Item { gallery: gallery.clone(), subject, id, identity, content, metadata, created_at: None }
}
