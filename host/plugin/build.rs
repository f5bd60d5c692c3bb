//! Builds the guests of `plugins/` that are embedded as built-in policies.
//!
//! They are WebAssembly and have a workspace, a profile and a lock file of their own, so another cargo runs for them. It
//! has a target directory of its own too: it never waits for the lock of the one that runs this script.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable for `include_bytes!`, package, file.
const GUESTS: &[(&str, &str, &str)] = &[
    ("QUARTERDECK_GUEST_FIFO", "quarterdeck-fifo", "fifo.wasm"),
    ("QUARTERDECK_GUEST_LIFO", "quarterdeck-lifo", "lifo.wasm"),
    ("QUARTERDECK_GUEST_MOF", "quarterdeck-mof", "mof.wasm"),
    ("QUARTERDECK_GUEST_DRF", "quarterdeck-drf", "drf.wasm"),
    ("QUARTERDECK_GUEST_FAIR_SHARE", "quarterdeck-fair-share", "fair_share.wasm"),
    ("QUARTERDECK_GUEST_SPREAD_PACK", "quarterdeck-spread-pack", "spread_pack.wasm"),
    ("QUARTERDECK_GUEST_BACKFILL", "quarterdeck-backfill", "backfill.wasm"),
    ("QUARTERDECK_GUEST_SESSION_LIFETIME", "quarterdeck-idle-session-lifetime", "session_lifetime.wasm"),
    ("QUARTERDECK_GUEST_NETWORK_TIMEOUT", "quarterdeck-idle-network-timeout", "network_timeout.wasm"),
    ("QUARTERDECK_GUEST_UTILIZATION", "quarterdeck-idle-utilization", "utilization.wasm"),
    ("QUARTERDECK_GUEST_ADMISSION_LIMITS", "quarterdeck-admission-limits", "admission_limits.wasm"),
    ("QUARTERDECK_GUEST_ALLOWED_IMAGES", "quarterdeck-allowed-images", "allowed_images.wasm"),
    ("QUARTERDECK_GUEST_PASSWORD_FORMAT", "quarterdeck-password-format", "password_format.wasm"),
    ("QUARTERDECK_GUEST_PROJECT_QUOTAS", "quarterdeck-project-quotas", "project_quotas.wasm"),
    ("QUARTERDECK_GUEST_WORKING_HOURS", "quarterdeck-working-hours", "working_hours.wasm"),
];

const TARGET: &str = "wasm32-wasip2";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let root = here.join("../..").canonicalize().expect("the crate lies two levels below the root");
    let plugins = root.join("plugins");

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", root.join("wit").display());
    for file in ["Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", plugins.join(file).display());
    }
    // A package is named after its folder.
    let members = GUESTS.iter().map(|(_, package, _)| package.trim_start_matches("quarterdeck-"));
    for member in ["sdk"].into_iter().chain(members) {
        println!("cargo::rerun-if-changed={}", plugins.join(member).join("src").display());
        println!("cargo::rerun-if-changed={}", plugins.join(member).join("Cargo.toml").display());
    }

    build(&plugins);
    for (variable, _, file) in GUESTS {
        let built = plugins.join("target").join(TARGET).join("release").join(file);
        // A copy, so that a build of the guests by hand doesn't change what is embedded behind cargo's back.
        let copy = out.join(file);
        if let Err(error) = std::fs::copy(&built, &copy) {
            panic!("{} was not built: {error}", built.display());
        }
        println!("cargo::rustc-env={variable}={}", copy.display());
    }
}

fn build(plugins: &Path) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(plugins).args(["build", "--release", "--locked", "--target", TARGET]);
    for (_, package, _) in GUESTS {
        command.args(["--package", package]);
    }
    command.env("CARGO_TARGET_DIR", plugins.join("target"));
    // What was meant for the host (flags, coverage, clippy as the compiler) must not reach the guests.
    for variable in [
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
    ] {
        command.env_remove(variable);
    }
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "the built-in policies in {} could not be built ({status}); is the target installed? \
             `rustup target add {TARGET}`",
            plugins.display()
        ),
        Err(error) => panic!("cargo could not be started for the built-in policies: {error}"),
    }
}
