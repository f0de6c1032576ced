//! POST /enroll

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::extract::gallery;
use super::form::{Fields, Form, FromForm};
use super::photo;
use super::problem::Problem;
use crate::gallery::OnDoubt;
use crate::service::answers::Enrolled;
use crate::service::{EnrollRequest, Enrolment, FaceChoice, QualityDemand};
use crate::vision::Detail;

/// The fields of POST /enroll beside the image: as form parts, JSON members or query parameters.
#[derive(Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct EnrollFields {
    /// Whom the photo shows: a name of 1 to 255 characters, or an id. A new name makes a new subject.
    #[schema(example = "Ada", min_length = 1, max_length = 255)]
    #[param(required = false, example = "Ada", min_length = 1, max_length = 255)]
    pub subject: String,
    /// Its name or id. Defaults to `default`.
    #[schema(default = "default")]
    #[param(default = "default")]
    pub gallery: Option<String>,
    /// A JSON object that is kept with the face.
    #[schema(value_type = Option<Object>, example = json!({}))]
    #[param(value_type = Option<String>)]
    pub metadata: Option<Map<String, Value>>,
    /// What to do when another subject looks like the same person. Defaults to `warn`.
    #[schema(default = "warn")]
    #[param(default = "warn")]
    pub on_duplicate: Option<DoubtChoice>,
    /// What to do when the face does not resemble those that the subject has. Defaults to `warn`.
    #[schema(default = "warn")]
    #[param(default = "warn")]
    pub on_mismatch: Option<DoubtChoice>,
    /// Which face of a photo with several. Defaults to `only`: several are an error.
    #[schema(default = "only")]
    #[param(default = "only")]
    pub face: Option<FaceChoice>,
    /// Which faces to enroll. Defaults to `usable`: one that could hardly be recognised is an error.
    #[schema(default = "usable")]
    #[param(default = "usable")]
    pub quality: Option<QualityDemand>,
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

#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct EnrollForm {
    /// The photo: a file in a form, base64 or a data: URL in JSON.
    #[schema(value_type = String, format = Binary)]
    pub image: Vec<u8>,
    #[serde(flatten)]
    pub fields: EnrollFields,
}

/// What to do about an enrolment that is doubtful.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DoubtChoice {
    /// Enroll, do not look.
    Allow,
    /// Enroll, and say so.
    Warn,
    /// Refuse with `duplicate_face` or `subject_mismatch`.
    Reject,
}

impl From<DoubtChoice> for OnDoubt {
    fn from(choice: DoubtChoice) -> Self {
        match choice {
            DoubtChoice::Allow => Self::Allow,
            DoubtChoice::Warn => Self::Warn,
            DoubtChoice::Reject => Self::Reject,
        }
    }
}

impl FromForm for EnrollRequest {
    const IMAGES: &'static [&'static str] = &["image"];
    const FIELDS: &'static [&'static str] =
        &["subject", "gallery", "metadata", "on_duplicate", "on_mismatch", "face", "quality", "detail", "min_face"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        let mut choice = |field| form.value(field, "one of allow, warn, reject");
        let on_duplicate: Option<DoubtChoice> = choice("on_duplicate")?;
        let on_mismatch: Option<DoubtChoice> = choice("on_mismatch")?;
        Ok(Self {
            image: photo(&mut form, "image")?,
            subject: form.required_name("subject")?,
            gallery: gallery(&mut form)?,
            metadata: form.metadata()?.unwrap_or_default(),
            on_duplicate: on_duplicate.unwrap_or(DoubtChoice::Warn).into(),
            on_mismatch: on_mismatch.unwrap_or(DoubtChoice::Warn).into(),
            face: form.value("face", "one of only, largest")?.unwrap_or_default(),
            quality: form.value("quality", "one of usable, any")?.unwrap_or_default(),
            wanted: form.wanted_one()?,
        })
    }
}

/// Enroll a face
///
/// Adds the face of a photo to a subject, who is created if there is none of that name. One photo of a person is
/// enough to recognise them. When this answers, the face is stored for good.
#[utoipa::path(
    post, path = "/enroll", tag = "recognition", params(EnrollFields),
    request_body(content((EnrollForm = "multipart/form-data"), (EnrollForm = "application/json"), (super::openapi::RawImage = "image/*"))),
    responses(
        (status = 201, description = "Enrolled", body = Enrolled),
        (status = 409, description = "`duplicate_face` or `subject_mismatch`, with `on_duplicate` or `on_mismatch` = reject", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`no_face`, `multiple_faces`, `unusable_face`, a field or an image is wrong", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn enroll_face(
    State(enrolment): State<Enrolment>,
    Fields(request): Fields<EnrollRequest>,
) -> Result<(StatusCode, Json<Enrolled>), Problem> {
    Ok((StatusCode::CREATED, Json(enrolment.enroll(request).await?)))
}
