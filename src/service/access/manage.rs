//! Keys are made, listed, rotated and revoked, by whoever may do at least what they allow.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tracing::{info, warn};
use uuid::Uuid;

use super::Access;
use crate::access::{self, Key};
use crate::db::PageRequest;
use crate::gallery::GalleryError;
use crate::limits::{Account, Limits};
use crate::service::ServiceError;
use crate::service::answers::{CreatedKey, KeyEntry, KeyGallery, KeyState, Page};
use crate::service::requests::{Listed, NewKey, RotateKey};
use crate::types::{Caller, GalleryId, KeyId, Name, Permission, Role, Scope, ShownKey};

impl Access {
    /// Makes a key, which may do no more than whoever makes it.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<CreatedKey, ServiceError> {
        let NewKey { name, role, galleries, expires_at, limits } = new;
        check_name(&name)?;
        if expires_at.is_some_and(|time| time <= Utc::now()) {
            return Err(invalid("expires_at", "this time is past"));
        }
        if role == Role::Owner && galleries.is_some() {
            return Err(invalid(
                "galleries",
                "a key for role owner is for all galleries; leave them out, or say role admin",
            ));
        }
        let galleries = self.galleries_of(caller, galleries).await?;
        let scope = galleries.as_deref().map_or(Scope::All, |galleries| Scope::Galleries(galleries.into()));
        may_all_of(caller, &Caller::with_key(KeyId::new(), name.as_str(), role, scope))?;
        let limits = self.limits_of(caller, limits.unwrap_or_default())?;
        let new = access::NewKey { name: &name, role, galleries: galleries.as_deref(), expires_at, limits };
        let created = self.0.keys.by(caller).create(&new).await?;
        info!(key = %created.0.id, %role, by = caller.name(), "a key was made");
        Ok(self.shown(created).await)
    }

    /// The ids of galleries; those that the caller may not see do not exist.
    async fn galleries_of(
        &self,
        caller: &Caller,
        galleries: Option<Listed<Name>>,
    ) -> Result<Option<Vec<GalleryId>>, ServiceError> {
        let Some(Listed(names)) = galleries else { return Ok(None) };
        let mut ids = Vec::with_capacity(names.len());
        for name in names {
            let id = self.0.galleries.gallery_id(name.as_str()).await?;
            if !caller.scope().has(id) {
                return Err(GalleryError::GalleryNotFound(name.to_string()).into());
            }
            ids.push(id);
        }
        Ok(Some(ids))
    }

    /// The limits of a key that somebody makes: theirs, unless they say others. Whoever may not do everything gives no more than they
    /// have.
    fn limits_of(&self, caller: &Caller, said: Limits) -> Result<Limits, ServiceError> {
        let said = said.checked().map_err(|(member, expected)| {
            invalid("limits", &format!("{member}: {expected} is expected, this is {}", said.value_of(member)))
        })?;
        let limits = match bounds(caller) {
            Some(account) => said.or(account.said()),
            None => said,
        };
        self.may_give(caller, limits)?;
        Ok(limits)
    }

    /// Refuses to give a key with limits to whoever may have less: they would use it themselves.
    fn may_give(&self, caller: &Caller, limits: Limits) -> Result<(), ServiceError> {
        let is_within = |account: &Account| limits.or(self.0.config.limits).allowed().is_within(&account.allowed());
        if bounds(caller).is_none_or(is_within) {
            return Ok(());
        }
        let more = "this key gives no other one more than it may have itself, see `limits`";
        Err(ServiceError::Forbidden(more.to_owned()))
    }

    /// Keys, oldest first: those for galleries of the caller alone.
    pub async fn list_keys(&self, caller: &Caller, page: PageRequest) -> Result<Page<KeyEntry>, ServiceError> {
        let keys = self.0.keys.list(caller.scope().galleries(), page).await?;
        Ok(Page { items: keys.items.into_iter().map(entry).collect(), next_cursor: keys.next_cursor })
    }

    /// A key, given by id or by name.
    pub async fn get_key(&self, caller: &Caller, key: &str) -> Result<KeyEntry, ServiceError> {
        Ok(entry(self.find(caller, key).await?))
    }

    /// Gives a key another value. The one that it has may go on working for a while.
    pub async fn rotate_key(&self, caller: &Caller, key: &str, how: RotateKey) -> Result<CreatedKey, ServiceError> {
        let key = self.own(caller, key).await?;
        self.may_give(caller, key.limits)?;
        let rotated = self.0.keys.by(caller).rotate(key.id, Duration::from_secs(how.keep_for.get())).await?;
        info!(key = %key.id, by = caller.name(), "a key was rotated");
        Ok(self.shown(rotated).await)
    }

    /// Takes a key back for good.
    pub async fn revoke_key(&self, caller: &Caller, key: &str) -> Result<KeyEntry, ServiceError> {
        let key = self.own(caller, key).await?;
        let revoked = self.0.keys.by(caller).revoke(key.id).await?;
        info!(key = %key.id, by = caller.name(), "a key was revoked");
        self.catch_up().await;
        Ok(entry(revoked))
    }

    async fn find(&self, caller: &Caller, key: &str) -> Result<Key, ServiceError> {
        Ok(self.0.keys.find(caller.scope().galleries(), key).await?)
    }

    /// A key that the caller may change: it allows no more than they may.
    async fn own(&self, caller: &Caller, key: &str) -> Result<Key, ServiceError> {
        let key = self.find(caller, key).await?;
        may_all_of(caller, &Caller::with_key(key.id, &key.name, key.role, key.scope()))?;
        Ok(key)
    }

    async fn shown(&self, (key, shown): (Key, ShownKey)) -> CreatedKey {
        self.catch_up().await;
        CreatedKey { entry: entry(key), key: shown }
    }

    /// Own changes are known here before they are answered. What was done is done, and is known soon, if that fails.
    async fn catch_up(&self) {
        if let Err(error) = self.read().await {
            warn!(%error, "cannot read who has a key; it is tried again");
        }
    }
}

/// A name that stands for somebody else in records, or could be taken for an id or a key, is none.
fn check_name(name: &Name) -> Result<(), ServiceError> {
    if Caller::NAMES.contains(&name.as_str()) {
        return Err(invalid("name", "records call others so; choose another name"));
    }
    if Uuid::try_parse(name.as_str()).is_ok() {
        return Err(invalid("name", "it could be taken for an id or a key; choose another name"));
    }
    Ok(())
}

/// The account that bounds what a caller gives to others; none does for whoever may do everything.
fn bounds(caller: &Caller) -> Option<&Account> {
    caller.account().map(Arc::as_ref).filter(|_| !caller.may(Permission::Own))
}

fn may_all_of(caller: &Caller, key: &Caller) -> Result<(), ServiceError> {
    if caller.may_all_of(key) {
        return Ok(());
    }
    let more =
        "that key may do more than yours: yours makes and changes keys for the same galleries and roles, or for fewer";
    Err(ServiceError::Forbidden(more.to_owned()))
}

fn invalid(field: &'static str, reason: &str) -> ServiceError {
    ServiceError::InvalidField { field, reason: reason.to_owned() }
}

fn entry(key: Key) -> KeyEntry {
    let now = Utc::now();
    let state = if key.revoked_at.is_some() {
        KeyState::Revoked
    } else if key.expires_at.is_some_and(|time| time <= now) {
        KeyState::Expired
    } else {
        KeyState::Active
    };
    let galleries = |galleries: Vec<(GalleryId, String)>| {
        galleries.into_iter().map(|(id, name)| KeyGallery { id, name }).collect::<Vec<_>>()
    };
    KeyEntry {
        id: key.id,
        name: key.name,
        prefix: key.prefix,
        role: key.role,
        galleries: key.galleries.map(galleries),
        state,
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        last_used_at: key.last_used_at,
        uses: key.uses,
        former_until: key.former_until.filter(|until| *until > now && state == KeyState::Active),
        limits: key.limits,
    }
}
