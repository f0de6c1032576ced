//! Reads a request's files and fields, whichever of the three ways they come in: `multipart/form-data`, JSON with base64, or a raw
//! body with the fields in the query string. What they are is said once, by the type that they are read into.

pub(super) mod fields;
mod json;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::fields::{Field, names, read_fields};
use self::json::{Members, Texts};
pub(super) use self::json::{copied, decode_base64};
use super::body::{self, BodyBudget, Share};
use super::multipart::Multipart;
use super::problem::{Code, Problem};
use super::state::AppState;
use crate::registry::Registry;
use crate::service::requests::FileBytes;

/// What a JSON body counts as while files are decoded from its base64, whose bytes are three quarters of the text.
pub(super) const JSON_COPIES: usize = 2;

/// Longest text of a field in bytes. Metadata has a lower limit of its own.
pub(super) const LONGEST_FIELD: usize = 64 << 10;

/// Longest text of an embedding: every number with its sign, digits, exponent, comma and indentation.
pub(super) const LONGEST_EMBEDDING: usize = Registry::MAX_DIMENSION as usize * 64;

/// Bytes from which on to read what a request says is work for a thread of its own. Less takes less time than to go there.
const LONG_WORK: usize = 64 << 10;

/// Longest body of a route that takes no file.
pub(super) const FIELDS_LIMIT: usize = 1 << 20;

/// A type that requests are read into: its members are the fields that a route knows.
pub trait FromForm: DeserializeOwned + Serialize + Send + 'static {
    /// Names of the fields that hold files. A route with one file also takes it as the raw body.
    const FILES: &'static [&'static str] = &[];
    /// Whether the file is a list of files; then there is no raw body.
    const SEVERAL_FILES: bool = false;
    /// Fields whose text may be longer than [`LONGEST_FIELD`], and how long.
    const LONG_FIELDS: &'static [(&'static str, usize)] = &[];
    /// Whether the body may take as long as it keeps coming, or must be there within the time for a request.
    const MAY_TAKE_LONG: bool = false;

    /// The longest body, and the budget that it is counted against.
    fn limits(state: &AppState) -> (usize, BodyBudget) {
        let longest = state.max_body_bytes;
        let longest = if Self::FILES.is_empty() { longest.min(FIELDS_LIMIT) } else { longest };
        (longest, state.body_budget.clone())
    }

    /// The files.
    fn files(&mut self) -> Vec<&mut FileBytes> {
        Vec::new()
    }
}

/// Extracts a [`FromForm`] request.
pub struct Fields<T>(pub T);

impl<T: FromForm> FromRequest<AppState> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        Form::receive::<T>(request, state).await?.finish().await.map(Self)
    }
}

/// Works on so many bytes, beside tokio's threads if they are many.
pub(super) async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if bytes < LONG_WORK {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?
}

pub(super) fn too_slow(limit: Duration) -> Problem {
    Problem::new(Code::RequestTimeout, format!("the request did not arrive within {} s", limit.as_secs()))
}

/// Files and fields of a request, by name. Only names that the route knows are in it.
pub(super) struct Form {
    files: &'static [&'static str],
    takes_raw: bool,
    known: &'static [&'static str],
    long_fields: &'static [(&'static str, usize)],
    fields: BTreeMap<String, Field>,
    /// What [`Field::Files`] counts.
    contents: Vec<Bytes>,
    share: Share,
    /// What the values of the fields take while they are read, which can be many times their text.
    values: Values,
}

/// Values, before they are read.
#[derive(Default)]
struct Values {
    /// Of their texts.
    text: usize,
    /// Bytes that they take once they are read.
    bytes: usize,
    share: Share,
    /// `None`: nobody counts.
    budget: Option<BodyBudget>,
}

impl Form {
    /// An empty form of the fields that a type has.
    pub(super) fn of<T: FromForm>() -> Self {
        let share = Share::default();
        Self {
            files: T::FILES,
            takes_raw: T::FILES.len() == 1 && !T::SEVERAL_FILES,
            known: names::<T>(),
            long_fields: T::LONG_FIELDS,
            fields: BTreeMap::new(),
            contents: Vec::new(),
            values: Values { share: share.another(), ..Values::default() },
            share,
        }
    }

    /// The form that a request brings.
    pub(super) async fn receive<T: FromForm>(request: Request, state: &AppState) -> Result<Self, Problem> {
        if !T::FILES.is_empty() {
            state.check_room()?;
        }
        let (form, time) = (Self::of::<T>(), state.request_timeout);
        if T::MAY_TAKE_LONG {
            return Self::read(request.map(|body| body::patient(body, time)), form, T::limits(state)).await;
        }
        let form = tokio::time::timeout(time, Self::read(request, form, T::limits(state)));
        form.await.map_err(|_| too_slow(time))?
    }

    pub(super) async fn read(
        request: Request,
        mut form: Self,
        (limit, budget): (usize, BodyBudget),
    ) -> Result<Self, Problem> {
        form.values.budget = Some(budget.clone());
        let (mut parts, body) = request.into_parts();
        let query = query(&mut parts).await?;
        body::refuse_declared_length(parts.headers.get(header::CONTENT_LENGTH), limit as u64)?;
        let empty = body.is_end_stream();
        let body = body::counted(body::limited(body, limit as u64), budget.clone(), form.share.clone());
        let media_type = media_type(&parts.headers);
        match media_type.as_str() {
            // Without files, the query string can say it all.
            _ if empty && form.files.is_empty() => {}
            "multipart/form-data" => form.read_multipart(Multipart::new(&parts.headers, body)?).await?,
            "application/json" => {
                let bytes = body::read_all(body).await?;
                // Files are decoded from base64 while their text is still there.
                if !form.files.is_empty() {
                    form.share.grow_to(&budget, JSON_COPIES * bytes.len())?;
                }
                form = aside(bytes.len(), move || form.read_json(&bytes, &budget).map(|()| form)).await?;
            }
            other => match form.files {
                [file] if form.takes_raw && (other.starts_with("image/") || other == "application/octet-stream") => {
                    let bytes = body::read_all(body).await?;
                    form.add_files(file, vec![bytes])?;
                }
                _ => return Err(unsupported_file_type(other, form.takes_raw)),
            },
        }
        form.add_query(query)?;
        Ok(form)
    }

    /// The request that the form makes, read where it disturbs nobody.
    pub(super) async fn finish<T: FromForm>(self) -> Result<T, Problem> {
        aside(self.values.text, move || self.into_request()).await
    }

    /// The request that the form makes.
    pub(super) fn into_request<T: FromForm>(self) -> Result<T, Problem> {
        let mut request: T = read_fields(self.fields)?;
        for file in request.files() {
            let content = fields::file_number(&file.0).and_then(|number| self.contents.get(number));
            let content = content.ok_or_else(|| Problem::internal("a file is read that did not come"))?;
            file.0 = self.share.attach(content.clone());
        }
        Ok(request)
    }

    async fn read_multipart(&mut self, mut form: Multipart) -> Result<(), Problem> {
        while let Some(name) = form.next_part().await? {
            self.check_known(&name)?;
            if self.files.contains(&name.as_str()) {
                let bytes = form.all_bytes(usize::MAX).await?.unwrap_or_default();
                self.add_files(&name, vec![bytes])?;
            } else {
                self.read_field(name, &mut form).await?;
            }
        }
        Ok(())
    }

    /// Reads the part of a field that is no file.
    pub(super) async fn read_field(&mut self, name: String, form: &mut Multipart) -> Result<(), Problem> {
        let bytes = form.all_bytes(self.longest(&name)).await?.ok_or_else(|| self.too_long(&name))?;
        let text = String::from_utf8(bytes.into()).map_err(|_| invalid(&name, "it is not UTF-8"))?;
        self.count(&text)?;
        self.add(&name, Field::Texts(vec![text]))
    }

    fn read_json(&mut self, bytes: &[u8], budget: &BodyBudget) -> Result<(), Problem> {
        let Members(members) = serde_json::from_slice(crate::types::bytes_without_mark(bytes))
            .map_err(|error| Problem::new(Code::MalformedJson, format!("the body is not a JSON object: {error}")))?;
        for (name, raw) in members {
            self.check_known(&name)?;
            if raw.get() == "null" {
                continue;
            }
            if self.files.contains(&name.as_str()) {
                let Texts(texts) = serde_json::from_str(raw.get())
                    .map_err(|_| invalid(&name, "a base64 text or data: URL is expected"))?;
                let copied = texts.iter().map(copied).sum::<usize>();
                self.share.grow_to(budget, JSON_COPIES * bytes.len() + copied)?;
                let files = texts.iter().map(|text| decode_base64(text));
                self.add_files(&name, files.collect::<Result<_, _>>().map_err(|error| invalid(&name, error))?)?;
                continue;
            }
            if raw.get().len() > self.longest(&name) {
                return Err(self.too_long(&name));
            }
            self.count(raw.get())?;
            self.add(&name, Field::Json(raw.get().to_owned()))?;
        }
        Ok(())
    }

    fn too_long(&self, name: &str) -> Problem {
        invalid(name, format!("it has more than {} bytes", self.longest(name)))
    }

    /// The longest text of a field.
    fn longest(&self, name: &str) -> usize {
        self.long_fields.iter().find(|(long, _)| *long == name).map_or(LONGEST_FIELD, |(_, longest)| *longest)
    }

    /// Counts what a text takes as a value, before it is read.
    fn count(&mut self, text: &str) -> Result<(), Problem> {
        let Values { text: length, bytes, share, budget } = &mut self.values;
        *length += text.len();
        *bytes += fields::memory_of(text);
        budget.as_ref().map_or(Ok(()), |budget| share.grow_to(budget, *bytes))
    }

    /// What the body says wins over the query string.
    pub(super) fn add_query(&mut self, query: Vec<(String, String)>) -> Result<(), Problem> {
        let said: HashSet<String> = self.fields.keys().cloned().collect();
        for (name, value) in query {
            self.check_known(&name)?;
            if self.files.contains(&name.as_str()) {
                return Err(invalid(&name, "a file belongs into the body"));
            }
            if !said.contains(&name) {
                self.count(&value)?;
                self.add(&name, Field::Texts(vec![value]))?;
            }
        }
        Ok(())
    }

    pub(super) fn check_known(&self, name: &str) -> Result<(), Problem> {
        if self.known.contains(&name) {
            return Ok(());
        }
        let known = match self.known {
            [] => "this route takes none".to_owned(),
            known => format!("the fields are: {}", known.join(", ")),
        };
        let shown: String = name.chars().take(64).collect();
        Err(Problem::new(Code::UnknownField, format!("there is no field {shown:?} here; {known}")).with_field(shown))
    }

    /// Adds files, in which order they came.
    fn add_files(&mut self, name: &str, files: Vec<Bytes>) -> Result<(), Problem> {
        let numbers = (self.contents.len()..).take(files.len()).collect();
        self.contents.extend(files);
        self.add(name, Field::Files(numbers))
    }

    /// Adds a field. Texts and files that are given again become a list; nothing else can be given twice.
    fn add(&mut self, name: &str, field: Field) -> Result<(), Problem> {
        match (self.fields.get_mut(name), field) {
            (None, field) => {
                self.fields.insert(name.to_owned(), field);
                Ok(())
            }
            (Some(Field::Texts(texts)), Field::Texts(more)) => {
                texts.extend(more);
                Ok(())
            }
            (Some(Field::Files(files)), Field::Files(more)) => {
                files.extend(more);
                Ok(())
            }
            (Some(_), _) => Err(invalid(name, fields::TWICE)),
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

fn unsupported_file_type(given: &str, takes_raw: bool) -> Problem {
    unsupported_media_type(
        given,
        match takes_raw {
            true => "multipart/form-data, application/json, or image/* or application/octet-stream for the raw file",
            false => "multipart/form-data or application/json",
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
