//! The record of all that was asked and changed: one table that is only added to, chained by hashes. All SQL about it is here.
//!
//! A change [`append`]s its entry in its own transaction: both are there, or neither. That entry has no place in the chain yet, so that
//! changes do not wait for one another. What was answered is [gathered](Audit::gather) and written many at a time. One server at a time
//! [seals](Audit::seal) what came: gives it the next positions, and the hash of each with the hash of the one before.

mod action;
mod chain;
mod entry;
mod gathering;
mod read;
mod retention;
mod seal;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use thiserror::Error;

use crate::db::{DbError, Pool, Pools};
use crate::types::Scope;

pub use action::Action;
pub use chain::{Hash, Record};
pub use entry::{Entry, append};
use gathering::Gathered;
pub use read::{Filter, Listed};
pub use verify::{Fault, Verdict, Walk};

/// The record of one database, as somebody sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    scope: Scope,
    pool: Pool,
    /// For work in the background.
    beside: PgPool,
    /// Whether questions are noted.
    questions: bool,
    gathered: Arc<Gathered>,
}

/// Where the chain ended at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the last entry; 0: there was none.
    pub position: i64,
    pub hash: Hash,
    #[serde(serialize_with = "chain::write_time")]
    pub at: DateTime<Utc>,
}

impl Head {
    /// What is signed of it.
    pub fn message(&self) -> String {
        let hash = crate::types::hex(&self.hash.0);
        format!("faceid audit head 1\n{}\n{hash}\n{}\n", self.position, chain::time(&self.at))
    }
}

#[derive(Debug, Error)]
pub enum AuditError {
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for AuditError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

impl Audit {
    /// `questions`: whether identifications, verifications and comparisons are noted.
    pub fn new(pools: &Pools, questions: bool) -> Self {
        let Pools { requests: pool, beside, .. } = pools.clone();
        Self { scope: Scope::All, pool, beside, questions, gathered: Arc::default() }
    }

    /// As somebody sees it who has a scope: entries that concern galleries of it, and no others.
    pub fn within(&self, scope: &Scope) -> Self {
        Self { scope: scope.clone(), ..self.clone() }
    }
}
