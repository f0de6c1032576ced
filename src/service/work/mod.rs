//! What all work on jobs has in common: how it fails, how it says how far it is, how it stands back for requests.

mod pace;
mod report;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::EngineError;
use crate::gallery::GalleryError;
use crate::jobs::{JobError, JobKind, Jobs, Lease, NewJob};
use crate::registry::RegistryError;
use crate::service::ServiceError;
use crate::service::answers::Job;
use crate::service::once::keep;
use crate::types::RequestKey;
pub(in crate::service) use pace::{PIECE, breathe, patiently, rest, rest_after};
pub(in crate::service) use report::JobReporter;

/// Why work on a job did not do it.
#[derive(Debug)]
pub(in crate::service) enum Failure {
    /// It will not be done by trying again.
    Final(String),
    /// It may be done another time.
    Passing(String),
    /// The lease said that work must end.
    Stopped,
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        match error {
            JobError::LeaseLost => Self::Stopped,
            error => Self::Passing(error.to_string()),
        }
    }
}

/// The settings of a job, as they were written down when it was submitted.
pub(in crate::service) fn settings_of<T: DeserializeOwned>(lease: &Lease) -> Result<T, Failure> {
    serde_json::from_value(lease.job().settings.clone())
        .map_err(|error| Failure::Final(format!("the settings of this job cannot be read: {error}")))
}

/// Whether it is worth another try.
impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::GateRefused { .. }
            | ServiceError::FacesWithoutChips { .. }
            | ServiceError::NoModelFile { .. }
            | ServiceError::InvalidModel(_)
            | ServiceError::InvalidDataset(_)
            | ServiceError::ModelTooLarge { .. }
            | ServiceError::CodeRefused
            | ServiceError::Engine(EngineError::Embedder(_))
            | ServiceError::Gallery(GalleryError::GalleryNotFound(_))
            | ServiceError::Registry(
                RegistryError::ModelNotFound(_)
                | RegistryError::NotSecondary
                | RegistryError::ModelInUse { .. }
                | RegistryError::DuplicateModel(_)
                | RegistryError::ModelExists { .. }
                | RegistryError::InvalidDimension(_),
            ) => Self::Final(error.to_string()),
            error => Self::Passing(error.to_string()),
        }
    }
}

impl From<GalleryError> for Failure {
    fn from(error: GalleryError) -> Self {
        ServiceError::from(error).into()
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        ServiceError::from(error).into()
    }
}

/// A job to submit, which concerns all galleries, unless some are named. Two of one kind and `key` are one; `settings` are what
/// [`settings_of`] reads.
pub(in crate::service) fn new_job(
    kind: JobKind,
    key: String,
    settings: &impl Serialize,
    by: &str,
) -> Result<NewJob, ServiceError> {
    let settings = serde_json::to_value(settings).map_err(|error| ServiceError::Internal(error.to_string()))?;
    Ok(NewJob { kind, key, settings, requested_by: by.to_owned(), galleries: None })
}

/// Queues a job, or finds the unfinished one of its kind and key; then the flag is `false`. Keeps the answer to a request that named a
/// key.
pub(in crate::service) async fn submit(
    jobs: &Jobs,
    new: &NewJob,
    key: Option<&RequestKey>,
) -> Result<(Job, bool), ServiceError> {
    let (job, is_new, mut transaction) = jobs.begin_submission(new).await?;
    let answer = (Job::from(job), is_new);
    keep(&mut transaction, key, &answer, &[]).await?;
    transaction.commit().await.map_err(JobError::from)?;
    Ok(answer)
}
