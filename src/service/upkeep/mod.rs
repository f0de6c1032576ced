//! Upkeep: what goes on without a request. One scheduler works on the jobs of the database; a few tasks keep what this server has
//! in memory.

mod embed;
mod erase;
mod indexes;
mod jobs;
mod measure;
mod readiness;
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
use readiness::Health;
pub use readiness::{ChainError, Readiness, StartProgress, StartStage, Starting};

/// Works in the background. Cloning is cheap.
#[derive(Clone)]
pub struct Upkeep(Arc<Parts>);

struct Parts {
    recognition: Recognition,
    models: Models,
    enrolment: Enrolment,
    engine: Engine,
    galleries: Galleries,
    jobs: Jobs,
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
        Self(Arc::new(Parts {
            recognition: recognition.clone(),
            models: models.clone(),
            enrolment: enrolment.clone(),
            engine: engine.clone(),
            galleries: galleries.clone(),
            jobs: jobs.clone(),
            config: config.clone(),
            health: Health::default(),
            closing: watch::Sender::new(false),
        }))
    }

    /// Starts the tasks that keep what this server has in memory, for as long as the returned set lives.
    pub fn start(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().keep_looking());
        tasks.spawn(self.0.models.clone().keep_following());
        tasks.spawn(self.0.models.clone().keep_comparing());
        tasks.spawn(self.0.recognition.clone().keep_curves());
        tasks
    }

    /// Lets go of jobs and of those who follow them: the server is about to stop.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }
}
