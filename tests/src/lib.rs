//! Tools for tests (and the demo) that drive real processes: server, agents, PostgreSQL, and a
//! small signed client that knows the published protocol only.

pub mod authority;
pub mod client;
pub mod database;
pub mod dice;
pub mod engine;
pub mod events;
pub mod guests;
pub mod official;
pub mod postgres;
pub mod process;
pub mod receiver;
pub mod registry;
pub mod transfers;
pub mod wait;

use std::path::PathBuf;

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace").to_path_buf()
}

/// The seed that the conformance suite expects.
pub fn seed_file() -> PathBuf {
    root().join("tests/conformance/seed.json")
}

/// Canonical name of the seeded Python image.
pub const PYTHON_IMAGE: &str = "conf-registry/stable/python:3.9-ubuntu20.04";

/// A key pair of the seed.
#[derive(Clone, Copy, Debug)]
pub struct KeyPair {
    /// Access key.
    pub access: &'static str,
    /// Secret key.
    pub secret: &'static str,
}

/// The seeded superadmin.
pub const ADMIN: KeyPair =
    KeyPair { access: "AKIACONFADMIN0000001", secret: "confAdminSecret0000000000000000000000001" };
/// The seeded domain administrator.
pub const DOMAIN_ADMIN: KeyPair =
    KeyPair { access: "AKIACONFDADMIN000002", secret: "confDAdminSecret000000000000000000000002" };
/// The seeded plain user.
pub const USER: KeyPair =
    KeyPair { access: "AKIACONFUSER00000003", secret: "confUserSecret00000000000000000000000003" };

/// How often to do what is dear: `ci` times, or `long` times with `cargo xtask test --long`.
pub fn scale(ci: usize, long: usize) -> usize {
    if std::env::var("QUARTERDECK_TEST_SCALE").as_deref() == Ok("long") { long } else { ci }
}
