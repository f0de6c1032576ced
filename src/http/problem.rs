//! One shape for every failure: RFC 9457 problem details with a stable, machine-readable `code`.

mod code;

use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use utoipa::ToSchema;

pub use code::Code;

use crate::access::AccessError;
use crate::audit::AuditError;
use crate::db::{DbError, PageError};
use crate::engine::EngineError;
use crate::gallery::GalleryError;
use crate::jobs::JobError;
use crate::registry::RegistryError;
use crate::service::ServiceError;
use crate::vision::DecodeError;

/// The body of every answer that is not a success (RFC 9457, `application/problem+json`).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "status": 422, "title": "Unprocessable Entity", "code": "no_face", "detail": "no face was found in image", "field": "image"
}))]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// Stable and machine-readable.
    pub code: Code,
    /// For people; may change.
    pub detail: String,
    /// The field of the request that this is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
    /// `duplicate_face`: the subjects that the face belongs to: those with the same image first, then the most similar.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub duplicates: Vec<crate::service::answers::Duplicate>,
    /// `rate_limited`, `too_many_concurrent`: after how many seconds to try again, as `Retry-After` says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after: Option<u32>,
    /// What the headers say of the limits of whoever is refused.
    #[serde(skip)]
    pub(in crate::http) limits: Option<Box<[String; 2]>>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            code,
            detail: detail.into(),
            field: None,
            duplicates: Vec::new(),
            retry_after: None,
            limits: None,
        }
    }

    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// A fault of ours: the log has the reason, the caller does not.
    pub fn internal(reason: impl std::fmt::Display) -> Self {
        error!(%reason, "internal error");
        Self::new(Code::Internal, "the server failed to handle this request; its log says why")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(&self)).into_response();
        // For the audit.
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.code {
            Code::Starting | Code::Overloaded | Code::DatabaseUnavailable | Code::ModelUnavailable | Code::Timeout => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Code::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The rest of such a body stays unread, so the connection cannot be used again.
            Code::BodyTooLarge | Code::RequestTimeout => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(told) = self.limits {
            super::limits::tell(&mut response, *told);
        }
        response
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        match error {
            ServiceError::Image { field, source } => Self::new(image_code(&source), detail).with_field(field),
            ServiceError::NoFace { field } => Self::new(Code::NoFace, detail).with_field(field),
            ServiceError::MultipleFaces { field, .. } => Self::new(Code::MultipleFaces, detail).with_field(field),
            ServiceError::UnusableFace { field, .. } => Self::new(Code::UnusableFace, detail).with_field(field),
            ServiceError::Overloaded => Self::new(Code::Overloaded, detail),
            ServiceError::EmbeddingDimension { .. } | ServiceError::Embedding(_) => {
                Self::new(Code::InvalidField, detail).with_field("embedding")
            }
            ServiceError::Uncalibrated { .. } => Self::new(Code::InvalidField, detail),
            ServiceError::RateBeyondMeasured { .. } => Self::new(Code::RateBeyondMeasured, detail),
            ServiceError::ModelTooLarge { .. } => Self::new(Code::BodyTooLarge, detail).with_field("file"),
            ServiceError::CodeRefused => Self::new(Code::CodeRefused, detail).with_field("file"),
            ServiceError::InvalidModel(_) => Self::new(Code::InvalidModel, detail).with_field("file"),
            ServiceError::NoModelFile { .. } => Self::new(Code::NoModelFile, detail),
            ServiceError::NoShadow { .. } => Self::new(Code::NoShadow, detail),
            ServiceError::GateRefused { .. } => Self::new(Code::GateRefused, detail),
            ServiceError::FacesWithoutChips { .. } => Self::new(Code::FacesWithoutChips, detail),
            ServiceError::ModelChanges => Self::new(Code::ModelUnavailable, detail),
            ServiceError::Blob(error) => {
                error!(%error, "a model file is unavailable");
                Self::new(Code::ModelUnavailable, "a model file is unavailable at present; the server's log says why")
            }
            ServiceError::InvalidDataset(_) => Self::new(Code::InvalidDataset, detail).with_field("file"),
            ServiceError::NotEmbedded { .. } => Self::new(Code::NotEmbedded, detail),
            ServiceError::MissingField { field, .. } => Self::new(Code::MissingField, detail).with_field(field),
            ServiceError::InvalidField { field, .. } => Self::new(Code::InvalidField, detail).with_field(field),
            ServiceError::TooFewSubjects { field, .. } => Self::new(Code::TooFewSubjects, detail).with_field(field),
            ServiceError::KeyReused | ServiceError::AnswerErased => {
                Self::new(Code::IdempotencyKeyReused, detail).with_field("Idempotency-Key")
            }
            ServiceError::NoKey | ServiceError::UnknownKey | ServiceError::KeyOver(_) => {
                Self::new(Code::Unauthorized, detail)
            }
            ServiceError::Forbidden(_) => Self::new(Code::Forbidden, detail),
            ServiceError::Limited(refusal) => refusal.into(),
            ServiceError::Access(error) => error.into(),
            ServiceError::Audit(AuditError::Db(error)) => error.into(),
            ServiceError::Db(error) => error.into(),
            ServiceError::Job(error) => error.into(),
            ServiceError::Engine(error) => error.into(),
            ServiceError::Gallery(error) => error.into(),
            ServiceError::Registry(error) => error.into(),
            ServiceError::Internal(reason) => Self::internal(reason),
        }
    }
}

fn image_code(error: &DecodeError) -> Code {
    match error {
        DecodeError::Empty => Code::EmptyImage,
        DecodeError::Unsupported { .. } => Code::UnsupportedImage,
        DecodeError::Corrupt { .. } => Code::CorruptImage,
        DecodeError::TooManyBytes { .. } | DecodeError::TooManyPixels { .. } | DecodeError::TooMuchMemory { .. } => {
            Code::ImageTooLarge
        }
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        let detail = error.to_string();
        match error {
            AccessError::KeyNotFound(_) => Self::new(Code::KeyNotFound, detail),
            AccessError::DuplicateKey(_) => Self::new(Code::DuplicateKey, detail).with_field("name"),
            AccessError::KeyRevoked(_) => Self::new(Code::KeyRevoked, detail),
            AccessError::GalleryGone => Self::new(Code::GalleryNotFound, detail),
            AccessError::OtherSecret { .. } => Self::internal(detail),
            AccessError::Db(error) => error.into(),
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded => Self::new(Code::Overloaded, error.to_string()),
            EngineError::Stopped
            | EngineError::Network { .. }
            | EngineError::Embedder(_)
            | EngineError::Device(_)
            | EngineError::Inference(_)
            | EngineError::Panicked
            | EngineError::Loading
            | EngineError::Embedding(_)
            | EngineError::Thread(_) => Self::internal(error),
        }
    }
}

impl From<GalleryError> for Problem {
    fn from(error: GalleryError) -> Self {
        let detail = error.to_string();
        match error {
            GalleryError::GalleryNotFound(_) => Self::new(Code::GalleryNotFound, detail),
            GalleryError::SubjectNotFound(_) => Self::new(Code::SubjectNotFound, detail),
            GalleryError::FaceNotFound(_) => Self::new(Code::FaceNotFound, detail),
            GalleryError::ErasureNotFound(_) => Self::new(Code::ErasureNotFound, detail),
            GalleryError::SetAsideNotFound(_) => Self::new(Code::SetAsideNotFound, detail),
            GalleryError::DuplicateGallery(_) => Self::new(Code::DuplicateGallery, detail),
            GalleryError::GalleryNameIsId(_) => Self::new(Code::InvalidField, detail).with_field("name"),
            GalleryError::DuplicateSubject(_) => Self::new(Code::DuplicateSubject, detail),
            GalleryError::SubjectQuota { .. } => {
                metrics::counter!("faceid_limited_total", "kind" => "subjects").increment(1);
                Self::new(Code::SubjectQuota, detail)
            }
            GalleryError::SameSubject => Self::new(Code::SameSubject, detail),
            GalleryError::OtherRevision => Self::new(Code::PreconditionFailed, detail),
            GalleryError::NoChip(_) => Self::new(Code::NoChip, detail),
            GalleryError::UnreadableChip { .. } => {
                error!(%detail, "a chip cannot be read");
                Self::new(Code::ChipUnreadable, detail)
            }
            GalleryError::InvalidPolicy(_) => Self::new(Code::InvalidField, detail).with_field("policy"),
            GalleryError::DefaultGallery => Self::new(Code::DefaultGallery, detail),
            GalleryError::DuplicateFace { matches } => Self {
                duplicates: matches.into_iter().map(Into::into).collect(),
                ..Self::new(Code::DuplicateFace, detail)
            },
            GalleryError::InvalidRetention(_) => Self::new(Code::InvalidField, detail).with_field("retention"),
            GalleryError::SubjectExpired(_) => Self::new(Code::SubjectExpired, detail),
            GalleryError::SubjectMismatch { .. } => Self::new(Code::SubjectMismatch, detail),
            GalleryError::Page(error) => error.into(),
            GalleryError::MetadataNotObject | GalleryError::MetadataNul | GalleryError::MetadataTooLarge(_) => {
                Self::new(Code::InvalidField, detail).with_field("metadata")
            }
            GalleryError::OtherModel { .. } => Self::new(Code::ModelUnavailable, detail),
            GalleryError::ModelNotFound(_)
            | GalleryError::Dimension { .. }
            | GalleryError::Inconsistent(_)
            | GalleryError::OtherChipKeys { .. }
            | GalleryError::Thread(_) => Self::internal(detail),
            GalleryError::Db(error) => error.into(),
        }
    }
}

impl From<JobError> for Problem {
    fn from(error: JobError) -> Self {
        let detail = error.to_string();
        match error {
            JobError::JobNotFound(_) => Self::new(Code::JobNotFound, detail),
            JobError::JobFinished(_) => Self::new(Code::JobFinished, detail),
            JobError::NotCancellable { .. } => Self::new(Code::JobNotCancellable, detail),
            JobError::LeaseLost => Self::internal(detail),
            JobError::Page(error) => error.into(),
            JobError::Db(error) => error.into(),
        }
    }
}

impl From<PageError> for Problem {
    fn from(error: PageError) -> Self {
        let detail = error.to_string();
        match error {
            PageError::InvalidCursor => Self::new(Code::InvalidCursor, detail).with_field("cursor"),
            PageError::InvalidLimit(_) => Self::new(Code::InvalidField, detail).with_field("limit"),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::ModelNotFound(_) => Self::new(Code::ModelNotFound, detail),
            RegistryError::AmbiguousModel(_) => Self::new(Code::InvalidField, detail).with_field("model"),
            RegistryError::DuplicateModel(_) => Self::new(Code::DuplicateModel, detail).with_field("name"),
            RegistryError::ModelExists { .. } => Self::new(Code::ModelExists, detail),
            RegistryError::NoFormerModel => Self::new(Code::NoFormerModel, detail),
            RegistryError::ModelInUse { .. } | RegistryError::NotSecondary => Self::new(Code::ModelInUse, detail),
            RegistryError::OtherDimension { .. } | RegistryError::InvalidDimension(_) => {
                Self::new(Code::InvalidModel, detail).with_field("file")
            }
            RegistryError::NoActiveModel => Self::internal(detail),
            RegistryError::Db(error) => error.into(),
        }
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(reason) => {
                error!(%reason, "the database is unavailable");
                Self::new(Code::DatabaseUnavailable, "the database is unavailable at present")
            }
            DbError::Locked(reason) => {
                warn!(%reason, "others are changing the same in the database");
                Self::new(Code::DatabaseUnavailable, "others are changing the same at present, and it takes too long")
            }
            DbError::TooSlow(reason) => {
                warn!(%reason, "the database took too long");
                Self::new(Code::Timeout, "the database took too long over this request")
            }
            other => Self::internal(other),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::MalformedQuery, format!("the query string cannot be read: {}", rejection.body_text()))
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::new(Code::MalformedPath, "a part of the path is not what belongs there: an id, or a name in UTF-8")
    }
}

/// No route has this path.
pub async fn route_not_found(uri: Uri) -> Problem {
    Problem::new(Code::RouteNotFound, format!("there is no {}; /docs lists the routes", uri.path()))
}

/// A route has this path, but not for this method.
pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} does not answer {method}", uri.path()))
}

/// Answers a panic of a handler like any other fault of ours.
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let reason = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    Problem::internal(reason).into_response()
}

/// Gives a failure a body where a library answered without one.
pub async fn no_bare_failure(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || response.headers().contains_key(header::CONTENT_TYPE)
    {
        return response;
    }
    match status {
        StatusCode::NOT_FOUND => Problem::new(Code::RouteNotFound, "there is nothing here").into_response(),
        status => Problem::internal(format!("a bare {status}")).into_response(),
    }
}

/// Gives every request a time to be answered in.
pub async fn answer_in_time(limit: Duration, request: Request, next: Next) -> Response {
    in_time(limit, next.run(request)).await.into_response()
}

/// Gives work a time to be done in.
pub async fn in_time<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Problem> {
    let late = |_| Problem::new(Code::Timeout, format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.map_err(late)
}
