//! Comparing what is enrolled: /subjects/{subject}/verify and /identify, /faces/{face}/verify and /identify

use axum::Json;
use uuid::Uuid;

use super::extract::Path;
use super::form::{Fields, FromForm, LONGEST_EMBEDDING};
use super::problem::Problem;
use crate::service::answers::{IdentifiedEmbedding, VerifiedStored};
use crate::service::requests::{FileBytes, IdentifyStoredRequest, VerifyStoredRequest};
use crate::service::{Enrolled, Recognition};
use crate::types::FaceId;

impl FromForm for VerifyStoredRequest {
    const FILES: &'static [&'static str] = &["image"];
    const LONG_FIELDS: &'static [(&'static str, usize)] = &[("embedding", LONGEST_EMBEDDING)];

    fn files(&mut self) -> Vec<&mut FileBytes> {
        self.image.iter_mut().collect()
    }
}

/// Verify a subject
///
/// Whether a photo, or an embedding that was computed before, shows a subject: compared with its template, the mean of its faces.
#[utoipa::path(
    post, path = "/subjects/{subject}/verify", tag = "recognition",
    params(("subject" = String, Path, description = "Its name or id")), request_body = VerifyStoredRequest,
    responses((status = 200, description = "How similar they are", body = VerifiedStored)),
    extensions(("x-problems" = json!(["no_face", "not_embedded"]))),
)]
pub async fn verify_subject(
    recognition: Recognition,
    Path(subject): Path<String>,
    Fields(request): Fields<VerifyStoredRequest>,
) -> Result<Json<VerifiedStored>, Problem> {
    Ok(Json(recognition.verify_stored(Enrolled::Subject(&subject), request).await?))
}

/// Verify a face
///
/// Whether a photo, or an embedding that was computed before, shows the person of one enrolled face.
#[utoipa::path(
    post, path = "/faces/{face}/verify", tag = "recognition",
    params(("face" = Uuid, Path, description = "Its id")), request_body = VerifyStoredRequest,
    responses((status = 200, description = "How similar they are", body = VerifiedStored)),
    extensions(("x-problems" = json!(["no_face", "not_embedded"]))),
)]
pub async fn verify_face(
    recognition: Recognition,
    Path(face): Path<Uuid>,
    Fields(request): Fields<VerifyStoredRequest>,
) -> Result<Json<VerifiedStored>, Problem> {
    Ok(Json(recognition.verify_stored(Enrolled::Face(FaceId(face)), request).await?))
}

/// Identify a subject
///
/// Whom a subject resembles of the others of its gallery.
#[utoipa::path(
    post, path = "/subjects/{subject}/identify", tag = "recognition",
    params(("subject" = String, Path, description = "Its name or id")), request_body = IdentifyStoredRequest,
    responses((status = 200, description = "The matches, without itself", body = IdentifiedEmbedding)),
    extensions(("x-problems" = json!(["not_embedded"]))),
)]
pub async fn identify_subject(
    recognition: Recognition,
    Path(subject): Path<String>,
    Fields(request): Fields<IdentifyStoredRequest>,
) -> Result<Json<IdentifiedEmbedding>, Problem> {
    Ok(Json(recognition.identify_stored(Enrolled::Subject(&subject), request).await?))
}

/// Identify a face
///
/// Whom an enrolled face resembles of its gallery, apart from its own subject.
#[utoipa::path(
    post, path = "/faces/{face}/identify", tag = "recognition",
    params(("face" = Uuid, Path, description = "Its id")), request_body = IdentifyStoredRequest,
    responses((status = 200, description = "The matches, without its own subject", body = IdentifiedEmbedding)),
    extensions(("x-problems" = json!(["not_embedded"]))),
)]
pub async fn identify_face(
    recognition: Recognition,
    Path(face): Path<Uuid>,
    Fields(request): Fields<IdentifyStoredRequest>,
) -> Result<Json<IdentifiedEmbedding>, Problem> {
    Ok(Json(recognition.identify_stored(Enrolled::Face(FaceId(face)), request).await?))
}
