//! What a server answers while it starts: that it lives, and what it is at.

use axum::Router;
use axum::extract::State;
use axum::routing::get;

use super::health::{self, NotReady};
use super::problem::{self, Code, Problem};
use crate::config::HttpConfig;
use crate::service::StartProgress;

/// `/healthz` and `/readyz`, and for everything else that the server is starting. It needs no key, as it says nothing of what
/// the server holds.
pub fn starting(progress: StartProgress, config: &HttpConfig) -> Router {
    let routes = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(readyz))
        .route("/version", get(health::version))
        .fallback(not_yet)
        .method_not_allowed_fallback(problem::method_not_allowed);
    super::published(super::guarded(routes, config).with_state(progress), config)
}

async fn readyz(State(progress): State<StartProgress>) -> NotReady {
    NotReady::Starting(progress.state())
}

async fn not_yet(State(progress): State<StartProgress>) -> Problem {
    let what = progress.stage().describe();
    Problem::new(Code::Starting, format!("the server is starting: it {what}; try again shortly"))
}
