#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::auth::date;

struct Vector {
    method: &'static str,
    path: &'static str,
    date: &'static str,
    host: &'static str,
    content_type: &'static str,
    version_header: &'static str,
    version: &'static str,
    hash: &'static str,
    secret: &'static str,
    signature: &'static str,
}

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const PLAIN: Vector = Vector {
    method: "GET",
    path: "/auth?echo=hello",
    date: "2026-01-15T09:30:00.123456+00:00",
    host: "127.0.0.1:8081",
    content_type: "application/octet-stream",
    version_header: "x-backendai-version",
    version: "v6.20230315",
    hash: "sha256",
    secret: SECRET,
    signature: "571ae246d58ee6a71e29fe11a9176ec0b1fff19e8f04273fb19b382103914d4a",
};
const VECTORS: &[Vector] = &[
    PLAIN,
    Vector {
        method: "POST",
        path: "/session",
        date: "2026-01-15T09:30:00+00:00",
        host: "api.example.com",
        content_type: "application/json",
        signature: "61fcf328e0bd394373fbadd55eb91b343a5d314ae032991bfccd92303a1d79a8",
        ..PLAIN
    },
    Vector {
        path: "/folders?name=my+data%2Fset&owner_access_key=AKIAOTHER0000000000",
        date: "2026-02-28T23:59:59.999999+00:00",
        host: "api.example.com:8443",
        signature: "fa2a03b0575aaec39c214e90fe52d46775e945d03d9c481bc0b3bc7ca89df5fd",
        ..PLAIN
    },
    Vector {
        method: "DELETE",
        path: "/session/my-sess",
        date: "2026-03-01T00:15:00+09:00",
        content_type: "application/json",
        signature: "99a781b14eabe1acfb24267484a04f26a988a4dbc6f1127b4ed10edb6e910444",
        ..PLAIN
    },
    Vector {
        method: "PATCH",
        path: "/auth/ssh-keypair",
        date: "2026-06-30T12:00:00+00:00",
        host: "localhost:8090",
        content_type: "application/json",
        version: "v5.20191215",
        hash: "SHA1",
        signature: "a39f8e43f524f945224ef202bc1003eed1aa635c",
        ..PLAIN
    },
    Vector {
        method: "POST",
        path: "/session/my-sess/upload",
        date: "2026-06-30T12:00:00+00:00",
        host: "localhost:8090",
        content_type: "multipart/form-data",
        version: "v6.20220615",
        hash: "sha512",
        signature: "84797ebf1414a1001b556d1b4a74dfb55c6c5d754b936d0b007f75acee2f9feb55987be23eccc2f890717d299d9a0448f6d69139ec1e8a5b834f64529c4fde48",
        ..PLAIN
    },
    Vector {
        path: "/",
        date: "2025-12-31T00:00:00+00:00",
        host: "[::1]:8081",
        content_type: "text/plain",
        version: "v4.20190615",
        secret: "peerUserSecret00000000000000000000000003",
        signature: "adac1a29cb267bb324215d820683c92c5aa964095e6e90ff0224920d698c68bf",
        ..PLAIN
    },
    Vector {
        path: "/session/%ED%95%9C%EA%B8%80/logs",
        date: "2026-01-15T09:30:00.000001+00:00",
        signature: "da47259ac1090608b532a841c091989236dc77bb6622766fe62a48848b80e17f",
        ..PLAIN
    },
    Vector {
        version_header: "x-sorna-version",
        signature: "5b7a7e75feb76f9e9b029715b0ad4859c6cc226ecba17970bb715e0080651e80",
        ..PLAIN
    },
];

impl Vector {
    fn request(&self) -> Signed<'_> {
        Signed {
            method: self.method.as_bytes(),
            target: self.path.as_bytes(),
            date: self.date.as_bytes(),
            day: date::parse(self.date).unwrap().day,
            host: self.host.as_bytes(),
            content_type: self.content_type.as_bytes(),
            version_header: self.version_header,
            version: self.version,
        }
    }

    fn sign(&self) -> Signature {
        sign(Hash::named(self.hash).unwrap(), self.secret.as_bytes(), &self.request())
    }
}

#[test]
fn official_client_signs_alike() {
    for vector in VECTORS {
        let signature = vector.sign();
        assert_eq!(std::str::from_utf8(signature.as_bytes()).unwrap(), vector.signature, "{}", vector.path);
        assert!(signature.matches(vector.signature.as_bytes()));
    }
}

#[test]
fn signatures_are_compared_exactly() {
    let signature = PLAIN.sign();
    assert!(!signature.matches(PLAIN.signature.to_uppercase().as_bytes()));
    assert!(!signature.matches(&PLAIN.signature.as_bytes()[..63]));
    assert!(!signature.matches(b""));
    assert!(!signature.matches("é".repeat(32).as_bytes()));
}

#[test]
fn hashes_have_the_sizes_of_their_names() {
    let sizes = [
        ("md5", 16),
        ("sha224", 28),
        ("sha384", 48),
        ("SHA3_224", 28),
        ("sha3_256", 32),
        ("sha3_384", 48),
        ("sha3_512", 64),
        ("BLAKE2B", 64),
        ("blake2s", 32),
    ];
    for (name, size) in sizes {
        let hash = Hash::named(name).unwrap();
        assert_eq!(sign(hash, b"k", &PLAIN.request()).as_bytes().len(), size * 2, "{name}");
        assert_eq!(hash_of_nothing(hash).len(), size * 2, "{name}");
    }
    for name in ["shake_128", "shake_256", "sha3-256", "", "crc32"] {
        assert_eq!(Hash::named(name), None, "{name}");
    }
}

#[test]
fn hashes_of_nothing_belong_to_their_hashes() {
    assert_eq!(hash_of_nothing(Hash::Md5), b"d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(hash_of_nothing(Hash::Sha256), b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (index, (_, hash)) in HASHES.iter().enumerate() {
        assert_eq!(*hash as usize, index);
    }
}

proptest! {
    /// Whichever byte of the request or the secret is changed, the signature doesn't fit any more.
    #[test]
    fn every_byte_counts(vector in 0..VECTORS.len(), part in 0..7_usize, at in any::<proptest::sample::Index>(), flip in 1..=255_u8) {
        let vector = &VECTORS[vector];
        let original = vector.request();
        let mut parts: [Vec<u8>; 7] = [
            original.method.to_vec(),
            original.target.to_vec(),
            original.date.to_vec(),
            original.host.to_vec(),
            original.content_type.to_vec(),
            original.day.to_vec(),
            vector.secret.as_bytes().to_vec(),
        ];
        let place = at.index(parts[part].len());
        parts[part][place] ^= flip;
        let [method, target, date, host, content_type, day, secret] = &parts;
        let changed = Signed {
            method, target, date, host, content_type,
            day: day.as_slice().try_into().unwrap(),
            ..original
        };
        let forged = sign(Hash::named(vector.hash).unwrap(), secret, &changed);
        prop_assert!(!forged.matches(vector.signature.as_bytes()));
    }

    /// A changed signature doesn't fit either.
    #[test]
    fn every_digit_counts(vector in 0..VECTORS.len(), at in any::<proptest::sample::Index>(), flip in 1..=255_u8) {
        let vector = &VECTORS[vector];
        let mut given = vector.signature.as_bytes().to_vec();
        let place = at.index(given.len());
        given[place] ^= flip;
        prop_assert!(!vector.sign().matches(&given));
    }
}
