//! The HTTP surface: the only place that knows axum. A handler parses, makes one call of the service, and renders.

mod auth;
mod batch;
mod body;
mod connections;
mod datasets;
mod detect;
mod enroll;
mod extract;
mod faces;
mod findings;
mod form;
mod galleries;
mod health;
mod identify;
mod jobs;
mod metrics;
mod models;
mod multipart;
pub mod openapi;
mod pages;
mod problem;
mod quarantine;
mod retrain;
mod server;
mod shadow;
mod starting;
mod state;
mod stored;
mod subjects;
mod verify;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::HeaderName;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, Span, info_span};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

pub use problem::{Code, Problem};
pub use server::{Routes, serve};
pub use starting::starting;
pub use state::AppState;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The documented routes, unguarded: only good for the document.
fn api() -> OpenApiRouter<AppState> {
    let document = OpenApiRouter::with_openapi(openapi::ApiDoc::openapi());
    document.merge(recognition()).merge(administration()).merge(uploads()).merge(monitoring()).merge(operations())
}

fn recognition() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(enroll::enroll_face))
        .routes(routes!(identify::identify_faces))
        .routes(routes!(identify::identify_embedding))
        .routes(routes!(batch::identify_batch))
        .routes(routes!(batch::embed_batch))
        .routes(routes!(verify::verify_pair))
        .routes(routes!(stored::verify_subject))
        .routes(routes!(stored::verify_face))
        .routes(routes!(stored::identify_subject))
        .routes(routes!(stored::identify_face))
        .routes(routes!(detect::detect_faces))
        .routes(routes!(detect::embed_faces))
        .routes(routes!(galleries::create_gallery, galleries::list_galleries))
        .routes(routes!(galleries::get_gallery, galleries::change_gallery, galleries::delete_gallery))
        .routes(routes!(subjects::create_subject, subjects::list_subjects))
        .routes(routes!(subjects::get_subject, subjects::change_subject, subjects::delete_subject))
        .routes(routes!(subjects::list_subject_faces))
        .routes(routes!(subjects::merge_subjects))
        .routes(routes!(faces::list_faces))
        .routes(routes!(faces::get_face, faces::delete_face))
        .routes(routes!(faces::get_chip))
        .routes(routes!(faces::move_face))
        .routes(routes!(findings::list_duplicates))
        .routes(routes!(findings::list_anomalies))
}

fn administration() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(models::list_models))
        .routes(routes!(models::get_model))
        .routes(routes!(models::evaluate_model))
        .routes(routes!(models::promote_model))
        .routes(routes!(models::retire_model))
        .routes(routes!(models::roll_back))
        .routes(routes!(shadow::begin_shadow, shadow::get_shadow, shadow::end_shadow))
        .routes(routes!(shadow::list_disagreements))
        .routes(routes!(models::list_audit))
        .routes(routes!(retrain::start_retrain))
        .routes(routes!(jobs::list_jobs))
        .routes(routes!(jobs::get_job))
        .routes(routes!(jobs::follow_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(quarantine::list_set_aside))
        .routes(routes!(quarantine::retry_set_aside))
}

/// What arrives for as long as it keeps coming.
fn uploads() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(datasets::upload_dataset)).routes(routes!(models::import_model))
}

fn monitoring() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(metrics::show_metrics)).routes(routes!(health::info))
}

fn operations() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(health::version))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

/// The whole surface: the documented routes behind their keys, the document, and an answer to everything else.
pub fn router(state: AppState) -> Router {
    let client = from_fn_with_state(state.clone(), auth::require_client);
    let admin = from_fn_with_state(state.clone(), auth::require_admin);
    let limit = state.answer_time();
    let (routes, document) = OpenApiRouter::with_openapi(openapi::ApiDoc::openapi())
        .merge(recognition().route_layer(client.clone()))
        .merge(administration().route_layer(admin.clone()))
        .merge(monitoring().route_layer(client))
        .merge(operations())
        .layer(from_fn(move |request: Request, next| problem::answer_in_time(limit, request, next)))
        .merge(uploads().route_layer(admin))
        .split_for_parts();
    let routes = routes
        .merge(
            SwaggerUi::new("/docs/api")
                .external_url_unchecked("/openapi.json", openapi::finish(&document).unwrap_or_default()),
        )
        .merge(pages::routes())
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        // `body::limited` does it.
        .layer(DefaultBodyLimit::disable());
    guarded(routes, state.max_body_bytes, state.request_timeout).with_state(state)
}

/// What every request passes, whatever answers it. `longest` is in bytes: of a body that nobody wants, a few times as much is
/// thrown away, for as long as `patience`.
fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>, longest: usize, patience: Duration) -> Router<S> {
    routes
        .layer(from_fn(connections::refuse_beyond_limit))
        .layer(from_fn(problem::no_bare_failure))
        .layer(from_fn(move |request: Request, next| body::drain_refused(longest, patience, request, next)))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn(metrics::count))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID.clone()))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(DefaultOnResponse::new().level(Level::INFO))
                // A fault of ours is logged with its reason where it becomes a problem; the rest is no error here.
                .on_failure(()),
        )
        .layer(SetRequestIdLayer::new(REQUEST_ID.clone(), MakeRequestUuid))
}

/// What every log line of a request carries. Path and query may name people, so the route stands for them.
fn span(request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    info_span!("request", id, method = %request.method(), route)
}
