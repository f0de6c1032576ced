//! What goes wrong, in CompreFace's words: a message, a number that clients branch on, and its status.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use crate::http::auth::shown_key;
use crate::http::problem::{Code, Problem};
use crate::service::ServiceError;

/// Bytes of a problem that are read: it says what may have been sent, of which it repeats little.
const LONGEST_PROBLEM: usize = 1 << 20;

/// Why a request is refused.
pub enum Failure {
    /// For a reason that CompreFace has a number for, and the native routes have not.
    Own { number: u16, code: Code, message: String },
    /// As the native routes refuse it; [`told`] puts it into CompreFace's words.
    Native(Problem),
}

/// A body of a failure.
#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    code: u16,
}

/// CompreFace's numbers.
pub mod number {
    pub const OTHER: u16 = 0;
    pub const FIELD_MISSING: u16 = 5;
    pub const UNKNOWN_KEY: u16 = 10;
    pub const KEY_MISSING: u16 = 20;
    pub const NO_IMAGE_FILE: u16 = 21;
    pub const OUT_OF_RANGE: u16 = 26;
    pub const NO_FACE: u16 = 28;
    pub const SEVERAL_FACES: u16 = 31;
    pub const PARAMETER_MISSING: u16 = 33;
    pub const PART_MISSING: u16 = 34;
    pub const FORBIDDEN_CHARACTER: u16 = 36;
    pub const ENGINE_FAILED: u16 = 41;
    pub const UNKNOWN_SUBJECT: u16 = 42;
    pub const SUBJECT_EXISTS: u16 = 43;
    pub const UNKNOWN_IMAGE: u16 = 44;
}

impl Failure {
    fn own(number: u16, code: Code, message: impl Into<String>) -> Self {
        Self::Own { number, code, message: message.into() }
    }

    pub fn out_of_range(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::own(number::OUT_OF_RANGE, Code::InvalidField, format!("{name}: {reason}"))
    }

    pub fn missing_field(name: &str) -> Self {
        Self::own(number::FIELD_MISSING, Code::MissingField, format!("the field `{name}` is missing or empty"))
    }

    pub fn missing_parameter(name: &str) -> Self {
        Self::own(number::PARAMETER_MISSING, Code::MissingField, format!("the parameter `{name}` is missing"))
    }

    pub fn missing_part(name: &str) -> Self {
        Self::own(number::PART_MISSING, Code::MissingField, format!("the part `{name}` is missing"))
    }

    pub fn no_image_file(message: impl Into<String>) -> Self {
        Self::own(number::NO_IMAGE_FILE, Code::UnsupportedImage, message)
    }

    pub fn no_face() -> Self {
        Self::own(number::NO_FACE, Code::NoFace, "no face is found in the given image")
    }

    pub fn forbidden_character() -> Self {
        let message = "a name of a subject has none of the characters ; / \\";
        Self::own(number::FORBIDDEN_CHARACTER, Code::InvalidField, message)
    }

    pub fn unknown_subject(name: &str) -> Self {
        Self::own(number::UNKNOWN_SUBJECT, Code::SubjectNotFound, format!("there is no subject {name:?}"))
    }

    pub fn subject_exists(name: &str) -> Self {
        Self::own(number::SUBJECT_EXISTS, Code::DuplicateSubject, format!("there is a subject {name:?} already"))
    }

    pub fn unknown_image() -> Self {
        Self::own(number::UNKNOWN_IMAGE, Code::FaceNotFound, "there is no example with this image_id")
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Native(problem)
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::Native(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Native(problem) => problem.into_response(),
            Self::Own { number, code, message } => {
                let status = match number {
                    number::UNKNOWN_SUBJECT | number::UNKNOWN_IMAGE => StatusCode::NOT_FOUND,
                    _ => StatusCode::BAD_REQUEST,
                };
                let mut response = (status, Json(Told { message: &message, code: number })).into_response();
                // For the audit.
                response.extensions_mut().insert(code);
                response
            }
        }
    }
}

/// What a request shows as its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// No UUID.
    Malformed,
    Key,
}

impl Shown {
    fn of(headers: &HeaderMap) -> Self {
        match shown_key(headers) {
            None => Self::Nothing,
            Some(key) if Uuid::try_parse_ascii(key).is_ok() => Self::Key,
            Some(_) => Self::Malformed,
        }
    }
}

/// Puts the problems of all layers within into CompreFace's words.
pub async fn told(mut request: Request, next: Next) -> Response {
    show_key_of_path(&mut request);
    let shown = Shown::of(request.headers());
    let response = next.run(request).await;
    if response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != "application/problem+json") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let problem = to_bytes(body, LONGEST_PROBLEM).await.ok().and_then(|body| serde_json::from_slice(&body).ok());
    let problem: Problem = problem.unwrap_or_else(|| Problem::internal("a problem that nobody can read"));
    let number;
    (parts.status, number) = numbered(&problem, shown);
    let body = serde_json::to_vec(&Told { message: &problem.detail, code: number }).unwrap_or_default();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::from(body))
}

/// A download may have its key in the path, so that a page can show it: it is as good as one in the header.
fn show_key_of_path(request: &mut Request) {
    let key = request.uri().path().strip_prefix("/static/").and_then(|rest| rest.split_once('/')).map(|(key, _)| key);
    if let Some(key) = key.and_then(|key| HeaderValue::from_str(key).ok()) {
        request.headers_mut().insert("x-api-key", key);
    }
}

/// The status and the number of a problem.
fn numbered(problem: &Problem, shown: Shown) -> (StatusCode, u16) {
    use number::*;
    let bad = |number| (StatusCode::BAD_REQUEST, number);
    let missing = |number| (StatusCode::NOT_FOUND, number);
    match problem.code {
        Code::Unauthorized => match shown {
            Shown::Nothing => bad(KEY_MISSING),
            Shown::Malformed => bad(OUT_OF_RANGE),
            Shown::Key => missing(UNKNOWN_KEY),
        },
        // A key is for another service, as its clients know it.
        Code::Forbidden | Code::GalleryNotFound => missing(UNKNOWN_KEY),
        // What cannot be read has no face: so does CompreFace, and clients know it.
        Code::NoFace | Code::EmptyImage | Code::UnsupportedImage | Code::CorruptImage => bad(NO_FACE),
        Code::MultipleFaces => bad(SEVERAL_FACES),
        Code::SubjectNotFound => missing(UNKNOWN_SUBJECT),
        Code::DuplicateSubject => bad(SUBJECT_EXISTS),
        Code::FaceNotFound => missing(UNKNOWN_IMAGE),
        Code::RouteNotFound | Code::MethodNotAllowed => missing(OTHER),
        // A vector of another length.
        Code::InvalidField if problem.field.as_deref() == Some("embedding") => bad(OTHER),
        Code::InvalidField | Code::MalformedPath => bad(OUT_OF_RANGE),
        Code::Internal | Code::ChipUnreadable => (StatusCode::INTERNAL_SERVER_ERROR, ENGINE_FAILED),
        code if code.status().is_server_error() => (code.status(), OTHER),
        Code::BodyTooLarge
        | Code::UnsupportedMediaType
        | Code::UnsupportedEncoding
        | Code::RequestTimeout
        | Code::RateLimited
        | Code::TooManyConcurrent => (problem.code.status(), OTHER),
        _ => bad(OTHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, shown: Shown) -> (u16, u16) {
        let (status, number) = numbered(&Problem::new(code, ""), shown);
        (status.as_u16(), number)
    }

    #[test]
    fn keys_are_refused_as_clients_know_it() {
        assert_eq!(of(Code::Unauthorized, Shown::Nothing), (400, 20));
        assert_eq!(of(Code::Unauthorized, Shown::Malformed), (400, 26));
        assert_eq!(of(Code::Unauthorized, Shown::Key), (404, 10));
        assert_eq!(of(Code::Forbidden, Shown::Key), (404, 10));
        let shown = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", key.parse().unwrap());
            Shown::of(&headers)
        };
        assert_eq!(Shown::of(&HeaderMap::new()), Shown::Nothing);
        assert_eq!(shown(""), Shown::Malformed);
        assert_eq!(shown("secret"), Shown::Malformed);
        assert_eq!(shown("00000000-0000-4000-8000-000000000002"), Shown::Key);
    }

    #[test]
    fn whoever_may_try_again_is_told_so_by_the_status() {
        for (code, status) in [(Code::Overloaded, 503), (Code::RateLimited, 429), (Code::BodyTooLarge, 413)] {
            assert_eq!(of(code, Shown::Key), (status, 0), "{code:?}");
        }
        assert_eq!(of(Code::Internal, Shown::Key), (500, 41));
        assert_eq!(of(Code::ImageTooLarge, Shown::Key), (400, 0));
    }

    #[test]
    fn a_vector_of_another_length_is_no_value_out_of_range() {
        let of = |field| numbered(&Problem::new(Code::InvalidField, "").with_field(field), Shown::Key).1;
        assert_eq!((of("embedding"), of("subject")), (0, 26));
    }
}
