//! The keys of callers: all SQL about them is here. A key itself is stored nowhere, but its hash by a secret.

mod change;
mod read;
mod secret;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::watch;

use crate::db::{DbError, Notifications, Pool, Pools, Topic};
use crate::limits::Limits;
use crate::types::{Actor, Caller, GalleryId, KeyId, Role, Scope};

pub use change::{NewKey, Uses};
pub use read::{KnownKey, KnownKeys};
pub use secret::KeyHash;
use secret::KeySecret;

#[derive(Debug, Error)]
pub enum AccessError {
    #[error("there is no key {0:?}")]
    KeyNotFound(String),
    #[error("there is already a key {0:?}; choose another name, or revoke that one first")]
    DuplicateKey(String),
    #[error("the key {0:?} was revoked; create another one")]
    KeyRevoked(String),
    /// Deleted at this moment.
    #[error("a gallery that the key was to be for is gone")]
    GalleryGone,
    #[error(
        "keys of this database were made with another secret: {}; set FACEID_KEY_SECRET (key_secret) as it was then ({}), or \
         revoke them (`faceid keys revoke`)",
        names.join(", "),
        if *configured { "or not at all, if it was not" } else { "it is not set here" }
    )]
    OtherSecret { names: Vec<String>, configured: bool },
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for AccessError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// A key, as far as it is shown after it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub id: KeyId,
    pub name: String,
    /// How the key begins.
    pub prefix: String,
    pub role: Role,
    /// By id and name; `None`: all.
    pub galleries: Option<Vec<(GalleryId, String)>>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub uses: u64,
    /// Until when the key works that this one took the place of.
    pub former_until: Option<DateTime<Utc>>,
    /// Of its own.
    pub limits: Limits,
}

impl Key {
    /// The galleries that it is for and that are there.
    pub fn scope(&self) -> Scope {
        match &self.galleries {
            None => Scope::All,
            Some(galleries) => Scope::Galleries(galleries.iter().map(|(id, _)| *id).collect()),
        }
    }
}

/// All keys of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Whom the audit names.
    actor: Actor,
    pool: Pool,
    /// For work in the background.
    beside: PgPool,
    notifications: Notifications,
    secret: Arc<KeySecret>,
    /// Whether the secret is one of the configuration.
    configured: bool,
}

impl Keys {
    /// Keys are hashed by the secret that is given, else by the database's own.
    pub async fn open(pools: &Pools, secret: Option<&str>) -> Result<Self, AccessError> {
        let Pools { requests: pool, beside, notifications } = pools.clone();
        let (secret, configured) = match secret {
            Some(secret) => (KeySecret::new(secret.as_bytes()), true),
            None => {
                let own: Vec<u8> = sqlx::query_scalar("select secret from key_secrets").fetch_one(&pool).await?;
                (KeySecret::new(&own), false)
            }
        };
        let actor = Caller::server().actor();
        Ok(Self { actor, pool, beside, notifications, secret: Arc::new(secret), configured })
    }

    /// As somebody changes them.
    pub fn by(&self, caller: &Caller) -> Self {
        Self { actor: caller.actor(), ..self.clone() }
    }

    /// Sees a change whenever keys changed, if [`Pools::listen`] runs.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.notifications.subscribe(Topic::Keys)
    }
}
