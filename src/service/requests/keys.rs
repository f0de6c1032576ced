//! Requests about the keys of callers.

use chrono::{DateTime, Utc};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{KeepFor, Listed};
use crate::limits::Limits;
use crate::types::{Name, Role};

/// A new key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    /// Unique among the keys that are not revoked. No secret: it stands for the key in lists and records.
    #[schema(example = "gate 3")]
    pub name: Name,
    /// What it is for.
    pub role: Role,
    /// The galleries that it is for, up to 1,000: names or ids. For it there are no others. Defaults to all.
    #[schema(value_type = Option<Vec<Name>>, min_items = 1, max_items = 1000, example = json!(["staff"]))]
    pub galleries: Option<Listed<Name>>,
    /// From when on it is of no use, such as `2030-01-31T12:00:00Z`. Defaults to never.
    #[serde(default, deserialize_with = "time")]
    pub expires_at: Option<DateTime<Utc>>,
    /// What it may have, where that differs from what the server says. A key that is limited itself gives no more than it has.
    pub limits: Option<Limits>,
}

/// How a key gives way to another.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct RotateKey {
    /// Seconds for which the former key works as well, up to 7 days.
    #[serde(default)]
    #[schema(default = 0)]
    pub keep_for: KeepFor,
}

pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let time = DateTime::parse_from_rfc3339(&text);
    time.map(|time| Some(time.to_utc()))
        .map_err(|_| D::Error::custom("a time such as 2030-01-31T12:00:00Z is expected"))
}
