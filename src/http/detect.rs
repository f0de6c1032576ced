//! POST /detect and POST /embed

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::form::{Fields, Form, FromForm};
use super::photo;
use super::problem::Problem;
use crate::service::answers::{Detected, Embedded};
use crate::service::{PhotoBytes, Services};

#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct PhotoForm {
    /// The photo: a file in a form, base64 or a data: URL in JSON.
    #[schema(value_type = String, format = Binary)]
    pub image: Vec<u8>,
}

impl FromForm for PhotoBytes {
    const IMAGES: &'static [&'static str] = &["image"];
    const FIELDS: &'static [&'static str] = &[];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        photo(&mut form, "image")
    }
}

/// Detect faces
///
/// Boxes, landmarks and quality of every face, largest first; an empty list if there is none.
#[utoipa::path(
    post, path = "/detect", tag = "recognition",
    request_body(content((PhotoForm = "multipart/form-data"), (PhotoForm = "application/json"), (super::openapi::RawImage = "image/*"))),
    responses(
        (status = 200, description = "The faces", body = Detected),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn detect_faces(
    State(services): State<Services>,
    Fields(image): Fields<PhotoBytes>,
) -> Result<Json<Detected>, Problem> {
    Ok(Json(services.detect(image).await?))
}

/// Embed faces
///
/// The embedding of every face, largest first.
#[utoipa::path(
    post, path = "/embed", tag = "recognition",
    request_body(content((PhotoForm = "multipart/form-data"), (PhotoForm = "application/json"), (super::openapi::RawImage = "image/*"))),
    responses(
        (status = 200, description = "The faces with embeddings", body = Embedded),
        (status = 422, description = "`no_face`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn embed_faces(
    State(services): State<Services>,
    Fields(image): Fields<PhotoBytes>,
) -> Result<Json<Embedded>, Problem> {
    Ok(Json(services.embed(image).await?))
}
