//! Tokens and secrets: how they are made, stored and compared.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A fresh secret: 256 random bits, URL-safe text of 43 characters.
pub fn generate() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// What is stored of a secret: the SHA-256 of its text, in lower-case hexadecimal.
/// Secrets from [`generate`] carry 256 bits, so that a plain hash is enough.
pub fn hash(secret: &str) -> String {
    // By hand: agents' credentials are hashed with every call, and formatting costs more than the digest.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: u8| [byte >> 4, byte & 15].map(|half| char::from(DIGITS[usize::from(half)]));
    Sha256::digest(secret.as_bytes()).iter().flat_map(|byte| digits(*byte)).collect()
}

/// Whether `presented` is the secret whose [`hash`] is stored. Takes the same time wherever they differ.
pub fn matches_hash(presented: &str, stored_hash: &str) -> bool {
    hash(presented).as_bytes().ct_eq(stored_hash.as_bytes()).into()
}

/// Whether two secrets are equal. Takes the same time wherever they differ.
pub fn same(presented: &str, expected: &str) -> bool {
    Sha256::digest(presented.as_bytes()).as_slice().ct_eq(Sha256::digest(expected.as_bytes()).as_slice()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_are_long() {
        let (one, other) = (generate(), generate());
        assert_ne!(one, other);
        assert_eq!(one.len(), 43);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    }

    #[test]
    fn hashes_compare() {
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let secret = generate();
        assert!(matches_hash(&secret, &hash(&secret)));
        assert!(!matches_hash(&generate(), &hash(&secret)));
        assert!(!matches_hash("", ""));
        assert!(same("a", "a") && !same("a", "ab"));
    }
}
