//! Liveness and readiness.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::service::{Readiness, Services};

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "operations", security(()), responses((status = 200, description = "It is", body = String, example = json!("ok"))))]
pub async fn healthz() -> &'static str {
    "ok"
}

/// Can it serve?
///
/// What was seen last: every two seconds a fixed chip is embedded and the database is asked.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", security(()),
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "A part is down", body = Readiness),
    )
)]
pub async fn readyz(State(services): State<Services>) -> (StatusCode, Json<Readiness>) {
    let readiness = services.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}
