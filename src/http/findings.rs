//! GET /duplicates and GET /anomalies: what the review of a gallery found.

use axum::Json;

use super::form::Fields;
use super::problem::Problem;
use crate::service::Enrolment;
use crate::service::answers::{Anomalies, DuplicatePairs};
use crate::service::requests::{AnomaliesRequest, DuplicatesRequest};

/// List subjects that look like one person
///
/// Pairs of subjects whose templates resemble each other, most similar first. Galleries are reviewed in the background;
/// `review` says how far that is. To mend a pair: POST /subjects/{subject}/merge.
#[utoipa::path(
    get, path = "/duplicates", tag = "galleries", request_body = DuplicatesRequest,
    responses((status = 200, description = "A page of pairs", body = DuplicatePairs)),
)]
pub async fn list_duplicates(
    enrolment: Enrolment,
    Fields(request): Fields<DuplicatesRequest>,
) -> Result<Json<DuplicatePairs>, Problem> {
    Ok(Json(enrolment.duplicates(&request.gallery, request.min_similarity, &request.page()?).await?))
}

/// List faces and subjects that look wrong
///
/// Faces nearer to another subject than to the others of their own, subjects who look like two people, and faces unlike
/// any face, each with the numbers behind it. To mend a face: POST /faces/{face}/move.
#[utoipa::path(
    get, path = "/anomalies", tag = "galleries", request_body = AnomaliesRequest,
    responses((status = 200, description = "A page of anomalies", body = Anomalies)),
)]
pub async fn list_anomalies(
    enrolment: Enrolment,
    Fields(request): Fields<AnomaliesRequest>,
) -> Result<Json<Anomalies>, Problem> {
    Ok(Json(enrolment.anomalies(&request.gallery, request.kind, &request.page()?).await?))
}
