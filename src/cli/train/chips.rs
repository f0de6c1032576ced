//! From photos to chips to train on.

use std::path::{Path, PathBuf};

use super::super::CliError;
use super::super::evaluate::sources;
use super::super::photos::{Outcome, largest_faces, start_engine};
use crate::config::Config;
use crate::training::Dataset;
use crate::types::Chip;

/// Photos that gave no chip.
#[derive(Debug, Default)]
pub struct LeftOut {
    pub without_face: usize,
    pub unreadable: usize,
}

/// The chips of folders that have one folder for each person.
pub async fn read(config: &Config, folders: &[PathBuf]) -> Result<(Dataset, LeftOut), CliError> {
    let source = sources::of_folders(folders)?;
    let (engine, threads) = start_engine(config).await?;
    let as_it_is = |chip: Chip| std::future::ready(Ok(Outcome::Face(chip)));
    let outcomes = largest_faces(config, engine, &source.photos, as_it_is).await;
    // Blocks for the time of a pass at most; nothing else runs here.
    threads.join();
    let outcomes = outcomes?;
    let (mut chips, mut left_out) = (Vec::new(), LeftOut::default());
    for (path, outcome) in source.photos.iter().zip(outcomes) {
        match outcome {
            Outcome::Face(chip) => chips.push((person(path), chip)),
            Outcome::NoFace => left_out.without_face += 1,
            Outcome::Unreadable(_) => left_out.unreadable += 1,
        }
    }
    Ok((Dataset::new(chips), left_out))
}

/// The name of the folder that a photo is in.
fn person(photo: &Path) -> String {
    photo.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
}
