//! /galleries

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::extract::Path;
use super::form::Fields;
use super::jobs::deleted;
use super::problem::Problem;
use super::state::AppState;
use crate::service::Enrolment;
use crate::service::answers::{Erased, Gallery, GalleryEntry, Job, Page};
use crate::service::requests::{ChangeGallery, ListRequest, NewGallery};

/// Create a gallery
#[utoipa::path(
    post, path = "/galleries", tag = "galleries",
    request_body = NewGallery,
    responses((status = 201, description = "Created", body = GalleryEntry)),
    extensions(("x-problems" = json!(["duplicate_gallery"]))),
)]
pub async fn create_gallery(
    State(enrolment): State<Enrolment>,
    Fields(new): Fields<NewGallery>,
) -> Result<(StatusCode, Json<GalleryEntry>), Problem> {
    Ok((StatusCode::CREATED, Json(enrolment.create_gallery(&new.name).await?)))
}

/// List galleries
#[utoipa::path(
    get, path = "/galleries", tag = "galleries", request_body = ListRequest,
    responses((status = 200, description = "A page of galleries, oldest first", body = Page<GalleryEntry>)),
)]
pub async fn list_galleries(
    State(enrolment): State<Enrolment>,
    Fields(list): Fields<ListRequest>,
) -> Result<Json<Page<GalleryEntry>>, Problem> {
    Ok(Json(enrolment.list_galleries(list.page("galleries")?).await?))
}

/// Get a gallery
#[utoipa::path(
    get, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    responses((status = 200, description = "The gallery, its size, how it is searched, and how far its review is", body = Gallery)),
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
    request_body = ChangeGallery,
    responses((status = 200, description = "Changed", body = GalleryEntry)),
    extensions(("x-problems" = json!(["duplicate_gallery", "default_gallery"]))),
)]
pub async fn change_gallery(
    State(enrolment): State<Enrolment>,
    Path(gallery): Path<String>,
    Fields(change): Fields<ChangeGallery>,
) -> Result<Json<GalleryEntry>, Problem> {
    Ok(Json(enrolment.change_gallery(&gallery, &change.into()).await?))
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
    ),
    extensions(("x-problems" = json!(["default_gallery"]))),
)]
pub async fn delete_gallery(
    State(state): State<AppState>,
    Path(gallery): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Response, Problem> {
    Ok(deleted(state.services.enrolment.delete_gallery(&gallery, state.client()).await?))
}
