//! The codes of problems, and the HTTP status of each.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, for programs. Codes never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    // The request cannot be read.
    MalformedJson,
    MalformedMultipart,
    MalformedPath,
    MalformedQuery,
    MalformedPrecondition,
    IncompleteBody,
    UnsupportedMediaType,
    UnsupportedEncoding,
    BodyTooLarge,
    RequestTimeout,
    // A field of it is wrong.
    MissingField,
    UnknownField,
    InvalidField,
    InvalidCursor,
    RateBeyondMeasured,
    // An image of it is wrong.
    EmptyImage,
    UnsupportedImage,
    CorruptImage,
    ImageTooLarge,
    NoFace,
    MultipleFaces,
    UnusableFace,
    PixelsBeyondLimit,
    // An archive of it is wrong.
    InvalidDataset,
    // It does not fit what is stored.
    GalleryNotFound,
    SubjectNotFound,
    FaceNotFound,
    SetAsideNotFound,
    ErasureNotFound,
    DuplicateGallery,
    DuplicateSubject,
    SubjectQuota,
    DuplicateFace,
    SubjectMismatch,
    SubjectExpired,
    DefaultGallery,
    SameSubject,
    PreconditionFailed,
    NoChip,
    ChipUnreadable,
    NotEmbedded,
    TooFewSubjects,
    JobNotFound,
    JobFinished,
    JobNotCancellable,
    IdempotencyKeyReused,
    // It does not fit the models.
    ModelNotFound,
    DuplicateModel,
    ModelExists,
    InvalidModel,
    CodeRefused,
    NoModelFile,
    ModelInUse,
    NoFormerModel,
    GateRefused,
    FacesWithoutChips,
    NoShadow,
    // The door.
    Unauthorized,
    Forbidden,
    KeyNotFound,
    DuplicateKey,
    KeyRevoked,
    RateLimited,
    TooManyConcurrent,
    RouteNotFound,
    MethodNotAllowed,
    // The server.
    Starting,
    Overloaded,
    DatabaseUnavailable,
    ModelUnavailable,
    Timeout,
    Internal,
}

impl Code {
    /// As it is written.
    pub(in crate::http) fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            // A variant without fields is a string.
            _ => String::new(),
        }
    }

    pub(in crate::http) fn status(self) -> StatusCode {
        match self {
            Self::MalformedJson
            | Self::MalformedMultipart
            | Self::MalformedPath
            | Self::MalformedQuery
            | Self::MalformedPrecondition
            | Self::IncompleteBody
            | Self::InvalidCursor => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::GalleryNotFound
            | Self::SubjectNotFound
            | Self::FaceNotFound
            | Self::SetAsideNotFound
            | Self::ErasureNotFound
            | Self::ModelNotFound
            | Self::NoChip
            | Self::NoShadow
            | Self::JobNotFound
            | Self::KeyNotFound
            | Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::DuplicateGallery
            | Self::DuplicateSubject
            | Self::SubjectQuota
            | Self::DuplicateFace
            | Self::SubjectMismatch
            | Self::SubjectExpired
            | Self::DefaultGallery
            | Self::SameSubject
            | Self::NotEmbedded
            | Self::JobFinished
            | Self::JobNotCancellable
            | Self::IdempotencyKeyReused
            | Self::DuplicateModel
            | Self::ModelExists
            | Self::NoModelFile
            | Self::ModelInUse
            | Self::NoFormerModel
            | Self::GateRefused
            | Self::FacesWithoutChips
            | Self::DuplicateKey
            | Self::KeyRevoked => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::BodyTooLarge | Self::ImageTooLarge | Self::PixelsBeyondLimit => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType | Self::UnsupportedEncoding | Self::UnsupportedImage => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Self::MissingField
            | Self::UnknownField
            | Self::InvalidField
            | Self::RateBeyondMeasured
            | Self::EmptyImage
            | Self::CorruptImage
            | Self::NoFace
            | Self::MultipleFaces
            | Self::UnusableFace
            | Self::TooFewSubjects
            | Self::InvalidDataset
            | Self::InvalidModel
            | Self::CodeRefused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited | Self::TooManyConcurrent => StatusCode::TOO_MANY_REQUESTS,
            Self::Starting | Self::Overloaded | Self::DatabaseUnavailable | Self::ModelUnavailable | Self::Timeout => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ChipUnreadable | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
