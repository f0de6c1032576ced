//! By what a request is known that is sent again.

use super::InvalidValue;

/// The key that a caller gave a request, and what the request was: the same key must come with the same request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    key: String,
    fingerprint: [u8; 32],
}

impl RequestKey {
    /// Most characters of a key.
    pub const LONGEST: usize = 255;

    /// `fingerprint` is the SHA-256 of all that makes the request what it is.
    pub fn new(key: &str, fingerprint: [u8; 32]) -> Result<Self, InvalidValue> {
        let is_key = (1..=Self::LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if is_key { Ok(Self { key: key.to_owned(), fingerprint }) } else { Err(InvalidValue::RequestKey) }
    }

    pub fn as_str(&self) -> &str {
        &self.key
    }

    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}
