//! Answers below a path, for a server that shares its address with others.

use axum::Router;
use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::Response;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::health::is_probe;
use crate::config::BasePath;

/// The routes, reached below `base`; what is beside it is answered by `beside`. The routes need not know: they see paths without it,
/// and their `Location` gets it.
pub fn below(base: &BasePath, routes: Router, beside: Router) -> Router {
    if base.is_root() {
        return routes;
    }
    let base = base.clone();
    Router::new().fallback(move |request: Request| answer(base.clone(), routes.clone(), beside.clone(), request))
}

async fn answer(base: BasePath, routes: Router, beside: Router, mut request: Request) -> Response {
    let routes = match stripped(request.uri(), base.as_str()) {
        Some(uri) => {
            *request.uri_mut() = uri;
            routes
        }
        None if is_probe(request.uri().path()) => routes,
        None => beside,
    };
    let Ok(mut response) = TowerToHyperService::new(routes).call(request).await;
    prepend(response.headers_mut(), base.as_str());
    response
}

/// The address without the base path, if it begins with it.
fn stripped(uri: &Uri, base: &str) -> Option<Uri> {
    let rest = uri.path().strip_prefix(base)?;
    let path = match rest {
        "" => "/",
        rest if rest.starts_with('/') => rest,
        _ => return None,
    };
    let path = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.ok()?);
    Uri::from_parts(parts).ok()
}

/// Puts the base path before a `Location` of this server.
fn prepend(headers: &mut HeaderMap, base: &str) {
    if let Some(location) = headers.get(header::LOCATION).and_then(|location| location.to_str().ok())
        && location.starts_with('/')
        && let Ok(location) = HeaderValue::from_str(&format!("{base}{location}"))
    {
        headers.insert(header::LOCATION, location);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_parts_of_a_path_are_stripped() {
        for (uri, rest) in [
            ("/faces", Some("/")),
            ("/faces/", Some("/")),
            ("/faces/detect?face=largest", Some("/detect?face=largest")),
            ("/faces?limit=3", Some("/?limit=3")),
            ("/faces/faces/1", Some("/faces/1")),
            ("/faces/a%2Fb", Some("/a%2Fb")),
            ("http://host/faces/docs/", Some("http://host/docs/")),
            ("/facesx", None),
            ("/", None),
            ("/detect", None),
        ] {
            let stripped = stripped(&uri.parse().unwrap(), "/faces").map(|uri| uri.to_string());
            assert_eq!(stripped.as_deref(), rest, "{uri}");
        }
    }
}
