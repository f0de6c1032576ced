//! What a caller shows to be known.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A key as its holder has it: a random UUID, so that it serves where one is asked for. It never shows in logs.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ShownKey(Uuid);

impl ShownKey {
    /// Characters at its beginning that tell it from others in lists.
    pub const PREFIX: usize = 8;

    /// A key that nobody has.
    #[allow(clippy::new_without_default, reason = "a default key would be a different one each time")]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    /// The key that was shown, if it can be one.
    pub fn read(shown: &[u8]) -> Option<Self> {
        Uuid::try_parse_ascii(shown).ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Its beginning, which is no secret.
    pub fn prefix(&self) -> String {
        self.expose()[..Self::PREFIX].to_owned()
    }

    pub fn expose(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Debug for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_random_uuid_that_does_not_show() {
        let key = ShownKey::new();
        let text = key.expose();
        assert_eq!(Uuid::parse_str(&text).unwrap().get_version_num(), 4);
        assert_eq!(key.prefix(), text[..8]);
        assert_eq!(ShownKey::read(text.to_uppercase().as_bytes()).unwrap().as_bytes(), key.as_bytes());
        assert!(!format!("{key:?}").contains(&key.prefix()));
        for other in ["", "client-key-0123456", &text[1..]] {
            assert!(ShownKey::read(other.as_bytes()).is_none(), "{other}");
        }
    }
}
