//! POST /identify/batch and POST /embed/batch

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::form::{Fields, FromForm};
use super::problem::Problem;
use crate::service::answers::{Embedded, Identified};
use crate::service::requests::{EmbedBatchRequest, FileBytes, IdentifyBatchRequest};
use crate::service::{Recognition, ServiceError};

/// The answers to the photos of a batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchAnswer<T> {
    /// In the order of the photos.
    pub results: Vec<BatchResult<T>>,
}

/// What became of one photo: one of the two is there.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchResult<T> {
    /// What the route for one photo answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<T>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl<T> From<Vec<Result<T, ServiceError>>> for BatchAnswer<T> {
    fn from(results: Vec<Result<T, ServiceError>>) -> Self {
        let result = |result: Result<T, ServiceError>| match result {
            Ok(answer) => BatchResult { answer: Some(answer), problem: None },
            Err(error) => BatchResult { answer: None, problem: Some(error.into()) },
        };
        Self { results: results.into_iter().map(result).collect() }
    }
}

impl FromForm for IdentifyBatchRequest {
    const FILES: &'static [&'static str] = &["images"];
    const SEVERAL_FILES: bool = true;

    fn files(&mut self) -> Vec<&mut FileBytes> {
        self.images.0.iter_mut().collect()
    }
}

impl FromForm for EmbedBatchRequest {
    const FILES: &'static [&'static str] = &["images"];
    const SEVERAL_FILES: bool = true;

    fn files(&mut self) -> Vec<&mut FileBytes> {
        self.images.0.iter_mut().collect()
    }
}

/// Identify the faces of several photos
///
/// As POST /identify for each of up to 64 photos, by one model. A photo that cannot be read does not fail the others: its `problem`
/// is what POST /identify would have answered. In a form the part `images` is repeated.
#[utoipa::path(
    post, path = "/identify/batch", tag = "recognition", request_body = IdentifyBatchRequest,
    responses((status = 200, description = "The answers, photo by photo", body = BatchAnswer<Identified>)),
)]
pub async fn identify_batch(
    recognition: Recognition,
    Fields(request): Fields<IdentifyBatchRequest>,
) -> Result<Json<BatchAnswer<Identified>>, Problem> {
    Ok(Json(recognition.identify_batch(request).await?.into()))
}

/// Embed the faces of several photos
///
/// As POST /embed for each of up to 64 photos, by one model. A photo that cannot be read, or shows no face, does not fail the others.
/// In a form the part `images` is repeated.
#[utoipa::path(
    post, path = "/embed/batch", tag = "recognition", request_body = EmbedBatchRequest,
    responses((status = 200, description = "The embeddings, photo by photo", body = BatchAnswer<Embedded>)),
)]
pub async fn embed_batch(
    recognition: Recognition,
    Fields(request): Fields<EmbedBatchRequest>,
) -> Result<Json<BatchAnswer<Embedded>>, Problem> {
    Ok(Json(recognition.embed_batch(request).await?.into()))
}
