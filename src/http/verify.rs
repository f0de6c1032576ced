//! POST /verify

use axum::Json;

use super::form::{Fields, FromForm};
use super::problem::Problem;
use crate::service::Recognition;
use crate::service::answers::Verified;
use crate::service::requests::{FileBytes, VerifyRequest};

impl FromForm for VerifyRequest {
    const FILES: &'static [&'static str] = &["image_a", "image_b"];

    fn files(&mut self) -> Vec<&mut FileBytes> {
        vec![&mut self.image_a, &mut self.image_b]
    }
}

/// Verify a pair
///
/// Compares the largest face of each photo, and says which they were.
#[utoipa::path(
    post, path = "/verify", tag = "recognition", request_body = VerifyRequest,
    responses((status = 200, description = "How similar they are", body = Verified)),
    extensions(("x-problems" = json!(["no_face"]))),
)]
pub async fn verify_pair(
    recognition: Recognition,
    Fields(request): Fields<VerifyRequest>,
) -> Result<Json<Verified>, Problem> {
    Ok(Json(recognition.verify(request).await?))
}
