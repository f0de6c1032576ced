//! POST /detect and POST /embed

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::form::{Fields, Form, FromForm};
use super::photo;
use super::problem::Problem;
use crate::service::answers::{Detected, Embedded};
use crate::service::{PhotoRequest, Recognition};
use crate::vision::Detail;

#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct PhotoForm {
    /// The photo: a file in a form, base64 or a data: URL in JSON.
    #[schema(value_type = String, format = Binary)]
    pub image: Vec<u8>,
    #[serde(flatten)]
    pub fields: PhotoFields,
}

/// The fields of POST /detect and POST /embed beside the image.
#[derive(Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct PhotoFields {
    /// Only so many faces of the photo, the largest. Defaults to all.
    #[schema(minimum = 1)]
    #[param(minimum = 1)]
    pub max_faces: Option<u32>,
    /// How thoroughly to search for faces. Defaults to `auto`.
    #[schema(default = "auto")]
    #[param(default = "auto")]
    pub detail: Option<Detail>,
    /// The smallest face that is wanted, by the width of its box: from 1 on in pixels of the upright photo, below 1 as
    /// a share of its longer side. Smaller ones are left out. Defaults to a hundredth, and at least 20 pixels.
    #[schema(exclusive_minimum = 0.0, example = 40)]
    #[param(exclusive_minimum = 0.0, example = 40)]
    pub min_face: Option<f32>,
}

impl FromForm for PhotoRequest {
    const IMAGES: &'static [&'static str] = &["image"];
    const FIELDS: &'static [&'static str] = &["max_faces", "detail", "min_face"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self { image: photo(&mut form, "image")?, wanted: form.wanted()? })
    }
}

/// Detect faces
///
/// Boxes, landmarks and quality of every face, largest first; an empty list if there is none.
#[utoipa::path(
    post, path = "/detect", tag = "recognition", params(PhotoFields),
    request_body(content((PhotoForm = "multipart/form-data"), (PhotoForm = "application/json"), (super::openapi::RawImage = "image/*"))),
    responses(
        (status = 200, description = "The faces", body = Detected),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn detect_faces(
    State(recognition): State<Recognition>,
    Fields(request): Fields<PhotoRequest>,
) -> Result<Json<Detected>, Problem> {
    Ok(Json(recognition.detect(request).await?))
}

/// Embed faces
///
/// The embedding of every face, largest first.
#[utoipa::path(
    post, path = "/embed", tag = "recognition", params(PhotoFields),
    request_body(content((PhotoForm = "multipart/form-data"), (PhotoForm = "application/json"), (super::openapi::RawImage = "image/*"))),
    responses(
        (status = 200, description = "The faces with embeddings", body = Embedded),
        (status = 422, description = "`no_face`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn embed_faces(
    State(recognition): State<Recognition>,
    Fields(request): Fields<PhotoRequest>,
) -> Result<Json<Embedded>, Problem> {
    Ok(Json(recognition.embed(request).await?))
}
