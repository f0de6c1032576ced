//! POST /enroll

use axum::http::StatusCode;
use axum::response::Response;

use super::form::FromForm;
use super::problem::Problem;
use super::repeat::{Repeatable, answered};
use crate::service::Enrolment;
use crate::service::answers::Enrolled;
use crate::service::requests::{EnrollRequest, FileBytes};

impl FromForm for EnrollRequest {
    const FILES: &'static [&'static str] = &["image"];

    fn files(&mut self) -> Vec<&mut FileBytes> {
        vec![&mut self.image]
    }
}

/// Enroll a face
///
/// Adds the face of a photo to a subject, who is created if there is none of that name. One photo of a person is
/// enough to recognise them. When this answers, the face is stored for good.
#[utoipa::path(
    post, path = "/enroll", tag = "recognition", request_body = EnrollRequest,
    responses((status = 201, description = "Enrolled", body = Enrolled)),
    extensions(("x-problems" = json!(["no_face", "multiple_faces", "unusable_face", "duplicate_face", "subject_quota", "subject_mismatch", "subject_expired", "idempotency_key_reused"]))),
)]
pub async fn enroll_face(
    enrolment: Enrolment,
    Repeatable { request, key }: Repeatable<EnrollRequest>,
) -> Result<Response, Problem> {
    Ok(answered(StatusCode::CREATED, enrolment.enroll(request, key.as_ref()).await?))
}
