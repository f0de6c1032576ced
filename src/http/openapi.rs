//! The OpenAPI document, made from the handlers, the types that requests are read into, and those of the answers.

mod headers;
mod spread;

use axum::body::Bytes;
use axum::http::header;
use axum::routing::{MethodRouter, get};
use serde_json::Value;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "faceid",
        description = "Face recognition: enroll people with one photo, identify and verify them, forget them on request.\n\n\
            Every image may come as `multipart/form-data`, as JSON with base64, or, where a route takes one image, as a raw \
            `image/*` body with the other fields in the query string; every other request as JSON or as a form. A field that is null is as one that is not there. Failures are \
            `application/problem+json` with a stable `code`."
    ),
    servers((url = "/", description = "The server that this document comes from")),
    tags(
        (name = "recognition", description = "Photos in, answers out"),
        (name = "galleries", description = "Named, isolated collections"),
        (name = "subjects", description = "The people of a gallery"),
        (name = "faces", description = "Enrolled images"),
        (name = "admin", description = "Keys, jobs, data sets, models"),
        (name = "operations", description = "Health"),
    ),
    modifiers(&Keys),
    components(schemas(Problem)),
    security(("api_key" = []), ("bearer" = [])),
)]
pub struct ApiDoc;

struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let key = ApiKeyValue::with_description("x-api-key", "Not needed at a server without keys");
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(key)));
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The document, of what was collected from the handlers.
pub fn finish(collected: &utoipa::openapi::OpenApi) -> Result<Value, serde_json::Error> {
    spread::spread(serde_json::to_value(collected)?)
}

/// Answers with the document, which is written once: anybody may ask for it.
pub fn route<S: Clone + Send + Sync + 'static>(collected: &utoipa::openapi::OpenApi) -> MethodRouter<S> {
    let document = finish(collected).expect("the document is made of what is compiled in");
    let document = Bytes::from(document.to_string());
    get(move || {
        let document = document.clone();
        async { ([(header::CONTENT_TYPE, "application/json")], document) }
    })
}

/// The document as YAML, as `openapi.yaml` holds it.
pub fn yaml() -> Result<String, serde_norway::Error> {
    let (_, document) = super::api().split_for_parts();
    let document = finish(&document).map_err(<serde_norway::Error as serde::ser::Error>::custom)?;
    serde_norway::to_string(&document)
}
