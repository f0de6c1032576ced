//! How entries are chained. docs/audit.md describes it for those who check it without us; it can never change for what is sealed.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::types::{hex, unhex};

/// What is hashed before all else, so that no hash of something else is one of ours.
const DOMAIN: &[u8] = b"faceid audit 1\n";

/// A SHA-256, in hexadecimal where it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// What the first entry follows on.
    pub const BEGINNING: Self = Self([0; 32]);

    pub(super) fn read(bytes: &[u8]) -> Result<Self, sqlx::Error> {
        bytes.try_into().map(Self).map_err(|_| sqlx::Error::Decode("a hash has 32 bytes".into()))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        unhex(&text).map(Self).ok_or_else(|| serde::de::Error::custom("a hash of 64 hexadecimal digits is expected"))
    }
}

/// An entry as it is hashed and exported, in the order of its fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub position: i64,
    pub id: Uuid,
    #[serde(serialize_with = "write_time")]
    pub at: DateTime<Utc>,
    pub actor: String,
    pub key_id: Option<Uuid>,
    pub request_id: Option<String>,
    pub action: String,
    pub outcome: Option<String>,
    pub galleries: Vec<Uuid>,
    pub subjects: Vec<Uuid>,
    pub model_id: Option<Uuid>,
    /// JSON, as it was written.
    pub details: String,
    /// Of the entry before.
    pub previous: Option<Hash>,
    pub hash: Hash,
}

/// The columns of [`Record`], of `a`; `hash` and `previous` are missing.
macro_rules! content {
    () => {
        "a.id, a.at, a.actor, a.key_id, a.request_id, a.action, a.outcome, a.galleries, a.subjects, a.model_id, a.details"
    };
}
pub(super) use content;

impl FromRow<'_, PgRow> for Record {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let previous: Option<Vec<u8>> = row.try_get("previous")?;
        let hash: Option<Vec<u8>> = row.try_get("hash")?;
        Ok(Self {
            position: row.try_get::<Option<i64>, _>("position")?.unwrap_or_default(),
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            actor: row.try_get("actor")?,
            key_id: row.try_get("key_id")?,
            request_id: row.try_get("request_id")?,
            action: row.try_get("action")?,
            outcome: row.try_get("outcome")?,
            galleries: row.try_get("galleries")?,
            subjects: row.try_get("subjects")?,
            model_id: row.try_get("model_id")?,
            details: row.try_get("details")?,
            previous: previous.as_deref().map(Hash::read).transpose()?,
            hash: hash.as_deref().map_or(Ok(Hash::BEGINNING), Hash::read)?,
        })
    }
}

impl Record {
    /// The hash that it has after `previous`.
    pub(super) fn seal(&self, previous: Hash) -> Hash {
        let ids = |ids: &[Uuid]| Some(ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(","));
        let mut hash = Sha256::new_with_prefix(DOMAIN);
        hash.update(previous.0);
        for field in [
            Some(self.position.to_string()),
            Some(self.id.to_string()),
            Some(time(&self.at)),
            Some(self.actor.clone()),
            self.key_id.map(|id| id.to_string()),
            self.request_id.clone(),
            Some(self.action.clone()),
            self.outcome.clone(),
            ids(&self.galleries),
            ids(&self.subjects),
            self.model_id.map(|id| id.to_string()),
            Some(self.details.clone()),
        ] {
            match field {
                Some(text) => hash.update(format!("{}:{text},", text.len())),
                None => hash.update("-,"),
            }
        }
        Hash(hash.finalize().into())
    }
}

/// As it is hashed and exported: with all the digits that the database keeps.
pub(super) fn time(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

pub(super) fn write_time<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time(at))
}
