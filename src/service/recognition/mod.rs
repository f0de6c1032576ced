//! Recognition: from a photo to faces, embeddings, subjects and a decision. It reads galleries and changes nothing.

mod chips;
mod compare;
mod decisions;
mod each;
mod embed;
mod identify;
mod info;
mod lookup;
mod naming;
mod noting;
mod photo;
mod sampler;
mod search;
mod serving;
mod stored;
mod verify;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::audit::Audit;
use crate::config::{Config, RecognitionConfig};
use crate::engine::{Depth, Engine};
use crate::gallery::Galleries;
use crate::limits::Bill;
use crate::service::ServiceError;
use crate::types::Caller;
pub(in crate::service) use decisions::{Authority, GalleryCurves, STRANGERS};
pub use each::{CompareEach, ComparedEach, Each, EachSimilarity, Reference, SeenFace};
pub(in crate::service) use lookup::{Probes, opinion};
use naming::FaceNaming;
pub use photo::{Photo, PhotoFace, PhotoReader};
pub(in crate::service) use sampler::{Answered, Sampler, count_shadow};
pub use serving::Loaded;
pub(in crate::service) use serving::{Secondary, ServedModels, Serving};
pub use stored::Enrolled;

/// Photos of a batch that are in work at once: as many as keep the engine's queues filled.
const BATCHED: usize = 16;

/// Recognises, for a caller. Cloning is cheap.
#[derive(Clone)]
pub struct Recognition {
    parts: Arc<Parts>,
    caller: Caller,
}

struct Parts {
    engine: Engine,
    all_galleries: Galleries,
    audit: Audit,
    photos: PhotoReader,
    /// The models that answer, or are about to.
    served: ServedModels,
    /// What galleries showed when they were measured.
    curves: GalleryCurves,
    /// Photos for the candidate in the shadow.
    sampler: Sampler,
    config: RecognitionConfig,
    requests: Arc<Semaphore>,
    /// Searches in the database while galleries should be in memory.
    database_searches: Arc<Semaphore>,
    naming: FaceNaming,
}

impl Recognition {
    pub(in crate::service) fn new(
        engine: &Engine,
        galleries: &Galleries,
        audit: &Audit,
        serving: Serving,
        config: &Config,
    ) -> Self {
        let recognition = config.recognition.clone();
        let parts = Parts {
            photos: PhotoReader::new(engine.clone(), &recognition),
            engine: engine.clone(),
            all_galleries: galleries.clone(),
            audit: audit.clone(),
            served: ServedModels::new(serving),
            curves: GalleryCurves::default(),
            sampler: Sampler::new(),
            requests: Arc::new(Semaphore::new(recognition.max_requests)),
            // Whatever else requests need the database for finds connections left.
            database_searches: Arc::new(Semaphore::new((config.database.connections as usize / 2).max(1))),
            naming: FaceNaming::new(),
            config: recognition,
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

    /// For the photos of a request of the caller.
    pub(in crate::service) fn bill(&self) -> Bill {
        Bill::of(self.caller.account())
    }

    /// What answers a request that begins now.
    pub(in crate::service) fn serving(&self) -> Arc<Serving> {
        self.parts.served.serving()
    }

    pub(in crate::service) fn served(&self) -> &ServedModels {
        &self.parts.served
    }

    pub(in crate::service) fn photos(&self) -> &PhotoReader {
        &self.parts.photos
    }

    pub(in crate::service) fn curves(&self) -> &GalleryCurves {
        &self.parts.curves
    }

    pub(in crate::service) fn sampler(&self) -> &Sampler {
        &self.parts.sampler
    }

    pub(in crate::service) fn config(&self) -> &RecognitionConfig {
        &self.parts.config
    }

    /// The name of the model that answers.
    pub fn model_name(&self) -> String {
        self.serving().name().to_owned()
    }

    /// Waits until searches see what was committed before; called after each write.
    pub(in crate::service) async fn catch_up(&self) {
        self.parts.served.catch_up().await;
    }

    /// A place among the requests in work, or `Overloaded`: whoever is refused is refused at once.
    pub(in crate::service) fn admit(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        Arc::clone(&self.parts.requests).try_acquire_owned().map_err(|_| rejected("service"))
    }

    /// As [`Self::admit`], with a place for each photo of a batch that is in work at once: it is many requests in one. It takes what
    /// is left, if that is less.
    pub(in crate::service) fn admit_batch(&self, photos: usize) -> Result<OwnedSemaphorePermit, ServiceError> {
        let mut admitted = self.admit()?;
        let more = photos.clamp(1, BATCHED) - 1;
        let more = more.min(self.parts.requests.available_permits());
        // Somebody else may have been faster.
        if let Ok(more) = Arc::clone(&self.parts.requests).try_acquire_many_owned(more as u32) {
            admitted.merge(more);
        }
        Ok(admitted)
    }

    /// Fails when a request that begins now would be refused once it has arrived: no need to read it.
    ///
    /// It holds no place while it arrives, so that slow clients keep none from others.
    pub fn check_room(&self) -> Result<(), ServiceError> {
        if self.parts.requests.available_permits() == 0 { Err(rejected("door")) } else { Ok(()) }
    }

    /// Notes for the metrics how busy the service is now.
    pub fn record_load(&self) {
        let in_work = self.parts.config.max_requests - self.parts.requests.available_permits();
        metrics::gauge!("faceid_requests_in_work").set(in_work as f64);
        let serving = self.serving();
        let resident = serving.resident.current().map_or(0, |held| held.view.index.len());
        metrics::gauge!("faceid_resident_templates").set(resident as f64);
        let age = serving.resident.age().unwrap_or_default();
        metrics::gauge!("faceid_resident_age_seconds").set(age.as_secs_f64());
        let Depth { first, detect, later, embed, search } = self.parts.engine.depth();
        let depths = [("decode", first), ("detect", detect), ("align", later), ("embed", embed), ("search", search)];
        for (stage, depth) in depths {
            metrics::gauge!("faceid_queue_depth", "stage" => stage).set(depth as f64);
        }
    }
}

fn rejected(at: &'static str) -> ServiceError {
    metrics::counter!("faceid_rejected_total", "at" => at).increment(1);
    ServiceError::Overloaded
}
