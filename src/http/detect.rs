//! POST /detect and POST /embed

use axum::Json;

use super::form::{Fields, FromForm};
use super::problem::Problem;
use crate::service::Recognition;
use crate::service::answers::{Detected, Embedded};
use crate::service::requests::{DetectRequest, FileBytes};

impl FromForm for DetectRequest {
    const FILES: &'static [&'static str] = &["image"];

    fn files(&mut self) -> Vec<&mut FileBytes> {
        vec![&mut self.image]
    }
}

/// Detect faces
///
/// Boxes, landmarks and quality of every face, largest first; an empty list if there is none.
#[utoipa::path(
    post, path = "/detect", tag = "recognition", request_body = DetectRequest,
    responses((status = 200, description = "The faces", body = Detected)),
)]
pub async fn detect_faces(
    recognition: Recognition,
    Fields(request): Fields<DetectRequest>,
) -> Result<Json<Detected>, Problem> {
    Ok(Json(recognition.detect(request).await?))
}

/// Embed faces
///
/// The embedding of every face, largest first.
#[utoipa::path(
    post, path = "/embed", tag = "recognition", request_body = DetectRequest,
    responses((status = 200, description = "The faces with embeddings", body = Embedded)),
    extensions(("x-problems" = json!(["no_face"]))),
)]
pub async fn embed_faces(
    recognition: Recognition,
    Fields(request): Fields<DetectRequest>,
) -> Result<Json<Embedded>, Problem> {
    Ok(Json(recognition.embed(request).await?))
}
