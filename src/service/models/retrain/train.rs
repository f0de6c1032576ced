//! The training itself, from the last checkpoint on.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;
use tokio::time::Instant;
use tracing::warn;

use super::chips::on_disk;
use super::folder::{Folder, stamp};
use super::process::{Exit, Training};
use super::run::TrainingPlan;
use super::{RetrainBase, RetrainSettings, recipe};
use crate::config::DeviceChoice;
use crate::jobs::{JobError, Lease, Stop};
use crate::service::models::Models;
use crate::service::work::{Failure, JobReporter};

/// The name under which attempts keep the checkpoint.
const CHECKPOINT: &str = "checkpoint";

/// Steps from one checkpoint to the next: a few seconds of training each.
const CHECKPOINT_EVERY: u64 = 5;
const CHECKPOINT_EVERY_FROM_SCRATCH: u64 = 25;

/// A larger checkpoint stays on this machine.
const LARGEST_SAVED: u64 = 256 << 20;

/// How far a training stands back for requests; 19 is the most.
const NICE: u32 = 10;

impl Models {
    /// Trains in a process of its own; the model card.
    pub(super) async fn train_in(
        &self,
        folder: &Folder,
        settings: &RetrainSettings,
        plan: &TrainingPlan,
        report: &mut JobReporter<'_>,
    ) -> Result<Value, Failure> {
        let lease = report.lease();
        fetch_checkpoint(folder, lease).await?;
        let (text, file) = (recipe::to_toml(&settings.recipe, plan.threads)?, folder.recipe());
        on_disk(move || std::fs::write(file, text)).await?;
        let mut training = Training::start(self.arguments(folder, settings.base, plan))?;
        let mut checkpoint = Checkpoint { path: folder.checkpoint(), kept: None, looked_at: Instant::now() };
        // To the database, where any server can go on from it: what a takeover repeats took no longer than it waits.
        let interval = self.parts.config.lease;
        loop {
            tokio::select! {
                event = training.next_event() => match event {
                    Some(event) => report.event(event).await?,
                    None => break,
                },
                () = tokio::time::sleep_until(checkpoint.looked_at + interval) => checkpoint.keep(lease).await?,
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
            Exit::OutOfMemory(why) => return Err(self.out_of_memory(&why)),
            Exit::NoDevice(why) => {
                return Err(Failure::Final(format!("the training has no GPU, see train_device: {why}")));
            }
            Exit::Refused(why) => return Err(Failure::Final(why)),
            Exit::Interrupted => return Err(Failure::Passing("the training was interrupted".to_owned())),
            Exit::Died(why) => {
                // What it saved last may be news to other servers.
                checkpoint.keep(lease).await?;
                return Err(Failure::Passing(why));
            }
        }
        let card = folder.network().with_extension("card.json");
        let text = on_disk(move || std::fs::read(card)).await?;
        serde_json::from_slice(&text).map_err(|error| Failure::Final(format!("the model card cannot be read: {error}")))
    }

    fn out_of_memory(&self, why: &str) -> Failure {
        match self.parts.config.train_device {
            // The networks that serve may need less of it the next time.
            DeviceChoice::Cuda(_) => {
                Failure::Passing(format!("the training needs more memory than the GPU has free: {why}"))
            }
            // More is not to be had by trying again.
            DeviceChoice::Cpu | DeviceChoice::Auto => {
                Failure::Final(format!("the training needs more memory than train_memory allows: {why}"))
            }
        }
    }

    /// Of `faceid`.
    fn arguments(&self, folder: &Folder, base: RetrainBase, plan: &TrainingPlan) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["train".into()];
        let mut flag = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        flag("--data", folder.chips().into());
        flag("--output", folder.network().into());
        flag("--recipe", folder.recipe().into());
        flag("--checkpoint", folder.checkpoint().into());
        flag("--nice", NICE.to_string().into());
        flag("--threads", plan.threads.to_string().into());
        let work = &self.parts.config;
        flag("--device", work.train_device.to_string().into());
        match work.train_device {
            // A limit of memory would count what CUDA maps, which is more than it uses.
            DeviceChoice::Cuda(_) => {
                work.cuda_libraries.iter().for_each(|folder| flag("--cuda-libraries", folder.into()));
            }
            DeviceChoice::Cpu | DeviceChoice::Auto => flag("--memory-limit", work.train_memory.to_string().into()),
        }
        // As the recipe says, whatever the environment does; it need not suit a training.
        flag("--precision", "auto".into());
        flag("--bind", "127.0.0.1:0".into());
        match base {
            RetrainBase::Active => {
                flag("--base", folder.base().into());
                if !plan.kept.is_empty() {
                    flag("--replay", folder.kept().into());
                }
                flag("--checkpoint-every", CHECKPOINT_EVERY.to_string().into());
            }
            RetrainBase::Scratch => flag("--checkpoint-every", CHECKPOINT_EVERY_FROM_SCRATCH.to_string().into()),
        }
        arguments.extend(["--chips", "--continue", "--events", "--parent-stdin"].map(OsString::from));
        arguments
    }
}

/// Takes the checkpoint that another server saved, if it is newer than what is here.
async fn fetch_checkpoint(folder: &Folder, lease: &Lease) -> Result<(), Failure> {
    let Some(saved) = lease.saved(CHECKPOINT).await? else { return Ok(()) };
    let path = folder.checkpoint();
    on_disk(move || {
        let is_newer = stamp(&path).is_none_or(|(written, _)| written < SystemTime::from(saved.saved_at));
        if !is_newer {
            return Ok(());
        }
        // Whole or not at all: half a checkpoint would be newer than the one that is saved.
        let part = path.with_extension("part");
        std::fs::write(&part, &saved.content)?;
        std::fs::rename(part, path)
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
            Err(JobError::Db(error)) => warn!(%error, "cannot keep a checkpoint; trying again"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
