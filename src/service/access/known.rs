//! The keys of the database, as a server has them in memory.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::access::{KeyHash, KnownKey, KnownKeys};
use crate::limits::{Account, Limits};
use crate::service::ServiceError;
use crate::types::{Caller, KeyId};

/// All keys that may be shown.
#[derive(Default)]
pub(super) struct Known {
    /// Whether there ever was a key.
    any: bool,
    /// Whether there is one that was not revoked, whether or not it has expired.
    unrevoked: bool,
    /// Keys of another secret that were not revoked.
    pub foreign: usize,
    by_hash: HashMap<KeyHash, Entry>,
    /// What those have used who are limited, and where they came from. As many as keys.
    accounts: HashMap<KeyId, Arc<Account>>,
}

struct Entry {
    hash: KeyHash,
    caller: Caller,
    expires_at: Option<DateTime<Utc>>,
    is_revoked: bool,
    /// Of a key that another one took the place of: until when it works as well.
    kept_until: Option<DateTime<Utc>>,
}

impl Known {
    /// Keys as they are now. Whose limits are as they were `before` has used what they had used.
    pub fn new(KnownKeys { any, keys }: KnownKeys, server: Limits, before: &Self) -> Self {
        let unrevoked = keys.iter().any(|key| !key.is_revoked);
        let foreign = keys.iter().filter(|key| !key.is_ours && !key.is_revoked).count();
        let account = |key: &KnownKey| {
            let same = before.accounts.get(&key.id).filter(|account| account.said() == key.limits);
            same.cloned().unwrap_or_else(|| Arc::new(Account::new(key.limits, server)))
        };
        let accounts: HashMap<KeyId, Arc<Account>> = keys.iter().map(|key| (key.id, account(key))).collect();
        let with_account = |key: KnownKey| accounts.get(&key.id).cloned().map(|account| entries(key, account));
        let entries = keys.into_iter().filter_map(with_account).flatten();
        let by_hash = entries.map(|entry| (entry.hash, entry)).collect();
        Self { any, unrevoked, foreign, by_hash, accounts }
    }

    /// Whether keys are asked for. Of a server that something else guards only those count that were not revoked.
    pub fn closes(&self, is_guarded: bool) -> bool {
        self.unrevoked || self.any && !is_guarded
    }

    /// Whether anybody can show a key that counts.
    pub fn has_usable(&self, now: DateTime<Utc>) -> bool {
        self.by_hash.values().any(|entry| entry.check(now).is_ok())
    }

    /// Whose key has this hash.
    pub fn recognise(&self, hash: &KeyHash, now: DateTime<Utc>) -> Result<Caller, ServiceError> {
        let entry = self.by_hash.get(hash).filter(|entry| entry.hash.is(hash)).ok_or(ServiceError::UnknownKey)?;
        entry.check(now).map(|()| entry.caller.clone())
    }
}

impl Entry {
    fn check(&self, now: DateTime<Utc>) -> Result<(), ServiceError> {
        let is_past = |time: Option<DateTime<Utc>>| time.is_some_and(|time| time <= now);
        if self.is_revoked {
            Err(ServiceError::KeyOver("was revoked"))
        } else if is_past(self.expires_at) {
            Err(ServiceError::KeyOver("expired"))
        } else if is_past(self.kept_until) {
            Err(ServiceError::KeyOver("was replaced by another"))
        } else {
            Ok(())
        }
    }
}

/// A key, and the one that it took the place of.
fn entries(key: KnownKey, account: Arc<Account>) -> impl Iterator<Item = Entry> {
    let KnownKey { id, name, role, scope, hash, former, expires_at, is_revoked, is_ours, limits: _ } = key;
    let caller = Caller::with_key(id, &name, role, scope).with_account(account);
    let both = [Some((hash, None)), former.map(|(hash, until)| (hash, Some(until)))];
    let entry = move |(hash, kept_until)| Entry { hash, caller: caller.clone(), expires_at, is_revoked, kept_until };
    both.into_iter().flatten().filter(move |_| is_ours).map(entry)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::types::{KeyId, Role, Scope};

    fn hash(byte: u8) -> KeyHash {
        vec![byte; 32].try_into().unwrap()
    }

    fn key(byte: u8) -> KnownKey {
        KnownKey {
            id: KeyId::new(),
            name: byte.to_string(),
            role: Role::Read,
            scope: Scope::All,
            hash: hash(byte),
            former: None,
            expires_at: None,
            is_revoked: false,
            is_ours: true,
            limits: Limits::default(),
        }
    }

    fn known(keys: Vec<KnownKey>) -> Known {
        Known::new(KnownKeys { any: !keys.is_empty(), keys }, Limits::default(), &Known::default())
    }

    #[test]
    fn a_key_counts_until_it_is_over_and_says_why_to_its_holder() {
        let now = Utc::now();
        let (before, after) = (now - TimeDelta::seconds(1), now + TimeDelta::seconds(1));
        let known = known(vec![
            key(1),
            KnownKey { expires_at: Some(before), ..key(2) },
            KnownKey { expires_at: Some(after), former: Some((hash(13), after)), ..key(3) },
            KnownKey { is_revoked: true, former: Some((hash(14), after)), ..key(4) },
            KnownKey { former: Some((hash(15), before)), ..key(5) },
            KnownKey { expires_at: Some(before), former: Some((hash(16), after)), ..key(6) },
            KnownKey { is_ours: false, ..key(7) },
        ]);
        let says = |byte: u8| match known.recognise(&hash(byte), now) {
            Ok(caller) => format!("is {}", caller.name()),
            Err(error) => error.to_string(),
        };
        let unknown = ServiceError::UnknownKey.to_string();
        for (byte, expected) in [
            (1, "is 1"),
            (2, "this key expired"),
            (3, "is 3"),
            (13, "is 3"),
            (4, "this key was revoked"),
            (14, "this key was revoked"),
            (5, "is 5"),
            (15, "this key was replaced by another"),
            (6, "this key expired"),
            (16, "this key expired"),
            (7, &unknown),
            (8, &unknown),
        ] {
            assert_eq!(says(byte), expected, "{byte}");
        }
        assert!(known.recognise(&hash(3), after).is_err());
        assert_eq!(known.foreign, 1);
    }

    #[test]
    fn what_was_used_stays_used_while_limits_are_the_same() {
        let limits =
            |burst| Limits { requests_per_second: Some(0.001), request_burst: Some(burst), ..Limits::default() };
        let (one, other) = (KnownKey { limits: limits(1), ..key(1) }, key(2));
        let known = |one: &KnownKey, before: &Known| {
            let keys = vec![one.clone(), other.clone()];
            Known::new(KnownKeys { any: true, keys }, Limits::default(), before)
        };
        let enter =
            |known: &Known, byte| known.recognise(&hash(byte), Utc::now()).unwrap().account().unwrap().enter().is_ok();
        let first = known(&one, &Known::default());
        assert!(enter(&first, 1) && !enter(&first, 1));
        assert!((0..9).all(|_| enter(&first, 2)));
        let rotated = KnownKey { hash: hash(9), ..one.clone() };
        let second = known(&rotated, &first);
        assert!(!enter(&second, 9));
        let changed = KnownKey { limits: limits(2), ..one };
        assert!(enter(&known(&changed, &second), 1));
    }

    #[test]
    fn one_key_closes_a_server_for_good_unless_something_else_guards_it() {
        let now = Utc::now();
        let expired = KnownKey { expires_at: Some(now), ..key(1) };
        let revoked = KnownKey { is_revoked: true, ..key(1) };
        for (keys, closes, closes_guarded, usable) in [
            (vec![], false, false, false),
            (vec![key(1)], true, true, true),
            (vec![expired.clone()], true, true, false),
            (vec![revoked.clone()], true, false, false),
            (vec![expired, revoked, key(2)], true, true, true),
            (vec![KnownKey { is_ours: false, ..key(1) }], true, true, false),
        ] {
            let count = keys.len();
            let known = known(keys);
            assert_eq!(
                (known.closes(false), known.closes(true), known.has_usable(now)),
                (closes, closes_guarded, usable),
                "{count} keys"
            );
        }
        // Of which nothing else is known any more.
        let forgotten = Known::new(KnownKeys { any: true, keys: Vec::new() }, Limits::default(), &Known::default());
        assert!(forgotten.closes(false) && !forgotten.closes(true));
    }
}
