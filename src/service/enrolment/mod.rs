//! Enrolment: everything that changes galleries, and what can be listed of them.

mod collections;
mod datasets;
mod enroll;
mod erasure;
mod findings;

use std::sync::Arc;

use crate::config::JobsConfig;
use crate::db::Answers;
use crate::engine::Engine;
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::service::models::Models;
use crate::service::recognition::Recognition;
pub use datasets::NewDataset;
pub use erasure::Deleted;
pub(in crate::service) use erasure::ErasureSettings;

/// Changes galleries. Cloning is cheap.
#[derive(Clone)]
pub struct Enrolment(Arc<Parts>);

struct Parts {
    recognition: Recognition,
    /// Which one is active may have to be asked.
    models: Models,
    engine: Engine,
    galleries: Galleries,
    jobs: Jobs,
    answers: Answers,
    config: JobsConfig,
}

impl Enrolment {
    pub fn new(
        recognition: &Recognition,
        models: &Models,
        engine: &Engine,
        (galleries, jobs, answers): (&Galleries, &Jobs, &Answers),
        config: &JobsConfig,
    ) -> Self {
        Self(Arc::new(Parts {
            recognition: recognition.clone(),
            models: models.clone(),
            engine: engine.clone(),
            galleries: galleries.clone(),
            jobs: jobs.clone(),
            answers: answers.clone(),
            config: config.clone(),
        }))
    }
}
