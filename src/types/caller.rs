//! Who asks, what they may do, and in which galleries.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::actor::{Actor, request_id};
use super::{GalleryId, KeyId};
use crate::limits::Account;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Ask who somebody is, and nothing else.
    Identify,
    /// Look at what galleries hold.
    Read,
    /// Ask, look, enroll, and change and erase subjects and faces.
    Enrol,
    /// All that concerns the key's galleries, with their jobs, data sets and keys.
    Admin,
    /// Everything: all galleries, models, training.
    Owner,
}

/// What a route needs its caller to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// To be known at all.
    Enter,
    /// To have faces recognised.
    Ask,
    /// To see galleries, subjects, faces and reports on them.
    Look,
    /// To enroll, and to change and erase subjects and faces.
    Change,
    /// To change and erase galleries.
    Manage,
    /// To create galleries, which nobody can who has but some.
    Create,
    /// To see what concerns no gallery alone, such as metrics.
    Monitor,
    /// To see jobs and keys of the galleries, and to bring data sets.
    Administer,
    /// To change what all galleries share: models.
    Own,
}

/// In which galleries somebody may do it. For them, others do not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    Galleries(Arc<[GalleryId]>),
}

/// Who asks. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Caller {
    name: Arc<str>,
    key: Option<KeyId>,
    /// Of their key, if the database keeps it.
    role: Option<Role>,
    permissions: &'static [Permission],
    scope: Scope,
    /// As records have it.
    request: Option<Arc<str>>,
    /// `None`: without limits, as the server itself.
    account: Option<Arc<Account>>,
}

impl Role {
    pub const ALL: [Self; 5] = [Self::Identify, Self::Read, Self::Enrol, Self::Admin, Self::Owner];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Read => "read",
            Self::Enrol => "enrol",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    fn permissions(self) -> &'static [Permission] {
        use Permission::{Administer, Ask, Change, Look, Manage, Own};
        match self {
            Self::Identify => &[Ask],
            Self::Read => &[Look],
            Self::Enrol => &[Ask, Look, Change],
            Self::Admin => &[Ask, Look, Change, Manage, Administer],
            Self::Owner => &[Ask, Look, Change, Manage, Administer, Own],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no role: identify, read, enrol, admin or owner is expected"))
    }
}

impl Permission {
    pub const ALL: [Self; 9] = [
        Self::Enter,
        Self::Ask,
        Self::Look,
        Self::Change,
        Self::Manage,
        Self::Create,
        Self::Monitor,
        Self::Administer,
        Self::Own,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Ask => "ask",
            Self::Look => "look",
            Self::Change => "change",
            Self::Manage => "manage",
            Self::Create => "create",
            Self::Monitor => "monitor",
            Self::Administer => "administer",
            Self::Own => "own",
        }
    }

    /// What it allows, as said to whoever lacks it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Ask => "have faces recognised",
            Self::Look => "see what galleries hold",
            Self::Change => "change what galleries hold",
            Self::Manage => "change or erase galleries",
            Self::Create => "create galleries",
            Self::Monitor => "see what concerns all galleries, such as metrics",
            Self::Administer => "see jobs and keys, or bring data sets",
            Self::Own => "see the audit, or see or change models",
        }
    }
}

impl Scope {
    pub fn has(&self, gallery: GalleryId) -> bool {
        match self {
            Self::All => true,
            Self::Galleries(galleries) => galleries.contains(&gallery),
        }
    }

    /// The galleries, if they are not all.
    pub fn galleries(&self) -> Option<&[GalleryId]> {
        match self {
            Self::All => None,
            Self::Galleries(galleries) => Some(galleries),
        }
    }

    /// Whether nothing of it is outside of another.
    pub fn is_within(&self, other: &Self) -> bool {
        match self {
            Self::All => *other == Self::All,
            Self::Galleries(galleries) => galleries.iter().all(|gallery| other.has(*gallery)),
        }
    }
}

impl Caller {
    const CLIENT_KEY: &str = "client key";
    const ADMIN_KEY: &str = "admin key";
    const ANYONE: &str = "anyone";
    const COMMAND: &str = "command";
    const SERVER: &str = "server";

    /// What callers are called who have no key in the database; no such key has one of these names.
    pub const NAMES: [&str; 5] = [Self::CLIENT_KEY, Self::ADMIN_KEY, Self::ANYONE, Self::COMMAND, Self::SERVER];

    /// Whoever has a key that is kept in the database.
    pub fn with_key(key: KeyId, name: &str, role: Role, scope: Scope) -> Self {
        let permissions = role.permissions();
        Self { name: name.into(), key: Some(key), role: Some(role), permissions, scope, request: None, account: None }
    }

    /// Whoever has the configured client key.
    pub fn client_key() -> Self {
        use Permission::{Ask, Change, Look, Manage};
        let permissions = &[Ask, Look, Change, Manage];
        Self {
            name: Self::CLIENT_KEY.into(),
            key: None,
            role: None,
            permissions,
            scope: Scope::All,
            request: None,
            account: None,
        }
    }

    /// Whoever has the configured admin key.
    pub fn admin_key() -> Self {
        Self::owner(Self::ADMIN_KEY)
    }

    /// Whoever reaches a server without keys.
    pub fn anyone() -> Self {
        Self::owner(Self::ANYONE)
    }

    /// A command on the database itself.
    pub fn command() -> Self {
        Self::owner(Self::COMMAND)
    }

    /// The server, by its configuration or a job.
    pub fn server() -> Self {
        Self::owner(Self::SERVER)
    }

    fn owner(name: &str) -> Self {
        let permissions = Role::Owner.permissions();
        Self { name: name.into(), key: None, role: None, permissions, scope: Scope::All, request: None, account: None }
    }

    /// As they ask by a request, by its id.
    pub fn by_request(self, id: &str) -> Self {
        Self { request: Some(request_id(id)), ..self }
    }

    /// As the audit names them.
    pub fn actor(&self) -> Actor {
        Actor { name: self.name.clone(), key: self.key, request: self.request.clone() }
    }

    /// What jobs and the audit call them: the name of their key, or what let them in without one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Their key, if the database keeps it.
    pub fn key(&self) -> Option<KeyId> {
        self.key
    }

    /// What their key is for, if the database keeps it.
    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// What tells them from all others, for good: the id of their key, or what let them in without one.
    pub fn id(&self) -> String {
        self.key.map_or_else(|| self.name.to_string(), |key| key.to_string())
    }

    /// Whether they have shown nothing at all.
    pub fn is_anyone(&self) -> bool {
        self.key.is_none() && &*self.name == Self::ANYONE
    }

    /// The same, whose requests are counted.
    pub fn with_account(self, account: Arc<Account>) -> Self {
        Self { account: Some(account), ..self }
    }

    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref()
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub fn may(&self, permission: Permission) -> bool {
        let everywhere = self.scope == Scope::All;
        match permission {
            Permission::Enter => true,
            Permission::Create => everywhere && self.may(Permission::Manage),
            Permission::Monitor => everywhere && self.may(Permission::Look),
            Permission::Own => everywhere && self.permissions.contains(&Permission::Own),
            other => self.permissions.contains(&other),
        }
    }

    /// Whether somebody else may nothing that they may not themselves, anywhere.
    pub fn may_all_of(&self, other: &Self) -> bool {
        let allowed = Permission::ALL.into_iter().all(|what| self.may(what) || !other.may(what));
        allowed && other.scope.is_within(&self.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_do_what_it_says() {
        use Permission::{Administer, Ask, Change, Create, Enter, Look, Manage, Monitor};
        let all = Permission::ALL;
        let may = |caller: &Caller| all.into_iter().filter(|what| caller.may(*what)).collect::<Vec<_>>();
        let some = Scope::Galleries([GalleryId::new()].into());
        for (role, in_all, in_some) in [
            (Role::Identify, vec![Enter, Ask], vec![Enter, Ask]),
            (Role::Read, vec![Enter, Look, Monitor], vec![Enter, Look]),
            (Role::Enrol, vec![Enter, Ask, Look, Change, Monitor], vec![Enter, Ask, Look, Change]),
            (
                Role::Admin,
                vec![Enter, Ask, Look, Change, Manage, Create, Monitor, Administer],
                vec![Enter, Ask, Look, Change, Manage, Administer],
            ),
            (Role::Owner, all.to_vec(), vec![Enter, Ask, Look, Change, Manage, Administer]),
        ] {
            assert_eq!(may(&Caller::with_key(KeyId::new(), "a", role, Scope::All)), in_all, "{role}");
            assert_eq!(may(&Caller::with_key(KeyId::new(), "a", role, some.clone())), in_some, "{role}");
        }
        assert_eq!(may(&Caller::admin_key()), all);
        assert_eq!(may(&Caller::client_key()), [Enter, Ask, Look, Change, Manage, Create, Monitor]);
    }

    #[test]
    fn nobody_may_all_of_somebody_who_may_more() {
        let (one, both) = (GalleryId::new(), Scope::Galleries([GalleryId::new(), GalleryId::new()].into()));
        let within = Scope::Galleries(both.galleries().unwrap()[..1].into());
        let key = |role, scope: &Scope| Caller::with_key(KeyId::new(), "a", role, scope.clone());
        let of_both = key(Role::Admin, &both);
        for role in [Role::Identify, Role::Read, Role::Enrol, Role::Admin] {
            assert!(of_both.may_all_of(&key(role, &within)), "{role}");
            assert!(!of_both.may_all_of(&key(role, &Scope::All)), "{role}");
            assert!(!of_both.may_all_of(&key(role, &Scope::Galleries([one].into()))), "{role}");
        }
        let of_all = key(Role::Admin, &Scope::All);
        assert!(of_all.may_all_of(&of_all) && of_all.may_all_of(&key(Role::Admin, &both)));
        assert!(!of_all.may_all_of(&key(Role::Owner, &Scope::All)));
        assert!(!key(Role::Enrol, &Scope::All).may_all_of(&key(Role::Admin, &both)));
        assert!(Caller::anyone().may_all_of(&key(Role::Owner, &Scope::All)));
    }

    #[test]
    fn callers_are_told_apart_whatever_their_keys_are_called() {
        let key = |name| Caller::with_key(KeyId::new(), name, Role::Owner, Scope::All);
        let all = [Caller::anyone(), Caller::client_key(), Caller::admin_key(), key("anyone"), key("anyone"), key("b")];
        let ids: std::collections::HashSet<String> = all.iter().map(Caller::id).collect();
        assert_eq!(ids.len(), all.len());
        assert_eq!(all.iter().filter(|caller| caller.is_anyone()).count(), 1);
        assert!(Caller::anyone().is_anyone());
    }

    #[test]
    fn a_scope_has_its_galleries_alone() {
        let (one, other) = (GalleryId::new(), GalleryId::new());
        let scope = Scope::Galleries([one].into());
        assert!(scope.has(one) && !scope.has(other));
        assert!(Scope::All.has(other));
    }
}
