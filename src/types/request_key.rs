//! By what a request is known that is sent again.

use super::{Caller, InvalidValue};

/// The key that a caller gave a request, and what the request was: from the same caller, the same key must come with the same
/// request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    caller: String,
    key: String,
    fingerprint: [u8; 32],
}

impl RequestKey {
    /// Most characters of a key.
    pub const LONGEST: usize = 255;

    /// `fingerprint` is the SHA-256 of all that makes the request what it is.
    pub fn new(caller: &Caller, key: &str, fingerprint: [u8; 32]) -> Result<Self, InvalidValue> {
        let is_key = (1..=Self::LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        let (caller, key) = (caller.id(), key.to_owned());
        if is_key { Ok(Self { caller, key, fingerprint }) } else { Err(InvalidValue::RequestKey) }
    }

    /// Whose it is, as [`Caller::id`] says.
    pub fn caller(&self) -> &str {
        &self.caller
    }

    pub fn as_str(&self) -> &str {
        &self.key
    }

    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}
