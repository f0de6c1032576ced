//! /galleries

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;

use super::conditions::{IfMatch, IfNoneMatch, tagged};
use super::extract::Path;
use super::form::Fields;
use super::jobs::deleted;
use super::problem::Problem;
use crate::service::Enrolment;
use crate::service::answers::{ChangedGallery, Erased, Gallery, GalleryEntry, Job, Page};
use crate::service::requests::{ChangeGallery, ListRequest, NewGallery};

/// Create a gallery
#[utoipa::path(
    post, path = "/galleries", tag = "galleries",
    request_body = NewGallery,
    responses((status = 201, description = "Created", body = GalleryEntry, headers(("etag" = String, description = "Of the gallery as it is now")))),
    extensions(("x-problems" = json!(["duplicate_gallery"]))),
)]
pub async fn create_gallery(enrolment: Enrolment, Fields(new): Fields<NewGallery>) -> Result<Response, Problem> {
    tagged(StatusCode::CREATED, &enrolment.create_gallery(&new.name).await?)
}

/// List galleries
#[utoipa::path(
    get, path = "/galleries", tag = "galleries", request_body = ListRequest,
    responses((status = 200, description = "A page of galleries, oldest first", body = Page<GalleryEntry>)),
)]
pub async fn list_galleries(
    enrolment: Enrolment,
    Fields(list): Fields<ListRequest>,
) -> Result<Json<Page<GalleryEntry>>, Problem> {
    Ok(Json(enrolment.list_galleries(list.page("galleries")?).await?))
}

/// Get a gallery
#[utoipa::path(
    get, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "The gallery, its size, how it is searched, and how far its review is", body = Gallery, headers(("etag" = String, description = "Of the gallery as it is now"))),
        (status = 304, description = "It is as the client knows it"),
    ),
    extensions(("x-problems" = json!(["malformed_precondition"]))),
)]
pub async fn get_gallery(
    enrolment: Enrolment,
    Path(gallery): Path<String>,
    known: IfNoneMatch,
    Fields(()): Fields<()>,
) -> Result<Response, Problem> {
    known.answer(&enrolment.get_gallery(&gallery).await?)
}

/// Change a gallery
///
/// Renames it, says by what a face is called known in it, how many subjects it may have, or how long what is in it is kept. The gallery
/// `default` keeps its name. Another retention holds an hour later; the answer says what it would erase now.
#[utoipa::path(
    patch, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    request_body = ChangeGallery,
    responses((status = 200, description = "Changed", body = ChangedGallery, headers(("etag" = String, description = "Of the gallery as it is now")))),
    extensions(("x-problems" = json!(["duplicate_gallery", "default_gallery", "precondition_failed"]))),
)]
pub async fn change_gallery(
    enrolment: Enrolment,
    Path(gallery): Path<String>,
    IfMatch(expected): IfMatch,
    Fields(change): Fields<ChangeGallery>,
) -> Result<Response, Problem> {
    tagged(StatusCode::OK, &enrolment.change_gallery(&gallery, &change.into(), &expected).await?)
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
    extensions(("x-problems" = json!(["default_gallery", "precondition_failed"]))),
)]
pub async fn delete_gallery(
    enrolment: Enrolment,
    Path(gallery): Path<String>,
    IfMatch(expected): IfMatch,
    Fields(()): Fields<()>,
) -> Result<Response, Problem> {
    Ok(deleted(enrolment.delete_gallery(&gallery, &expected).await?))
}
