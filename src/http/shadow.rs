//! /admin/models/{model}/shadow: a candidate that answers out of sight.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{PageQuery, Path};
use super::form::{Fields, Form, FromForm};
use super::jobs::accepted;
use super::problem::Problem;
use super::state::AppState;
use crate::db::PageRequest;
use crate::service::answers::{Disagreement, Job, Page, ShadowReport};
use crate::service::{Models, ShadowRequest};

/// Share of the photos, if the request says none.
const SHARE: f64 = 0.1;

/// How much of the traffic a candidate is to see.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct ShadowForm {
    /// Share of the identified photos, more than 0 to 1. Defaults to 0.1.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    pub share: Option<f64>,
    /// Begins even if faces have no chip, so that the candidate cannot know them. Defaults to false.
    pub force: Option<bool>,
}

pub struct Shadow {
    share: f64,
    force: bool,
}

impl FromForm for Shadow {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["share", "force"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self {
            share: form.value("share", "a number from 0 to 1")?.unwrap_or(SHARE),
            force: form.value("force", "true or false")?.unwrap_or(false),
        })
    }
}

/// Try a model in the shadow
///
/// A job embeds all enrolled faces by the model. From then on it is asked about a share of the photos of POST /identify as
/// well, after the active model has answered: nobody waits for it, nobody gets its answers, and when the server is busy,
/// photos are left out. What it would have answered otherwise is counted and listed. One model at a time; a promotion or a
/// rollback to another model ends it. A promotion of the model itself finds its embeddings done. Submitting it again changes
/// the share.
#[utoipa::path(
    post, path = "/admin/models/{model}/shadow", tag = "admin", request_body = ShadowForm,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
        (status = 404, description = "`model_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`model_in_use`: it is the active model; `faces_without_chips`; `no_model_file`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_field`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn begin_shadow(
    State(state): State<AppState>,
    Path(model): Path<String>,
    Fields(Shadow { share, force }): Fields<Shadow>,
) -> Result<Response, Problem> {
    let request = ShadowRequest { model, share, force };
    let (job, is_new) = state.services.models.submit_shadow(request, state.actor()).await?;
    Ok(accepted(job, is_new))
}

/// Get what a model in the shadow came to
#[utoipa::path(
    get, path = "/admin/models/{model}/shadow", tag = "admin",
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 200, description = "How often it agreed with the active model; also after its end", body = ShadowReport),
        (status = 404, description = "`model_not_found`; `no_shadow`: it never was in the shadow", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_shadow(
    State(models): State<Models>,
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
    responses(
        (status = 204, description = "It has ended"),
        (status = 404, description = "`model_not_found`; `no_shadow`: it is not in the shadow", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn end_shadow(
    State(state): State<AppState>,
    Path(model): Path<String>,
    Fields(()): Fields<()>,
) -> Result<StatusCode, Problem> {
    state.services.models.end_shadow(&model, state.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List disagreements
///
/// The faces about which a model in the shadow and the active one differed, with whom each took them for. The latest 5000 are
/// kept, without the photo; of erased subjects none.
#[utoipa::path(
    get, path = "/admin/models/{model}/disagreements", tag = "admin",
    params(("model" = String, Path, description = "Its id, sha256 or name"), PageQuery),
    responses(
        (status = 200, description = "A page, latest first", body = Page<Disagreement>),
        (status = 404, description = "`model_not_found`; `no_shadow`: it never was in the shadow", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_disagreements(
    State(models): State<Models>,
    Path(model): Path<String>,
    Fields(page): Fields<PageRequest>,
) -> Result<Json<Page<Disagreement>>, Problem> {
    Ok(Json(models.disagreements(&model, page).await?))
}
