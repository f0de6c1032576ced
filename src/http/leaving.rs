//! What a server answers between the signal to stop and the moment from which on it takes no more connections.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;

use super::health::{NotReady, Stopping};
use super::problem;
use crate::config::HttpConfig;

/// The routes of [`router`](super::router), but `/readyz` says that the server is about to stop, so that nobody sends it more.
pub fn leaving(routes: Router, config: &HttpConfig) -> Router {
    let mut own = Router::new().route("/readyz", get(readyz));
    if !config.base_path.is_root() {
        own = own.route(&format!("{}/readyz", config.base_path), get(readyz));
    }
    let own = own.method_not_allowed_fallback(problem::method_not_allowed);
    super::guarded(own, config).fallback_service(routes)
}

/// Asks clients not to come back on their connections.
pub fn parting(routes: Router) -> Router {
    routes.layer(from_fn(close))
}

async fn readyz() -> NotReady {
    NotReady::Stopping(Stopping { ready: false, stopping: true })
}

async fn close(request: Request, next: Next) -> Response {
    // HTTP/2 has no such header: such connections are told when the server takes no more.
    let told = request.version() <= Version::HTTP_11;
    let mut response = next.run(request).await;
    if told {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
