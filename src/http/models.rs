//! /admin/models: the embedders of the database and their life.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::body::BodyBudget;
use super::extract::Path;
use super::form::{Fields, FromForm};
use super::problem::{self, Problem};
use super::repeat::{Repeatable, submitted};
use super::state::AppState;
use crate::service::Models;
use crate::service::answers::{Job, ModelDetails, ModelEntry};
use crate::service::requests::{EvaluateRequest, FileBytes, ForceRequest, ModelUpload};

/// List models
#[utoipa::path(
    get, path = "/admin/models", tag = "admin",
    responses((status = 200, description = "Oldest first", body = Vec<ModelEntry>)),
)]
pub async fn list_models(models: Models, Fields(()): Fields<()>) -> Result<Json<Vec<ModelEntry>>, Problem> {
    Ok(Json(models.list_models().await?))
}

/// Get a model
#[utoipa::path(
    get, path = "/admin/models/{model}", tag = "admin",
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses((status = 200, description = "The model, its calibration and how many faces it has embedded", body = ModelDetails)),
    extensions(("x-problems" = json!(["model_not_found"]))),
)]
pub async fn get_model(
    models: Models,
    Path(model): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<ModelDetails>, Problem> {
    Ok(Json(models.get_model(&model).await?))
}

impl FromForm for ModelUpload {
    const FILES: &'static [&'static str] = &["file"];
    const MAY_TAKE_LONG: bool = true;

    /// A file is as long as many photos, and takes no room from them.
    fn limits(state: &AppState) -> (usize, BodyBudget) {
        (state.max_model_bytes + (1 << 20), state.model_budget.clone())
    }

    fn files(&mut self) -> Vec<&mut FileBytes> {
        vec![&mut self.file]
    }
}

/// Import a model
///
/// The network must take `N x 3 x 112 x 112` and give a vector of up to 4000 numbers for each chip: it is tried out on made
/// chips, in a process of its own that may take a limited time and memory. It becomes a candidate; nothing is embedded by it
/// before it is promoted. A file that is known already changes nothing: what is not said is as it is known, and what is said
/// otherwise is refused. The body may take as long as it keeps coming.
#[utoipa::path(
    post, path = "/admin/models", tag = "admin",
    request_body = ModelUpload,
    responses(
        (status = 201, description = "The model, a candidate now", body = ModelEntry),
        (status = 200, description = "The model, which was known already and is as it was", body = ModelEntry),
    ),
    extensions(("x-problems" = json!(["model_exists", "duplicate_model", "model_in_use", "invalid_model", "code_refused"]))),
)]
pub async fn import_model(
    State(state): State<AppState>,
    models: Models,
    Fields(upload): Fields<ModelUpload>,
) -> Result<(StatusCode, Json<ModelEntry>), Problem> {
    // The time for an answer begins when the file is there.
    let adding = models.add_model(upload);
    let (model, is_new) = problem::in_time(state.answer_time(), adding).await??;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(model)))
}

/// Evaluate a model
///
/// A job compares it with the active model on enrolled faces. The verdict is kept with the model, and a promotion goes by it.
/// Its `outcome` is `passed`, `refused` or `not_enough_evidence`.
#[utoipa::path(
    post, path = "/admin/models/{model}/evaluate", tag = "admin", request_body = EvaluateRequest,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
    ),
    extensions(("x-problems" = json!(["model_not_found", "no_model_file", "too_few_subjects", "idempotency_key_reused"]))),
)]
pub async fn evaluate_model(
    models: Models,
    Path(model): Path<String>,
    Repeatable { request, key }: Repeatable<EvaluateRequest>,
) -> Result<Response, Problem> {
    Ok(submitted(models.submit_evaluation(&model, &request, key.as_ref()).await?))
}

/// Promote a model
///
/// A job embeds all enrolled faces by it while the active model serves, then makes it the active one on all servers at once.
/// Every answer meanwhile comes from one model, and names it. `force` overrules the gate, and leaves faces behind that have
/// no chip.
#[utoipa::path(
    post, path = "/admin/models/{model}/promote", tag = "admin", request_body = ForceRequest,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
    ),
    extensions(("x-problems" = json!(["model_not_found", "gate_refused", "faces_without_chips", "no_model_file", "idempotency_key_reused"]))),
)]
pub async fn promote_model(
    models: Models,
    Path(model): Path<String>,
    Repeatable { request, key }: Repeatable<ForceRequest>,
) -> Result<Response, Problem> {
    Ok(submitted(models.submit_promotion(&model, request.force, key.as_ref()).await?))
}

/// Roll back
///
/// A job makes the model active again that was before the present one. Its embeddings were kept, so only faces that were
/// enrolled since are embedded. Doing so twice ends where it began.
#[utoipa::path(
    post, path = "/admin/rollback", tag = "admin",
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
    ),
    extensions(("x-problems" = json!(["no_former_model", "idempotency_key_reused"]))),
)]
pub async fn roll_back(models: Models, Repeatable { request: (), key }: Repeatable<()>) -> Result<Response, Problem> {
    Ok(submitted(models.submit_rollback(key.as_ref()).await?))
}

/// Retire a model
///
/// It is of no use from then on, and a job deletes its embeddings and its file. The active model cannot be retired, nor one that is
/// being promoted; what a rollback would make active only with `force`.
#[utoipa::path(
    post, path = "/admin/models/{model}/retire", tag = "admin", request_body = ForceRequest,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
    ),
    extensions(("x-problems" = json!(["model_not_found", "model_in_use", "idempotency_key_reused"]))),
)]
pub async fn retire_model(
    models: Models,
    Path(model): Path<String>,
    Repeatable { request, key }: Repeatable<ForceRequest>,
) -> Result<Response, Problem> {
    Ok(submitted(models.retire_model(&model, request.force, key.as_ref()).await?))
}
