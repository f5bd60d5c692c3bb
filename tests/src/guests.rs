//! Components that tests push, built by `cargo xtask guests`.

use std::path::PathBuf;

use anyhow::ensure;

fn built(path: &str) -> anyhow::Result<PathBuf> {
    let path = crate::root().join(path);
    ensure!(path.exists(), "{} is missing: cargo xtask guests", path.display());
    Ok(path)
}

/// A scheduler that misbehaves as its configuration says: `{"misbehave": "loop" | "trap" | "allocate" | "nonsense" |
/// "stall-check"}`. Without one it does nothing.
///
/// # Errors
/// When it isn't built.
pub fn hostile_scheduler() -> anyhow::Result<PathBuf> {
    built("tests/guests/target/wasm32-wasip2/release/hostile_scheduler.wasm")
}

/// The example policy that packs sessions onto the fullest agent that fits.
///
/// # Errors
/// When it isn't built.
pub fn best_fit() -> anyhow::Result<PathBuf> {
    built("examples/rust/best-fit/target/wasm32-wasip2/release/best_fit.wasm")
}

/// The same component with other bytes: a custom section says `mark`, which nobody reads.
///
/// # Panics
/// When `mark` is longer than 100 bytes.
pub fn marked(component: &[u8], mark: &str) -> Vec<u8> {
    assert!(mark.len() <= 100, "its length must fit a byte");
    let mut out = component.to_vec();
    out.extend([0, mark.len() as u8 + 5, 4]);
    out.extend(b"mark");
    out.extend(mark.as_bytes());
    out
}

/// The example hook in Python, which refuses sessions with improper names.
///
/// # Errors
/// When it isn't built.
pub fn session_names() -> anyhow::Result<PathBuf> {
    example("examples/python/session-names/policy.wasm")
}

/// The example scheduler in JavaScript, by which owners and agents take turns.
///
/// # Errors
/// When it isn't built.
pub fn owner_rotation() -> anyhow::Result<PathBuf> {
    example("examples/javascript/owner-rotation/dist/policy.wasm")
}

fn example(path: &str) -> anyhow::Result<PathBuf> {
    let path = crate::root().join(path);
    ensure!(path.exists(), "{} is missing: cargo xtask authors", path.display());
    Ok(path)
}
