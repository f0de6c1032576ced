//! From photos to chips to train on, and from a file to the network to begin with.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::CliError;
use super::super::evaluate::sources;
use super::super::people;
use super::super::photos::{Outcome, largest_faces, start_engine};
use super::stop::Stop;
use crate::app::AppError;
use crate::config::Config;
use crate::registry::Manifest;
use crate::service::{ServiceError, normalisation};
use crate::training::{BaseFile, Dataset, Repeated, TrainingError};
use crate::types::{Chip, hex};
use crate::vision;

/// Photos that gave no chip.
#[derive(Debug, Default)]
pub struct LeftOut {
    pub without_face: usize,
    pub unreadable: usize,
    pub repeated: Repeated,
}

/// The network that a training begins with, and what is known of it.
pub struct BaseModel {
    pub file: BaseFile,
    pub manifest: Manifest,
    /// In hexadecimal.
    pub sha256: String,
}

impl BaseModel {
    pub async fn read(path: &Path) -> Result<Self, CliError> {
        let file = path.to_owned();
        let reading = tokio::task::spawn_blocking(move || {
            let content = crate::nn::read_network(&file).map_err(TrainingError::from)?;
            let sha256 = hex(&Sha256::digest(&content));
            Ok::<_, TrainingError>((content, sha256))
        });
        let (content, sha256) = reading.await.map_err(|error| ServiceError::Internal(error.to_string()))??;
        let manifest = Manifest::of(path, &sha256).map_err(AppError::from)?;
        let file = BaseFile { content, input: normalisation(&manifest) };
        Ok(Self { file, manifest, sha256 })
    }
}

/// The chips of folders that have one folder for each person: those of the largest faces, or, if they are `aligned`, the
/// images themselves.
pub async fn read(
    config: &Config,
    folders: &[PathBuf],
    aligned: bool,
    stop: &Stop,
) -> Result<(Dataset, LeftOut), CliError> {
    let source = sources::of_folders(folders)?;
    people::tell(&source.files);
    let outcomes = if aligned {
        read_aligned(source.photos.clone(), stop.clone()).await?
    } else {
        let (engine, threads) = start_engine(config).await?;
        let as_it_is = |chip: Chip| std::future::ready(Ok(Outcome::Face(chip)));
        let outcomes = largest_faces(config, engine, &source.photos, as_it_is).await;
        // Blocks for the time of a pass at most; nothing else runs here.
        threads.join();
        outcomes?
    };
    let (mut chips, mut left_out) = (Vec::new(), LeftOut::default());
    for (subject, outcome) in source.subjects.iter().zip(outcomes) {
        match outcome {
            Outcome::Face(chip) => chips.push((source.people[*subject].clone(), chip)),
            Outcome::NoFace => left_out.without_face += 1,
            Outcome::Unreadable(_) => left_out.unreadable += 1,
        }
    }
    // Other files may hold the same pixels.
    let (dataset, repeated) = Dataset::of_distinct(chips);
    left_out.repeated = Repeated {
        copies: source.copies.photos + repeated.copies,
        under_several_names: source.copies.under_several_names + repeated.under_several_names,
    };
    Ok((dataset, left_out))
}

/// Images of a chip's size, as they are; fewer of them if the program is asked to end, which waits for this.
async fn read_aligned(paths: Vec<PathBuf>, stop: Stop) -> Result<Vec<Outcome<Chip>>, CliError> {
    let read = move || paths.iter().take_while(|_| !stop.is_asked()).map(|path| aligned(path)).collect();
    tokio::task::spawn_blocking(read).await.map_err(|error| ServiceError::Internal(error.to_string()).into())
}

fn aligned(path: &Path) -> Outcome<Chip> {
    let chip = || -> Result<Chip, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        vision::decode_chip(&bytes).map_err(|error| error.to_string())
    };
    chip().map_or_else(Outcome::Unreadable, Outcome::Face)
}
