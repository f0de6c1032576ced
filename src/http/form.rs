//! Reads a request's images and fields, whichever of the three ways they come in: `multipart/form-data`, JSON with
//! base64, or a raw image body with the fields in the query string.

mod json;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::json::{Members, decode_base64};
use super::body::{self, BodyBudget, Share};
use super::multipart::Multipart;
use super::problem::{Code, Problem};
use super::state::AppState;
use crate::gallery::{Metadata, Policy};
use crate::types::{Name, Threshold};
use crate::vision::{MinFace, Wanted};

/// What a JSON body counts as while images are decoded from its base64, whose bytes are three quarters of the text.
const JSON_COPIES: usize = 2;

/// Longest body of a route that takes no image.
const FIELDS_LIMIT: usize = 1 << 20;

/// A request type that a [`Form`] can become.
pub trait FromForm: Sized {
    /// Names of the fields that hold images. A route with one image also takes it as the raw body.
    const IMAGES: &'static [&'static str];
    /// Names of the other fields.
    const FIELDS: &'static [&'static str];
    /// Longest text of one of them in bytes: a value can take many times the memory of its text. Metadata has a lower limit
    /// of its own.
    const LONGEST_FIELD: usize = 64 << 10;
    /// Whether the body may take as long as it keeps coming, or must be there within the time for a request.
    const MAY_TAKE_LONG: bool = false;

    /// The longest body, and the budget that it is counted against.
    fn limits(state: &AppState) -> (usize, BodyBudget) {
        let longest = state.max_body_bytes;
        let longest = if Self::IMAGES.is_empty() { longest.min(FIELDS_LIMIT) } else { longest };
        (longest, state.body_budget.clone())
    }

    fn from_form(form: Form) -> Result<Self, Problem>;
}

/// Extracts a [`FromForm`] request.
pub struct Fields<T>(pub T);

impl<T: FromForm> FromRequest<AppState> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        if !T::IMAGES.is_empty() {
            state.services.recognition.check_room()?;
        }
        let time = state.request_timeout;
        let builder = Builder::new(T::IMAGES, T::FIELDS, T::LONGEST_FIELD);
        let form = if T::MAY_TAKE_LONG {
            Form::read(request.map(|body| body::patient(body, time)), builder, T::limits(state)).await?
        } else {
            let form = tokio::time::timeout(time, Form::read(request, builder, T::limits(state)));
            form.await.map_err(|_| too_slow(time))??
        };
        Ok(Self(T::from_form(form)?))
    }
}

fn too_slow(limit: Duration) -> Problem {
    Problem::new(Code::RequestTimeout, format!("the request did not arrive within {} s", limit.as_secs()))
}

/// Images and fields of a request, by name. Only names that the route knows are in it.
pub struct Form {
    images: BTreeMap<String, Bytes>,
    fields: BTreeMap<String, Value>,
    share: Share,
}

impl Form {
    async fn read(request: Request, mut form: Builder, (limit, budget): (usize, BodyBudget)) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let query = query(&mut parts).await?;
        body::refuse_declared_length(parts.headers.get(header::CONTENT_LENGTH), limit as u64)?;
        let empty = body.is_end_stream();
        let share = Share::default();
        let body = body::counted(body::limited(body, limit as u64), budget.clone(), share.clone());
        let media_type = media_type(&parts.headers);
        match media_type.as_str() {
            // Without images, the query string can say it all.
            _ if empty && form.known_images.is_empty() => {}
            "multipart/form-data" => form.read_multipart(Multipart::new(&parts.headers, body)?).await?,
            "application/json" => {
                let bytes = body::read_all(body).await?;
                // Images are decoded from base64 while their text is still there.
                if !form.known_images.is_empty() {
                    share.grow_to(&budget, JSON_COPIES * bytes.len())?;
                }
                // Tens of megabytes of base64 are CPU work.
                form = tokio::task::spawn_blocking(move || form.read_json(&bytes).map(|()| form))
                    .await
                    .map_err(Problem::internal)??;
            }
            other => match form.known_images {
                [image] if other.starts_with("image/") || other == "application/octet-stream" => {
                    let bytes = body::read_all(body).await?;
                    form.images.insert((*image).to_owned(), bytes);
                }
                images => return Err(unsupported_image_type(other, images)),
            },
        }
        form.add_query(query)?;
        Ok(form.finish(share))
    }

    /// A required image. An empty one is refused by whoever decodes it.
    pub fn image(&mut self, name: &str) -> Result<Bytes, Problem> {
        let image = self.images.remove(name).ok_or_else(|| missing(name))?;
        Ok(self.share.attach(image))
    }

    /// A field that holds a text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(name, "a text is expected")),
        }
    }

    /// A name of a gallery or subject.
    pub fn name(&mut self, name: &str) -> Result<Option<Name>, Problem> {
        let text = self.text(name)?;
        text.map(|text| Name::try_from(text).map_err(|error| invalid(name, error))).transpose()
    }

    /// A required name.
    pub fn required_name(&mut self, name: &str) -> Result<Name, Problem> {
        self.name(name)?.ok_or_else(|| missing(name))
    }

    /// A field that holds a number or one of a few words: a text in forms and queries, perhaps typed in JSON.
    pub fn value<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.fields.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
        // A text that is a number in a form is the same text that a JSON document would hold unquoted.
        let unquoted = value.as_str().and_then(|text| serde_json::from_str::<Value>(text.trim()).ok());
        let parsed = serde_json::from_value(value).ok().or_else(|| serde_json::from_value(unquoted?).ok());
        parsed.map(Some).ok_or_else(|| invalid(name, format!("{expected} is expected")))
    }

    /// A required field of the same kind.
    pub fn required_value<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<T, Problem> {
        self.value(name, expected)?.ok_or_else(|| missing(name))
    }

    /// A field that holds a similarity.
    pub fn similarity(&mut self, name: &str) -> Result<Option<Threshold>, Problem> {
        let value: Option<f32> = self.value(name, "a number from -1 to 1")?;
        value.map(|value| Threshold::try_from(value).map_err(|error| invalid(name, error))).transpose()
    }

    /// The fields `threshold`, `fmr` and, if a gallery is searched, `fpir`: one of them at most.
    pub fn policy(&mut self) -> Result<Option<Policy>, Problem> {
        const RATE: &str = "a number above 0 and below 1";
        let threshold = self.similarity("threshold")?.map(|threshold| Policy::Threshold(threshold.get()));
        let fmr = self.value("fmr", RATE)?.map(Policy::Fmr);
        let fpir = self.value("fpir", RATE)?.map(Policy::Fpir);
        let mut said = [("threshold", threshold), ("fmr", fmr), ("fpir", fpir)].into_iter();
        let Some((name, policy)) = said.find_map(|(name, policy)| Some((name, policy?))) else { return Ok(None) };
        if let Some((other, _)) = said.find(|(_, policy)| policy.is_some()) {
            return Err(invalid(other, format!("`{name}` is given as well; say one of them")));
        }
        policy.checked().map(Some).map_err(|error| invalid(name, error))
    }

    /// How many faces to look at, the largest; all if it is not given.
    fn most_faces(&mut self) -> Result<usize, Problem> {
        const EXPECTED: &str = "a number from 1 on";
        let most: Option<u32> = self.value("max_faces", EXPECTED)?;
        match most {
            Some(0) => Err(invalid("max_faces", format!("{EXPECTED} is expected"))),
            Some(most) => Ok(most as usize),
            None => Ok(usize::MAX),
        }
    }

    /// The `max_faces`, `detail` and `min_face` fields: which faces to look for.
    pub fn wanted(&mut self) -> Result<Wanted, Problem> {
        let faces = self.most_faces()?;
        Ok(Wanted { faces, ..self.wanted_one()? })
    }

    /// The `detail` and `min_face` fields, where one face is wanted.
    pub fn wanted_one(&mut self) -> Result<Wanted, Problem> {
        const EXPECTED: &str = "pixels, from 1 on, or a share of the longer side between 0 and 1";
        let detail = self.value("detail", "one of fast, auto, full")?.unwrap_or_default();
        let min_face = match self.value::<f32>("min_face", EXPECTED)? {
            None => None,
            Some(pixels) if pixels.is_finite() && pixels >= 1.0 => Some(MinFace::Pixels(pixels)),
            Some(share) if share > 0.0 && share < 1.0 => Some(MinFace::Share(share)),
            Some(_) => return Err(invalid("min_face", format!("{EXPECTED} are expected"))),
        };
        Ok(Wanted { detail, min_face, faces: 1 })
    }

    /// The `metadata` field, a JSON object: a member of a JSON body, or text.
    pub fn metadata(&mut self) -> Result<Option<Metadata>, Problem> {
        let object: Option<serde_json::Map<String, Value>> = self.value("metadata", "a JSON object")?;
        Ok(object.map(|object| Metadata::try_from(Value::Object(object))).transpose()?)
    }
}

/// A form while it is read.
pub(super) struct Builder {
    known_images: &'static [&'static str],
    known_fields: &'static [&'static str],
    longest_field: usize,
    images: BTreeMap<String, Bytes>,
    fields: BTreeMap<String, Value>,
}

impl Builder {
    pub(super) fn new(
        known_images: &'static [&'static str],
        known_fields: &'static [&'static str],
        longest_field: usize,
    ) -> Self {
        Self { known_images, known_fields, longest_field, images: BTreeMap::new(), fields: BTreeMap::new() }
    }

    async fn read_multipart(&mut self, mut form: Multipart) -> Result<(), Problem> {
        while let Some(name) = form.next_part().await? {
            self.check_known(&name)?;
            if self.known_images.contains(&name.as_str()) {
                let bytes = form.all_bytes(usize::MAX).await?.unwrap_or_default();
                self.add_image(name, bytes)?;
            } else {
                self.read_field(name, &mut form).await?;
            }
        }
        Ok(())
    }

    /// Reads the part of a field that is no image.
    pub(super) async fn read_field(&mut self, name: String, form: &mut Multipart) -> Result<(), Problem> {
        let bytes = form.all_bytes(self.longest_field).await?.ok_or_else(|| self.too_long(&name))?;
        let text = String::from_utf8(bytes.into()).map_err(|_| invalid(&name, "it is not UTF-8"))?;
        self.add_field(name, Value::String(text))
    }

    fn read_json(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let Members(members) = serde_json::from_slice(bytes)
            .map_err(|error| Problem::new(Code::MalformedJson, format!("the body is not a JSON object: {error}")))?;
        for (name, raw) in members {
            self.check_known(&name)?;
            if self.known_images.contains(&name.as_str()) {
                let text: Cow<str> = serde_json::from_str(raw.get())
                    .map_err(|_| invalid(&name, "a base64 text or data: URL is expected"))?;
                let bytes = decode_base64(&text).map_err(|error| invalid(&name, error))?;
                self.add_image(name, bytes)?;
            } else {
                if raw.get().len() > self.longest_field {
                    return Err(self.too_long(&name));
                }
                let value = serde_json::from_str(raw.get()).map_err(|error| invalid(&name, error))?;
                self.add_field(name, value)?;
            }
        }
        Ok(())
    }

    fn too_long(&self, name: &str) -> Problem {
        invalid(name, format!("it has more than {} bytes", self.longest_field))
    }

    pub(super) fn finish(self, share: Share) -> Form {
        Form { images: self.images, fields: self.fields, share }
    }

    /// What the body says wins over the query string.
    pub(super) fn add_query(&mut self, query: Vec<(String, String)>) -> Result<(), Problem> {
        let mut seen = HashSet::new();
        for (name, value) in query {
            self.check_known(&name)?;
            if self.known_images.contains(&name.as_str()) {
                return Err(invalid(&name, "an image belongs into the body"));
            }
            if !seen.insert(name.clone()) {
                return Err(invalid(&name, "it is given twice"));
            }
            self.fields.entry(name).or_insert(Value::String(value));
        }
        Ok(())
    }

    pub(super) fn check_known(&self, name: &str) -> Result<(), Problem> {
        if self.known_images.contains(&name) || self.known_fields.contains(&name) {
            return Ok(());
        }
        let known = match [self.known_images, self.known_fields].concat() {
            none if none.is_empty() => "this route takes none".to_owned(),
            known => format!("the fields are: {}", known.join(", ")),
        };
        let shown: String = name.chars().take(64).collect();
        Err(Problem::new(Code::UnknownField, format!("there is no field {shown:?} here; {known}")).with_field(shown))
    }

    fn add_image(&mut self, name: String, bytes: Bytes) -> Result<(), Problem> {
        match self.images.insert(name.clone(), bytes) {
            None => Ok(()),
            Some(_) => Err(invalid(&name, "it is given twice")),
        }
    }

    fn add_field(&mut self, name: String, value: Value) -> Result<(), Problem> {
        match self.fields.insert(name.clone(), value) {
            None => Ok(()),
            Some(_) => Err(invalid(&name, "it is given twice")),
        }
    }
}

/// The pairs of the query string. It must be UTF-8: a lossy reading would rename people.
pub(super) async fn query(parts: &mut Parts) -> Result<Vec<(String, String)>, Problem> {
    if percent_decode_str(parts.uri.query().unwrap_or_default()).decode_utf8().is_err() {
        return Err(Problem::new(Code::MalformedQuery, "the query string is not UTF-8"));
    }
    let Query(pairs) = Query::from_request_parts(parts, &()).await?;
    Ok(pairs)
}

pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn unsupported_image_type(given: &str, images: &[&str]) -> Problem {
    unsupported_media_type(
        given,
        match images.len() {
            1 => "multipart/form-data, application/json, or image/* or application/octet-stream for the raw image",
            _ => "multipart/form-data or application/json",
        },
    )
}

pub(super) fn unsupported_media_type(given: &str, expected: &str) -> Problem {
    let expected = format!("{expected} is expected");
    let detail = match given {
        "" => format!("the request has no Content-Type; {expected}"),
        given => format!("the Content-Type is {given}; {expected}"),
    };
    Problem::new(Code::UnsupportedMediaType, detail)
}

pub(super) fn missing(name: &str) -> Problem {
    Problem::new(Code::MissingField, format!("{name} is missing")).with_field(name)
}

/// A field has a value that it cannot have.
pub(super) fn invalid(name: &str, reason: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidField, format!("{name}: {reason}")).with_field(name)
}
