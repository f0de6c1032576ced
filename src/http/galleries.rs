//! /galleries

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{PageQuery, Path};
use super::form::{Fields, Form, FromForm};
use super::problem::Problem;
use crate::gallery::PageRequest;
use crate::service::Services;
use crate::service::answers::{Erased, Gallery, GalleryEntry, Page};
use crate::types::Name;

/// A new gallery, or a gallery's new name.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "for the OpenAPI document; `FromForm` reads the request")]
pub struct GalleryForm {
    /// 1 to 255 characters, unique.
    #[schema(example = "staff")]
    pub name: String,
}

pub struct GalleryName(Name);

impl FromForm for GalleryName {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["name"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self(form.required_name("name")?))
    }
}

/// Create a gallery
#[utoipa::path(
    post, path = "/galleries", tag = "galleries",
    request_body(content((GalleryForm = "application/json"), (GalleryForm = "multipart/form-data"))),
    responses(
        (status = 201, description = "Created", body = GalleryEntry),
        (status = 409, description = "`duplicate_gallery`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create_gallery(
    State(services): State<Services>,
    Fields(GalleryName(name)): Fields<GalleryName>,
) -> Result<(StatusCode, Json<GalleryEntry>), Problem> {
    Ok((StatusCode::CREATED, Json(services.create_gallery(&name).await?)))
}

/// List galleries
#[utoipa::path(
    get, path = "/galleries", tag = "galleries", params(PageQuery),
    responses(
        (status = 200, description = "A page of galleries, oldest first", body = Page<GalleryEntry>),
        (status = "default", description = "Any failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_galleries(
    State(services): State<Services>,
    Fields(page): Fields<PageRequest>,
) -> Result<Json<Page<GalleryEntry>>, Problem> {
    Ok(Json(services.list_galleries(page).await?))
}

/// Get a gallery
#[utoipa::path(
    get, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "The gallery with its size", body = Gallery),
        (status = 404, description = "`gallery_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_gallery(
    State(services): State<Services>,
    Path(gallery): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<Gallery>, Problem> {
    Ok(Json(services.get_gallery(&gallery).await?))
}

/// Rename a gallery
#[utoipa::path(
    patch, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    request_body(content((GalleryForm = "application/json"), (GalleryForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "Renamed", body = GalleryEntry),
        (status = 409, description = "`duplicate_gallery`, `default_gallery`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn rename_gallery(
    State(services): State<Services>,
    Path(gallery): Path<String>,
    Fields(GalleryName(name)): Fields<GalleryName>,
) -> Result<Json<GalleryEntry>, Problem> {
    Ok(Json(services.rename_gallery(&gallery, &name).await?))
}

/// Delete a gallery
///
/// Erases the gallery with all its subjects, faces, chips and embeddings.
#[utoipa::path(
    delete, path = "/galleries/{gallery}", tag = "galleries",
    params(("gallery" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "What was erased", body = Erased),
        (status = 409, description = "`default_gallery`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other failure", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete_gallery(
    State(services): State<Services>,
    Path(gallery): Path<String>,
    Fields(()): Fields<()>,
) -> Result<Json<Erased>, Problem> {
    Ok(Json(services.delete_gallery(&gallery).await?))
}
