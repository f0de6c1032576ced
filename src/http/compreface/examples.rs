//! The examples of a collection: enrolled faces. Of an example's photo the chip is kept, so that is what a download gives.

use axum::Json;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use super::answers::Example;
use super::collection::Collection;
use super::failure::Failure;
use super::options::{Options, Parameters};
use super::subjects::{Count, JsonBody, name_of};
use super::upload::Images;
use crate::gallery::{Expected, GalleryError, NumberedPage, OnDoubt};
use crate::http::extract::Path;
use crate::http::state::AppState;
use crate::service::requests::{DeleteFaces, EnrollRequest, Listed, QualityDemand};
use crate::service::{Enrolment, ServiceError};
use crate::types::{FaceId, Name};

/// Examples of a page, where a request does not say, and at most.
const PAGE: u32 = 20;
const LARGEST_PAGE: u32 = 2000;

/// Faces that are erased at once.
const AT_ONCE: usize = Listed::<FaceId>::MOST;

/// A page of examples.
#[derive(Serialize)]
pub struct Page {
    faces: Vec<Example>,
    page_number: u32,
    page_size: u32,
    total_pages: u64,
    total_elements: u64,
}

/// Extracts the query string.
pub struct Query(Parameters);

impl FromRequestParts<AppState> for Query {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Failure> {
        Parameters::of_query(parts).await.map(Self)
    }
}

impl From<(FaceId, String)> for Example {
    fn from((face, subject): (FaceId, String)) -> Self {
        Self { image_id: face.to_string(), subject }
    }
}

/// The id of an example.
pub fn example_id(text: &str) -> Result<FaceId, Failure> {
    let id = Uuid::try_parse(text).map(FaceId);
    id.map_err(|_| Failure::out_of_range("image_id", "a UUID is expected"))
}

/// POST /recognition/faces: adds the only face of a photo to a subject, who comes about with it.
pub async fn add(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    images: Images<1>,
) -> Result<(StatusCode, Json<Example>), Failure> {
    let given = images.parameters.given("subject").ok_or_else(|| Failure::missing_parameter("subject"))?.to_owned();
    let name = name_of(&given)?;
    let options = Options::of(&images.parameters)?;
    let [image] = images.open()?;
    let subject = match enrolment.find_subject_in_any_case(&gallery, name.as_str()).await? {
        Some((id, _)) => name_of(&id.to_string())?,
        None => name,
    };
    let request = EnrollRequest {
        // Whatever has a face is an example, be it the same photo again.
        on_duplicate: OnDoubt::Allow,
        on_mismatch: OnDoubt::Allow,
        quality: QualityDemand::Any,
        min_score: options.min_score,
        ..EnrollRequest::new(image, subject, gallery)
    };
    let enrolled = enrolment.enroll(request, None).await?.answer;
    Ok((StatusCode::CREATED, Json(Example { image_id: enrolled.face_id.to_string(), subject: given })))
}

/// GET /recognition/faces
pub async fn list(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    Query(parameters): Query,
) -> Result<Json<Page>, Failure> {
    let number = parameters.lenient("page", 0);
    let size = match parameters.lenient("size", PAGE) {
        0 => PAGE,
        size => size.min(LARGEST_PAGE),
    };
    let page = NumberedPage { number, size };
    let (faces, all) = enrolment.numbered_faces(&gallery, parameters.text("subject"), page).await?;
    Ok(Json(Page {
        faces: faces.into_iter().map(Example::from).collect(),
        page_number: number,
        page_size: size,
        total_pages: all.div_ceil(size.into()),
        total_elements: all,
    }))
}

/// DELETE /recognition/faces: those of a subject, who goes with them; without one, all of the collection.
pub async fn remove_of_subject(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    Query(parameters): Query,
) -> Result<Json<Count>, Failure> {
    let Some(given) = parameters.given("subject") else {
        return Ok(Json(Count { deleted: enrolment.empty_gallery(&gallery).await?.faces }));
    };
    let name = name_of(given)?;
    let Some((id, _)) = enrolment.find_subject_in_any_case(&gallery, name.as_str()).await? else {
        return Ok(Json(Count { deleted: 0 }));
    };
    let id = id.to_string();
    let faces = enrolment.get_subject(&gallery, &id).await?.answer.faces;
    enrolment.delete_subject(&gallery, &id, &Expected::Any).await?;
    Ok(Json(Count { deleted: faces }))
}

/// DELETE /recognition/faces/{face}: its subject stays.
pub async fn remove(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    Path(face): Path<String>,
) -> Result<Json<Example>, Failure> {
    let mut removed = erase(&enrolment, &gallery, &[example_id(&face)?]).await?;
    removed.pop().map(Json).ok_or_else(Failure::unknown_image)
}

/// POST /recognition/faces/delete: those of a list that there are.
pub async fn remove_listed(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    JsonBody(ids): JsonBody<Vec<String>>,
) -> Result<Json<Vec<Example>>, Failure> {
    let faces: Vec<FaceId> = ids.iter().map(|id| example_id(id)).collect::<Result<_, _>>()?;
    Ok(Json(erase(&enrolment, &gallery, &faces).await?))
}

/// Erases those of some faces that are in the gallery, and says which these were.
async fn erase(enrolment: &Enrolment, gallery: &Name, faces: &[FaceId]) -> Result<Vec<Example>, Failure> {
    let mut erased = Vec::new();
    for faces in faces.chunks(AT_ONCE) {
        let there = enrolment.faces_among(gallery, faces).await?;
        if there.is_empty() {
            continue;
        }
        let ids = there.iter().map(|(face, _)| *face).collect();
        enrolment.delete_faces(DeleteFaces { faces: Listed(ids) }).await?;
        erased.extend(there.into_iter().map(Example::from));
    }
    Ok(erased)
}

/// GET /recognition/faces/{face}/img
pub async fn download(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    Path(face): Path<String>,
) -> Result<Response, Failure> {
    image(&enrolment, &gallery, &face).await
}

/// GET /static/{key}/images/{face}, for pages that show images and send no header.
pub async fn download_static(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    Path((_, face)): Path<(String, String)>,
) -> Result<Response, Failure> {
    image(&enrolment, &gallery, &face).await
}

/// The chip of a face; of one that is not there, or that has none, nothing at all.
async fn image(enrolment: &Enrolment, gallery: &Name, face: &str) -> Result<Response, Failure> {
    let face = example_id(face)?;
    let is_there = !enrolment.faces_among(gallery, &[face]).await?.is_empty();
    let chip = match is_there {
        true => enrolment.get_chip(face).await,
        false => Err(GalleryError::FaceNotFound(face).into()),
    };
    let bytes: Bytes = match chip {
        Ok(chip) => chip.into(),
        Err(ServiceError::Gallery(GalleryError::FaceNotFound(_) | GalleryError::NoChip(_))) => Bytes::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}
