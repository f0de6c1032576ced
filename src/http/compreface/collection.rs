//! The collection that a key stands for: a gallery.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::failure::Failure;
use super::options::Parameters;
use crate::gallery::DEFAULT_GALLERY_NAME;
use crate::http::state::{AppState, caller};
use crate::types::Name;

/// The gallery of a request: the one that it names by `gallery`, a parameter of ours; else the only one of its key; else `default`.
pub struct Collection(pub Name);

impl FromRequestParts<AppState> for Collection {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Failure> {
        let caller = caller(&parts.extensions)?.clone();
        let parameters = Parameters::of_query(parts).await?;
        let asked = match (parameters.text("gallery"), caller.scope().galleries()) {
            (Some(gallery), _) => gallery.to_owned(),
            (None, Some([only])) => only.to_string(),
            (None, _) => DEFAULT_GALLERY_NAME.to_owned(),
        };
        Name::try_from(asked).map(Self).map_err(|error| Failure::out_of_range("gallery", error))
    }
}
