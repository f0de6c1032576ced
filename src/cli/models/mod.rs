//! The models of a database: listed, brought, promoted, retired.

mod calls;
mod join;
mod pack;
mod shadow;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use serde_json::Value;

use super::backend::{Backend, BackendArgs};
use super::{CliError, print_json, progress_bar, say};
use crate::evaluation::GateOutcome;
use crate::jobs::JobState;
use crate::registry::ChannelOrder;
use crate::service::answers::{Job, ModelEntry, Retired};
use crate::service::requests::{FileBytes, ModelUpload};
use crate::service::{GateState, Promoted, ServiceError};
use crate::types::Threshold;

/// How often a job is asked how far it is.
const POLL: Duration = Duration::from_millis(500);

/// List models, import one, make one active, or go back to the former
///
/// Example: faceid models promote staff-2 --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Models {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the models that the database knows
    List(Plain),
    /// Show a model, its calibration and how many faces it has embedded
    Show(One),
    /// Take in a network (ONNX, alone or in a ZIP archive; TorchScript with --allow-code) as a candidate
    ///
    /// Example: faceid models import staff-2.onnx --manifest staff-2.toml
    Import(Import),
    /// Write a network that gives the embeddings of several side by side
    ///
    /// Example: faceid models join sface-128.onnx retail.onnx --output both.onnx
    Join(join::Join),
    /// Embed all faces by a model while the active one serves, then make it the active one
    Promote(OneWithForce),
    /// Make the model active again that was before the present one
    Rollback(Plain),
    /// Try a candidate on live photos before it is promoted
    #[command(subcommand)]
    Shadow(shadow::Shadow),
    /// Delete a model's embeddings and its file
    Retire(OneWithForce),
}

#[derive(clap::Args)]
struct Plain {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

#[derive(clap::Args)]
struct One {
    /// Its id, sha256 or name
    model: String,
    #[command(flatten)]
    plain: Plain,
}

#[derive(clap::Args)]
struct OneWithForce {
    #[command(flatten)]
    one: One,
    /// Overrule what would otherwise refuse it; the record notes it
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
struct Import {
    /// The network; weights that it keeps in another file are read from the same folder
    file: PathBuf,
    /// What describes it, as faceid train and evaluate write it [default: the file with the ending .toml, if there is one]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// What it is called in answers [default: what the manifest says]
    #[arg(long)]
    name: Option<String>,
    /// Similarity from which on two faces are one person, -1..1 [default: what the manifest says]
    #[arg(id = "own_threshold", long = "threshold", value_name = "SIMILARITY", allow_negative_numbers = true,
        value_parser = crate::cli::parse_threshold)]
    threshold: Option<Threshold>,
    /// The network reads (value - mean) / scale of values 0..255 [default: what the manifest says, or 127.5]
    #[arg(long)]
    mean: Option<f32>,
    #[arg(long)]
    scale: Option<f32>,
    /// rgb or bgr [default: what the manifest says, or rgb]
    #[arg(long)]
    channels: Option<ChannelOrder>,
    /// Take TorchScript, which is a program: only from whom you trust
    #[arg(long)]
    allow_code: bool,
    #[command(flatten)]
    plain: Plain,
}

impl Models {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.command {
            Command::List(plain) => plain.list().await,
            Command::Show(one) => one.show().await,
            Command::Import(import) => import.run().await,
            Command::Join(join) => join.run().await,
            Command::Promote(promotion) => promotion.promote().await,
            Command::Rollback(plain) => plain.roll_back().await,
            Command::Shadow(shadow) => shadow.run().await,
            Command::Retire(retirement) => retirement.retire().await,
        }
    }
}

impl Plain {
    async fn list(self) -> Result<ExitCode, CliError> {
        let backend = self.backend.open_as_admin().await?;
        let models = backend.models().await;
        backend.close().await;
        let models = models?;
        if self.json {
            print_json(&models)?;
        } else {
            models.iter().for_each(show);
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn roll_back(self) -> Result<ExitCode, CliError> {
        let mut backend = self.backend.open_as_admin().await?;
        let done = match backend.roll_back().await {
            Ok(job) => finish(&backend, job, self.json).await,
            Err(error) => Err(error),
        };
        backend.close().await;
        done
    }
}

impl One {
    async fn show(self) -> Result<ExitCode, CliError> {
        let backend = self.plain.backend.open_as_admin().await?;
        let details = backend.model(&self.model).await;
        backend.close().await;
        let details = details?;
        if self.plain.json {
            print_json(&details)?;
            return Ok(ExitCode::SUCCESS);
        }
        show(&details.entry);
        say(format_args!("  sha256 {}", details.entry.sha256));
        let fact = |name: &str| details.manifest.as_ref().and_then(|manifest| manifest[name].as_str());
        say(format_args!(
            "  {} dimensions, licence: {}",
            details.entry.dimension,
            fact("licence").unwrap_or("not known")
        ));
        say(format_args!("  trained on: {}", fact("trained_on").unwrap_or("not known")));
        say(format_args!(
            "  {} faces embedded, {} to embed, {} without a chip",
            details.embeddings, details.missing, details.without_chip
        ));
        match &details.verdict {
            None => say(format_args!("  nobody has evaluated it")),
            Some(verdict) => {
                let reasons = verdict.reasons.join("; ");
                match verdict.outcome {
                    GateOutcome::Passed => say(format_args!("  the gate let it pass")),
                    GateOutcome::Refused => say(format_args!("  the gate refuses it: {reasons}")),
                    GateOutcome::NotEnoughEvidence => {
                        say(format_args!("  the gate has not enough evidence to decide: {reasons}"));
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl OneWithForce {
    async fn promote(self) -> Result<ExitCode, CliError> {
        let One { model, plain } = self.one;
        let mut backend = plain.backend.open_as_admin().await?;
        let done = match backend.promote(&model, self.force).await {
            Ok(job) => finish(&backend, job, plain.json).await,
            Err(error) => Err(error),
        };
        backend.close().await;
        done
    }

    async fn retire(self) -> Result<ExitCode, CliError> {
        let One { model, plain } = self.one;
        let mut backend = plain.backend.open_as_admin().await?;
        let done = match backend.retire(&model, self.force).await {
            Ok(job) => finished(&backend, job, plain.json).await,
            Err(error) => Err(error),
        };
        backend.close().await;
        if let Some(result) = done? {
            let retired: Retired =
                serde_json::from_value(result).map_err(|error| CliError::Render(error.to_string()))?;
            say(format_args!("retired {}: {} embeddings deleted", retired.model, retired.embeddings));
            if retired.lost_faces > 0 {
                say(format_args!("  {} faces cannot be found any more", retired.lost_faces));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    async fn run(self) -> Result<ExitCode, CliError> {
        let content = read_network(self.file.clone()).await?;
        let found = pack::embedder(&content)?;
        let manifest = self.manifest_text().await?;
        let (content, name, detectors) = match found {
            Some(found) => (found.content, manifest.is_none().then_some(found.name), found.detectors),
            None => (content, None, Vec::new()),
        };
        let name = self.name.or(name);
        let upload = ModelUpload {
            file: FileBytes(content),
            manifest,
            name,
            threshold: self.threshold,
            mean: self.mean,
            scale: self.scale,
            channels: self.channels,
            allow_code: self.allow_code,
        };
        let backend = self.plain.backend.open_as_admin().await?;
        let model = backend.import_model(upload).await;
        backend.close().await;
        let model = model?;
        if self.plain.json {
            print_json(&model)?;
        } else {
            show(&model);
            for detector in detectors {
                say(format_args!(
                    "  {detector} of the archive looks like a detector: unpack it, and begin the server with --detector"
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What describes the network, if it was said or is beside it.
    async fn manifest_text(&self) -> Result<Option<String>, CliError> {
        let beside = self.file.with_extension("toml");
        let Some(path) = self.manifest.clone().or_else(|| beside.is_file().then_some(beside)) else { return Ok(None) };
        let failed = CliError::io(format!("cannot read {}", path.display()));
        Ok(Some(tokio::fs::read_to_string(&path).await.map_err(failed)?))
    }
}

/// The content of a network file, with the weights that are in files beside it.
async fn read_network(path: PathBuf) -> Result<Bytes, CliError> {
    let reading = tokio::task::spawn_blocking(move || crate::nn::read_network(&path));
    Ok(reading.await.map_err(|error| ServiceError::Internal(error.to_string()))??.into())
}

fn show(model: &ModelEntry) {
    let role = match (model.shadow, model.is_secondary, model.is_rollback) {
        (Some(_), ..) => ", in the shadow",
        (None, true, _) => ", faces are being embedded by it",
        (.., true) => ", to roll back to",
        _ => "",
    };
    let file = match (&model.format, model.bytes) {
        (Some(format), Some(bytes)) => format!("{format}, {:.1} MB", bytes as f64 / 1e6),
        _ => "no file".to_owned(),
    };
    say(format_args!("{:<9} {}  ({} numbers, {file}{role})", model.state, model.name, model.dimension));
}

/// Waits until a promotion is finished, and says what it did.
async fn finish(backend: &Backend, job: Job, json: bool) -> Result<ExitCode, CliError> {
    if let Some(result) = finished(backend, job, json).await? {
        let promoted: Promoted = serde_json::from_value(result).map_err(|error| CliError::Render(error.to_string()))?;
        describe(&promoted);
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until a job has succeeded, under a progress bar; its result, unless it was printed.
async fn finished(backend: &Backend, mut job: Job, json: bool) -> Result<Option<Value>, CliError> {
    let bar = progress_bar(Some(0), "{bar:30} {pos}/{len} faces  {per_sec}  {eta} left");
    while !job.state.is_final() {
        if let Some(progress) = &job.progress {
            let number = |name: &str| progress[name].as_u64().unwrap_or_default();
            bar.set_length(number("total"));
            bar.set_position(number("done"));
        }
        tokio::time::sleep(POLL).await;
        job = backend.job(job.id).await?;
    }
    bar.finish_and_clear();
    if json {
        print_json(&job)?;
    }
    match job.state {
        JobState::Succeeded => Ok(job.result.filter(|_| !json)),
        JobState::Cancelled => Err(CliError::refused("the job was cancelled")),
        _ => Err(CliError::refused(job.error.unwrap_or_else(|| "the job failed".to_owned()))),
    }
}

fn describe(promoted: &Promoted) {
    let Promoted { model, former, embedded, set_aside, left_behind, gate, enrolled, .. } = promoted;
    match former {
        Some(former) => say(format_args!("{model} is active now, after {former}; {embedded} faces were embedded")),
        None => say(format_args!("{model} is active, as it was before")),
    }
    if [gate, enrolled].contains(&&GateState::Overruled) {
        say(format_args!("  it was refused, and that was overruled"));
    }
    if *gate == GateState::NotEnoughEvidence {
        say(format_args!("  too few people could tell whether it is better than the one before"));
    }
    if *enrolled == GateState::NotEvaluated {
        say(format_args!("  too few enrolled people have two photos to tell whether it is of any use"));
    }
    if *set_aside > 0 {
        say(format_args!(
            "  {set_aside} faces cannot be embedded, and are not found; GET /admin/quarantine lists them"
        ));
    }
    if *left_behind > 0 {
        say(format_args!(
            "  {left_behind} faces have no chip, so that they are found only while their model is active"
        ));
    }
}
