//! /admin: what only the admin key opens.

use axum::Json;
use axum::extract::State;

use super::problem::Problem;
use crate::service::Services;
use crate::service::answers::ModelEntry;

/// List the embedders that the database knows
#[utoipa::path(
    get, path = "/admin/models", tag = "admin",
    responses(
        (status = 200, description = "Oldest first", body = Vec<ModelEntry>),
        (status = 403, description = "`forbidden`: the client key does not open /admin", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_models(State(services): State<Services>) -> Result<Json<Vec<ModelEntry>>, Problem> {
    Ok(Json(services.list_models().await?))
}
