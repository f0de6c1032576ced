//! Who did something, as records name them.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{KeyId, hex};

/// Whom records name for what was done. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name of their key, or what let them in without one.
    pub name: Arc<str>,
    /// Their key, if the database keeps it.
    pub key: Option<KeyId>,
    /// The request that they sent, if it came by HTTP.
    pub request: Option<Arc<str>>,
}

impl From<&str> for Actor {
    fn from(name: &str) -> Self {
        Self { name: name.into(), key: None, request: None }
    }
}

/// A request's id as records have it. One that a client chose may be anything, such as somebody's name: of that they have a hash.
pub(super) fn request_id(id: &str) -> Arc<str> {
    match Uuid::try_parse(id) {
        Ok(id) => (&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer())).into(),
        Err(_) => format!("sha256:{}", &hex(&Sha256::digest(id))[..32]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_calls_its_request_is_not_written_down() {
        let id = Uuid::now_v7();
        assert_eq!(&*request_id(&id.to_string().to_uppercase()), id.to_string());
        // By `printf 'Ada Lovelace' | sha256sum`.
        assert_eq!(&*request_id("Ada Lovelace"), "sha256:76740216171591903cdbd18fbc770df4");
    }
}
