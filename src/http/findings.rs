//! GET /duplicates and GET /anomalies: what the review of a gallery found.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{GalleryQuery, PageQuery, gallery};
use super::form::{Fields, Form, FromForm};
use super::problem::Problem;
use crate::gallery::FindingsRequest;
use crate::service::Enrolment;
use crate::service::answers::{Anomalies, AnomalyKind, DuplicatePairs};
use crate::types::{Name, Threshold};

/// Which duplicates.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct DuplicatesQuery {
    /// Only pairs at least this similar, -1 to 1. Defaults to what about one pair of different people in the whole gallery
    /// is expected to reach. Pairs below the server's threshold are not kept.
    #[param(minimum = -1.0, maximum = 1.0)]
    min_similarity: Option<f32>,
}

pub struct DuplicatesRequest {
    gallery: Name,
    min_similarity: Option<Threshold>,
    page: FindingsRequest,
}

impl FromForm for DuplicatesRequest {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["gallery", "min_similarity", "limit", "cursor"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        let gallery = gallery(&mut form)?;
        Ok(Self { gallery, min_similarity: form.similarity("min_similarity")?, page: page(&mut form)? })
    }
}

/// List subjects that look like one person
///
/// Pairs of subjects whose templates resemble each other, most similar first. Galleries are reviewed in the background;
/// `review` says how far that is. To mend a pair: POST /subjects/{subject}/merge.
#[utoipa::path(
    get, path = "/duplicates", tag = "galleries", params(GalleryQuery, DuplicatesQuery, PageQuery),
    responses(
        (status = 200, description = "A page of pairs", body = DuplicatePairs),
        (status = 404, description = "`gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_duplicates(
    State(enrolment): State<Enrolment>,
    Fields(request): Fields<DuplicatesRequest>,
) -> Result<Json<DuplicatePairs>, Problem> {
    Ok(Json(enrolment.duplicates(&request.gallery, request.min_similarity, &request.page).await?))
}

/// Which anomalies.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct AnomaliesQuery {
    /// Only of this kind.
    kind: Option<AnomalyKind>,
}

pub struct AnomaliesRequest {
    gallery: Name,
    kind: Option<AnomalyKind>,
    page: FindingsRequest,
}

impl FromForm for AnomaliesRequest {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["gallery", "kind", "limit", "cursor"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        let gallery = gallery(&mut form)?;
        let kind = form.value("kind", "one of mislabelled, two_people, not_a_face")?;
        Ok(Self { gallery, kind, page: page(&mut form)? })
    }
}

/// List faces and subjects that look wrong
///
/// Faces nearer to another subject than to the others of their own, subjects who look like two people, and faces unlike
/// any face, each with the numbers behind it. To mend a face: POST /faces/{face}/move.
#[utoipa::path(
    get, path = "/anomalies", tag = "galleries", params(GalleryQuery, AnomaliesQuery, PageQuery),
    responses(
        (status = 200, description = "A page of anomalies", body = Anomalies),
        (status = 404, description = "`gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_anomalies(
    State(enrolment): State<Enrolment>,
    Fields(request): Fields<AnomaliesRequest>,
) -> Result<Json<Anomalies>, Problem> {
    Ok(Json(enrolment.anomalies(&request.gallery, request.kind, &request.page).await?))
}

fn page(form: &mut Form) -> Result<FindingsRequest, Problem> {
    let limit = form.value("limit", "a number from 1 to 200")?;
    Ok(FindingsRequest::new(limit, form.text("cursor")?.as_deref())?)
}
