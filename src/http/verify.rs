//! POST /verify

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::form::{Fields, Form, FromForm};
use super::photo;
use super::problem::Problem;
use crate::service::answers::Verified;
use crate::service::{Recognition, VerifyRequest};
use crate::vision::Detail;

#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct VerifyForm {
    /// One photo: a file in a form, base64 or a data: URL in JSON.
    #[schema(value_type = String, format = Binary)]
    pub image_a: Vec<u8>,
    /// The other photo.
    #[schema(value_type = String, format = Binary)]
    pub image_b: Vec<u8>,
    /// The similarity from which on both are one person, -1 to 1. Defaults to the
    /// server's.
    #[schema(minimum = -1.0, maximum = 1.0)]
    pub threshold: Option<f32>,
    /// Instead of `threshold`: how often two photos of different people may match (false match rate).
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub fmr: Option<f64>,
    /// How thoroughly to search for faces. Defaults to `auto`.
    #[schema(default = "auto")]
    pub detail: Option<Detail>,
    /// The smallest face that is wanted, by the width of its box: from 1 on in pixels of the upright photo, below 1 as
    /// a share of its longer side. Smaller ones are left out. Defaults to a hundredth, and at least 20 pixels.
    #[schema(exclusive_minimum = 0.0, example = 40)]
    pub min_face: Option<f32>,
}

impl FromForm for VerifyRequest {
    const IMAGES: &'static [&'static str] = &["image_a", "image_b"];
    const FIELDS: &'static [&'static str] = &["threshold", "fmr", "detail", "min_face"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self {
            image_a: photo(&mut form, "image_a")?,
            image_b: photo(&mut form, "image_b")?,
            policy: form.policy()?,
            wanted: form.wanted_one()?,
        })
    }
}

/// Verify a pair
///
/// Compares the largest face of each photo, and says which they were.
#[utoipa::path(
    post, path = "/verify", tag = "recognition",
    request_body(content((VerifyForm = "multipart/form-data"), (VerifyForm = "application/json"))),
    responses(
        (status = 200, description = "How similar they are", body = Verified),
        (status = 422, description = "`no_face`: `field` names the photo", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn verify_pair(
    State(recognition): State<Recognition>,
    Fields(request): Fields<VerifyRequest>,
) -> Result<Json<Verified>, Problem> {
    Ok(Json(recognition.verify(request).await?))
}
