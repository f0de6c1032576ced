//! Requests that may be sent again under a key.

use std::borrow::Cow;

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::form::fields::Field;
use super::form::{Form, FromForm, invalid};
use super::jobs::accepted;
use super::problem::Problem;
use super::state::{AppState, caller};
use crate::service::Once;
use crate::service::answers::Job;
use crate::types::{Caller, RequestKey};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Extracts a request, and the key that it came with.
pub struct Repeatable<T> {
    pub request: T,
    pub key: Option<RequestKey>,
}

impl<T: FromForm> FromRequest<AppState> for Repeatable<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let fingerprint = Fingerprint::of(&request)?;
        let form = Form::receive::<T>(request, state).await?;
        let Some(mut fingerprint) = fingerprint else { return Ok(Self { request: form.into_request()?, key: None }) };
        // Tens of megabytes are CPU work.
        let hashing = move || {
            fingerprint.add_form(&form);
            (form, fingerprint)
        };
        let (form, fingerprint) = tokio::task::spawn_blocking(hashing).await.map_err(Problem::internal)?;
        Ok(Self { request: form.into_request()?, key: Some(fingerprint.finish()?) })
    }
}

/// What a request with a key is, as far as it was read.
pub struct Fingerprint {
    caller: Caller,
    key: String,
    hash: Sha256,
    /// Of a file that is stored as it arrives.
    file: Sha256,
}

impl Fingerprint {
    /// Of a request that begins to be read; `None` if it names no key.
    pub fn of(request: &Request) -> Result<Option<Self>, Problem> {
        let mut keys = request.headers().get_all(KEY).iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let key = key.to_str().unwrap_or_default();
        // As a structured field it is a string, which has quotes around it.
        let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key).to_owned();
        if keys.next().is_some() {
            return Err(invalid_key("it is given twice"));
        }
        // Before anything is read in vain.
        let caller = caller(request.extensions())?.clone();
        RequestKey::new(&caller, &key, [0; 32]).map_err(invalid_key)?;
        let mut fingerprint = Self { caller, key, hash: Sha256::new(), file: Sha256::new() };
        fingerprint.add(request.method().as_str().as_bytes());
        fingerprint.add(request.uri().path().as_bytes());
        Ok(Some(fingerprint))
    }

    /// One part; its length keeps it apart from the next.
    fn add(&mut self, part: &[u8]) {
        self.hash.update((part.len() as u64).to_be_bytes());
        self.hash.update(part);
    }

    /// All fields, in whichever order and form they came.
    pub fn add_form(&mut self, form: &Form) {
        for (name, field) in form.fields() {
            self.add(name.as_bytes());
            match field {
                Field::Texts(texts) => match texts.as_slice() {
                    [text] => self.add(plain(text).as_bytes()),
                    several => self.add(Value::from(several).to_string().as_bytes()),
                },
                Field::Json(text) => match serde_json::from_str(text) {
                    Ok(Value::String(text)) => self.add(plain(&text).as_bytes()),
                    Ok(value) => self.add(value.to_string().as_bytes()),
                    Err(_) => self.add(text.as_bytes()),
                },
                Field::Files(files) => form.contents(files).for_each(|file| self.add(file)),
            }
        }
    }

    /// More of a file that is stored as it arrives.
    pub fn add_piece(&mut self, piece: &[u8]) {
        self.file.update(piece);
    }

    pub fn finish(mut self) -> Result<RequestKey, Problem> {
        let file = std::mem::take(&mut self.file).finalize();
        self.add(&file);
        RequestKey::new(&self.caller, &self.key, self.hash.finalize().into()).map_err(invalid_key)
    }
}

/// A text of a form as JSON would have it, if it stands for a list or an object.
fn plain(text: &str) -> Cow<'_, str> {
    let parsed = || serde_json::from_str(text).ok().filter(|value: &Value| value.is_array() || value.is_object());
    match text.trim_start().starts_with(['[', '{']).then(parsed).flatten() {
        Some(value) => value.to_string().into(),
        None => text.into(),
    }
}

fn invalid_key(reason: impl std::fmt::Display) -> Problem {
    invalid("Idempotency-Key", reason)
}

/// An answer, which may have been given before.
pub fn answered<T: Serialize>(status: StatusCode, Once { answer, repeated }: Once<T>) -> Response {
    marked((status, Json(answer)).into_response(), repeated)
}

/// A job that was submitted, or that does already what was asked for; the answer may have been given before.
pub fn submitted(Once { answer: (job, is_new), repeated }: Once<(Job, bool)>) -> Response {
    marked(accepted(job, is_new), repeated)
}

/// Says so of an answer that was given before.
pub fn marked(mut response: Response, repeated: bool) -> Response {
    if repeated {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
