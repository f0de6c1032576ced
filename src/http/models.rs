//! /admin/models: the embedders of the database and their life, and the record of who changed what.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::body::BodyBudget;
use super::extract::{PageQuery, Path, gallery, protected};
use super::form::{Fields, Form, FromForm};
use super::jobs::accepted;
use super::problem::{self, Problem};
use super::state::AppState;
use crate::db::PageRequest;
use crate::registry::ChannelOrder;
use crate::service::answers::{AuditEntry, Job, ModelDetails, ModelEntry, Page};
use crate::service::{EvaluateRequest, ManifestFields, Models};
use crate::types::Name;

/// List models
#[utoipa::path(
    get, path = "/admin/models", tag = "admin",
    responses(
        (status = 200, description = "Oldest first", body = Vec<ModelEntry>),
        (status = 403, description = "`forbidden`: the client key does not open /admin", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_models(
    State(models): State<Models>,
    Fields(()): Fields<()>,
) -> Result<Json<Vec<ModelEntry>>, Problem> {
    Ok(Json(models.list_models().await?))
}

/// Get a model
#[utoipa::path(
    get, path = "/admin/models/{model}", tag = "admin",
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 200, description = "The model, its calibration and how many faces it has embedded", body = ModelDetails),
        (status = 404, description = "`model_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_model(
    State(models): State<Models>,
    Path(model): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<ModelDetails>, Problem> {
    Ok(Json(models.get_model(&model).await?))
}

/// What POST /admin/models is told beside the file, as form parts or query parameters.
#[derive(Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct ModelFields {
    /// A manifest as `faceid train` and `faceid evaluate --calibration` write it, in TOML. The fields below win over it.
    pub manifest: Option<String>,
    /// What the model is called in answers. Needed without a manifest.
    #[schema(max_length = 255)]
    pub name: Option<String>,
    /// Similarity from which on two faces are one person, -1..1. Needed without a manifest.
    pub threshold: Option<f32>,
    /// The network reads (value - mean) / scale of values 0..255. Default to 127.5.
    pub mean: Option<f32>,
    pub scale: Option<f32>,
    /// `rgb` (the default) or `bgr`.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub channels: Option<ChannelOrder>,
    /// Whether a TorchScript file is welcome, which is a program. Needs a server with keys. Defaults to false.
    pub allow_code: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct ModelForm {
    /// ONNX, or TorchScript with `allow_code`.
    #[schema(value_type = String, format = Binary)]
    pub file: Vec<u8>,
    #[serde(flatten)]
    pub fields: ModelFields,
}

pub struct NewModel {
    content: Bytes,
    fields: ManifestFields,
    allow_code: bool,
}

impl FromForm for NewModel {
    const IMAGES: &'static [&'static str] = &["file"];
    const FIELDS: &'static [&'static str] =
        &["manifest", "name", "threshold", "mean", "scale", "channels", "allow_code"];
    const MAY_TAKE_LONG: bool = true;

    /// A file is as long as many photos, and takes no room from them.
    fn limits(state: &AppState) -> (usize, BodyBudget) {
        (state.max_model_bytes + (1 << 20), state.model_budget.clone())
    }

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        const NUMBER: &str = "a number";
        Ok(Self {
            content: form.image("file")?,
            fields: ManifestFields {
                manifest: form.text("manifest")?,
                name: form.text("name")?,
                threshold: form.similarity("threshold")?,
                mean: form.value("mean", NUMBER)?,
                scale: form.value("scale", NUMBER)?,
                channels: form.value("channels", "rgb or bgr")?,
            },
            allow_code: form.value("allow_code", "true or false")?.unwrap_or(false),
        })
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
    request_body(content(
        (ModelForm = "multipart/form-data"), (crate::http::openapi::RawImage = "application/octet-stream"),
    )),
    responses(
        (status = 201, description = "The model, a candidate now", body = ModelEntry),
        (status = 200, description = "The model, which was known already and is as it was", body = ModelEntry),
        (status = 408, description = "`request_timeout`: nothing came for too long", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`model_exists`: the file is known, and described otherwise; `duplicate_model`: another model has this name; `model_in_use`: it is being retired", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_model`: no usable network, not of this shape, or one that takes too long or too much memory to try out; `code_refused`: TorchScript without `allow_code`, or at a server without keys; `invalid_field`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn import_model(
    State(state): State<AppState>,
    Fields(new): Fields<NewModel>,
) -> Result<(StatusCode, Json<ModelEntry>), Problem> {
    let NewModel { content, fields, allow_code } = new;
    // The time for an answer begins when the file is there.
    let adding = state.services.models.add_model(content, fields, allow_code, state.actor());
    let (model, is_new) = problem::in_time(state.answer_time(), adding).await??;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(model)))
}

/// Where a model is to be better.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct EvaluateForm {
    /// The gallery where it is to be better than the active model: name or id. It should not have been trained on these people.
    /// Defaults to `default`.
    pub gallery: Option<String>,
    /// Galleries where it may be hardly worse, each by itself. Defaults to others that have ten subjects with two photos each, 30
    /// at most: the largest, and some by lot.
    pub protected: Option<Vec<String>>,
}

pub struct Evaluation {
    gallery: Name,
    protected: Option<Vec<Name>>,
}

impl FromForm for Evaluation {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["gallery", "protected"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self { gallery: gallery(&mut form)?, protected: protected(&mut form)? })
    }
}

/// Evaluate a model
///
/// A job compares it with the active model on enrolled faces. The verdict is kept with the model, and a promotion goes by it.
/// Its `outcome` is `passed`, `refused` or `not_enough_evidence`.
#[utoipa::path(
    post, path = "/admin/models/{model}/evaluate", tag = "admin", request_body = EvaluateForm,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
        (status = 404, description = "`model_not_found`, `gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`no_model_file`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`too_few_subjects`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn evaluate_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    Fields(Evaluation { gallery, protected }): Fields<Evaluation>,
) -> Result<Response, Problem> {
    let request = EvaluateRequest { model, gallery, protected };
    let (job, is_new) = state.services.models.submit_evaluation(request, state.actor().as_str()).await?;
    Ok(accepted(job, is_new))
}

/// Whether to do it all the same.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct ForceForm {
    /// Overrules what would otherwise refuse it, which the record notes. Defaults to false.
    pub force: Option<bool>,
}

pub struct Force(bool);

impl FromForm for Force {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["force"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self(form.value("force", "true or false")?.unwrap_or(false)))
    }
}

/// Promote a model
///
/// A job embeds all enrolled faces by it while the active model serves, then makes it the active one on all servers at once.
/// Every answer meanwhile comes from one model, and names it. `force` overrules the gate, and leaves faces behind that have
/// no chip.
#[utoipa::path(
    post, path = "/admin/models/{model}/promote", tag = "admin", request_body = ForceForm,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
        (status = 404, description = "`model_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`gate_refused`; `faces_without_chips`: they could not be found any more; `no_model_file`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn promote_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    Fields(Force(force)): Fields<Force>,
) -> Result<Response, Problem> {
    let (job, is_new) = state.services.models.submit_promotion(&model, force, state.actor()).await?;
    Ok(accepted(job, is_new))
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
        (status = 409, description = "`no_former_model`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn roll_back(State(state): State<AppState>, Fields(()): Fields<()>) -> Result<Response, Problem> {
    let (job, is_new) = state.services.models.submit_rollback(state.actor()).await?;
    Ok(accepted(job, is_new))
}

/// Retire a model
///
/// It is of no use from then on, and a job deletes its embeddings and its file. The active model cannot be retired, nor one that is
/// being promoted; what a rollback would make active only with `force`.
#[utoipa::path(
    post, path = "/admin/models/{model}/retire", tag = "admin", request_body = ForceForm,
    params(("model" = String, Path, description = "Its id, sha256 or name")),
    responses(
        (status = 202, description = "The job", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 200, description = "The job that does so already", body = Job),
        (status = 404, description = "`model_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`model_in_use`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn retire_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    Fields(Force(force)): Fields<Force>,
) -> Result<Response, Problem> {
    let (job, is_new) = state.services.models.retire_model(&model, force, state.actor()).await?;
    Ok(accepted(job, is_new))
}

/// List who changed what
#[utoipa::path(
    get, path = "/admin/audit", tag = "admin", params(PageQuery),
    responses(
        (status = 200, description = "A page of the record, latest first", body = Page<AuditEntry>),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_audit(
    State(models): State<Models>,
    Fields(page): Fields<PageRequest>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    Ok(Json(models.audit(page).await?))
}
