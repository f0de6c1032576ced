//! What faceid does, without a word of HTTP, in six modules: access, audit, recognition, models, enrolment and upkeep. Each uses only those
//! that are named before it.

mod access;
pub mod answers;
mod audit;
mod enrolment;
mod error;
#[cfg(any(test, fuzzing))]
pub use enrolment::datasets::fuzz_tests;
mod models;
mod once;
mod recognition;
pub mod requests;
mod upkeep;
mod work;

pub use access::Access;
pub use audit::Audit;
pub use enrolment::{Deleted, Enrolment, NewDataset};
pub use error::ServiceError;
pub use models::{
    GateState, ModelFiles, Models, NewModelFile, Promoted, Promotion, TrialAnswer, TrialFormat, normalisation,
    training_exit,
};
pub use once::Once;
pub use recognition::{
    CompareEach, ComparedEach, Each, EachSimilarity, Enrolled, Loaded, Photo, PhotoFace, PhotoReader, Recognition,
    Reference, SeenFace,
};
pub use upkeep::{ChainError, Readiness, StartProgress, StartStage, Starting, Upkeep};

pub use crate::gallery::DEFAULT_GALLERY_NAME;

use crate::config::Config;
use crate::db::Answers;
use crate::engine::{Device, Engine};
use crate::gallery::Galleries;
use crate::jobs::Jobs;
use crate::registry::Registry;
use crate::types::Caller;
use recognition::Serving;

/// Everything that the database holds.
pub struct Stores {
    pub galleries: Galleries,
    pub registry: Registry,
    pub jobs: Jobs,
    pub answers: Answers,
    pub audit: crate::audit::Audit,
}

/// The service, as it is for one caller: for the server itself, unless somebody else is named. Cloning is cheap.
#[derive(Clone)]
pub struct Services {
    pub access: Access,
    pub audit: Audit,
    pub recognition: Recognition,
    pub models: Models,
    pub enrolment: Enrolment,
    pub upkeep: Upkeep,
}

impl Services {
    /// `active` is the database's active model; `search_device` searches large galleries, if there is one.
    pub fn new(
        access: Access,
        engine: &Engine,
        search_device: Option<Device>,
        Stores { galleries, registry, jobs, answers, audit }: &Stores,
        files: ModelFiles,
        active: Loaded,
        config: &Config,
    ) -> Self {
        let serving = Serving::start(galleries, active, &config.recognition, search_device);
        let recognition = Recognition::new(engine, galleries, audit, serving, config);
        let stores = (galleries, registry, jobs, answers);
        let models = Models::new(&recognition, (engine, search_device), stores, files, &config.jobs);
        let enrolment = Enrolment::new(&recognition, &models, engine, (galleries, jobs, answers), &config.jobs);
        let upkeep = Upkeep::new((&recognition, &models, &enrolment), engine, galleries, jobs, &config.jobs);
        let audit = Audit::new(audit, galleries, registry, &config.audit);
        Self { access, audit, recognition, models, enrolment, upkeep }
    }

    /// As they are for somebody.
    pub fn for_caller(&self, caller: &Caller) -> Self {
        Self {
            access: self.access.clone(),
            audit: self.audit.for_caller(caller.clone()),
            recognition: self.recognition.for_caller(caller.clone()),
            models: self.models.for_caller(caller.clone()),
            enrolment: self.enrolment.for_caller(caller.clone()),
            upkeep: self.upkeep.for_caller(caller.clone()),
        }
    }
}
