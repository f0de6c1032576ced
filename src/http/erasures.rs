//! /erasures: receipts for what was erased.

use axum::Json;

use super::extract::Path;
use super::form::Fields;
use super::problem::Problem;
use crate::service::Enrolment;
use crate::service::answers::{Erasure, ErasureReceipt, Page};
use crate::service::requests::ListRequest;
use crate::types::ErasureId;

/// List receipts of erasures
///
/// What was erased in the galleries that the key is for: ids and numbers, no names.
#[utoipa::path(
    get, path = "/erasures", tag = "galleries", request_body = ListRequest,
    responses((status = 200, description = "A page of receipts, latest first", body = Page<Erasure>)),
)]
pub async fn list_erasures(
    enrolment: Enrolment,
    Fields(list): Fields<ListRequest>,
) -> Result<Json<Page<Erasure>>, Problem> {
    Ok(Json(enrolment.list_erasures(list.page("erasures")?).await?))
}

/// Get the receipt of an erasure
///
/// Signed if the server has a key for that (`--signing-key`). It says whether the rows are deleted, and whether the bytes are gone from the files of the database.
#[utoipa::path(
    get, path = "/erasures/{erasure}", tag = "galleries",
    params(("erasure" = ErasureId, Path, description = "`erasure` of the answer to a deletion")),
    responses((status = 200, description = "The receipt", body = ErasureReceipt)),
    extensions(("x-problems" = json!(["erasure_not_found"]))),
)]
pub async fn get_erasure(
    enrolment: Enrolment,
    Path(erasure): Path<ErasureId>,
    Fields(()): Fields<()>,
) -> Result<Json<ErasureReceipt>, Problem> {
    Ok(Json(enrolment.get_erasure(erasure).await?))
}
