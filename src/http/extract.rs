//! What several routes read: the parameters of a path, and requests without a file.

use axum::extract::FromRequestParts;

use super::form::FromForm;
use super::problem::Problem;
use crate::service::requests::{
    AnomaliesRequest, AuditRequest, ChangeGallery, ChangeSubject, DatasetRequest, DeleteFaces, DuplicatesRequest,
    EvaluateRequest, ForceRequest, IdentifyStoredRequest, InGallery, ListInGallery, ListRequest, ListSubjects,
    MergeRequest, MoveRequest, NewGallery, NewSubject, RetrainRequest, RotateKey, ShadowRequest,
};

/// Parameters of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// No fields at all.
impl FromForm for () {}

macro_rules! without_files {
    ($($request:ty),* $(,)?) => { $(impl FromForm for $request {})* };
}

without_files!(
    AnomaliesRequest,
    ChangeGallery,
    ChangeSubject,
    DatasetRequest,
    DeleteFaces,
    DuplicatesRequest,
    EvaluateRequest,
    ForceRequest,
    IdentifyStoredRequest,
    InGallery,
    ListInGallery,
    ListRequest,
    AuditRequest,
    ListSubjects,
    MergeRequest,
    MoveRequest,
    NewGallery,
    NewSubject,
    RetrainRequest,
    RotateKey,
    ShadowRequest,
);
