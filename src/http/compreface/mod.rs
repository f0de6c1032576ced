//! CompreFace's API below /api/v1, over the same service as the native routes: what its clients send is read as they send it, and
//! answered in their words. See docs/compreface.md.

mod answers;
mod collection;
mod examples;
mod failure;
mod options;
mod recognition;
mod subjects;
mod upload;
mod vectors;

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tower_http::catch_panic::CatchPanicLayer;

use super::auth::{self, Guard};
use super::limits::{self, Gate};
use super::state::AppState;
use super::{conditions, cors, problem};
use crate::config::HttpConfig;
use crate::service::Access;
use crate::types::Permission;

/// Below this path all of it is.
pub const BASE: &str = "/api/v1";

/// Declares the routes once: what they need, their methods, their paths below [`BASE`], and their handlers.
macro_rules! routes {
    ($($needed:ident $method:ident $path:literal => $handler:path;)*) => {
        /// What each route needs of its caller, its method, and its path below [`BASE`].
        pub const ROUTES: &[(Permission, &str, &str)] = &[$((Permission::$needed, stringify!($method), $path)),*];

        /// The routes that need the same.
        fn needing(needed: Permission) -> Router<AppState> {
            let mut router = Router::new();
            $(if needed == Permission::$needed {
                router = router.route($path, $method($handler));
            })*
            router
        }
    };
}

routes! {
    Ask post "/recognition/recognize" => recognition::recognize;
    Ask post "/recognition/faces/{face}/verify" => recognition::verify_example;
    Ask post "/recognition/embeddings/recognize" => vectors::recognize;
    Ask post "/recognition/embeddings/faces/{face}/verify" => vectors::verify_example;
    Ask post "/detection/detect" => recognition::detect;
    Ask post "/verification/verify" => recognition::verify;
    Ask post "/verification/embeddings/verify" => vectors::verify;
    Look get "/recognition/subjects" => subjects::list;
    Look get "/recognition/faces" => examples::list;
    Look get "/recognition/faces/{face}/img" => examples::download;
    Look get "/static/{key}/images/{face}" => examples::download_static;
    Change post "/recognition/subjects" => subjects::add;
    Change put "/recognition/subjects/{subject}" => subjects::rename;
    Change delete "/recognition/subjects/{subject}" => subjects::remove;
    Change delete "/recognition/subjects" => subjects::remove_all;
    Change post "/recognition/faces" => examples::add;
    Change delete "/recognition/faces" => examples::remove_of_subject;
    Change delete "/recognition/faces/{face}" => examples::remove;
    Change post "/recognition/faces/delete" => examples::remove_listed;
}

/// The routes, guarded and counted, as `config` has it, with their own answers to what goes wrong.
pub fn router(
    guard: impl Fn(Permission) -> Guard,
    gate: Gate,
    state: &AppState,
    access: &Access,
    config: &Arc<HttpConfig>,
) -> Router<AppState> {
    let guarded = |needed: Permission| {
        let required = from_fn_with_state(guard(needed), auth::require);
        match needed {
            Permission::Ask => needing(needed).route_layer(required),
            _ => needing(needed).route_layer((required, from_fn(conditions::refuse_unchecked))),
        }
    };
    let groups = [Permission::Ask, Permission::Look, Permission::Change].map(guarded);
    let routes = groups.into_iter().fold(Router::new(), Router::merge).route("/config", get(options::show_config));
    // Clients may end a path with a slash, which is no part of it.
    let again = Router::new().nest(BASE, routes.clone());
    let again = again.fallback(problem::route_not_found).method_not_allowed_fallback(problem::method_not_allowed);
    let again = again.with_state(state.clone());
    let limit = state.answer_time();
    let routes = routes
        .fallback(move |address: OriginalUri, request: Request| without_slash(again.clone(), address, request))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn(move |request: Request, next| problem::answer_in_time(limit, request, next)));
    cors::refuse_strangers(routes, config.cors_origins.as_ref(), access)
        .layer(from_fn_with_state(gate, limits::count))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn(failure::told))
        .layer(from_fn_with_state((access.clone(), Arc::clone(config)), cors::open_to_pages))
}

/// Answers a path that ends with slashes as the one without them.
async fn without_slash(routes: Router, OriginalUri(address): OriginalUri, mut request: Request) -> Response {
    match trimmed(&address) {
        Some(address) => {
            *request.uri_mut() = address;
            let Ok(response) = TowerToHyperService::new(routes).call(request).await;
            response
        }
        None => problem::route_not_found(address).await.into_response(),
    }
}

fn trimmed(address: &Uri) -> Option<Uri> {
    let path = address.path().strip_suffix('/')?.trim_end_matches('/');
    match address.query() {
        Some(query) => format!("{path}?{query}").parse().ok(),
        None => path.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_loses_its_slashes_alone() {
        let trim = |address: &str| trimmed(&address.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(trim("/api/v1/recognition/faces/?page=1").as_deref(), Some("/api/v1/recognition/faces?page=1"));
        assert_eq!(trim("/api/v1/recognition/subjects//").as_deref(), Some("/api/v1/recognition/subjects"));
        assert_eq!(trim("/api/v1/recognition/faces?subject=a/"), None);
    }
}
