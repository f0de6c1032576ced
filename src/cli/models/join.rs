//! Two embedders or more as one model.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::super::{CliError, say};
use super::read_network;
use crate::app::AppError;
use crate::registry::Manifest;
use crate::service::{ServiceError, normalisation};
use crate::types::hex;

#[derive(clap::Args)]
pub struct Join {
    /// The networks (ONNX), each with its manifest beside it
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the network is written, and its manifest beside it
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What it is called in answers [default: the names of the parts]
    #[arg(long)]
    name: Option<String>,
}

impl Join {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let (mut parts, mut manifests) = (Vec::new(), Vec::new());
        for file in &self.files {
            let (content, manifest) = read(file).await?;
            parts.push((content, normalisation(&manifest)));
            manifests.push(manifest);
        }
        let joining = tokio::task::spawn_blocking(move || crate::nn::join(&parts));
        let (content, dimension) = joining.await.map_err(|error| ServiceError::Internal(error.to_string()))??;
        let manifest = Manifest::joined(&manifests, self.name).map_err(AppError::from)?;
        let manifest = manifest.to_toml().map_err(AppError::from)?;
        let beside = self.output.with_extension("toml");
        for (path, content) in [(&self.output, content), (&beside, manifest.into_bytes())] {
            let failed = CliError::io(format!("cannot write {}", path.display()));
            tokio::fs::write(path, content).await.map_err(failed)?;
        }
        let (network, beside) = (self.output.display(), beside.display());
        say(format_args!("wrote {network} ({dimension} numbers) and {beside}"));
        say(format_args!(
            "  as it is it matches nobody; measure its threshold: faceid evaluate PHOTOS --embedder {network} --calibration {beside}"
        ));
        Ok(ExitCode::SUCCESS)
    }
}

async fn read(file: &Path) -> Result<(Bytes, Manifest), CliError> {
    let content = read_network(file.to_owned()).await?;
    let sha256 = hex(&Sha256::digest(&content));
    Ok((content, Manifest::of(file, &sha256).map_err(AppError::from)?))
}
