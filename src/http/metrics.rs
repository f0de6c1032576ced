//! GET /metrics, and what it counts of requests.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::service::Recognition;
use crate::telemetry::metrics;

/// Version 0.0.4 of Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Numbers for Prometheus
///
/// Requests, queues, batches, time per stage, refusals, memory.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"))
)]
pub async fn show_metrics(recognition: Recognition) -> impl IntoResponse {
    recognition.record_load();
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], metrics::render())
}

/// Counts a request when it is answered. Routes, not paths: those name people and are without number.
pub async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = known(request.method());
    let began = Instant::now();
    let response = next.run(request).await;
    let labels = [("route", route), ("method", method.to_owned()), ("status", response.status().as_str().to_owned())];
    ::metrics::counter!("faceid_http_requests_total", &labels).increment(1);
    ::metrics::histogram!("faceid_http_request_seconds", &labels[..1]).record(began.elapsed());
    response
}

/// Clients can make methods up, and each would be a series of its own.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
