//! The master keys that a server is given: the first wraps, all unwrap.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{KEY_BYTES, MasterId, MasterKey, SealedChip, SealingError, StoredKey, is_sealed, open, seal};
use crate::types::{FaceId, unhex};

/// What is wrong with a text that should hold master keys. It is not shown.
#[derive(Debug, Error)]
pub enum KeyringError {
    #[error("it holds no key; `openssl rand -hex 32` makes one")]
    Empty,
    #[error(
        "key {0} of it is none: 32 bytes are expected, as 64 hexadecimal digits or in base64, such as `openssl rand -hex 32` \
         prints"
    )]
    Malformed(usize),
}

/// The master keys of a server, newest first; there may be none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Keyring(Arc<[MasterKey]>);

impl Keyring {
    /// Reads keys, one a line, the newest first. Empty lines, and those that begin with #, say nothing.
    pub fn read(text: &str) -> Result<Self, KeyringError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut keys: Vec<MasterKey> = Vec::new();
        for (number, line) in lines.enumerate() {
            let key = MasterKey::new(&key_of(line).ok_or(KeyringError::Malformed(number + 1))?);
            if keys.iter().all(|known| known.id != key.id) {
                keys.push(key);
            }
        }
        if keys.is_empty() { Err(KeyringError::Empty) } else { Ok(Self(keys.into())) }
    }

    /// What wraps new keys.
    pub fn newest(&self) -> Option<MasterId> {
        self.ids().next()
    }

    pub fn ids(&self) -> impl Iterator<Item = MasterId> {
        self.0.iter().map(|key| key.id)
    }

    /// Whether a key that was stored under this master, or without one, should be wrapped by the newest instead, and can be.
    pub fn replaces(&self, master: Option<MasterId>) -> bool {
        let newest = self.newest();
        newest.is_some() && master != newest && master.is_none_or(|master| self.ids().any(|id| id == master))
    }

    /// A chip as it is to be stored.
    pub fn seal(&self, face: FaceId, jpeg: &[u8]) -> SealedChip {
        let (chip, key) = seal(face, jpeg);
        SealedChip { chip, key: self.wrap(face, &key), sha256: Sha256::digest(jpeg).into() }
    }

    /// The chip itself. One that is stored without a key is of before there were keys.
    pub fn open(&self, face: FaceId, chip: Vec<u8>, key: Option<&StoredKey>) -> Result<Vec<u8>, SealingError> {
        match key {
            Some(key) => open(face, &chip, &self.unwrap(face, key)?),
            None if is_sealed(&chip) => Err(SealingError::NoKey),
            None => Ok(chip),
        }
    }

    /// The same key, under the newest master.
    pub fn wrap_anew(&self, face: FaceId, key: &StoredKey) -> Result<StoredKey, SealingError> {
        Ok(self.wrap(face, &self.unwrap(face, key)?))
    }

    fn wrap(&self, face: FaceId, key: &[u8]) -> StoredKey {
        match self.0.first() {
            Some(newest) => newest.wrap(face, key),
            None => StoredKey { bytes: key.to_vec(), master: None },
        }
    }

    fn unwrap(&self, face: FaceId, key: &StoredKey) -> Result<Vec<u8>, SealingError> {
        let bare = match key.master {
            None => Some(key.bytes.clone()),
            Some(id) => {
                let master = self.0.iter().find(|master| master.id == id).ok_or(SealingError::OtherMaster(id))?;
                master.unwrap(face, &key.bytes)
            }
        };
        bare.filter(|bare| bare.len() == KEY_BYTES).ok_or(SealingError::Key)
    }
}

/// In either alphabet, with or without the padding.
fn base64_of(alphabet: &base64::alphabet::Alphabet, text: &str) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, lenient).decode(text).ok()
}

fn key_of(text: &str) -> Option<[u8; KEY_BYTES]> {
    let alphabets = [&base64::alphabet::STANDARD, &base64::alphabet::URL_SAFE];
    let in_base64 = || alphabets.into_iter().find_map(|alphabet| base64_of(alphabet, text))?.try_into().ok();
    unhex(text).or_else(in_base64)
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids().map(|id| id.to_string())).finish()
    }
}
