//! Keys as they are listed, and as they are recognised.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgExecutor, Row};
use uuid::Uuid;

use super::secret::KeyHash;
use super::{AccessError, Key, Keys};
use crate::db::{Page, PageRequest};
use crate::limits::Limits;
use crate::types::{GalleryId, KeyId, Role, Scope, ShownKey, nfc};

/// The columns of [`Key`], of keys `k`.
macro_rules! columns {
    () => {
        "k.id, k.name, k.prefix, k.role, k.all_galleries, k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.uses, \
         k.former_until, k.limits, \
         array(select g.id from key_galleries kg join galleries g on g.id = kg.gallery_id \
             where kg.key_id = k.id and g.erased_at is null order by g.id) as gallery_ids, \
         array(select g.name from key_galleries kg join galleries g on g.id = kg.gallery_id \
             where kg.key_id = k.id and g.erased_at is null order by g.id) as gallery_names"
    };
}
pub(super) use columns;

/// Whether the key `k` is for galleries that are all among `$1`, if that is not null.
macro_rules! is_within {
    () => {
        "($1::uuid[] is null or not k.all_galleries \
             and exists (select from key_galleries kg join galleries g on g.id = kg.gallery_id \
                 where kg.key_id = k.id and g.erased_at is null) \
             and not exists (select from key_galleries kg join galleries g on g.id = kg.gallery_id \
                 where kg.key_id = k.id and g.erased_at is null and g.id <> all ($1)))"
    };
}

impl FromRow<'_, PgRow> for Key {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (ids, names): (Vec<Uuid>, Vec<String>) = (row.try_get("gallery_ids")?, row.try_get("gallery_names")?);
        let galleries = ids.into_iter().map(GalleryId).zip(names).collect();
        Ok(Self {
            id: KeyId(row.try_get("id")?),
            name: row.try_get("name")?,
            prefix: row.try_get("prefix")?,
            role: role(row)?,
            galleries: (!row.try_get::<bool, _>("all_galleries")?).then_some(galleries),
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            last_used_at: row.try_get("last_used_at")?,
            uses: row.try_get::<i64, _>("uses")?.unsigned_abs(),
            former_until: row.try_get("former_until")?,
            limits: limits(row)?,
        })
    }
}

fn role(row: &PgRow) -> Result<Role, sqlx::Error> {
    row.try_get::<String, _>("role")?.parse().map_err(|reason: String| sqlx::Error::Decode(reason.into()))
}

fn limits(row: &PgRow) -> Result<Limits, sqlx::Error> {
    Ok(row.try_get::<Option<Json<Limits>>, _>("limits")?.map_or_else(Limits::default, |limits| limits.0))
}

/// What is known of a key that may be shown.
#[derive(Debug, Clone)]
pub struct KnownKey {
    pub id: KeyId,
    pub name: String,
    pub role: Role,
    pub scope: Scope,
    pub hash: KeyHash,
    /// The key before, and until when it works as well.
    pub former: Option<(KeyHash, DateTime<Utc>)>,
    pub expires_at: Option<DateTime<Utc>>,
    pub is_revoked: bool,
    /// Whether its hash is one by the secret of this server; else nobody can show it here.
    pub is_ours: bool,
    pub limits: Limits,
}

/// All keys that may be shown.
#[derive(Debug, Default)]
pub struct KnownKeys {
    /// Whether there ever was one.
    pub any: bool,
    pub keys: Vec<KnownKey>,
}

impl FromRow<'_, PgRow> for KnownKey {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let hash = |bytes: Vec<u8>| KeyHash::try_from(bytes).map_err(|reason| sqlx::Error::Decode(reason.into()));
        let former: Option<Vec<u8>> = row.try_get("former_hash")?;
        let former_until: Option<DateTime<Utc>> = row.try_get("former_until")?;
        let galleries: Vec<Uuid> = row.try_get("gallery_ids")?;
        let scope = match row.try_get("all_galleries")? {
            true => Scope::All,
            false => Scope::Galleries(galleries.into_iter().map(GalleryId).collect()),
        };
        Ok(Self {
            id: KeyId(row.try_get("id")?),
            name: row.try_get("name")?,
            role: role(row)?,
            scope,
            hash: hash(row.try_get("hash")?)?,
            former: former.map(hash).transpose()?.zip(former_until),
            expires_at: row.try_get("expires_at")?,
            is_revoked: row.try_get("is_revoked")?,
            is_ours: row.try_get("is_ours")?,
            limits: limits(row)?,
        })
    }
}

impl Keys {
    /// The hash by which a key that is shown is recognised.
    pub fn hash(&self, shown: &ShownKey) -> KeyHash {
        self.secret.hash(shown)
    }

    /// All keys that may be shown, and those that were revoked lately: whoever goes on showing one is told so.
    pub async fn known(&self) -> Result<KnownKeys, AccessError> {
        let keys: Vec<KnownKey> = sqlx::query_as(
            "select id, name, role, all_galleries, hash, former_hash, former_until, expires_at, \
             revoked_at is not null as is_revoked, secret_id = $1 as is_ours, limits, \
             array(select gallery_id from key_galleries where key_id = keys.id) as gallery_ids \
             from keys where revoked_at is null or revoked_at > now() - interval '30 days'",
        )
        .bind(self.secret.id())
        .fetch_all(&self.beside)
        .await?;
        let any =
            !keys.is_empty() || sqlx::query_scalar("select exists (select from keys)").fetch_one(&self.beside).await?;
        Ok(KnownKeys { any, keys })
    }

    /// Keys, oldest first; with `within` those that are for some of these galleries alone.
    pub async fn list(&self, within: Option<&[GalleryId]>, request: PageRequest) -> Result<Page<Key>, AccessError> {
        let keys = sqlx::query_as(concat!(
            "select ",
            columns!(),
            " from keys k where ",
            is_within!(),
            " and k.id > $2 order by k.id limit $3"
        ))
        .bind(uuids(within))
        .bind(request.after())
        .bind(request.rows_to_fetch())
        .fetch_all(&self.pool)
        .await?;
        Ok(request.page(keys, |key: &Key| key.id.0))
    }

    /// The key that is given by its id or, unless it was revoked, its name; `within` as in [`Self::list`].
    pub async fn find(&self, within: Option<&[GalleryId]>, key: &str) -> Result<Key, AccessError> {
        let found = sqlx::query_as(concat!(
            "select ",
            columns!(),
            " from keys k where ",
            is_within!(),
            " and (k.id = $2 or k.name = $3 and k.revoked_at is null) order by k.id = $2 desc nulls last limit 1"
        ))
        .bind(uuids(within))
        .bind(Uuid::try_parse(key).ok())
        // Postgres text cannot hold NUL, so nothing has such a name.
        .bind((!key.contains('\0')).then(|| nfc(key)))
        .fetch_optional(&self.pool)
        .await?;
        found.ok_or_else(|| AccessError::KeyNotFound(key.to_owned()))
    }

    /// Refuses if keys that count were made with another secret: nobody could show them here.
    pub async fn check_secret(&self) -> Result<(), AccessError> {
        self.refuse_other_secret(&self.pool).await
    }

    pub(super) async fn refuse_other_secret<'e>(&self, executor: impl PgExecutor<'e>) -> Result<(), AccessError> {
        let names: Vec<String> = sqlx::query_scalar(
            "select name from keys where secret_id <> $1 and revoked_at is null \
             and (expires_at is null or expires_at > now()) order by id limit 10",
        )
        .bind(self.secret.id())
        .fetch_all(executor)
        .await?;
        if names.is_empty() { Ok(()) } else { Err(AccessError::OtherSecret { names, configured: self.configured }) }
    }
}

fn uuids(galleries: Option<&[GalleryId]>) -> Option<Vec<Uuid>> {
    galleries.map(|galleries| galleries.iter().map(|gallery| gallery.0).collect())
}
