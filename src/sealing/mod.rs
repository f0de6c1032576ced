//! Chips at rest: each is sealed by a key of its own, and that key may be wrapped by a master key. Cryptography alone; what is
//! stored where is the gallery's.
//!
//! All of it is AES-256-GCM, with the face's id as associated data, so that nothing opens under another face.
//!
//! - The key of a chip is random and seals that one chip, never another. So its nonce may be the same each time: what must not
//!   happen is two texts under one key and one nonce.
//! - A master key wraps the keys of many faces, each under a random nonce of 96 bits. NIST SP 800-38D allows 2^32 of them for
//!   one key, so that two are equal by a chance below 2^-32. A key that is wrapped anew counts once more.

mod keyring;
#[cfg(test)]
mod tests;

use std::fmt;

use aes_gcm::aead::rand_core::RngCore as _;
use aes_gcm::aead::{Aead as _, KeyInit as _, OsRng, Payload};
use aes_gcm::{Aes256Gcm, Key};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::types::{FaceId, hex};

pub use keyring::{Keyring, KeyringError};

/// What a sealed chip begins with, and no JPEG.
const MARK: [u8; 4] = *b"\0fc\x01";

/// Of the only chip of a key.
const CHIP_NONCE: [u8; 12] = [0; 12];

/// What is sealed, so that a chip can never be taken for a key.
const OF_CHIP: &[u8] = b"faceid chip 1";
const OF_KEY: &[u8] = b"faceid chip key 1";
const OF_ID: &[u8] = b"faceid chip master key 1";

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// Tells a master key from others, and says nothing else of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterId([u8; 8]);

/// The key of a chip, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    pub bytes: Vec<u8>,
    /// What it is wrapped by; `None`: it is as it is.
    pub master: Option<MasterId>,
}

/// A chip as it is stored, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChip {
    pub chip: Vec<u8>,
    pub key: StoredKey,
    /// Of the chip itself.
    pub sha256: [u8; 32],
}

/// Why a chip or its key cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealingError {
    /// A server that is given it could.
    #[error(
        "its key is wrapped by the master key {0}, which is not given here (chip_key_file, FACEID_CHIP_KEY, chip_key_command)"
    )]
    OtherMaster(MasterId),
    #[error("its key is damaged, or is that of another face")]
    Key,
    #[error("it is damaged, or is that of another face")]
    Chip,
    #[error("it is encrypted, and its key is gone")]
    NoKey,
}

impl SealingError {
    /// Whether it is for want of a master key, and neither the chip nor its key is to blame.
    pub fn is_of_master(&self) -> bool {
        matches!(self, Self::OtherMaster(_))
    }
}

/// A master key, ready for use.
struct MasterKey {
    id: MasterId,
    cipher: Aes256Gcm,
}

impl MasterKey {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&Sha256::new().chain_update(OF_ID).chain_update(key).finalize()[..8]);
        Self { id: MasterId(id), cipher: Aes256Gcm::new(key.into()) }
    }

    fn wrap(&self, face: FaceId, key: &[u8]) -> StoredKey {
        let mut nonce = [0; NONCE_BYTES];
        OsRng.fill_bytes(&mut nonce);
        StoredKey {
            bytes: [&nonce, &*encrypt(&self.cipher, &nonce, OF_KEY, face, key)].concat(),
            master: Some(self.id),
        }
    }

    fn unwrap(&self, face: FaceId, wrapped: &[u8]) -> Option<Vec<u8>> {
        let (nonce, key) = wrapped.split_first_chunk::<NONCE_BYTES>()?;
        decrypt(&self.cipher, nonce, OF_KEY, face, key)
    }
}

/// Whether a stored chip is sealed, rather than one of before there were keys.
pub fn is_sealed(chip: &[u8]) -> bool {
    chip.starts_with(&MARK)
}

/// Seals a chip by a new key, which is returned as it is.
fn seal(face: FaceId, jpeg: &[u8]) -> (Vec<u8>, Key<Aes256Gcm>) {
    let key = Aes256Gcm::generate_key(&mut OsRng);
    let sealed = encrypt(&Aes256Gcm::new(&key), &CHIP_NONCE, OF_CHIP, face, jpeg);
    ([&MARK, &*sealed].concat(), key)
}

fn open(face: FaceId, chip: &[u8], key: &[u8]) -> Result<Vec<u8>, SealingError> {
    let sealed = chip.strip_prefix(&MARK).ok_or(SealingError::Chip)?;
    let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| SealingError::Key)?;
    decrypt(&cipher, &CHIP_NONCE, OF_CHIP, face, sealed).ok_or(SealingError::Chip)
}

fn encrypt(cipher: &Aes256Gcm, nonce: &[u8; NONCE_BYTES], of: &[u8], face: FaceId, text: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: text, aad: &about(of, face) };
    cipher.encrypt(nonce.into(), payload).expect("AES-GCM takes up to 64 GiB, which nothing here has")
}

fn decrypt(cipher: &Aes256Gcm, nonce: &[u8; NONCE_BYTES], of: &[u8], face: FaceId, sealed: &[u8]) -> Option<Vec<u8>> {
    cipher.decrypt(nonce.into(), Payload { msg: sealed, aad: &about(of, face) }).ok()
}

fn about(of: &[u8], face: FaceId) -> Vec<u8> {
    [of, face.0.as_bytes()].concat()
}

impl MasterId {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for MasterId {
    type Error = SealingError;

    fn try_from(bytes: &[u8]) -> Result<Self, SealingError> {
        bytes.try_into().map(Self).map_err(|_| SealingError::Key)
    }
}

impl fmt::Display for MasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*** ({:?})", self.master)
    }
}
