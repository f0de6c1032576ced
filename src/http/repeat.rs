//! Requests that may be sent again under a key.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::form::{self, Form, FromForm, invalid};
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
        let mut request: T = Form::receive::<T>(request, state).await?.finish().await?;
        let Some(mut fingerprint) = fingerprint else { return Ok(Self { request, key: None }) };
        let bytes = request.files().iter().map(|file| file.0.len()).sum();
        let hashing = move || {
            fingerprint.add_request(&mut request)?;
            Ok(Self { request, key: Some(fingerprint.finish()?) })
        };
        form::aside(bytes, hashing).await
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

    /// A request as it was read, in whichever form it came and however it was written.
    pub fn add_request<T: FromForm>(&mut self, request: &mut T) -> Result<(), Problem> {
        let mut fields = serde_json::to_value(&*request).map_err(Problem::internal)?;
        if let Some(fields) = fields.as_object_mut() {
            // A later version may know more, and the request may be sent again to that.
            fields.retain(|_, value| !value.is_null());
        }
        self.add(fields.to_string().as_bytes());
        request.files().into_iter().for_each(|file| self.add(&file.0));
        Ok(())
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use serde_json::json;

    use super::*;
    use crate::service::requests::RetrainRequest;

    fn of(mut request: RetrainRequest) -> [u8; 32] {
        let came = Request::post("/admin/retrain").header(KEY, "key").extension(Caller::anyone());
        let mut fingerprint = Fingerprint::of(&came.body(Body::empty()).unwrap()).unwrap().unwrap();
        fingerprint.add_request(&mut request).unwrap();
        *fingerprint.finish().unwrap().fingerprint()
    }

    #[test]
    fn a_request_is_what_was_read() {
        let as_form = |fields: &[(&str, &str)]| {
            let mut form = Form::of::<RetrainRequest>();
            let pairs = fields.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            form.add_query(pairs.collect()).unwrap();
            of(form.into_request().unwrap())
        };
        let as_json = |body| of(serde_json::from_value(body).unwrap());
        let form = as_form(&[("gallery", "staff"), ("protected", "badge"), ("test_share", "0.50")]);
        assert_eq!(form, as_json(json!({"test_share": 0.5, "protected": ["badge"], "gallery": "staff"})));
        assert_ne!(form, as_json(json!({"test_share": 0.25, "protected": ["badge"], "gallery": "staff"})));
        assert_ne!(form, as_form(&[("gallery", "staff"), ("protected", "badge")]));
    }
}
