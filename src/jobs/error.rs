//! What can go wrong with jobs, in their own words.

use thiserror::Error;

use super::JobKind;
use crate::db::{DbError, PageError};
use crate::types::JobId;

#[derive(Debug, Error)]
pub enum JobError {
    #[error("there is no job {0}")]
    JobNotFound(JobId),
    #[error("the job {0} is finished, so that nothing is left to cancel")]
    JobFinished(JobId),
    #[error("the job {id} cannot be cancelled: a job of kind `{}` ends by itself or not at all", kind.name())]
    NotCancellable { id: JobId, kind: JobKind },
    /// Another server may work on the job now.
    #[error("the lease on the job ran out")]
    LeaseLost,
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}
