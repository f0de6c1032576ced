//! Which pages may call the server from a browser.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tower::Layer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::problem::{Code, Problem};
use crate::config::{CorsOrigins, HttpConfig};
use crate::service::Access;

/// How long a browser need not ask again.
const REMEMBERED: Duration = Duration::from_secs(3600);

const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// What a page may send.
const SENT: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
];

/// What a page may read, beside what browsers always show.
const READ: [HeaderName; 13] = [
    header::ACCEPT_ENCODING,
    header::ALLOW,
    header::ETAG,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
    super::limits::POLICY,
    super::limits::STATE,
    super::repeat::REPLAYED,
    super::timing::TOTAL,
    super::timing::QUEUE,
    super::timing::INFERENCE,
];

/// Lets pages of these origins call the server; keys come from the page itself, never from a cookie.
pub fn layer(origins: &CorsOrigins) -> CorsLayer {
    let origins = match origins {
        CorsOrigins::Any => AllowOrigin::any(),
        CorsOrigins::Listed(origins) => {
            AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
        }
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(METHODS)
        .allow_headers(SENT)
        .expose_headers(READ)
        .max_age(REMEMBERED)
}

/// Lets pages of any origin call the routes within, unless the configuration says which may: clients in browsers expect it, and keys
/// come from the page itself. Of a server without keys any page could read what is enrolled, so there it stays as configured.
pub async fn open_to_pages(
    State((access, config)): State<(Access, Arc<HttpConfig>)>,
    request: Request,
    next: Next,
) -> Response {
    if config.cors_origins.is_some() || access.is_open() {
        return next.run(request).await;
    }
    let is_asked_before =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let Ok(mut response) = TowerToHyperService::new(layer(&CorsOrigins::Any).layer(next)).call(request).await;
    if is_asked_before {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

/// Makes the answer to what is refused.
type Refusal = fn(ProtectionError) -> Response;

/// While a server is open: keeps pages that may not read its answers from changing anything. A browser sends forms of theirs without
/// asking, and would let any page on this machine enroll and train.
pub fn refuse_strangers<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    origins: Option<&CorsOrigins>,
    access: &Access,
) -> Router<S> {
    let listed: Arc<[String]> = match origins {
        Some(CorsOrigins::Any) => return routes,
        Some(CorsOrigins::Listed(origins)) => origins.as_slice().into(),
        None => Arc::default(),
    };
    let (access, refusal): (_, Refusal) = (access.clone(), refused);
    let trust = from_fn(move |request: Request, next| trusted(access.clone(), Arc::clone(&listed), request, next));
    routes.layer((trust, CsrfLayer::new().with_rejection_response(refusal)))
}

/// Lets all pages of a server that asks for keys, which they do not have, and those of the listed origins, of whatever scheme, pass
/// as if they were no pages.
async fn trusted(access: Access, listed: Arc<[String]>, mut request: Request, next: Next) -> Response {
    let is_open = access.is_open();
    let headers = request.headers_mut();
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    if !is_open || origin.is_some_and(|origin| listed.iter().any(|listed| listed == origin)) {
        headers.remove(header::ORIGIN);
        headers.remove("sec-fetch-site");
    }
    next.run(request).await
}

fn refused(_: ProtectionError) -> Response {
    let detail = "a page of another origin changes nothing here, unless `--cors-origins` names it";
    Problem::new(Code::Forbidden, detail).into_response()
}
