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
