//! /subjects

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;

use super::conditions::{IfMatch, IfNoneMatch, tagged};
use super::extract::Path;
use super::form::Fields;
use super::jobs::{accepted, deleted};
use super::problem::Problem;
use super::repeat::{Repeatable, marked};
use crate::gallery::SubjectChange;
use crate::service::answers::{EnrolledFace, Erased, Job, Page, Subject};
use crate::service::requests::{
    ChangeSubject, InGallery, ListInGallery, ListSubjects, MergeRequest, NewExpiry, NewSubject,
};
use crate::service::{Deleted, Enrolment, Once};

/// Create a subject
///
/// A subject without a photo yet. POST /enroll creates subjects too.
#[utoipa::path(
    post, path = "/subjects", tag = "subjects",
    request_body = NewSubject,
    responses((status = 201, description = "Created", body = Subject, headers(("etag" = String, description = "Of the subject as it is now")))),
    extensions(("x-problems" = json!(["duplicate_subject", "subject_quota", "idempotency_key_reused"]))),
)]
pub async fn create_subject(
    enrolment: Enrolment,
    Repeatable { request, key }: Repeatable<NewSubject>,
) -> Result<Response, Problem> {
    let Once { answer, repeated } = enrolment.create_subject(request, key.as_ref()).await?;
    Ok(marked(tagged(StatusCode::CREATED, &answer)?, repeated))
}

/// List the subjects of a gallery
#[utoipa::path(
    get, path = "/subjects", tag = "subjects", request_body = ListSubjects,
    responses((status = 200, description = "A page of subjects, oldest first", body = Page<Subject>)),
)]
pub async fn list_subjects(
    enrolment: Enrolment,
    Fields(list): Fields<ListSubjects>,
) -> Result<Json<Page<Subject>>, Problem> {
    let (gallery, page) = (list.gallery.clone(), list.page()?);
    Ok(Json(enrolment.list_subjects(&gallery, &list.filter(), page).await?))
}

/// Get a subject
#[utoipa::path(
    get, path = "/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id")),
    request_body = InGallery,
    responses(
        (status = 200, description = "The subject", body = Subject, headers(("etag" = String, description = "Of the subject as it is now"))),
        (status = 304, description = "It is as the client knows it"),
    ),
    extensions(("x-problems" = json!(["subject_not_found"]))),
)]
pub async fn get_subject(
    enrolment: Enrolment,
    Path(subject): Path<String>,
    known: IfNoneMatch,
    Fields(InGallery { gallery }): Fields<InGallery>,
) -> Result<Response, Problem> {
    known.answer(&enrolment.get_subject(&gallery, &subject).await?)
}

/// Change a subject
///
/// Renames it, replaces its metadata, says when it expires, or several of these. Its faces stay.
#[utoipa::path(
    patch, path = "/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id")),
    request_body = ChangeSubject,
    responses((status = 200, description = "Changed", body = Subject, headers(("etag" = String, description = "Of the subject as it is now")))),
    extensions(("x-problems" = json!(["duplicate_subject", "precondition_failed"]))),
)]
pub async fn change_subject(
    enrolment: Enrolment,
    Path(subject): Path<String>,
    IfMatch(expected): IfMatch,
    Fields(ChangeSubject { gallery, name, metadata, expires_at }): Fields<ChangeSubject>,
) -> Result<Response, Problem> {
    let change = SubjectChange { name, metadata, expires_at: expires_at.map(NewExpiry::get) };
    tagged(StatusCode::OK, &enrolment.change_subject(&gallery, &subject, &change, &expected).await?)
}

/// Merge another subject into this one
///
/// For a person who was enrolled under two names: all faces of the other become this subject's, and the other is erased. When the
/// answer comes, the other cannot be found any more; a job moves many faces.
#[utoipa::path(
    post, path = "/subjects/{subject}/merge", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id")),
    request_body = MergeRequest,
    responses(
        (status = 200, description = "The subject, with the faces of both", body = Subject, headers(("etag" = String, description = "Of the subject as it is now"))),
        (status = 202, description = "The other cannot be found any more; this job moves its faces", body = Job, headers(("location" = String, description = "Of the job"))),
    ),
    extensions(("x-problems" = json!(["subject_not_found", "same_subject", "precondition_failed"]))),
)]
pub async fn merge_subjects(
    enrolment: Enrolment,
    Path(subject): Path<String>,
    IfMatch(expected): IfMatch,
    Fields(MergeRequest { gallery, subject: other }): Fields<MergeRequest>,
) -> Result<Response, Problem> {
    let both = (subject.as_str(), other.as_str());
    match enrolment.merge_subjects(&gallery, both, &expected).await? {
        Deleted::Done(subject) => tagged(StatusCode::OK, &subject),
        Deleted::Job(job) => Ok(accepted(*job, true)),
    }
}

/// Delete a subject
///
/// Erases the subject with all its faces, chips and embeddings. When the answer comes, nobody can find any of it. Many faces are
/// erased by a job.
#[utoipa::path(
    delete, path = "/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id")),
    request_body = InGallery,
    responses(
        (status = 200, description = "What was erased", body = Erased),
        (status = 202, description = "It cannot be found any more; this job does the rest", body = Job, headers(("location" = String, description = "Of the job"))),
    ),
    extensions(("x-problems" = json!(["subject_not_found", "precondition_failed"]))),
)]
pub async fn delete_subject(
    enrolment: Enrolment,
    Path(subject): Path<String>,
    IfMatch(expected): IfMatch,
    Fields(InGallery { gallery }): Fields<InGallery>,
) -> Result<Response, Problem> {
    Ok(deleted(enrolment.delete_subject(&gallery, &subject, &expected).await?))
}

/// List the faces of a subject
#[utoipa::path(
    get, path = "/subjects/{subject}/faces", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id")), request_body = ListInGallery,
    responses((status = 200, description = "A page of faces, oldest first", body = Page<EnrolledFace>)),
    extensions(("x-problems" = json!(["subject_not_found"]))),
)]
pub async fn list_subject_faces(
    enrolment: Enrolment,
    Path(subject): Path<String>,
    Fields(list): Fields<ListInGallery>,
) -> Result<Json<Page<EnrolledFace>>, Problem> {
    Ok(Json(enrolment.list_faces_of(&list.gallery, &subject, list.page(&format!("faces of {subject}"))?).await?))
}
