//! GET /subjects/{subject}/export

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tracing::warn;

use super::extract::Path;
use super::form::Fields;
use super::problem::Problem;
use crate::service::answers::Person;
use crate::service::requests::InGallery;
use crate::service::{Enrolment, ServiceError};

/// Export everything held about a person
///
/// One JSON document: the subject, its faces with chips and embeddings, templates, and whatever names it. It is written while it is
/// read, so a connection that breaks off leaves half of it: then ask again.
#[utoipa::path(
    get, path = "/subjects/{subject}/export", tag = "subjects",
    params(("subject" = String, Path, description = "Its name or id")),
    request_body = InGallery,
    responses((status = 200, description = "All of it", body = Person, headers(
        ("content-disposition" = String, description = "A name for the file: the subject's id"),
        ("cache-control" = String, description = "`no-store`"),
    ))),
    extensions(("x-problems" = json!(["subject_not_found"]))),
)]
pub async fn export_person(
    enrolment: Enrolment,
    Path(subject): Path<String>,
    Fields(InGallery { gallery }): Fields<InGallery>,
) -> Result<Response, Problem> {
    let export = enrolment.export_person(&gallery, &subject).await?;
    let name = HeaderValue::from_str(&format!("attachment; filename=\"{}.json\"", export.subject()));
    let pieces = stream::try_unfold(export, |mut export| async move {
        let piece = export.next().await.inspect_err(|error| warn!(%error, "the export of a person breaks off"))?;
        Ok::<_, ServiceError>(piece.map(|piece| (piece, export)))
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // An id has no character that a header could not hold.
    headers.extend(name.map(|name| (header::CONTENT_DISPOSITION, name)));
    Ok(response)
}
