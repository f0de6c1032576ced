//! Liveness and readiness.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::service::{Readiness, Starting, Upkeep};

/// Why a server is not ready.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum NotReady {
    Starting(Starting),
    Parts(Readiness),
}

impl IntoResponse for NotReady {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, Json(self)).into_response()
    }
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
        (status = 503, description = "It is starting, a part is down, or the memory is being filled", body = NotReady),
    )
)]
pub async fn readyz(State(upkeep): State<Upkeep>) -> Result<Json<Readiness>, NotReady> {
    let readiness = upkeep.readiness();
    if readiness.ready { Ok(Json(readiness)) } else { Err(NotReady::Parts(readiness)) }
}
