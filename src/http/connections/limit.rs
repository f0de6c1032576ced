//! What becomes of requests for which there is no ordinary place.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Admission;
use crate::http::auth;
use crate::http::health::is_probe;
use crate::http::problem::{Code, Problem};

/// Refuses what came in beyond the limit and is no probe. Whoever shows a key is let through to where it is looked at, and gets
/// the place of a stranger there ([`has_place`]).
pub async fn refuse_beyond_limit(request: Request, next: Next) -> Response {
    let beyond = request.extensions().get::<Admission>().is_some_and(|admission| !admission.is_ordinary());
    if !beyond || tells_health(&request) || auth::shown_key(request.headers()).is_some() {
        return next.run(request).await;
    }
    refusal()
}

/// Whether a request that has shown a key may be answered. From now on its connection is known.
pub fn has_place(request: &Request) -> bool {
    request.extensions().get::<Admission>().is_none_or(Admission::know) || tells_health(request)
}

/// What is answered when all places are taken.
pub fn refusal() -> Response {
    metrics::counter!("faceid_rejected_total", "at" => "connections").increment(1);
    let problem = Problem::new(Code::Overloaded, "all connections of the server are in use; try again shortly");
    let mut response = problem.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What costs next to nothing and says how the server is.
fn tells_health(request: &Request) -> bool {
    let (read, path) = (matches!(*request.method(), Method::GET | Method::HEAD), request.uri().path());
    read && (is_probe(path) || path == "/metrics")
}
