//! Upkeep: what goes on without a request. One scheduler works on the jobs of the database; a few tasks keep what this server has
//! in memory.

mod embed;
mod encrypt;
mod erase;
mod expire;
mod indexes;
mod jobs;
mod measure;
mod readiness;
mod reclaim;
mod retire;
mod review;
mod scheduler;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::JobsConfig;
use crate::engine::Engine;
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::service::enrolment::Enrolment;
use crate::service::models::Models;
use crate::service::recognition::Recognition;
use crate::types::Caller;
use readiness::Health;
pub use readiness::{ChainError, Readiness, StartProgress, StartStage, Starting};

/// Works in the background, as the server; a caller hears of it. Cloning is cheap.
#[derive(Clone)]
pub struct Upkeep {
    parts: Arc<Parts>,
    caller: Caller,
}

struct Parts {
    server_recognition: Recognition,
    server_models: Models,
    server_enrolment: Enrolment,
    engine: Engine,
    all_galleries: Galleries,
    all_jobs: Jobs,
    config: JobsConfig,
    health: Health,
    /// Becomes true when the server is about to stop.
    closing: watch::Sender<bool>,
}

impl Upkeep {
    pub fn new(
        (recognition, models, enrolment): (&Recognition, &Models, &Enrolment),
        engine: &Engine,
        galleries: &Galleries,
        jobs: &Jobs,
        config: &JobsConfig,
    ) -> Self {
        let parts = Parts {
            server_recognition: recognition.clone(),
            server_models: models.clone(),
            server_enrolment: enrolment.clone(),
            engine: engine.clone(),
            all_galleries: galleries.clone(),
            all_jobs: jobs.clone(),
            config: config.clone(),
            health: Health::default(),
            closing: watch::Sender::new(false),
        };
        Self { parts: Arc::new(parts), caller: Caller::server() }
    }

    /// As it is for somebody.
    pub fn for_caller(&self, caller: Caller) -> Self {
        Self { parts: Arc::clone(&self.parts), caller }
    }

    /// The galleries that there are for the caller.
    fn galleries(&self) -> Galleries {
        self.parts.all_galleries.for_caller(&self.caller)
    }

    /// The jobs that there are for the caller.
    fn jobs(&self) -> Jobs {
        self.parts.all_jobs.for_caller(&self.caller)
    }

    fn recognition(&self) -> Recognition {
        self.parts.server_recognition.for_caller(self.caller.clone())
    }

    fn models(&self) -> Models {
        self.parts.server_models.for_caller(self.caller.clone())
    }

    fn enrolment(&self) -> Enrolment {
        self.parts.server_enrolment.for_caller(self.caller.clone())
    }

    /// Starts the tasks that keep what this server has in memory, for as long as the returned set lives.
    pub fn start(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().keep_looking());
        tasks.spawn(self.models().keep_following());
        tasks.spawn(self.models().keep_comparing());
        tasks.spawn(self.recognition().keep_curves());
        tasks
    }

    /// Lets go of jobs and of those who follow them: the server is about to stop.
    pub fn close(&self) {
        self.parts.closing.send_replace(true);
    }
}
