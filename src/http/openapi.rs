//! The OpenAPI document, made from the handlers.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "faceid",
        description = "Face recognition: enroll people with one photo, identify and verify them, forget them on request.\n\n\
            Every image may come as `multipart/form-data`, as JSON with base64, or, where a route takes one image, as a raw \
            `image/*` body with the other fields in the query string. Failures are `application/problem+json` with a stable `code`."
    ),
    tags(
        (name = "recognition", description = "Photos in, answers out"),
        (name = "galleries", description = "Named, isolated collections"),
        (name = "subjects", description = "The people of a gallery"),
        (name = "faces", description = "Enrolled images"),
        (name = "admin", description = "Only with the admin key"),
        (name = "operations", description = "Health"),
    ),
    modifiers(&Keys),
    security((), ("api_key" = []), ("bearer" = [])),
)]
pub struct ApiDoc;

/// The bytes of an image.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "for the OpenAPI document; `Form` reads the body")]
pub struct RawImage(Vec<u8>);

struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components
            .add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key"))));
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The document as YAML, as `openapi.yaml` holds it.
pub fn yaml() -> Result<String, serde_norway::Error> {
    let (_, document) = super::api().split_for_parts();
    serde_norway::to_string(&document)
}
