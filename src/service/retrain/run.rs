//! The steps of a retraining. Each can be repeated: an attempt goes on where the last one was.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::Services;
use super::super::work::Failure;
use super::chips::{Faces, on_disk, remove};
use super::process::{Exit, Training};
use super::report::Report;
use super::{RetrainBase, RetrainSettings, recipe};
use crate::jobs::{Lease, Stop};
use crate::types::JobId;

/// What attempts keep for each other, beside the job.
const PLAN: &str = "plan";
const CHECKPOINT: &str = "checkpoint";

/// How far a training stands back for requests; 19 is the most.
const NICE: u32 = 10;

/// Steps from one checkpoint to the next.
const CHECKPOINT_EVERY: u64 = 5;

/// How often a checkpoint goes to the database, where any server can go on from it.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// A larger checkpoint stays on this machine.
const LARGEST_SAVED: u64 = 256 << 20;

/// What all attempts of a job agree on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plan {
    faces: Faces,
}

/// The files of a job on this machine.
struct Folder(PathBuf);

impl Folder {
    fn chips(&self) -> PathBuf {
        self.0.join("chips")
    }

    fn recipe(&self) -> PathBuf {
        self.0.join("recipe.toml")
    }

    fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    fn network(&self) -> PathBuf {
        self.0.join("candidate.onnx")
    }
}

impl Services {
    /// Trains a candidate and says what it is worth.
    pub(in super::super) async fn run_retrain(&self, lease: &Lease) -> Result<Value, Failure> {
        let folder = Folder(self.0.training.folder.join(lease.job().id.to_string()));
        let outcome = self.retrain_in(&folder, lease).await;
        // Nobody's chips stay on disk for longer than it takes.
        let goes_on = matches!(outcome, Err(Failure::Passing(_) | Failure::Stopped));
        if !goes_on || lease.stop() == Some(Stop::Cancelled) {
            remove(folder.0).await?;
        }
        outcome
    }

    async fn retrain_in(&self, folder: &Folder, lease: &Lease) -> Result<Value, Failure> {
        let settings: RetrainSettings = serde_json::from_value(lease.job().settings.clone())
            .map_err(|error| Failure::Final(format!("the job's settings cannot be read: {error}")))?;
        let plan = self.plan(&settings, lease).await?;
        let mut report = Report::new(lease);
        self.write_chips(&folder.chips(), &plan.faces, &mut report).await?;
        let card = self.train_in(folder, &settings, &mut report).await?;
        Ok(json!({"card": card}))
    }

    /// What the first attempt decided, or decides now.
    async fn plan(&self, settings: &RetrainSettings, lease: &Lease) -> Result<Plan, Failure> {
        if let Some(saved) = lease.saved(PLAN).await?
            && let Ok(plan) = serde_json::from_slice(&saved.content)
        {
            return Ok(plan);
        }
        let seed = settings.recipe["seed"].as_u64().unwrap_or_default();
        let plan = Plan { faces: self.faces_to_train(settings.gallery.id, seed).await? };
        let text = serde_json::to_vec(&plan).map_err(|error| Failure::Final(error.to_string()))?;
        lease.save(PLAN, &text).await?;
        Ok(plan)
    }

    /// Trains in a process of its own, from the last checkpoint on; the model card.
    async fn train_in(
        &self,
        folder: &Folder,
        settings: &RetrainSettings,
        report: &mut Report<'_>,
    ) -> Result<Value, Failure> {
        let lease = report.lease();
        fetch_checkpoint(folder, lease).await?;
        let recipe = recipe::to_toml(&settings.recipe, self.0.training.threads)?;
        let file = folder.recipe();
        on_disk(move || std::fs::write(file, recipe)).await?;
        let mut training = Training::start(self.arguments(folder, settings))?;
        let mut checkpoint = Checkpoint { path: folder.checkpoint(), kept: None, looked_at: Instant::now() };
        loop {
            tokio::select! {
                event = training.next_event() => match event {
                    Some(event) => report.event(event).await?,
                    None => break,
                },
                () = tokio::time::sleep_until(checkpoint.looked_at + SAVE_INTERVAL) => checkpoint.keep(lease).await?,
                why = lease.stopped() => {
                    if why == Stop::Shutdown {
                        training.interrupt().await;
                        checkpoint.keep(lease).await?;
                    }
                    return Err(Failure::Stopped);
                }
            }
        }
        match training.ended().await {
            Exit::Done => {}
            Exit::Interrupted => return Err(Failure::Passing("the training was interrupted".to_owned())),
            Exit::Refused(why) => return Err(Failure::Final(why)),
            Exit::Died(why) => {
                // What it saved last may be news.
                checkpoint.keep(lease).await?;
                return Err(Failure::Passing(why));
            }
        }
        let card = folder.network().with_extension("card.json");
        let text = on_disk(move || std::fs::read(card)).await?;
        serde_json::from_slice(&text).map_err(|error| Failure::Final(format!("the model card cannot be read: {error}")))
    }

    /// Of `faceid`.
    fn arguments(&self, folder: &Folder, settings: &RetrainSettings) -> Vec<OsString> {
        let training = &self.0.training;
        let mut arguments: Vec<OsString> = vec!["train".into()];
        let mut flag = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        flag("--data", folder.chips().into());
        flag("--output", folder.network().into());
        flag("--recipe", folder.recipe().into());
        flag("--checkpoint", folder.checkpoint().into());
        flag("--checkpoint-every", CHECKPOINT_EVERY.to_string().into());
        flag("--memory-limit", training.memory.to_string().into());
        flag("--nice", NICE.to_string().into());
        flag("--threads", training.threads.to_string().into());
        if settings.base == RetrainBase::Active {
            flag("--base", training.embedder.clone().into());
        }
        arguments.extend(["--chips", "--continue", "--events", "--parent-stdin"].map(OsString::from));
        arguments
    }

    /// Deletes the files of jobs that are finished: a server that died left them.
    pub(in super::super) async fn tidy_job_folders(&self) -> Result<(), Failure> {
        let root = self.0.training.folder.clone();
        let names = on_disk(move || match std::fs::read_dir(root) {
            Ok(entries) => Ok(entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        })
        .await?;
        for name in names {
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()).map(JobId) else { continue };
            let goes_on = match self.0.jobs.job(id).await {
                Ok(job) => !job.state.is_final(),
                Err(crate::jobs::JobError::JobNotFound(_)) => false,
                Err(error) => return Err(error.into()),
            };
            if !goes_on {
                info!(job = %id, "deleting the files that a job left");
                remove(self.0.training.folder.join(&name)).await?;
            }
        }
        Ok(())
    }
}

/// Takes the checkpoint that another server saved, if it is newer than what is here.
async fn fetch_checkpoint(folder: &Folder, lease: &Lease) -> Result<(), Failure> {
    let Some(saved) = lease.saved(CHECKPOINT).await? else { return Ok(()) };
    let path = folder.checkpoint();
    on_disk(move || {
        let here = std::fs::metadata(&path).and_then(|file| file.modified());
        if here.is_ok_and(|here| here >= SystemTime::from(saved.saved_at)) {
            return Ok(());
        }
        std::fs::write(&path, &saved.content)
    })
    .await
}

/// The checkpoint of a training that runs.
struct Checkpoint {
    path: PathBuf,
    /// When the one was written that was kept last.
    kept: Option<SystemTime>,
    looked_at: Instant,
}

impl Checkpoint {
    /// Keeps it in the database, if it is a new one.
    async fn keep(&mut self, lease: &Lease) -> Result<(), Failure> {
        self.looked_at = Instant::now();
        let Some((written, size)) = stamp(&self.path) else { return Ok(()) };
        if self.kept == Some(written) || size > LARGEST_SAVED {
            return Ok(());
        }
        let path = self.path.clone();
        let content = on_disk(move || std::fs::read(path)).await?;
        match lease.save(CHECKPOINT, &content).await {
            Ok(()) => self.kept = Some(written),
            Err(crate::jobs::JobError::Db(error)) => warn!(%error, "cannot keep a checkpoint; trying again"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}
