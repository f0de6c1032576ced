//! Who asks: keys that are shown become callers, from memory. Keys are made and taken back.

mod known;
mod manage;
mod uses;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::Utc;
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;
use tracing::warn;

use crate::access::Keys;
use crate::config::{self, AccessConfig};
use crate::db::Pools;
use crate::gallery::Galleries;
use crate::limits::{Account, Limits};
use crate::service::ServiceError;
use crate::types::{Caller, Permission, ShownKey};
use known::Known;
use uses::UseCounts;

/// How often the database's keys are read without being told to.
const INTERVAL: Duration = Duration::from_secs(3);

/// How often uses are noted.
const NOTED_EVERY: Duration = Duration::from_secs(10);

/// Knows who may call. Cloning is cheap.
#[derive(Clone)]
pub struct Access(Arc<Parts>);

struct Parts {
    keys: Keys,
    galleries: Galleries,
    config: AccessConfig,
    known: RwLock<Arc<Known>>,
    without_keys: WithoutKeys,
    /// Held while keys are read, so that what was read later is known in the end.
    reading: Mutex<()>,
    uses: UseCounts,
}

/// Who has no key in the database.
struct WithoutKeys {
    anyone: Caller,
    client: Caller,
    admin: Caller,
}

impl WithoutKeys {
    /// Whoever has the admin key set the limits, and has none.
    fn new(config: &AccessConfig) -> Self {
        let limited = |caller: Caller, limits| caller.with_account(Arc::new(Account::new(Limits::default(), limits)));
        Self {
            anyone: limited(Caller::anyone(), config.limits),
            client: limited(Caller::client_key(), config.limits),
            admin: limited(Caller::admin_key(), Limits::default()),
        }
    }
}

impl Access {
    /// Fails if the database's keys cannot be read: without them nobody knows who may call.
    pub async fn open(pools: &Pools, config: &AccessConfig) -> Result<Self, ServiceError> {
        let secret = config.key_secret.as_ref().map(config::Secret::expose);
        let access = Self(Arc::new(Parts {
            keys: Keys::open(pools, secret).await?,
            galleries: Galleries::new(pools),
            config: config.clone(),
            known: RwLock::default(),
            without_keys: WithoutKeys::new(config),
            reading: Mutex::default(),
            uses: UseCounts::default(),
        }));
        access.read().await?;
        Ok(access)
    }

    /// Fails if there are keys that count but were made with another secret, so that nobody could show them here.
    pub async fn check_secret(&self) -> Result<(), ServiceError> {
        Ok(self.0.keys.check_secret().await?)
    }

    /// Whether a server may begin: one that others reach needs a key, or that it was said that it may be open.
    pub fn may_begin(&self) -> bool {
        let config = &self.0.config;
        config.may_be_open || config.keys.is_some() || self.known().has_usable(Utc::now())
    }

    /// Whether everybody may do everything: there are no keys. Once there was one, revoking the last does not open the server, unless
    /// something else guards it.
    pub fn is_open(&self) -> bool {
        self.is_open_with(&self.known())
    }

    fn is_open_with(&self, known: &Known) -> bool {
        let config = &self.0.config;
        config.keys.is_none() && config.may_be_open && !known.closes(config.insecure)
    }

    /// Who shows a key. It counts as used when it is looked what it allows ([`Self::check`]).
    pub fn recognise(&self, shown: Option<&[u8]>) -> Result<Caller, ServiceError> {
        let known = self.known();
        if self.is_open_with(&known) {
            return Ok(self.0.without_keys.anyone.clone());
        }
        let shown = shown.ok_or(ServiceError::NoKey)?;
        if let Some(keys) = &self.0.config.keys {
            let [client, admin] = [&keys.client, &keys.admin].map(|key| same(shown, key.expose()));
            match (client, admin) {
                (true, _) => return Ok(self.0.without_keys.client.clone()),
                (_, true) => return Ok(self.0.without_keys.admin.clone()),
                _ => {}
            }
        }
        let shown = ShownKey::read(shown).ok_or(ServiceError::UnknownKey)?;
        known.recognise(&self.0.keys.hash(&shown), Utc::now())
    }

    /// Fails if somebody may not do what they are about to.
    pub fn check(&self, caller: &Caller, needed: Permission) -> Result<(), ServiceError> {
        if let Some(key) = caller.key() {
            self.0.uses.count(key, Utc::now());
        }
        if caller.may(needed) { Ok(()) } else { Err(forbidden(caller, needed)) }
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the database's keys.
    async fn read(&self) -> Result<(), ServiceError> {
        let _only_one = self.0.reading.lock().await;
        let known = Known::new(self.0.keys.known().await?, self.0.config.limits, &self.known());
        let mut place = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.foreign > place.foreign {
            warn!(keys = known.foreign, "there are keys that were made with another secret; they are of no use here");
        }
        *place = Arc::new(known);
        Ok(())
    }

    /// Keeps what is known of keys true, and notes their uses, for as long as it is polled.
    pub async fn keep_up(self) {
        tokio::join!(self.keep_reading(), self.keep_noting());
    }

    async fn keep_reading(&self) {
        let mut told = self.0.keys.subscribe();
        loop {
            told.mark_unchanged();
            if let Err(error) = self.read().await {
                warn!(%error, "cannot read who has a key; those who had one before are still let in");
            }
            tokio::select! {
                _ = told.changed() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn keep_noting(&self) {
        loop {
            tokio::time::sleep(NOTED_EVERY).await;
            self.note_uses().await;
        }
    }

    /// Notes how often keys were used since it was last noted.
    pub async fn note_uses(&self) {
        let uses = self.0.uses.take();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.0.keys.note_uses(&uses).await {
            warn!(%error, "cannot note when keys were used; it is tried again");
            self.0.uses.put_back(uses);
        }
    }
}

/// Compares in a time that depends on the lengths alone.
fn same(shown: &[u8], key: &str) -> bool {
    shown.ct_eq(key.as_bytes()).into()
}

fn forbidden(caller: &Caller, needed: Permission) -> ServiceError {
    let what = needed.describe();
    ServiceError::Forbidden(match caller.role() {
        Some(role) if caller.scope().galleries().is_some() => {
            format!("this key may not {what}: it is for role {role}, in some galleries only")
        }
        Some(role) => format!("this key may not {what}: it is for role {role}"),
        None => format!("this key may not {what}: it is the {}", caller.name()),
    })
}
