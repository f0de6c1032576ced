//! Signatures by Ed25519: what an operator's key has signed, everybody can check who has its public half.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum SigningError {
    #[error("this is no private Ed25519 key as `openssl genpkey -algorithm ed25519` writes it: {0}")]
    PrivateKey(String),
    #[error("this is no public Ed25519 key as `openssl pkey -pubout` writes it: {0}")]
    PublicKey(String),
    #[error("a signature is 64 bytes in base64")]
    Malformed,
    #[error("the signature is not one of this key for this text")]
    Forged,
}

/// Signs.
pub struct PrivateKey(ed25519_dalek::SigningKey);

/// Checks signatures.
pub struct PublicKey(VerifyingKey);

impl PrivateKey {
    /// Reads PKCS#8 in PEM.
    pub fn read(pem: &str) -> Result<Self, SigningError> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(pem.trim());
        key.map(Self).map_err(|error| SigningError::PrivateKey(error.to_string()))
    }

    /// The signature, in base64.
    pub fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.0.sign(text.as_bytes()).to_bytes())
    }
}

impl PublicKey {
    /// Reads SubjectPublicKeyInfo in PEM.
    pub fn read(pem: &str) -> Result<Self, SigningError> {
        let key = VerifyingKey::from_public_key_pem(pem.trim());
        key.map(Self).map_err(|error| SigningError::PublicKey(error.to_string()))
    }

    /// Fails unless the signature, in base64, is one of this key for the text.
    pub fn check(&self, text: &str, signature: &str) -> Result<(), SigningError> {
        let bytes = STANDARD.decode(signature).map_err(|_| SigningError::Malformed)?;
        let signature = Signature::from_slice(&bytes).map_err(|_| SigningError::Malformed)?;
        self.0.verify_strict(text.as_bytes(), &signature).map_err(|_| SigningError::Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `openssl genpkey -algorithm ed25519`, and `openssl pkey -pubout` of it.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIDKEw/o8wi630rGkgsdc7MuoXIk10n4fZd5NYjolMOj/\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA1YVA2//PVAVB6b3iNTNYCKpe+GPPC8EBJYy+qaQoLus=\n-----END PUBLIC KEY-----\n";
    const OTHER: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAnRTHN7JTMiC3cPl5rxc6yh6i0SuD2YSMoMpsB6z/x0o=\n-----END PUBLIC KEY-----\n";
    /// By `printf 'a text' | openssl pkeyutl -sign -rawin -inkey`, in base64.
    const SIGNATURE: &str = "pG9m3h6K3hpGVdoCV8D7TdHd1bIXMjNKHnRZQiWx7lkU80bcvSHSlpPpxq0kKA3lDC1L78yBHtT0sEica3VtBQ==";

    #[test]
    fn keys_and_signatures_are_those_of_openssl() {
        let (key, public) = (PrivateKey::read(PRIVATE).unwrap(), PublicKey::read(PUBLIC).unwrap());
        assert_eq!(key.sign("a text"), SIGNATURE);
        public.check("a text", SIGNATURE).unwrap();
    }

    #[test]
    fn what_is_no_signature_of_the_key_is_refused() {
        let (public, other) = (PublicKey::read(PUBLIC).unwrap(), PublicKey::read(OTHER).unwrap());
        assert!(matches!(public.check("another text", SIGNATURE), Err(SigningError::Forged)));
        assert!(matches!(other.check("a text", SIGNATURE), Err(SigningError::Forged)));
        for odd in ["", "=", "AAAA", &SIGNATURE[4..]] {
            assert!(matches!(public.check("a text", odd), Err(SigningError::Malformed)), "{odd:?}");
        }
        assert!(matches!(PrivateKey::read(PUBLIC), Err(SigningError::PrivateKey(_))));
        assert!(matches!(PublicKey::read(PRIVATE), Err(SigningError::PublicKey(_))));
        assert!(matches!(PublicKey::read("-----BEGIN PUBLIC KEY-----"), Err(SigningError::PublicKey(_))));
    }
}
