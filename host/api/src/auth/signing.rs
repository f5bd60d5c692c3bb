//! Request signatures: the canonical text, the chain of keys, and their comparison.

use std::sync::LazyLock;

use hmac::digest::block_api::BlockSizeUser;
use hmac::digest::{Digest, KeyInit};
use hmac::{Mac, SimpleHmac};
use subtle::ConstantTimeEq;

/// A hash function that signatures may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// MD5, for old clients.
    Md5,
    /// SHA-1, for old clients.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256, what clients use unless told otherwise.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA3-224.
    Sha3_224,
    /// SHA3-256.
    Sha3_256,
    /// SHA3-384.
    Sha3_384,
    /// SHA3-512.
    Sha3_512,
    /// BLAKE2b with 64 bytes.
    Blake2b,
    /// BLAKE2s with 32 bytes.
    Blake2s,
}

const HASHES: [(&str, Hash); 12] = [
    ("md5", Hash::Md5),
    ("sha1", Hash::Sha1),
    ("sha224", Hash::Sha224),
    ("sha256", Hash::Sha256),
    ("sha384", Hash::Sha384),
    ("sha512", Hash::Sha512),
    ("sha3_224", Hash::Sha3_224),
    ("sha3_256", Hash::Sha3_256),
    ("sha3_384", Hash::Sha3_384),
    ("sha3_512", Hash::Sha3_512),
    ("blake2b", Hash::Blake2b),
    ("blake2s", Hash::Blake2s),
];

impl Hash {
    /// The hash of that name, whatever its case.
    pub fn named(name: &str) -> Option<Self> {
        HASHES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, hash)| *hash)
    }
}

/// The parts of a request that its signature covers. The body isn't one of them.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// As received.
    pub method: &'a [u8],
    /// Path and query, byte for byte as received.
    pub target: &'a [u8],
    /// The date header's text.
    pub date: &'a [u8],
    /// The date's day, `YYYYMMDD`, in its own offset.
    pub day: [u8; 8],
    /// The host header's text.
    pub host: &'a [u8],
    /// The media type, lower-case and without parameters.
    pub content_type: &'a [u8],
    /// The name of the version header, lower-case.
    pub version_header: &'a str,
    /// The version's text.
    pub version: &'a str,
}

/// A signature in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    digits: [u8; 128],
    length: usize,
}

impl Signature {
    fn of(bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut signature = Self { digits: [0; 128], length: bytes.len() * 2 };
        for (pair, byte) in signature.digits.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        signature
    }

    /// The digits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[..self.length]
    }

    /// Whether `given` is this signature, told in a time that doesn't depend on where they differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.as_bytes().ct_eq(given).into()
    }
}

/// Signs a request with a secret key.
pub fn sign(hash: Hash, secret: &[u8], request: &Signed<'_>) -> Signature {
    match hash {
        Hash::Md5 => chain::<md5::Md5>(hash, secret, request),
        Hash::Sha1 => chain::<sha1::Sha1>(hash, secret, request),
        Hash::Sha224 => chain::<sha2::Sha224>(hash, secret, request),
        Hash::Sha256 => chain::<sha2::Sha256>(hash, secret, request),
        Hash::Sha384 => chain::<sha2::Sha384>(hash, secret, request),
        Hash::Sha512 => chain::<sha2::Sha512>(hash, secret, request),
        Hash::Sha3_224 => chain::<sha3::Sha3_224>(hash, secret, request),
        Hash::Sha3_256 => chain::<sha3::Sha3_256>(hash, secret, request),
        Hash::Sha3_384 => chain::<sha3::Sha3_384>(hash, secret, request),
        Hash::Sha3_512 => chain::<sha3::Sha3_512>(hash, secret, request),
        Hash::Blake2b => chain::<blake2::Blake2b512>(hash, secret, request),
        Hash::Blake2s => chain::<blake2::Blake2s256>(hash, secret, request),
    }
}

/// HMAC of the canonical text under a key derived from the secret, the day and the host.
fn chain<D: Digest + BlockSizeUser>(hash: Hash, secret: &[u8], request: &Signed<'_>) -> Signature {
    let day = hmac::<D>(secret, &[&request.day]);
    let host = hmac::<D>(&day, &[request.host]);
    let signature = hmac::<D>(
        &host,
        &[
            request.method,
            b"\n",
            request.target,
            b"\n",
            request.date,
            b"\nhost:",
            request.host,
            b"\ncontent-type:",
            request.content_type,
            b"\n",
            request.version_header.as_bytes(),
            b":",
            request.version.as_bytes(),
            b"\n",
            hash_of_nothing(hash),
        ],
    );
    Signature::of(&signature)
}

fn hmac<D: Digest + BlockSizeUser>(key: &[u8], parts: &[&[u8]]) -> hmac::digest::Output<D> {
    let mut mac = SimpleHmac::<D>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        Mac::update(&mut mac, part);
    }
    mac.finalize().into_bytes()
}

/// The last line of every canonical text: where old versions had the body's hash.
fn hash_of_nothing(hash: Hash) -> &'static [u8] {
    static HEX: LazyLock<[Signature; 12]> = LazyLock::new(|| {
        HASHES.map(|(_, hash)| match hash {
            Hash::Md5 => Signature::of(&md5::Md5::digest(b"")),
            Hash::Sha1 => Signature::of(&sha1::Sha1::digest(b"")),
            Hash::Sha224 => Signature::of(&sha2::Sha224::digest(b"")),
            Hash::Sha256 => Signature::of(&sha2::Sha256::digest(b"")),
            Hash::Sha384 => Signature::of(&sha2::Sha384::digest(b"")),
            Hash::Sha512 => Signature::of(&sha2::Sha512::digest(b"")),
            Hash::Sha3_224 => Signature::of(&sha3::Sha3_224::digest(b"")),
            Hash::Sha3_256 => Signature::of(&sha3::Sha3_256::digest(b"")),
            Hash::Sha3_384 => Signature::of(&sha3::Sha3_384::digest(b"")),
            Hash::Sha3_512 => Signature::of(&sha3::Sha3_512::digest(b"")),
            Hash::Blake2b => Signature::of(&blake2::Blake2b512::digest(b"")),
            Hash::Blake2s => Signature::of(&blake2::Blake2s256::digest(b"")),
        })
    });
    HEX[hash as usize].as_bytes()
}

#[cfg(test)]
#[path = "signing_tests.rs"]
mod tests;
