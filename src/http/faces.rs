//! /faces

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::{GalleryQuery, PageInGallery, PageQuery, Path};
use super::form::{Fields, Form, FromForm};
use super::problem::Problem;
use crate::service::Enrolment;
use crate::service::answers::{EnrolledFace, Erased, Page};
use crate::types::{FaceId, Name};

/// List the faces of a gallery
#[utoipa::path(
    get, path = "/faces", tag = "faces", params(GalleryQuery, PageQuery),
    responses(
        (status = 200, description = "A page of faces, oldest first", body = Page<EnrolledFace>),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_faces(
    State(enrolment): State<Enrolment>,
    Fields(PageInGallery { gallery, page }): Fields<PageInGallery>,
) -> Result<Json<Page<EnrolledFace>>, Problem> {
    Ok(Json(enrolment.list_faces(&gallery, page).await?))
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
pub async fn get_face(
    State(enrolment): State<Enrolment>,
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
    responses(
        (status = 200, description = "The chip", body = super::openapi::RawImage, content_type = "image/jpeg"),
        (status = 404, description = "`face_not_found`; `no_chip`: it was imported without", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_chip(
    State(enrolment): State<Enrolment>,
    Path(face): Path<Uuid>,
    Fields(()): Fields<()>,
) -> Result<impl IntoResponse, Problem> {
    let jpeg = enrolment.get_chip(FaceId(face)).await?;
    Ok(([(header::CONTENT_TYPE, "image/jpeg")], jpeg))
}

/// Whom a face belongs to.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct MoveForm {
    /// Name or id of a subject of the same gallery. A new name makes a new subject.
    #[schema(example = "Ada")]
    pub subject: String,
}

pub struct MoveTo(Name);

impl FromForm for MoveTo {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["subject"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self(form.required_name("subject")?))
    }
}

/// Move a face to another subject
///
/// For a photo that was enrolled under the wrong name. The former subject stays, perhaps without a face.
#[utoipa::path(
    post, path = "/faces/{face}/move", tag = "faces", params(("face" = Uuid, Path, description = "Its id")),
    request_body(content((MoveForm = "application/json"), (MoveForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "The face with its new subject", body = EnrolledFace),
        (status = 404, description = "`face_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn move_face(
    State(enrolment): State<Enrolment>,
    Path(face): Path<Uuid>,
    Fields(MoveTo(subject)): Fields<MoveTo>,
) -> Result<Json<EnrolledFace>, Problem> {
    Ok(Json(enrolment.move_face(FaceId(face), &subject).await?))
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
pub async fn delete_face(
    State(enrolment): State<Enrolment>,
    Path(face): Path<Uuid>,
    Fields(()): Fields<()>,
) -> Result<Json<Erased>, Problem> {
    Ok(Json(enrolment.delete_face(FaceId(face)).await?))
}
