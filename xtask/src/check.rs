//! The house rules that a machine can hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use quarterdeck_tests::root;

use crate::prerequisites::cargo_deny;
use crate::run::{cargo, run, say, timed};

/// Each crate and the ones of ours that it may use: arrows go down only.
const LAYERS: &[(&str, &str, &[&str])] = &[
    ("host/model", "quarterdeck-model", &[]),
    ("host/store", "quarterdeck-store", &["quarterdeck-model"]),
    ("host/plugin", "quarterdeck-plugin", &["quarterdeck-model"]),
    ("host/rpc", "quarterdeck-rpc", &["quarterdeck-model"]),
    ("host/storage", "quarterdeck-storage", &["quarterdeck-model", "quarterdeck-outgoing"]),
    ("host/outgoing", "quarterdeck-outgoing", &[]),
    ("host/proxy", "quarterdeck-proxy", &["quarterdeck-model"]),
    (
        "host/control",
        "quarterdeck-control",
        &[
            "quarterdeck-model",
            "quarterdeck-store",
            "quarterdeck-plugin",
            "quarterdeck-rpc",
            "quarterdeck-storage",
            "quarterdeck-outgoing",
            "quarterdeck-proxy",
        ],
    ),
    (
        "host/api",
        "quarterdeck-api",
        &[
            "quarterdeck-model",
            "quarterdeck-store",
            "quarterdeck-plugin",
            "quarterdeck-rpc",
            "quarterdeck-storage",
            "quarterdeck-control",
        ],
    ),
    (
        "host/agent",
        "quarterdeck-agent",
        &["quarterdeck-model", "quarterdeck-store", "quarterdeck-plugin", "quarterdeck-rpc", "quarterdeck-control"],
    ),
    (
        "host/server",
        "quarterdeck",
        &[
            "quarterdeck-model",
            "quarterdeck-store",
            "quarterdeck-plugin",
            "quarterdeck-rpc",
            "quarterdeck-storage",
            "quarterdeck-proxy",
            "quarterdeck-control",
            "quarterdeck-api",
            "quarterdeck-agent",
        ],
    ),
    ("tests", "quarterdeck-tests", &[]),
    ("xtask", "xtask", &["quarterdeck-tests"]),
];

/// The layer whose tools any crate's own tests may use.
const TOOLS: &str = "quarterdeck-tests";

/// Crates that only benchmarks may use, which stand in no layer.
const MEASURING: &[&str] = &["quarterdeck-native"];

/// Paths that must not occur in a crate's sources: what it knows nothing of.
const BANNED: &[(&str, &[&str])] = &[
    ("host/model", &["tokio::", "sqlx::", "rusqlite::", "std::fs", "std::net::Tcp"]),
    ("host/store", &["wasmtime::", "axum::", "tonic::"]),
    ("host/plugin", &["sqlx::", "rusqlite::", "axum::", "tonic::"]),
    ("host/storage", &["sqlx::", "rusqlite::", "axum::", "tonic::"]),
    ("host/outgoing", &["sqlx::", "rusqlite::", "wasmtime::", "tonic::"]),
    ("host/control", &["sqlx::", "rusqlite::", "axum::", "hyper::"]),
    ("host/api", &["sqlx::", "rusqlite::", "wasmtime::"]),
];

/// Runs every check.
pub(crate) fn run_all() -> anyhow::Result<()> {
    crate::run::step("Layers");
    layers()?;
    banned_words()?;
    say("arrows go down only");
    timed("Documentation", crate::docs::check)?;
    timed("Formatting", || {
        run(cargo().args(["fmt", "--all", "--check"]))?;
        for guests in ["plugins", "examples/rust/best-fit"] {
            run(cargo().current_dir(root().join(guests)).args(["fmt", "--all", "--check"]))?;
        }
        Ok(())
    })?;
    // The host's build script builds the guests that it embeds, so linting the host needs the target too.
    crate::prerequisites::wasm_target()?;
    timed("Lints", || {
        run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    })?;
    timed("Lints of the guests", || {
        run(cargo().current_dir(root().join("plugins")).env_remove("CARGO_TARGET_DIR").args([
            "clippy",
            "--quiet",
            "--release",
            "--locked",
            "--target",
            "wasm32-wasip2",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    timed("Licences, sources and duplicates", || {
        let deny = cargo_deny()?;
        // Advisories need a database from outside; `cargo deny check advisories` is for releases.
        run(Command::new(deny)
            .args(["--log-level", "error", "check", "bans", "licenses", "sources"])
            .current_dir(root()))
    })
}

fn manifest(dir: &str) -> anyhow::Result<toml::Table> {
    let path = root().join(dir).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

fn layers() -> anyhow::Result<()> {
    let known: BTreeMap<&str, &[&str]> = LAYERS.iter().map(|(_, name, allowed)| (*name, *allowed)).collect();
    let members = manifest(".")?["workspace"]["members"].as_array().map_or(0, Vec::len);
    let told = LAYERS.len() + MEASURING.len();
    ensure!(members == told, "the workspace has {members} crates, the table of layers {told}");
    for (dir, name, allowed) in LAYERS {
        let manifest = manifest(dir)?;
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for dependency in
                manifest.get(section).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys)
            {
                if section != "dev-dependencies" && MEASURING.contains(&dependency.as_str()) {
                    bail!("{name} may use {dependency} for benchmarks alone ([{section}] of {dir}/Cargo.toml)");
                }
                let is_tool = section == "dev-dependencies" && dependency == TOOLS;
                let ours = known.contains_key(dependency.as_str()) && !is_tool;
                if ours && !allowed.contains(&dependency.as_str()) {
                    bail!(
                        "{name} may not depend on {dependency} ([{section}] of {dir}/Cargo.toml): arrows go down only"
                    );
                }
            }
        }
    }
    Ok(())
}

fn banned_words() -> anyhow::Result<()> {
    for (dir, words) in BANNED {
        let mut files = Vec::new();
        sources(&root().join(dir).join("src"), &mut files)?;
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            for (number, line) in text.lines().enumerate() {
                let code = line.trim_start();
                if code.starts_with("//") {
                    continue;
                }
                if let Some(word) = words.iter().find(|w| names(code, w)) {
                    bail!("{}:{}: this crate knows nothing of `{word}`", file.display(), number + 1);
                }
            }
        }
    }
    Ok(())
}

/// Whether a line names a path: `tonic::` is none in `monotonic::now`.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_path_is_not_part_of_a_longer_word() {
        assert!(names("use tonic::transport;", "tonic::"));
        assert!(!names("let now = monotonic::now();", "tonic::"));
    }
}
