//! Identities of hosts: Ed25519 key pairs. The public half is published on the datastore as hex.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// SubjectPublicKeyInfo of an Ed25519 key up to the key itself (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Who a host is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

/// Text or bytes that are no key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not 64 hexadecimal digits.
    #[error("a public key is 64 hexadecimal digits")]
    NotHex,
    /// Not the PKCS#8 form of an Ed25519 private key.
    #[error("not a PKCS#8 Ed25519 private key")]
    NotPkcs8,
    /// The kernel gave no random bytes.
    #[error("no random bytes to make a key from")]
    NoRandom,
}

impl PublicKey {
    /// The 32 bytes of RFC 8032.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From the 32 bytes of RFC 8032.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn from_spki(spki: &[u8]) -> Option<Self> {
        spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(Self)
    }

    fn to_spki(self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(KeyError::NotHex);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16).map_or(0, |value| value as u8);
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Ok(Self(key))
    }
}

/// A host's private key and its public half.
#[derive(Clone)]
pub struct KeyPair {
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl KeyPair {
    /// Makes a new identity from the kernel's random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::NoRandom)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Loads what [`KeyPair::to_pkcs8`] gave.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::NotPkcs8)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::NotPkcs8)?;
        Ok(Self { pkcs8: pkcs8.to_vec(), public: PublicKey(public) })
    }

    /// The private key as PKCS#8 version 2 (RFC 5958): to be kept where only this host reads it.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// What peers know this host by.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn certified(&self) -> Result<Arc<CertifiedKey>, rustls::Error> {
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.clone()));
        let signing = rustls::crypto::ring::sign::any_supported_type(&private)?;
        Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(self.public.to_spki())], signing)))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "KeyPair({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_being_stored_and_published() {
        let pair = KeyPair::generate().unwrap();
        let again = KeyPair::from_pkcs8(pair.to_pkcs8()).unwrap();
        assert_eq!(again.public(), pair.public());
        assert_eq!(pair.public().to_string().parse(), Ok(pair.public()));
        assert_eq!(PublicKey::from_spki(&pair.public().to_spki()), Some(pair.public()));
    }

    #[test]
    fn damaged_keys_are_refused() {
        assert_eq!("00".parse::<PublicKey>(), Err(KeyError::NotHex));
        assert_eq!("zz".repeat(32).parse::<PublicKey>(), Err(KeyError::NotHex));
        assert_eq!(KeyPair::from_pkcs8(&[1, 2, 3]).unwrap_err(), KeyError::NotPkcs8);
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let pair = KeyPair::generate().unwrap();
        assert_eq!(format!("{pair:?}"), format!("KeyPair({})", pair.public()));
    }
}
