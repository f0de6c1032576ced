//! /faces

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use uuid::Uuid;

use super::extract::{GalleryQuery, PageInGallery, PageQuery, Path};
use super::form::Fields;
use super::problem::Problem;
use crate::service::Services;
use crate::service::answers::{EnrolledFace, Erased, Page};
use crate::types::FaceId;

/// List the faces of a gallery
#[utoipa::path(
    get, path = "/faces", tag = "faces", params(GalleryQuery, PageQuery),
    responses(
        (status = 200, description = "A page of faces, oldest first", body = Page<EnrolledFace>),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_faces(
    State(services): State<Services>,
    Fields(PageInGallery { gallery, page }): Fields<PageInGallery>,
) -> Result<Json<Page<EnrolledFace>>, Problem> {
    Ok(Json(services.list_faces(&gallery, page).await?))
}

/// Get a face
#[utoipa::path(
    get, path = "/faces/{face}", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    responses(
        (status = 200, description = "The face", body = EnrolledFace),
        (status = 404, description = "`face_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_face(State(services): State<Services>, Path(face): Path<Uuid>) -> Result<Json<EnrolledFace>, Problem> {
    Ok(Json(services.get_face(FaceId(face)).await?))
}

/// Get the chip of a face
///
/// The aligned 112x112 crop that the embedder saw, as a JPEG.
#[utoipa::path(
    get, path = "/faces/{face}/chip", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    responses(
        (status = 200, description = "The chip", body = super::openapi::RawImage, content_type = "image/jpeg"),
        (status = 404, description = "`face_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_chip(State(services): State<Services>, Path(face): Path<Uuid>) -> Result<impl IntoResponse, Problem> {
    let jpeg = services.get_chip(FaceId(face)).await?;
    Ok(([(header::CONTENT_TYPE, "image/jpeg")], jpeg))
}

/// Delete a face
///
/// Erases the face with its chip and embeddings. Its subject stays, perhaps without a face.
#[utoipa::path(
    delete, path = "/faces/{face}", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    responses(
        (status = 200, description = "What was erased", body = Erased),
        (status = 404, description = "`face_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete_face(State(services): State<Services>, Path(face): Path<Uuid>) -> Result<Json<Erased>, Problem> {
    Ok(Json(services.delete_face(FaceId(face)).await?))
}
