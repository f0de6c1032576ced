//! /admin/keys: the keys of callers.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::extract::Path;
use super::form::{FIELDS_LIMIT, Fields, FromForm};
use super::problem::Problem;
use crate::service::Access;
use crate::service::answers::{CreatedKey, KeyEntry, Page};
use crate::service::requests::{ListRequest, NewKey, RotateKey};
use crate::types::Caller;

impl FromForm for NewKey {
    /// A thousand names have their length.
    const LONG_FIELDS: &'static [(&'static str, usize)] = &[("galleries", FIELDS_LIMIT)];
}

/// Create a key
///
/// The answer shows the key itself, which nobody can show again. It may do no more than the key that it is made with: whoever may
/// administer some galleries makes keys for these alone. From the first key on, the server asks everybody for one.
#[utoipa::path(
    post, path = "/admin/keys", tag = "admin", request_body = NewKey,
    responses((status = 201, description = "The key", body = CreatedKey)),
    extensions(("x-problems" = json!(["duplicate_key", "gallery_not_found"]))),
)]
pub async fn create_key(
    State(access): State<Access>,
    Extension(caller): Extension<Caller>,
    Fields(new): Fields<NewKey>,
) -> Result<Response, Problem> {
    Ok(shown(StatusCode::CREATED, access.create_key(&caller, new).await?))
}

/// List keys
///
/// Whoever may administer some galleries sees the keys for these alone.
#[utoipa::path(
    get, path = "/admin/keys", tag = "admin", request_body = ListRequest,
    responses((status = 200, description = "A page of keys, oldest first, with those that have expired or were revoked", body = Page<KeyEntry>)),
)]
pub async fn list_keys(
    State(access): State<Access>,
    Extension(caller): Extension<Caller>,
    Fields(list): Fields<ListRequest>,
) -> Result<Json<Page<KeyEntry>>, Problem> {
    Ok(Json(access.list_keys(&caller, list.page("keys")?).await?))
}

/// Get a key
#[utoipa::path(
    get, path = "/admin/keys/{key}", tag = "admin",
    params(("key" = String, Path, description = "Its id or, unless it was revoked, its name")),
    responses((status = 200, description = "The key, without the key itself", body = KeyEntry)),
)]
pub async fn get_key(
    State(access): State<Access>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<KeyEntry>, Problem> {
    Ok(Json(access.get_key(&caller, &key).await?))
}

/// Rotate a key
///
/// Another key takes its place: same id, name, role and galleries. The former one works on for `keep_for` seconds, so that nobody is
/// shut out while the new one is handed out; one that was kept from a rotation before ends at once.
#[utoipa::path(
    post, path = "/admin/keys/{key}/rotate", tag = "admin", request_body = RotateKey,
    params(("key" = String, Path, description = "Its id or its name")),
    responses((status = 200, description = "The new key", body = CreatedKey)),
    extensions(("x-problems" = json!(["key_revoked"]))),
)]
pub async fn rotate_key(
    State(access): State<Access>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Fields(how): Fields<RotateKey>,
) -> Result<Response, Problem> {
    Ok(shown(StatusCode::OK, access.rotate_key(&caller, &key, how).await?))
}

/// Revoke a key
///
/// It is of no use from then on: here at once, at other servers of the database within a moment. A server whose keys were all revoked
/// stays closed.
#[utoipa::path(
    delete, path = "/admin/keys/{key}", tag = "admin",
    params(("key" = String, Path, description = "Its id or its name")),
    responses((status = 200, description = "The key, which is revoked", body = KeyEntry)),
)]
pub async fn revoke_key(
    State(access): State<Access>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<KeyEntry>, Problem> {
    Ok(Json(access.revoke_key(&caller, &key).await?))
}

/// A key that nobody on the way may keep.
fn shown(status: StatusCode, key: CreatedKey) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(key)).into_response()
}
