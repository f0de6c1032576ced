//! What the handlers share.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::Extensions;
use axum::http::request::Parts;
use tokio::sync::Semaphore;

use super::body::BodyBudget;
use super::problem::Problem;
use crate::config::HttpConfig;
use crate::service::answers::Info;
use crate::service::{Access, Audit, Enrolment, Models, Recognition, ServiceError, Services, Upkeep};
use crate::types::Caller;

/// What the handlers share. A router clones it many times for each request: it is one pointer.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

pub struct Shared {
    /// For the server itself. Handlers take their part as it is for who asks, from the request.
    pub unscoped: Services,
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
        Self(Arc::new(Shared {
            max_model_bytes,
            model_budget: BodyBudget::new(max_model_bytes + (2 << 20)),
            unscoped: services,
            http: Arc::new(config.clone()),
            max_body_bytes: config.max_body_bytes,
            body_budget: BodyBudget::new(config.body_budget),
            max_dataset_bytes: config.max_dataset_bytes,
            dataset_places: Arc::new(Semaphore::new(DATASETS)),
            request_timeout: config.request_timeout,
        }))
    }

    /// As [`Recognition::check_room`].
    pub fn check_room(&self) -> Result<(), ServiceError> {
        self.unscoped.recognition.check_room()
    }

    /// What the server is, to whoever asks.
    pub fn info(&self) -> Result<Info, ServiceError> {
        self.unscoped.recognition.info(self.max_body_bytes)
    }

    /// How long a request may take, from its first byte or, where a body may take long, from its last.
    pub fn answer_time(&self) -> Duration {
        // It may take its time to arrive, and the same again to be answered.
        self.request_timeout * 2
    }
}

impl Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Who asks, as `auth` found out. A route without that is a fault of ours, and serves nobody.
pub fn caller(extensions: &Extensions) -> Result<&Caller, Problem> {
    extensions.get().ok_or_else(|| Problem::internal("a request came to its route, and nobody knows whose it is"))
}

/// Handlers take the part of the service that they need, as it is for who asks.
macro_rules! part {
    ($part:ident: $type:ty) => {
        impl FromRequestParts<AppState> for $type {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
                Ok(state.unscoped.$part.for_caller(caller(&parts.extensions)?.clone()))
            }
        }
    };
}

part!(audit: Audit);
part!(recognition: Recognition);
part!(models: Models);
part!(enrolment: Enrolment);
part!(upkeep: Upkeep);

/// It takes whoever asks from the request.
impl FromRef<AppState> for Access {
    fn from_ref(state: &AppState) -> Self {
        state.unscoped.access.clone()
    }
}

/// For the layer that notes what is refused, to whoever asks.
impl FromRef<AppState> for Audit {
    fn from_ref(state: &AppState) -> Self {
        state.unscoped.audit.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Code;

    #[test]
    fn a_request_of_nobody_is_served_by_no_route() {
        let mut extensions = Extensions::new();
        assert_eq!(caller(&extensions).err().map(|problem| problem.code), Some(Code::Internal));
        extensions.insert(Caller::client_key());
        assert_eq!(caller(&extensions).ok().map(Caller::name), Some("client key"));
    }
}
