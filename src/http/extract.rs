//! Path parameters, and the fields that several routes share.

use axum::extract::FromRequestParts;
use utoipa::IntoParams;

use super::default_gallery;
use super::form::{Form, FromForm, invalid};
use super::problem::Problem;
use crate::db::PageRequest;
use crate::types::Name;

/// Parameters of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// Which gallery.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `InGallery` is read")]
pub struct GalleryQuery {
    /// Its name or id. Defaults to `default`.
    gallery: Option<String>,
}

/// Which page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "for the OpenAPI document; `PageRequest` is read")]
pub struct PageQuery {
    /// Items per page, 1 to 200. Defaults to 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// No fields at all.
impl FromForm for () {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &[];

    fn from_form(_: Form) -> Result<Self, Problem> {
        Ok(())
    }
}

impl FromForm for PageRequest {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["limit", "cursor"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        page(&mut form)
    }
}

/// A gallery, named or the default.
pub struct InGallery(pub Name);

impl FromForm for InGallery {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["gallery"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self(gallery(&mut form)?))
    }
}

/// A page of a list in a gallery.
pub struct PageInGallery {
    pub gallery: Name,
    pub page: PageRequest,
}

impl FromForm for PageInGallery {
    const IMAGES: &'static [&'static str] = &[];
    const FIELDS: &'static [&'static str] = &["gallery", "limit", "cursor"];

    fn from_form(mut form: Form) -> Result<Self, Problem> {
        Ok(Self { gallery: gallery(&mut form)?, page: page(&mut form)? })
    }
}

/// The `gallery` field, or the default gallery.
pub fn gallery(form: &mut Form) -> Result<Name, Problem> {
    Ok(form.name("gallery")?.unwrap_or_else(default_gallery))
}

/// The `protected` field: galleries that must not suffer.
pub fn protected(form: &mut Form) -> Result<Option<Vec<Name>>, Problem> {
    let names: Option<Vec<String>> = form.value("protected", "a list of names of galleries")?;
    let named = |name: String| Name::try_from(name).map_err(|error| invalid("protected", error));
    names.map(|names| names.into_iter().map(named).collect()).transpose()
}

fn page(form: &mut Form) -> Result<PageRequest, Problem> {
    let limit = form.value("limit", "a number from 1 to 200")?;
    Ok(PageRequest::new(limit, form.text("cursor")?.as_deref())?)
}
