//! The HTTP surface: the only place that knows axum. A handler parses, makes one call of the service, and renders.

mod audit;
mod auth;
mod batch;
mod body;
mod compare;
pub mod compreface;
mod conditions;
mod connections;
mod cors;
mod datasets;
mod deletions;
mod detect;
mod encoding;
mod enroll;
mod erasures;
mod extract;
mod faces;
mod findings;
mod form;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
mod galleries;
mod headers;
mod health;
mod holding;
mod identify;
mod jobs;
mod keys;
mod leaving;
mod limits;
mod metrics;
mod models;
mod multipart;
pub mod openapi;
mod pages;
mod peer;
mod person;
mod prefix;
mod problem;
mod quarantine;
mod repeat;
mod retrain;
mod routes;
mod server;
mod shadow;
mod starting;
mod state;
mod stored;
mod subjects;
mod timing;
mod tls;
mod verify;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, MatchedPath, Request};
use axum::http::HeaderName;
use axum::middleware::{from_fn, from_fn_with_state};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, Span, info_span};
use utoipa::OpenApi;
use utoipa::openapi::Server;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

pub use leaving::{leaving, parting};
pub use problem::{Code, Problem};
pub use server::{Port, Routes, serve};
pub use starting::starting;
pub use state::AppState;
pub use tls::{Tls, TlsError};

use auth::Guard;
use routes::Group;

use crate::config::HttpConfig;
use crate::service::{Access, Audit};
use crate::types::Permission;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The documented routes, unguarded: only good for the document.
fn api() -> OpenApiRouter<AppState> {
    let groups = routes::groups().into_iter().chain(routes::uploads());
    let document = OpenApiRouter::with_openapi(openapi::ApiDoc::openapi());
    groups.fold(document, |document, group| document.merge(group.routes)).merge(routes::open())
}

/// The whole surface: the documented routes behind their keys, the document, and an answer to everything else.
pub fn router(state: AppState) -> Router {
    let limit = state.answer_time();
    let config = Arc::clone(&state.http);
    let (access, record) = (Access::from_ref(&state), Audit::from_ref(&state));
    let guarded_by = |Group { needed, routes }: Group| {
        let guard = Guard::new(access.clone(), record.clone(), needed);
        let required = from_fn_with_state(guard, auth::require);
        match needed {
            // They change nothing that a condition could name.
            Permission::Ask => routes.route_layer(required),
            _ => routes.route_layer((required, from_fn(conditions::refuse_unchecked))),
        }
    };
    let with = |all: OpenApiRouter<AppState>, group| all.merge(guarded_by(group));
    let timely = routes::groups().into_iter().fold(OpenApiRouter::with_openapi(openapi::ApiDoc::openapi()), with);
    let timely = timely
        .merge(routes::open())
        .layer(from_fn(move |request: Request, next| problem::answer_in_time(limit, request, next)));
    let (routes, mut document) = routes::uploads().into_iter().fold(timely, with).split_for_parts();
    if !config.base_path.is_root() {
        document.servers = Some(vec![Server::new(config.base_path.as_str())]);
    }
    // Its page is two levels down, wherever the server is reached.
    let reference = Router::from(SwaggerUi::new("/docs/api").config(Config::from("../../openapi.json")));
    let reference = reference.route("/openapi.json", openapi::route(&document));
    let reference = reference.route_layer(headers::of_pages(headers::REFERENCE));
    let routes = routes
        .merge(reference)
        .merge(pages::routes().route_layer(headers::of_pages(headers::PAGE)))
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed);
    let routes = cors::refuse_strangers(routes, config.cors_origins.as_ref(), &access);
    let gate = limits::Gate::new(access.clone(), Arc::clone(&config));
    // Bodies are bounded by `body::limited`.
    let guard = |needed| Guard::new(access.clone(), record.clone(), needed);
    let compreface = compreface::router(guard, gate.clone(), &state, &access, &config);
    let routes = routes.layer(from_fn_with_state(gate, limits::count)).nest(compreface::BASE, compreface);
    let routes = routes.layer(DefaultBodyLimit::disable());
    published(guarded(routes, &config).with_state(state), &config)
}

/// Routes where the configuration wants them.
fn published(routes: Router, config: &HttpConfig) -> Router {
    let beside = guarded(Router::new().fallback(problem::route_not_found), config);
    prefix::below(&config.base_path, routes, beside)
}

/// What every request passes, whatever answers it, from the first to the last. Of a body that nobody wants, a few times as much as
/// the largest may have is thrown away.
///
/// The layers are put together before the router gets them: it boxes each one that it is given, and clones all boxes at each.
fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>, config: &HttpConfig) -> Router<S> {
    let (longest, patience) = (config.max_body_bytes, config.request_timeout);
    let layers = ServiceBuilder::new()
        .layer(SetRequestIdLayer::new(REQUEST_ID.clone(), MakeRequestUuid))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(DefaultOnResponse::new().level(Level::INFO))
                // A fault of ours is logged with its reason where it becomes a problem; the rest is no error here.
                .on_failure(()),
        )
        .layer(PropagateRequestIdLayer::new(REQUEST_ID.clone()))
        .layer(from_fn(timing::tell))
        .layer(from_fn(metrics::count))
        .layer(from_fn(encoding::no_answer_is_withheld))
        .layer(encoding::answers())
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn(move |request: Request, next| body::drain_refused(longest, patience, request, next)))
        .layer(from_fn(encoding::decoded))
        .layer(from_fn(problem::no_bare_failure))
        .layer(from_fn(connections::refuse_beyond_limit));
    let over_tls = config.tls.is_some();
    match &config.cors_origins {
        // Around all else, so that a page can read refusals as well.
        Some(origins) => routes.layer(layers).layer((headers::of_answers(over_tls), cors::layer(origins))),
        None => routes.layer((headers::of_answers(over_tls), layers)),
    }
}

/// What every log line of a request carries. Path and query may name people, so the route stands for them.
fn span(request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    let trace_id = timing::trace_id(request.headers());
    info_span!("request", id, method = %request.method(), route, trace_id)
}
