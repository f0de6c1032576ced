//! POST /admin/retrain

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::extract::{gallery, protected};
use super::form::{Fields, Form, FromForm};
use super::jobs::accepted;
use super::problem::Problem;
use super::state::AppState;
use crate::service::answers::Job;
use crate::service::{RetrainBase, RetrainRequest};

/// What to train.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct RetrainForm {
    /// The gallery to learn from: name or id. Defaults to `default`.
    #[schema(example = "staff")]
    pub gallery: Option<String>,
    /// `active` (the default) adapts the active model, `scratch` trains a small network from nothing.
    pub base: Option<RetrainBase>,
    /// Galleries that must not suffer: on each of them the candidate may be hardly worse than the active model. Up to half of
    /// the subjects of each who have two photos are shown to the training, to keep the model as it is there; the gate looks
    /// at the others. Defaults to other galleries that have ten subjects with two photos each, 30 at most: the largest, and
    /// some by lot.
    pub protected: Option<Vec<String>>,
    /// Batches to train on.
    #[schema(minimum = 1)]
    pub steps: Option<u64>,
    /// From which all that looks random follows.
    pub seed: Option<u64>,
    /// Share of the subjects that are not trained on but tested with, 0 to 1. Defaults to 0.25.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub test_share: Option<f64>,
    /// Further settings of the training: those of `faceid train --print-recipe`, as JSON.
    #[schema(value_type = Option<Object>, example = json!({"optimiser": {"learning_rate": 0.0003}}))]
    pub recipe: Option<Map<String, Value>>,
    /// The name of the candidate. Defaults to one made of the gallery's and the job's.
    pub name: Option<String>,
    /// Whether to promote the candidate if it passes the gate. Defaults to false.
    pub promote: Option<bool>,
}

pub struct Retrain(RetrainRequest);

impl FromForm for Retrain {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] =
        &["gallery", "base", "protected", "steps", "seed", "test_share", "recipe", "name", "promote"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        const WHOLE: &str = "a number from 0 on";
        Ok(Self(RetrainRequest {
            gallery: gallery(&mut form)?,
            base: form.value("base", "active or scratch")?.unwrap_or_default(),
            protected: protected(&mut form)?,
            steps: form.value("steps", WHOLE)?,
            seed: form.value("seed", WHOLE)?,
            test_share: form.value("test_share", "a number from 0 to 1")?,
            recipe: form.value("recipe", "a JSON object")?,
            name: form.name("name")?,
            promote: form.value("promote", "true or false")?.unwrap_or_default(),
        }))
    }
}

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
    request_body(content((RetrainForm = "application/json"), (RetrainForm = "multipart/form-data"))),
    responses(
        (status = 202, description = "The job, which is queued", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does the same already", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 404, description = "`gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`too_few_subjects`, `invalid_field`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn start_retrain(
    State(state): State<AppState>,
    Fields(Retrain(request)): Fields<Retrain>,
) -> Result<Response, Problem> {
    let (job, is_new) = state.services.models.retrain(request, state.actor().as_str()).await?;
    Ok(accepted(job, is_new))
}
