//! /faces

use axum::Json;
use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::Path;
use super::form::Fields;
use super::problem::Problem;
use crate::service::Enrolment;
use crate::service::answers::{EnrolledFace, Erased, Page};
use crate::service::requests::{ListInGallery, MoveRequest};
use crate::types::FaceId;

/// The bytes of an image.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Jpeg(Bytes);

impl IntoResponse for Jpeg {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "image/jpeg")], self.0).into_response()
    }
}

/// List the faces of a gallery
#[utoipa::path(
    get, path = "/faces", tag = "faces", request_body = ListInGallery,
    responses((status = 200, description = "A page of faces, oldest first", body = Page<EnrolledFace>)),
)]
pub async fn list_faces(
    enrolment: Enrolment,
    Fields(list): Fields<ListInGallery>,
) -> Result<Json<Page<EnrolledFace>>, Problem> {
    Ok(Json(enrolment.list_faces(&list.gallery, list.page("faces")?).await?))
}

/// Get a face
#[utoipa::path(
    get, path = "/faces/{face}", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    responses((status = 200, description = "The face", body = EnrolledFace)),
    extensions(("x-problems" = json!(["face_not_found"]))),
)]
pub async fn get_face(
    enrolment: Enrolment,
    Path(face): Path<Uuid>,
    Fields(()): Fields<()>,
) -> Result<Json<EnrolledFace>, Problem> {
    Ok(Json(enrolment.get_face(FaceId(face)).await?))
}

/// Get the chip of a face
///
/// The aligned 112x112 crop that the embedder saw, as a JPEG.
#[utoipa::path(
    get, path = "/faces/{face}/chip", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    responses((status = 200, description = "The chip", body = Jpeg, content_type = "image/jpeg")),
    extensions(("x-problems" = json!(["face_not_found", "no_chip", "chip_unreadable"]))),
)]
pub async fn get_chip(enrolment: Enrolment, Path(face): Path<Uuid>, Fields(()): Fields<()>) -> Result<Jpeg, Problem> {
    Ok(Jpeg(enrolment.get_chip(FaceId(face)).await?.into()))
}

/// Move a face to another subject
///
/// For a photo that was enrolled under the wrong name. The former subject stays, perhaps without a face.
#[utoipa::path(
    post, path = "/faces/{face}/move", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    request_body = MoveRequest,
    responses((status = 200, description = "The face with its new subject", body = EnrolledFace)),
    extensions(("x-problems" = json!(["face_not_found", "subject_quota"]))),
)]
pub async fn move_face(
    enrolment: Enrolment,
    Path(face): Path<Uuid>,
    Fields(MoveRequest { subject }): Fields<MoveRequest>,
) -> Result<Json<EnrolledFace>, Problem> {
    Ok(Json(enrolment.move_face(FaceId(face), &subject).await?))
}

/// Delete a face
///
/// Erases the face with its chip and embeddings. Its subject stays, perhaps without a face.
#[utoipa::path(
    delete, path = "/faces/{face}", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    responses((status = 200, description = "What was erased", body = Erased)),
    extensions(("x-problems" = json!(["face_not_found"]))),
)]
pub async fn delete_face(
    enrolment: Enrolment,
    Path(face): Path<Uuid>,
    Fields(()): Fields<()>,
) -> Result<Json<Erased>, Problem> {
    Ok(Json(enrolment.delete_face(FaceId(face)).await?))
}
