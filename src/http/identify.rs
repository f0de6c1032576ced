//! POST /identify

use axum::Json;

use super::form::{Fields, FromForm, LONGEST_EMBEDDING};
use super::problem::Problem;
use crate::service::Recognition;
use crate::service::answers::{Identified, IdentifiedEmbedding};
use crate::service::requests::{FileBytes, IdentifyEmbeddingRequest, IdentifyRequest};

impl FromForm for IdentifyRequest {
    const FILES: &'static [&'static str] = &["image"];

    fn files(&mut self) -> Vec<&mut FileBytes> {
        vec![&mut self.image]
    }
}

impl FromForm for IdentifyEmbeddingRequest {
    const LONG_FIELDS: &'static [(&'static str, usize)] = &[("embedding", LONGEST_EMBEDDING)];
}

/// Identify an embedding
///
/// As POST /identify, for an embedding that was computed before, by the same model: the answer needs no inference.
#[utoipa::path(
    post, path = "/identify/embedding", tag = "recognition", request_body = IdentifyEmbeddingRequest,
    responses((status = 200, description = "The matches", body = IdentifiedEmbedding)),
)]
pub async fn identify_embedding(
    recognition: Recognition,
    Fields(request): Fields<IdentifyEmbeddingRequest>,
) -> Result<Json<IdentifiedEmbedding>, Problem> {
    Ok(Json(recognition.identify_embedding(request).await?))
}

/// Identify faces
///
/// For every face of a photo, largest first: the most similar subjects of a gallery, or of several, and whether the best of them is
/// similar enough to be called `known`. A subject is compared by its template, the mean of its faces. A photo without a
/// face gets an empty list.
#[utoipa::path(
    post, path = "/identify", tag = "recognition", request_body = IdentifyRequest,
    responses((status = 200, description = "The faces and their matches", body = Identified)),
)]
pub async fn identify_faces(
    recognition: Recognition,
    Fields(request): Fields<IdentifyRequest>,
) -> Result<Json<Identified>, Problem> {
    Ok(Json(recognition.identify(request).await?))
}
