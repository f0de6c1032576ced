//! /galleries

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{PageQuery, Path};
use super::form::{Fields, Form, FromForm};
use super::jobs::deleted;
use super::problem::Problem;
use super::state::AppState;
use crate::db::PageRequest;
use crate::gallery::{GalleryChange, Policy};
use crate::service::Enrolment;
use crate::service::answers::{Erased, Gallery, GalleryEntry, Job, Page};
use crate::types::Name;

/// A new gallery.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct GalleryForm {
    /// 1 to 255 characters, unique.
    #[schema(example = "staff")]
    pub name: String,
}

pub struct GalleryName(Name);

impl FromForm for GalleryName {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["name"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self(form.required_name("name")?))
    }
}

/// What to change of a gallery.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct GalleryChangeForm {
    /// The new name.
    pub name: Option<String>,
    /// By what a face is called known: `{"fpir": 0.003}`, `{"fmr": 0.0001}`, `{"threshold": 0.4}`, or `"default"` for what
    /// the server says.
    #[schema(example = json!({"fpir": 0.003}))]
    pub policy: Option<PolicyChoice>,
}

/// A policy of a gallery's own, or none.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PolicyChoice {
    Own(Policy),
    Server(ServerPolicy),
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerPolicy {
    Default,
}

pub struct ChangeOfGallery(GalleryChange);

impl FromForm for ChangeOfGallery {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["name", "policy"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        const EXPECTED: &str = "an object with one of threshold, fmr, fpir, or \"default\",";
        let policy: Option<PolicyChoice> = form.value("policy", EXPECTED)?;
        let policy = policy.map(|choice| match choice {
            PolicyChoice::Own(policy) => Some(policy),
            PolicyChoice::Server(ServerPolicy::Default) => None,
        });
        Ok(Self(GalleryChange { name: form.name("name")?, policy }))
    }
}

/// Create a gallery
#[utoipa::path(
    post, path = "/galleries", tag = "galleries",
    request_body(content((GalleryForm = "application/json"), (GalleryForm = "multipart/form-data"))),
    responses(
        (status = 201, description = "Created", body = GalleryEntry),
        (status = 409, description = "`duplicate_gallery`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create_gallery(
    State(enrolment): State<Enrolment>,
    Fields(GalleryName(name)): Fields<GalleryName>,
) -> Result<(StatusCode, Json<GalleryEntry>), Problem> {
    Ok((StatusCode::CREATED, Json(enrolment.create_gallery(&name).await?)))
}

/// List galleries
#[utoipa::path(
    get, path = "/galleries", tag = "galleries", params(PageQuery),
    responses(
        (status = 200, description = "A page of galleries, oldest first", body = Page<GalleryEntry>),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_galleries(
    State(enrolment): State<Enrolment>,
    Fields(page): Fields<PageRequest>,
) -> Result<Json<Page<GalleryEntry>>, Problem> {
    Ok(Json(enrolment.list_galleries(page).await?))
}

/// Get a gallery
#[utoipa::path(
    get, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "The gallery, its size, how it is searched, and how far its review is", body = Gallery),
        (status = 404, description = "`gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_gallery(
    State(enrolment): State<Enrolment>,
    Path(gallery): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<Gallery>, Problem> {
    Ok(Json(enrolment.get_gallery(&gallery).await?))
}

/// Change a gallery
///
/// Renames it and/or says by what a face is called known in it. The gallery `default` keeps its name.
#[utoipa::path(
    patch, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    request_body(content((GalleryChangeForm = "application/json"), (GalleryChangeForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "Changed", body = GalleryEntry),
        (status = 409, description = "`duplicate_gallery`, `default_gallery`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn change_gallery(
    State(enrolment): State<Enrolment>,
    Path(gallery): Path<String>,
    Fields(ChangeOfGallery(change)): Fields<ChangeOfGallery>,
) -> Result<Json<GalleryEntry>, Problem> {
    Ok(Json(enrolment.change_gallery(&gallery, &change).await?))
}

/// Delete a gallery
///
/// Erases the gallery with all its subjects, faces, chips and embeddings. When the answer comes, nobody can find any of it, and
/// its name is free. A large gallery is erased by a job.
#[utoipa::path(
    delete, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "What was erased", body = Erased),
        (status = 202, description = "It cannot be found any more; this job does the rest", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 409, description = "`default_gallery`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete_gallery(
    State(state): State<AppState>,
    Path(gallery): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Response, Problem> {
    Ok(deleted(state.services.enrolment.delete_gallery(&gallery, state.client()).await?))
}
