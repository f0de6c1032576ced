//! POST /admin/retrain

use axum::response::Response;

use super::problem::Problem;
use super::repeat::{Repeatable, submitted};
use crate::service::Models;
use crate::service::answers::Job;
use crate::service::requests::RetrainRequest;

/// Retrain on the faces of a gallery
///
/// The faces of a gallery are learned from, which came by POST /enroll or as a data set by POST /admin/datasets.
///
/// Submits a job that trains an embedder in a process of its own, with low priority: a part of the subjects is held out, the
/// others are learned from. The result is registered as a candidate, and a gate decides whether it is better than the active
/// model: on the subjects that were held out, without being worse on the protected galleries. Follow it at
/// GET /admin/jobs/{job}/events. Trainings run one after the other, and the same one is not queued twice.
#[utoipa::path(
    post, path = "/admin/retrain", tag = "admin",
    request_body = RetrainRequest,
    responses(
        (status = 202, description = "The job, which is queued", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does the same already", body = Job, headers(("location" = String, description = "Of the job"))),
    ),
    extensions(("x-problems" = json!(["too_few_subjects", "idempotency_key_reused"]))),
)]
pub async fn start_retrain(
    models: Models,
    Repeatable { request, key }: Repeatable<RetrainRequest>,
) -> Result<Response, Problem> {
    Ok(submitted(models.retrain(request, key.as_ref()).await?))
}
