//! Liveness and readiness.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::form::Fields;
use super::problem::Problem;
use super::state::AppState;
use crate::service::answers::{Info, Version};
use crate::service::{Readiness, Starting};

/// What asks whether a server lives. It is never limited, and comes past a proxy, so that it need not know a base path.
pub fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Why a server is not ready.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum NotReady {
    Starting(Starting),
    Stopping(Stopping),
    Parts(Readiness),
}

/// A server that got the signal to stop.
#[derive(Serialize, ToSchema)]
pub struct Stopping {
    /// False.
    pub ready: bool,
    /// True.
    pub stopping: bool,
}

impl IntoResponse for NotReady {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, Json(self)).into_response()
    }
}

/// Which program is this?
///
/// Needs no key.
#[utoipa::path(get, path = "/version", tag = "operations", security(()), responses((status = 200, description = "Its name and version", body = Version)))]
pub async fn version() -> Json<Version> {
    Json(Version::default())
}

/// What can it do?
///
/// The model that answers, the thresholds that it has at fixed rates, and what a request may bring.
#[utoipa::path(get, path = "/info", tag = "operations", responses((status = 200, description = "What this server is", body = Info)))]
pub async fn info(State(state): State<AppState>, Fields(()): Fields<()>) -> Result<Json<Info>, Problem> {
    Ok(Json(state.info()?))
}

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "operations", security(()), responses((status = 200, description = "It is", body = String, example = json!("ok"))))]
pub async fn healthz() -> &'static str {
    "ok"
}

/// Can it serve?
///
/// What was seen last: every two seconds a fixed chip is embedded and the database is asked. A server that starts says what it
/// is at.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", security(()),
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "It is starting or about to stop, a part is down, or the memory is being filled", body = NotReady),
    )
)]
pub async fn readyz(State(state): State<AppState>) -> Result<Json<Readiness>, NotReady> {
    let readiness = state.unscoped.upkeep.readiness();
    if readiness.ready { Ok(Json(readiness)) } else { Err(NotReady::Parts(readiness)) }
}
