//! What every answer tells browsers, and caches on the way.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Response};
use tower::util::MapResponseLayer;

/// An answer of the API is data, whatever a browser takes it for.
const DATA: &str = "default-src 'none'; frame-ancestors 'none'";

/// The pages of docs/ have a style inside, and pictures.
pub const PAGE: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; \
                        frame-ancestors 'none'";

/// The page that tries the API runs its own scripts, asks this server, and has styles and small pictures inside.
pub const REFERENCE: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                             img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                             frame-ancestors 'none'";

/// Faces and names are for whoever asked, not for caches.
pub const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");

/// Of every answer that does not say otherwise itself. The last is for those that come over TLS; it holds for a year.
static ALL: [(HeaderName, HeaderValue); 6] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(DATA)),
    (CACHE_CONTROL, NOT_KEPT),
    (STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000")),
];

/// Adds those of every answer.
pub fn of_answers<B>(over_tls: bool) -> MapResponseLayer<impl Fn(Response<B>) -> Response<B> + Copy> {
    let all = if over_tls { &ALL[..] } else { &ALL[..ALL.len() - 1] };
    MapResponseLayer::new(move |answer| with(answer, all))
}

/// Adds those of pages and of what belongs to them, which hold nothing of anybody and are the same until the server is replaced.
pub fn of_pages<B>(policy: &'static str) -> MapResponseLayer<impl Fn(Response<B>) -> Response<B> + Clone> {
    let kept = HeaderValue::from_static("public, max-age=300");
    let all = [(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)), (CACHE_CONTROL, kept)];
    MapResponseLayer::new(move |answer| with(answer, &all))
}

fn with<B>(mut answer: Response<B>, all: &[(HeaderName, HeaderValue)]) -> Response<B> {
    for (name, value) in all {
        answer.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderMap, Method, Request, StatusCode, header};
    use axum::routing::get;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::config::{HttpConfig, Settings};
    use crate::http::{guarded, problem};

    async fn answered(config: &HttpConfig, request: Request<Body>) -> (StatusCode, HeaderMap) {
        let fails = || async {
            assert!(std::hint::black_box(false), "as a handler may");
        };
        let kept = || async { ([(header::CACHE_CONTROL, "max-age=7")], "kept") };
        let routes = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/fails", get(fails))
            .route("/kept", get(kept))
            .route("/page", get(|| async { "page" }).route_layer(of_pages(PAGE)))
            .method_not_allowed_fallback(problem::method_not_allowed);
        let Ok(answer) = TowerToHyperService::new(guarded(routes, config)).call(request).await;
        (answer.status(), answer.headers().clone())
    }

    fn ask(method: Method, path: &str) -> Request<Body> {
        let request = Request::builder().method(method).uri(path).header(header::ORIGIN, "https://a.example");
        request.header(header::ACCESS_CONTROL_REQUEST_METHOD, "GET").body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn every_answer_has_them_whatever_becomes_of_it() {
        let config = Settings::default().into_config().unwrap().http;
        let open = HttpConfig { cors_origins: Some("*".parse().unwrap()), ..config.clone() };
        for config in [&config, &open] {
            for (method, path, status) in [
                (Method::GET, "/", 200),
                (Method::HEAD, "/", 200),
                (Method::GET, "/fails", 500),
                (Method::GET, "/nowhere", 404),
                (Method::DELETE, "/", 405),
            ] {
                let (answered, headers) = answered(config, ask(method, path)).await;
                assert_eq!(answered, status, "{path}");
                for (name, value) in [
                    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
                    (REFERRER_POLICY, "no-referrer"),
                    (X_FRAME_OPTIONS, "DENY"),
                    (CONTENT_SECURITY_POLICY, DATA),
                    (CACHE_CONTROL, "no-store"),
                ] {
                    assert_eq!(headers[&name], value, "{path} {name}");
                }
                assert!(!headers.contains_key(STRICT_TRANSPORT_SECURITY));
            }
        }
        // What a browser asks before it asks.
        let (status, headers) = answered(&open, ask(Method::OPTIONS, "/")).await;
        assert_eq!((status, &headers[X_CONTENT_TYPE_OPTIONS]), (StatusCode::OK, &HeaderValue::from_static("nosniff")));
    }

    #[tokio::test]
    async fn what_an_answer_says_itself_counts() {
        let config = Settings::default().into_config().unwrap().http;
        let (_, kept) = answered(&config, ask(Method::GET, "/kept")).await;
        assert_eq!(kept[CACHE_CONTROL], "max-age=7");
        let (_, page) = answered(&config, ask(Method::GET, "/page")).await;
        assert_eq!(page[CONTENT_SECURITY_POLICY], PAGE);
        assert_eq!(page.get_all(CONTENT_SECURITY_POLICY).iter().count(), 1);
    }
}
