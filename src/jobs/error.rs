//! What can go wrong with jobs, in their own words.

use thiserror::Error;

use crate::db::{DbError, PageError};
use crate::types::JobId;

#[derive(Debug, Error)]
pub enum JobError {
    #[error("there is no job {0}")]
    JobNotFound(JobId),
    #[error("the job {0} is finished, so that nothing is left to cancel")]
    JobFinished(JobId),
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
