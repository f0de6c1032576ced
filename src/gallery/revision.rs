//! States of galleries and subjects. Whoever changes one can say in which state it was seen, and changes nothing if somebody else
//! was faster.
//!
//! A revision is of what a PATCH can change: name, policy and retention, or name, metadata and expiry. The table keeps it by a trigger. What is
//! enrolled, moved or deleted below changes none.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A state. No other one, of whatever it may be, has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision(pub Uuid);

/// The states in which something is to be changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expected {
    #[default]
    Any,
    /// One of these; none at all if there are none.
    OneOf(Vec<Revision>),
}

/// Whether a row is in one of the states of a parameter such as `$2`, in SQL.
macro_rules! as_expected {
    ($states:literal) => {
        concat!("(", $states, "::uuid[] is null or coalesce(revision, id) = any(", $states, "))")
    };
}
pub(super) use as_expected;

impl Expected {
    /// For [`as_expected`]; null is any state.
    pub(super) fn revisions(&self) -> Option<Vec<Uuid>> {
        match self {
            Self::Any => None,
            Self::OneOf(revisions) => Some(revisions.iter().map(|revision| revision.0).collect()),
        }
    }
}
