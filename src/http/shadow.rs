//! /admin/models/{model}/shadow: a candidate that answers out of sight.

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;

use super::extract::Path;
use super::form::Fields;
use super::problem::Problem;
use super::repeat::{Repeatable, submitted};
use crate::service::Models;
use crate::service::answers::{Disagreement, Job, Page, ShadowReport};
use crate::service::requests::{ListRequest, ShadowRequest};

/// Try a model in the shadow
///
/// A job embeds all enrolled faces by the model. From then on it is asked about a share of the photos of POST /identify as
/// well, after the active model has answered: nobody waits for it, nobody gets its answers, and when the server is busy,
/// photos are left out. What it would have answered otherwise is counted and listed. One model at a time; a promotion or a
/// rollback to another model ends it. A promotion of the model itself finds its embeddings done. Submitting it again changes
/// the share.
#[utoipa::path(
    post, path = "/admin/models/{model}/shadow", tag = "admin", request_body = ShadowRequest,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
    ),
    extensions(("x-problems" = json!(["model_not_found", "model_in_use", "faces_without_chips", "no_model_file", "idempotency_key_reused"]))),
)]
pub async fn begin_shadow(
    models: Models,
    Path(model): Path<String>,
    Repeatable { request, key }: Repeatable<ShadowRequest>,
) -> Result<Response, Problem> {
    Ok(submitted(models.submit_shadow(&model, request, key.as_ref()).await?))
}

/// Get what a model in the shadow came to
#[utoipa::path(
    get, path = "/admin/models/{model}/shadow", tag = "admin",
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses((status = 200, description = "How often it agreed with the active model; also after its end", body = ShadowReport)),
    extensions(("x-problems" = json!(["model_not_found", "no_shadow"]))),
)]
pub async fn get_shadow(
    models: Models,
    Path(model): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<ShadowReport>, Problem> {
    Ok(Json(models.shadow_report(&model).await?))
}

/// End the shadow of a model
///
/// What came of it can still be read, and its embeddings are kept until it is retired.
#[utoipa::path(
    delete, path = "/admin/models/{model}/shadow", tag = "admin",
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses((status = 204, description = "It has ended")),
    extensions(("x-problems" = json!(["model_not_found", "no_shadow"]))),
)]
pub async fn end_shadow(
    models: Models,
    Path(model): Path<String>,
    Fields(()): Fields<()>,
) -> Result<StatusCode, Problem> {
    models.end_shadow(&model).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List disagreements
///
/// The faces about which a model in the shadow and the active one differed, with whom each took them for. The latest 5000 are
/// kept, without the photo; of erased subjects none.
#[utoipa::path(
    get, path = "/admin/models/{model}/disagreements", tag = "admin",
    params(("model" = String, Path, description = "Its id, sha256 or name")), request_body = ListRequest,
    responses((status = 200, description = "A page, latest first", body = Page<Disagreement>)),
    extensions(("x-problems" = json!(["model_not_found", "no_shadow"]))),
)]
pub async fn list_disagreements(
    models: Models,
    Path(model): Path<String>,
    Fields(list): Fields<ListRequest>,
) -> Result<Json<Page<Disagreement>>, Problem> {
    Ok(Json(models.disagreements(&model, list.page(&format!("disagreements of {model}"))?).await?))
}
