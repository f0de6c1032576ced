//! Extractors whose rejections are problems, and the query strings that several routes share.

use axum::extract::FromRequestParts;
use serde::Deserialize;
use utoipa::IntoParams;

use super::default_gallery;
use super::problem::Problem;
use super::upload::invalid;
use crate::gallery::PageRequest;
use crate::types::Name;

/// Parameters of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// The query string.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// Which gallery.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GalleryQuery {
    /// Defaults to `default`.
    gallery: Option<String>,
}

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Items per page, 1 to 200. Defaults to 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which page of a list, in which gallery.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GalleryPageQuery {
    /// Defaults to `default`.
    gallery: Option<String>,
    /// Items per page, 1 to 200. Defaults to 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl GalleryQuery {
    pub fn gallery(self) -> Result<Name, Problem> {
        gallery(self.gallery)
    }
}

impl PageQuery {
    pub fn request(self) -> Result<PageRequest, Problem> {
        page(self.limit, self.cursor)
    }
}

impl GalleryPageQuery {
    pub fn gallery(&self) -> Result<Name, Problem> {
        gallery(self.gallery.clone())
    }

    pub fn request(self) -> Result<PageRequest, Problem> {
        page(self.limit, self.cursor)
    }
}

fn gallery(name: Option<String>) -> Result<Name, Problem> {
    name.map_or_else(|| Ok(default_gallery()), |name| Name::try_from(name).map_err(|error| invalid("gallery", error)))
}

fn page(limit: Option<u32>, cursor: Option<String>) -> Result<PageRequest, Problem> {
    Ok(PageRequest::new(limit, cursor.as_deref())?)
}
