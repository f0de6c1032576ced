//! Keys are made, rotated and revoked, and their uses counted.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use super::read::columns;
use super::{AccessError, Key, Keys};
use crate::audit::{Action, Entry, append};
use crate::db::{OnConstraint, Transaction};
use crate::limits::Limits;
use crate::types::{GalleryId, KeyId, Name, Role, ShownKey};

/// Held by whoever makes a key, so that keys of two secrets never come about at once. Any constant of ours serves.
const KEYS_LOCK: i64 = 0x6b65_7973;

/// A key that is to be made.
#[derive(Debug, Clone)]
pub struct NewKey<'a> {
    pub name: &'a Name,
    pub role: Role,
    /// `None`: all.
    pub galleries: Option<&'a [GalleryId]>,
    pub expires_at: Option<DateTime<Utc>>,
    /// What it may have; where it says nothing, as servers say.
    pub limits: Limits,
}

/// How often a key was used, and when last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uses {
    pub uses: u64,
    pub last: DateTime<Utc>,
}

impl Keys {
    /// Makes a key, which is shown this once.
    pub async fn create(&self, new: &NewKey<'_>) -> Result<(Key, ShownKey), AccessError> {
        let shown = ShownKey::new();
        let mut transaction = self.begin_making().await?;
        let key = self.insert(&mut transaction, new, &shown).await?;
        self.note(&mut transaction, Action::KeyCreate, &key).await?;
        transaction.commit().await?;
        Ok((key, shown))
    }

    /// Makes a key of a value that its holder has already, from another product; `None`: there is, or was, a key of this value,
    /// which stays as it is.
    pub async fn take_over(&self, new: &NewKey<'_>, shown: &ShownKey) -> Result<Option<Key>, AccessError> {
        let mut transaction = self.begin_making().await?;
        let known: bool = sqlx::query_scalar("select exists (select from keys where hash = $1 or former_hash = $1)")
            .bind(self.hash(shown).as_bytes())
            .fetch_one(&mut *transaction)
            .await?;
        if known {
            return Ok(None);
        }
        let key = self.insert(&mut transaction, new, shown).await?;
        self.note(&mut transaction, Action::KeyCreate, &key).await?;
        transaction.commit().await?;
        Ok(Some(key))
    }

    async fn insert(
        &self,
        transaction: &mut Transaction,
        new: &NewKey<'_>,
        shown: &ShownKey,
    ) -> Result<Key, AccessError> {
        let id = KeyId::new();
        sqlx::query(
            "insert into keys (id, name, prefix, hash, secret_id, role, all_galleries, expires_at, limits) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(id.0)
        .bind(new.name.as_str())
        .bind(shown.prefix())
        .bind(self.hash(shown).as_bytes())
        .bind(self.secret.id())
        .bind(new.role.as_str())
        .bind(new.galleries.is_none())
        .bind(new.expires_at)
        .bind((!new.limits.says_nothing()).then_some(Json(new.limits)))
        .execute(&mut **transaction)
        .await
        .on_constraint("key_name_key", || AccessError::DuplicateKey(new.name.to_string()))?;
        let galleries: Vec<Uuid> = new.galleries.unwrap_or_default().iter().map(|gallery| gallery.0).collect();
        sqlx::query("insert into key_galleries (key_id, gallery_id) select distinct $1::uuid, unnest($2::uuid[])")
            .bind(id.0)
            .bind(galleries)
            .execute(&mut **transaction)
            .await
            .on_constraint("key_gallery_gallery_fkey", || AccessError::GalleryGone)?;
        read(transaction, id).await
    }

    /// Gives a key another value, which is shown this once. The one that it has works on for `keep_for`.
    pub async fn rotate(&self, id: KeyId, keep_for: Duration) -> Result<(Key, ShownKey), AccessError> {
        let shown = ShownKey::new();
        let mut transaction = self.begin_making().await?;
        let rotated = sqlx::query(
            "update keys set hash = $2, prefix = $3, secret_id = $4, former_hash = case when $5 > 0 then hash end, \
             former_until = case when $5 > 0 then now() + $5::float8 * interval '1 second' end \
             where id = $1 and revoked_at is null",
        )
        .bind(id.0)
        .bind(self.hash(&shown).as_bytes())
        .bind(shown.prefix())
        .bind(self.secret.id())
        .bind(keep_for.as_secs_f64())
        .execute(&mut *transaction)
        .await?;
        let key = read(&mut transaction, id).await?;
        if rotated.rows_affected() == 0 {
            return Err(AccessError::KeyRevoked(key.name));
        }
        self.note(&mut transaction, Action::KeyRotate, &key).await?;
        transaction.commit().await?;
        Ok((key, shown))
    }

    /// Takes a key back for good. Can be done again.
    pub async fn revoke(&self, id: KeyId) -> Result<Key, AccessError> {
        let mut transaction = self.pool.begin().await?;
        let revoked = sqlx::query("update keys set revoked_at = now() where id = $1 and revoked_at is null")
            .bind(id.0)
            .execute(&mut *transaction)
            .await?;
        let key = read(&mut transaction, id).await?;
        if revoked.rows_affected() > 0 {
            self.note(&mut transaction, Action::KeyRevoke, &key).await?;
        }
        transaction.commit().await?;
        Ok(key)
    }

    /// Adds uses to those that were counted before.
    pub async fn note_uses(&self, uses: &[(KeyId, Uses)]) -> Result<(), AccessError> {
        let (ids, counts): (Vec<Uuid>, Vec<i64>) =
            uses.iter().map(|(id, uses)| (id.0, i64::try_from(uses.uses).unwrap_or(i64::MAX))).unzip();
        let last: Vec<DateTime<Utc>> = uses.iter().map(|(_, uses)| uses.last).collect();
        // Held in one order, so that two servers do not wait for each other.
        sqlx::query(
            "with held as (select id from keys where id = any ($1) order by id for no key update) \
             update keys k set uses = k.uses + noted.uses, last_used_at = greatest(k.last_used_at, noted.last) \
             from held join unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) as noted (id, uses, last) \
                 on noted.id = held.id \
             where k.id = held.id",
        )
        .bind(ids)
        .bind(counts)
        .bind(last)
        .execute(&self.beside)
        .await?;
        Ok(())
    }

    /// Notes what is done to a key as part of it. Its name stands for it in records, and is none of a person.
    async fn note(&self, transaction: &mut Transaction, action: Action, key: &Key) -> Result<(), AccessError> {
        let galleries = key.galleries.iter().flatten().map(|(gallery, _)| *gallery);
        let details =
            json!({"key": key.id, "name": key.name, "role": key.role, "all_galleries": key.galleries.is_none()});
        Ok(append(transaction, &Entry::new(&self.actor, action).galleries(galleries).details(details)).await?)
    }

    async fn begin_making(&self) -> Result<Transaction, AccessError> {
        let mut transaction = self.pool.begin().await?;
        transaction.lock(KEYS_LOCK).await?;
        self.refuse_other_secret(&mut *transaction).await?;
        Ok(transaction)
    }
}

async fn read(transaction: &mut Transaction, id: KeyId) -> Result<Key, AccessError> {
    let found = sqlx::query_as(concat!("select ", columns!(), " from keys k where k.id = $1"))
        .bind(id.0)
        .fetch_optional(&mut **transaction)
        .await?;
    found.ok_or_else(|| AccessError::KeyNotFound(id.to_string()))
}
