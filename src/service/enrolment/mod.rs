//! Enrolment: everything that changes galleries, and what can be listed of them.

mod collections;
pub(super) mod datasets;
mod enroll;
mod erasure;
mod findings;
mod numbered;
mod person;

use std::sync::{Arc, OnceLock};

use crate::blobs::Blobs;
use crate::config::JobsConfig;
use crate::db::Answers;
use crate::engine::Engine;
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::service::models::Models;
use crate::service::recognition::Recognition;
use crate::signing::PrivateKey;
use crate::types::Caller;
pub use datasets::NewDataset;
pub use erasure::Deleted;
pub(in crate::service) use erasure::ErasureSettings;

/// Changes galleries, for a caller. Cloning is cheap.
#[derive(Clone)]
pub struct Enrolment {
    parts: Arc<Parts>,
    caller: Caller,
}

struct Parts {
    server_recognition: Recognition,
    /// Which one is active may have to be asked.
    server_models: Models,
    engine: Engine,
    all_galleries: Galleries,
    all_jobs: Jobs,
    answers: Answers,
    config: JobsConfig,
    /// By what receipts are signed.
    signing_key: OnceLock<PrivateKey>,
}

impl Enrolment {
    pub fn new(
        recognition: &Recognition,
        models: &Models,
        engine: &Engine,
        (galleries, jobs, answers): (&Galleries, &Jobs, &Answers),
        config: &JobsConfig,
    ) -> Self {
        let parts = Parts {
            server_recognition: recognition.clone(),
            server_models: models.clone(),
            engine: engine.clone(),
            all_galleries: galleries.clone(),
            all_jobs: jobs.clone(),
            answers: answers.clone(),
            config: config.clone(),
            signing_key: OnceLock::new(),
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

    /// Where archives wait to be worked on.
    fn uploads(&self) -> &Blobs {
        self.parts.server_models.files().blobs()
    }
}
