//! POST /identify

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::extract::gallery;
use super::form::{Fields, Form, FromForm, invalid};
use super::photo;
use super::problem::Problem;
use crate::registry::Registry;
use crate::service::answers::{Identified, IdentifiedEmbedding};
use crate::service::{IdentifyEmbeddingRequest, IdentifyRequest, Recognition};
use crate::vision::Detail;

const DEFAULT_TOP_K: u32 = 5;
const MAX_TOP_K: u32 = 100;

/// The fields of POST /identify beside the image: as form parts, JSON members or query parameters.
#[derive(Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct IdentifyFields {
    /// Its name or id. Defaults to `default`.
    #[schema(default = "default")]
    #[param(default = "default")]
    pub gallery: Option<String>,
    /// Subjects per face, 1 to 100. Defaults to 5.
    #[schema(minimum = 1, maximum = 100, default = 5)]
    #[param(minimum = 1, maximum = 100, default = 5)]
    pub top_k: Option<u32>,
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
    /// The similarity from which on a face is known, -1 to 1. Without it, `fmr` and `fpir`, the gallery's policy decides,
    /// else the server's threshold.
    #[schema(minimum = -1.0, maximum = 1.0)]
    #[param(minimum = -1.0, maximum = 1.0)]
    pub threshold: Option<f32>,
    /// Instead of `threshold`: how often one comparison of two people may match (false match rate).
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub fmr: Option<f64>,
    /// Instead of `threshold`: how often a stranger may be taken for anybody of this gallery at its present size (false
    /// positive identification rate).
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0, example = 0.003)]
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0, example = 0.003)]
    pub fpir: Option<f64>,
    /// Whether a subject is on the photo once at most, on the face that resembles them most. Defaults to true.
    #[schema(default = true)]
    #[param(default = true)]
    pub unique_subjects: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct IdentifyForm {
    /// The photo: a file in a form, base64 or a data: URL in JSON.
    #[schema(value_type = String, format = Binary)]
    pub image: Vec<u8>,
    #[serde(flatten)]
    pub fields: IdentifyFields,
}

impl FromForm for IdentifyRequest {
    const IMAGES: &'static [&'static str] = &["image"];
    const FIELDS: &'static [&'static str] =
        &["gallery", "top_k", "max_faces", "detail", "min_face", "threshold", "fmr", "fpir", "unique_subjects"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self {
            image: photo(&mut form, "image")?,
            gallery: gallery(&mut form)?,
            top_k: top_k(&mut form)?,
            wanted: form.wanted()?,
            policy: form.policy()?,
            unique_subjects: form.value("unique_subjects", "true or false")?.unwrap_or(true),
        })
    }
}

/// An embedding to look for.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct IdentifyEmbeddingForm {
    /// What POST /embed gives: as many numbers as the model has dimensions. It need not be normalised.
    pub embedding: Vec<f32>,
    /// Its name or id. Defaults to `default`.
    #[schema(default = "default")]
    pub gallery: Option<String>,
    /// Subjects, 1 to 100. Defaults to 5.
    #[schema(minimum = 1, maximum = 100, default = 5)]
    pub top_k: Option<u32>,
    /// As for POST /identify.
    #[schema(minimum = -1.0, maximum = 1.0)]
    pub threshold: Option<f32>,
    /// As for POST /identify.
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub fmr: Option<f64>,
    /// As for POST /identify.
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub fpir: Option<f64>,
}

impl FromForm for IdentifyEmbeddingRequest {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["embedding", "gallery", "top_k", "threshold", "fmr", "fpir"];
    /// Every number of the longest embedding with its sign, digits, exponent, comma and indentation.
    const LONGEST_FIELD: usize = Registry::MAX_DIMENSION as usize * 64;

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self {
            embedding: form.required_value("embedding", "an array of numbers")?,
            gallery: gallery(&mut form)?,
            top_k: top_k(&mut form)?,
            policy: form.policy()?,
        })
    }
}

fn top_k(form: &mut Form) -> Result<u32, Problem> {
    let top_k = form.value("top_k", "a number from 1 to 100")?.unwrap_or(DEFAULT_TOP_K);
    if (1..=MAX_TOP_K).contains(&top_k) {
        return Ok(top_k);
    }
    Err(invalid("top_k", "a number from 1 to 100 is expected"))
}

/// Identify an embedding
///
/// As POST /identify, for an embedding that was computed before, by the same model: the answer needs no inference.
#[utoipa::path(
    post, path = "/identify/embedding", tag = "recognition",
    request_body(content((IdentifyEmbeddingForm = "application/json"))),
    responses(
        (status = 200, description = "The matches", body = IdentifiedEmbedding),
        (status = 404, description = "`gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn identify_embedding(
    State(recognition): State<Recognition>,
    Fields(request): Fields<IdentifyEmbeddingRequest>,
) -> Result<Json<IdentifiedEmbedding>, Problem> {
    Ok(Json(recognition.identify_embedding(request).await?))
}

/// Identify faces
///
/// For every face of a photo, largest first: the most similar subjects of a gallery, and whether the best of them is
/// similar enough to be called `known`. A subject is compared by its template, the mean of its faces. A photo without a
/// face gets an empty list.
#[utoipa::path(
    post, path = "/identify", tag = "recognition", params(IdentifyFields),
    request_body(content((IdentifyForm = "multipart/form-data"), (IdentifyForm = "application/json"), (super::openapi::RawImage = "image/*"))),
    responses(
        (status = 200, description = "The faces and their matches", body = Identified),
        (status = 404, description = "`gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn identify_faces(
    State(recognition): State<Recognition>,
    Fields(request): Fields<IdentifyRequest>,
) -> Result<Json<Identified>, Problem> {
    Ok(Json(recognition.identify(request).await?))
}
