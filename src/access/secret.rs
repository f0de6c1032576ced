//! What is stored of a key: its HMAC by a secret. Keys are random, so that nobody could guess one from a plain hash either; by
//! the secret, whoever can write to the database, but does not know it, cannot make a key.

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::types::ShownKey;

/// What keys are hashed by.
#[derive(Clone)]
pub(super) struct KeySecret {
    hmac: Hmac<Sha256>,
    id: [u8; 8],
}

/// The HMAC of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeySecret {
    pub fn new(secret: &[u8]) -> Self {
        let hmac = Hmac::new_from_slice(secret).expect("HMAC takes secrets of any length");
        let mut id = [0; 8];
        id.copy_from_slice(&hashed(&hmac, b"which secret is it?").0[..8]);
        Self { hmac, id }
    }

    /// What tells it from others, and says nothing else of it. No key has this hash: the text is longer than a key.
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    pub fn hash(&self, key: &ShownKey) -> KeyHash {
        hashed(&self.hmac, key.as_bytes())
    }
}

fn hashed(hmac: &Hmac<Sha256>, what: &[u8]) -> KeyHash {
    KeyHash(hmac.clone().chain_update(what).finalize().into_bytes().into())
}

impl KeyHash {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares in a time that does not depend on where they differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl TryFrom<Vec<u8>> for KeyHash {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        let bytes = bytes.try_into().map_err(|bytes: Vec<u8>| format!("a hash of {} bytes", bytes.len()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::hex;

    #[test]
    fn a_hash_is_an_hmac_that_depends_on_key_and_secret() {
        let key = ShownKey::read(b"00112233-4455-4677-8899-aabbccddeeff").unwrap();
        let (one, other) = (KeySecret::new(b"secret"), KeySecret::new(b"another"));
        // Python: hmac.new(b"secret", bytes.fromhex("00112233445546778899aabbccddeeff"), "sha256").hexdigest()
        assert_eq!(hex(one.hash(&key).as_bytes()), "5fa9f15d9e38c6eee78982f03150e99297f56693ae092d7d79745f2630582461");
        assert!(one.hash(&key).is(&KeySecret::new(b"secret").hash(&key)));
        assert!(!one.hash(&key).is(&other.hash(&key)) && !one.hash(&key).is(&one.hash(&ShownKey::new())));
        assert_eq!(one.id(), KeySecret::new(b"secret").id());
        assert_ne!(one.id(), other.id());
        assert_eq!(format!("{one:?} {:?}", one.hash(&key)), "*** ***");
    }
}
