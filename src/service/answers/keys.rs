//! Answers about the keys of callers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::limits::Limits;
use crate::types::{GalleryId, KeyId, Role, ShownKey};

/// A key of a caller, without the key itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeyEntry {
    pub id: KeyId,
    pub name: String,
    /// The first eight characters of the key.
    pub prefix: String,
    pub role: Role,
    /// The galleries that it is for; null: all.
    #[schema(required)]
    pub galleries: Option<Vec<KeyGallery>>,
    pub state: KeyState,
    pub created_at: DateTime<Utc>,
    /// From when on it is of no use; null: never.
    #[schema(required)]
    pub expires_at: Option<DateTime<Utc>>,
    #[schema(required)]
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, as far as servers have noted it: they do so every ten seconds.
    #[schema(required)]
    pub last_used_at: Option<DateTime<Utc>>,
    /// How often it was used, as far as servers have noted it.
    pub uses: u64,
    /// Until when the key works that this one took the place of; null if it does not.
    #[schema(required)]
    pub former_until: Option<DateTime<Utc>>,
    /// What it may have, as was said when it was made; elsewhere as the server says.
    #[serde(default)]
    #[schema(required)]
    pub limits: Limits,
}

/// A gallery that a key is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyGallery {
    pub id: GalleryId,
    pub name: String,
}

/// Whether a key is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    Active,
    Expired,
    Revoked,
}

impl KeyState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// POST /admin/keys: a key, with the key itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    #[serde(flatten)]
    pub entry: KeyEntry,
    /// What its holder sends as `x-api-key`. It is shown this once, and stored nowhere.
    pub key: ShownKey,
}
