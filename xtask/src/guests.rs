//! Policy guests: Rust crates for `wasm32-wasip2`, in workspaces of their own.

use quarterdeck_tests::root;

use crate::run::{cargo, run, timed};

/// Builds the built-in guests and the Rust examples.
pub(crate) fn build() -> anyhow::Result<()> {
    crate::prerequisites::wasm_target()?;
    timed("Building the built-in policies", || build_in("plugins"))?;
    timed("Building the example policies", || build_in("examples/rust/best-fit"))?;
    timed("Building the policies that tests misuse", || build_in("tests/guests"))
}

fn build_in(dir: &str) -> anyhow::Result<()> {
    run(cargo().current_dir(root().join(dir)).env_remove("CARGO_TARGET_DIR").args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--target",
        "wasm32-wasip2",
    ]))
}
