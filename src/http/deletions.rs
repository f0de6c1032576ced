//! /delete: many at once. A path of its own, as `/subjects/delete` is somebody who is called so.

use axum::Json;
use axum::http::StatusCode;

use super::form::{FIELDS_LIMIT, Fields, FromForm};
use super::problem::Problem;
use crate::service::Enrolment;
use crate::service::answers::ErasedMany;
use crate::service::requests::{DeleteFaces, DeleteSubjects};

impl FromForm for DeleteSubjects {
    /// A thousand names have their length.
    const LONG_FIELDS: &'static [(&'static str, usize)] = &[("subjects", FIELDS_LIMIT)];
}

/// Delete many subjects
///
/// Erases subjects of a gallery with all their faces, chips and embeddings: those of a list, or all with a prefix of the name, some
/// metadata, or both. When the answer comes, nobody can find any of it. Many faces are erased by jobs. What was not there is no
/// failure.
#[utoipa::path(
    post, path = "/delete/subjects", tag = "subjects", request_body = DeleteSubjects,
    responses(
        (status = 200, description = "What was erased", body = ErasedMany),
        (status = 202, description = "None of it can be found any more; `jobs` do the rest", body = ErasedMany),
    ),
    extensions(("x-problems" = json!(["missing_field"]))),
)]
pub async fn delete_subjects(
    enrolment: Enrolment,
    Fields(request): Fields<DeleteSubjects>,
) -> Result<(StatusCode, Json<ErasedMany>), Problem> {
    let erased = enrolment.delete_subjects(request).await?;
    let status = if erased.jobs.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(erased)))
}

/// Delete many faces
///
/// Erases faces with their chips and embeddings. Their subjects stay, perhaps without a face. What was not there is no failure.
#[utoipa::path(
    post, path = "/delete/faces", tag = "faces", request_body = DeleteFaces,
    responses((status = 200, description = "What was erased", body = ErasedMany)),
)]
pub async fn delete_faces(
    enrolment: Enrolment,
    Fields(request): Fields<DeleteFaces>,
) -> Result<Json<ErasedMany>, Problem> {
    Ok(Json(enrolment.delete_faces(request).await?))
}
