//! Requests about the record of what was asked and changed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::PageLimit;
use super::keys::time;
use crate::db::{PageError, PageRequest};
use crate::types::Name;

/// Which entries, and which page of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct AuditRequest {
    /// Only of this actor: the name or the id of a key, or what let somebody in without one.
    #[schema(value_type = Option<String>)]
    pub actor: Option<Name>,
    /// Only of this action, such as `identify` or `subject.erase`; `subject` means all that begin with `subject.`.
    #[schema(value_type = Option<String>)]
    pub action: Option<Name>,
    /// Only what concerns this gallery: id or, while it is there, name.
    #[schema(value_type = Option<String>)]
    pub gallery: Option<Name>,
    /// Only what concerns the subject of this id.
    pub subject: Option<Uuid>,
    /// Only what this model answered, or what was done to it: id, sha256 or name.
    pub model: Option<String>,
    /// Not before this time, such as `2030-01-31T12:00:00Z`.
    #[serde(default, deserialize_with = "time")]
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    #[serde(default, deserialize_with = "time")]
    pub to: Option<DateTime<Utc>>,
    /// Items per page.
    #[serde(default)]
    #[schema(default = 50)]
    pub limit: PageLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl AuditRequest {
    pub fn page(&self) -> Result<PageRequest, PageError> {
        PageRequest::new(Some(self.limit.get()), self.cursor.as_deref())?.of("audit")
    }
}
