//! /subjects

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::extract::{GalleryQuery, InGallery, PageInGallery, PageQuery, Path, gallery};
use super::form::{Fields, Form, FromForm};
use super::jobs::deleted;
use super::problem::Problem;
use super::state::AppState;
use crate::gallery::SubjectChange;
use crate::service::answers::{EnrolledFace, Erased, Job, Page, Subject};
use crate::service::{Enrolment, NewSubject};
use crate::types::Name;

/// A new subject.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct SubjectForm {
    /// 1 to 255 characters, unique in its gallery.
    #[schema(example = "Ada")]
    pub name: String,
    /// Its name or id. Defaults to `default`.
    #[schema(default = "default")]
    pub gallery: Option<String>,
    /// A JSON object that is kept with the subject.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// What to change of a subject.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct SubjectChangeForm {
    /// The new name.
    pub name: Option<String>,
    /// The gallery that the subject is in; rather say it in the query. Defaults to `default`.
    pub gallery: Option<String>,
    /// The new metadata; it replaces the old.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

impl FromForm for NewSubject {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["name", "gallery", "metadata"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self {
            name: form.required_name("name")?,
            gallery: gallery(&mut form)?,
            metadata: form.metadata()?.unwrap_or_default(),
        })
    }
}

/// A change, and the gallery that it is meant for.
pub struct ChangeInGallery {
    gallery: Name,
    change: SubjectChange,
}

impl FromForm for ChangeInGallery {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["name", "gallery", "metadata"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self {
            gallery: gallery(&mut form)?,
            change: SubjectChange { name: form.name("name")?, metadata: form.metadata()? },
        })
    }
}

/// Create a subject
///
/// A subject without a photo yet. POST /enroll creates subjects too.
#[utoipa::path(
    post, path = "/subjects", tag = "subjects",
    request_body(content((SubjectForm = "application/json"), (SubjectForm = "multipart/form-data"))),
    responses(
        (status = 201, description = "Created", body = Subject),
        (status = 409, description = "`duplicate_subject`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create_subject(
    State(enrolment): State<Enrolment>,
    Fields(subject): Fields<NewSubject>,
) -> Result<(StatusCode, Json<Subject>), Problem> {
    Ok((StatusCode::CREATED, Json(enrolment.create_subject(subject).await?)))
}

/// List the subjects of a gallery
#[utoipa::path(
    get, path = "/subjects", tag = "subjects", params(GalleryQuery, PageQuery),
    responses(
        (status = 200, description = "A page of subjects, oldest first", body = Page<Subject>),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_subjects(
    State(enrolment): State<Enrolment>,
    Fields(PageInGallery { gallery, page }): Fields<PageInGallery>,
) -> Result<Json<Page<Subject>>, Problem> {
    Ok(Json(enrolment.list_subjects(&gallery, page).await?))
}

/// Get a subject
#[utoipa::path(
    get, path = "/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id"), GalleryQuery),
    responses(
        (status = 200, description = "The subject", body = Subject),
        (status = 404, description = "`subject_not_found`, `gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_subject(
    State(enrolment): State<Enrolment>,
    Path(subject): Path<String>,
    Fields(InGallery(gallery)): Fields<InGallery>,
) -> Result<Json<Subject>, Problem> {
    Ok(Json(enrolment.get_subject(&gallery, &subject).await?))
}

/// Change a subject
///
/// Renames it, replaces its metadata, or both. Its faces stay.
#[utoipa::path(
    patch, path = "/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id"), GalleryQuery),
    request_body(content((SubjectChangeForm = "application/json"), (SubjectChangeForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "Changed", body = Subject),
        (status = 409, description = "`duplicate_subject`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn change_subject(
    State(enrolment): State<Enrolment>,
    Path(subject): Path<String>,
    Fields(ChangeInGallery { gallery, change }): Fields<ChangeInGallery>,
) -> Result<Json<Subject>, Problem> {
    Ok(Json(enrolment.change_subject(&gallery, &subject, &change).await?))
}

/// Who is merged into a subject.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct MergeForm {
    /// Name or id of the subject that gives its faces and is erased.
    #[schema(example = "Ada L.")]
    pub subject: String,
    /// The gallery that both are in; rather say it in the query. Defaults to `default`.
    pub gallery: Option<String>,
}

pub struct MergeInGallery {
    gallery: Name,
    subject: Name,
}

impl FromForm for MergeInGallery {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["subject", "gallery"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self { gallery: gallery(&mut form)?, subject: form.required_name("subject")? })
    }
}

/// Merge another subject into this one
///
/// For a person who was enrolled under two names: all faces of the other become this subject's, and the other is erased. When the
/// answer comes, the other cannot be found any more; a job moves many faces.
#[utoipa::path(
    post, path = "/subjects/{subject}/merge", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id"), GalleryQuery),
    request_body(content((MergeForm = "application/json"), (MergeForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "The subject, with the faces of both", body = Subject),
        (status = 202, description = "The other cannot be found any more; this job moves its faces", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 404, description = "`subject_not_found`, `gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`same_subject`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn merge_subjects(
    State(state): State<AppState>,
    Path(subject): Path<String>,
    Fields(MergeInGallery { gallery, subject: other }): Fields<MergeInGallery>,
) -> Result<Response, Problem> {
    Ok(deleted(state.services.enrolment.merge_subjects(&gallery, &subject, other.as_str(), state.client()).await?))
}

/// Delete a subject
///
/// Erases the subject with all its faces, chips and embeddings. When the answer comes, nobody can find any of it. Many faces are
/// erased by a job.
#[utoipa::path(
    delete, path = "/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id"), GalleryQuery),
    responses(
        (status = 200, description = "What was erased", body = Erased),
        (status = 202, description = "It cannot be found any more; this job does the rest", body = Job, headers(("location" = String, description = "Of the job"))),
        (status = 404, description = "`subject_not_found`, `gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete_subject(
    State(state): State<AppState>,
    Path(subject): Path<String>,
    Fields(InGallery(gallery)): Fields<InGallery>,
) -> Result<Response, Problem> {
    Ok(deleted(state.services.enrolment.delete_subject(&gallery, &subject, state.client()).await?))
}

/// List the faces of a subject
#[utoipa::path(
    get, path = "/subjects/{subject}/faces", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id"), GalleryQuery, PageQuery),
    responses(
        (status = 200, description = "A page of faces, oldest first", body = Page<EnrolledFace>),
        (status = 404, description = "`subject_not_found`, `gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_subject_faces(
    State(enrolment): State<Enrolment>,
    Path(subject): Path<String>,
    Fields(PageInGallery { gallery, page }): Fields<PageInGallery>,
) -> Result<Json<Page<EnrolledFace>>, Problem> {
    Ok(Json(enrolment.list_faces_of(&gallery, &subject, page).await?))
}
