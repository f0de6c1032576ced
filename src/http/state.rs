//! What the handlers share.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use tokio::sync::Semaphore;

use super::body::BodyBudget;
use crate::config::HttpConfig;
use crate::registry::Actor;
use crate::service::{Access, Enrolment, Models, Recognition, Services, Upkeep};

#[derive(Clone)]
pub struct AppState {
    pub services: Services,
    pub http: Arc<HttpConfig>,
    pub max_body_bytes: usize,
    pub body_budget: BodyBudget,
    pub max_model_bytes: usize,
    /// Of model files: one of the largest at a time.
    pub model_budget: BodyBudget,
    pub max_dataset_bytes: u64,
    /// Places for data sets that arrive: each takes disk, and time to be stored.
    pub dataset_places: Arc<Semaphore>,
    pub request_timeout: Duration,
}

/// Data sets that may arrive at once.
const DATASETS: usize = 2;

impl AppState {
    pub fn new(services: Services, config: &HttpConfig) -> Self {
        let max_model_bytes = services.models.max_model_bytes();
        Self {
            max_model_bytes,
            model_budget: BodyBudget::new(max_model_bytes + (2 << 20)),
            services,
            http: Arc::new(config.clone()),
            max_body_bytes: config.max_body_bytes,
            body_budget: BodyBudget::new(config.body_budget),
            max_dataset_bytes: config.max_dataset_bytes,
            dataset_places: Arc::new(Semaphore::new(DATASETS)),
            request_timeout: config.request_timeout,
        }
    }

    /// How long a request may take, from its first byte or, where a body may take long, from its last.
    pub fn answer_time(&self) -> Duration {
        // It may take its time to arrive, and the same again to be answered.
        self.request_timeout * 2
    }

    /// Who asks for what clients may do: by what they were let in.
    pub fn client(&self) -> &'static str {
        if self.services.access.is_open() { Actor::Anyone.as_str() } else { "client key" }
    }

    /// Who asks for what only the admin key opens: by what they were let in.
    pub fn actor(&self) -> Actor {
        if self.services.access.is_open() { Actor::Anyone } else { Actor::AdminKey }
    }
}

impl FromRef<AppState> for Access {
    fn from_ref(state: &AppState) -> Self {
        state.services.access.clone()
    }
}

/// Handlers take the part of the service that they need.
macro_rules! part {
    ($part:ident: $type:ty) => {
        impl FromRef<AppState> for $type {
            fn from_ref(state: &AppState) -> Self {
                state.services.$part.clone()
            }
        }
    };
}

part!(recognition: Recognition);
part!(models: Models);
part!(enrolment: Enrolment);
part!(upkeep: Upkeep);
