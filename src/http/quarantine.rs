//! /admin/quarantine: what work in the background could not be done on.

use axum::Json;
use axum::http::StatusCode;
use uuid::Uuid;

use super::extract::Path;
use super::form::Fields;
use super::problem::Problem;
use crate::service::Upkeep;
use crate::service::answers::{Page, SetAside};
use crate::service::requests::ListRequest;

/// List what was set aside
///
/// Faces whose chips cannot be embedded, subjects that cannot be reviewed, galleries that cannot be measured or have no index. They
/// stop nothing else, and are not tried again until somebody says so.
#[utoipa::path(
    get, path = "/admin/quarantine", tag = "admin", request_body = ListRequest,
    responses((status = 200, description = "A page of them, latest first", body = Page<SetAside>)),
)]
pub async fn list_set_aside(
    upkeep: Upkeep,
    Fields(list): Fields<ListRequest>,
) -> Result<Json<Page<SetAside>>, Problem> {
    Ok(Json(upkeep.list_set_aside(list.page("quarantine")?).await?))
}

/// Try again what was set aside
#[utoipa::path(
    post, path = "/admin/quarantine/{item}/retry", tag = "admin", params(("item" = Uuid, Path, description = "Its id")),
    responses((status = 204, description = "It is tried again; should it fail, it is set aside anew")),
    extensions(("x-problems" = json!(["set_aside_not_found"]))),
)]
pub async fn retry_set_aside(
    upkeep: Upkeep,
    Path(item): Path<Uuid>,
    Fields(()): Fields<()>,
) -> Result<StatusCode, Problem> {
    upkeep.retry_set_aside(item).await?;
    Ok(StatusCode::NO_CONTENT)
}
