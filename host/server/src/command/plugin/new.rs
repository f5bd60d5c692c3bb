//! `quarterdeck plugin new`: a project with a real policy, scenarios and tests. Everything it needs travels along: the
//! contract, and for Rust the SDK's sources.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use quarterdeck_plugin::Kind;

// `TEMPLATES`, `WIT` and `SDK`: paths and contents of the files of the repository's folders.
include!(concat!(env!("OUT_DIR"), "/templates.rs"));

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The policy's name: `[a-z][a-z0-9-]*`
    name: String,
    /// The language
    #[arg(long, value_enum)]
    lang: Language,
    /// scheduler, idle-checker or hook
    #[arg(long, value_parser = kind)]
    kind: Kind,
    /// Where to make it (a new folder of that name without it)
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    Rust,
    Python,
    Javascript,
}

fn kind(text: &str) -> Result<Kind, String> {
    [Kind::Scheduler, Kind::IdleChecker, Kind::Hook]
        .into_iter()
        .find(|kind| kind.to_string() == text)
        .ok_or_else(|| "use scheduler, idle-checker or hook".to_owned())
}

pub(super) fn run(args: &NewArgs) -> anyhow::Result<ExitCode> {
    check_name(&args.name)?;
    let dir = args.path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if dir.exists() && std::fs::read_dir(&dir).map_or(true, |mut entries| entries.next().is_some()) {
        bail!("{} exists already", dir.display());
    }
    for (path, content) in files(args) {
        write(&dir.join(path), &content)?;
    }
    eprintln!("made {}: read its README.md, then `quarterdeck plugin test {}`", dir.display(), dir.display());
    Ok(ExitCode::SUCCESS)
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let fine = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    ensure!(fine, "{name:?} is no name for a policy: 1 to 64 of `a-z`, `0-9` and `-`, a letter first");
    Ok(())
}

/// The project's files.
fn files(args: &NewArgs) -> Vec<(String, String)> {
    let (language, common) = match args.lang {
        Language::Rust => ("rust", "rust/common/"),
        Language::Python => ("python", "python/common/"),
        Language::Javascript => ("javascript", "javascript/common/"),
    };
    let kind = args.kind.to_string();
    let own = format!("{language}/{kind}/");
    let scenarios = format!("scenarios/{kind}/");
    let mut files: Vec<(String, String)> = Vec::new();
    for (path, content) in TEMPLATES {
        let place = if let Some(rest) = path.strip_prefix(common) {
            // Names that would mean something to tools in this repository lie there under another one.
            match rest {
                "gitignore" => ".gitignore".to_owned(),
                "ci.yml" => ".github/workflows/ci.yml".to_owned(),
                "Cargo.toml.in" => "Cargo.toml".to_owned(),
                "Cargo.lock.in" => "Cargo.lock".to_owned(),
                rest => rest.to_owned(),
            }
        } else if let Some(rest) = path.strip_prefix(&own) {
            match (args.lang, rest) {
                (Language::Rust, rest) => format!("src/{rest}"),
                (Language::Javascript, "decide.test.js") => "test/decide.test.js".to_owned(),
                (Language::Javascript, rest) => format!("src/{rest}"),
                (Language::Python, rest) => rest.to_owned(),
            }
        } else if let Some(rest) = path.strip_prefix(&scenarios) {
            format!("scenarios/{rest}")
        } else {
            continue;
        };
        let mut text = fill(content, &args.name, &kind);
        if place == "Cargo.lock" {
            text = locked(&text, &args.name);
        }
        files.push((place, text));
    }
    files.extend(WIT.iter().map(|(path, content)| (format!("wit/{path}"), (*content).to_owned())));
    if matches!(args.lang, Language::Rust) {
        files.extend(SDK.iter().map(|(path, content)| (format!("vendor/sdk/{path}"), (*content).to_owned())));
    }
    files
}

/// The lock file with the project's own package in it, where cargo puts it: `cargo build --locked` works from the start.
fn locked(template: &str, name: &str) -> String {
    let own = format!(
        "name = \"{name}\"\nversion = \"0.1.0\"\ndependencies = [\n \"quarterdeck-sdk\",\n \"serde\",\n \"serde_json\",\n]\n"
    );
    let mut parts = template.split("[[package]]\n");
    let head = parts.next().unwrap_or_default();
    let mut packages: Vec<&str> = parts.map(str::trim_end).chain([own.trim_end()]).collect();
    packages.sort_by_key(|package| package.lines().next().map(str::to_owned));
    packages.iter().fold(head.to_owned(), |text, package| {
        let between = if text.ends_with("\n\n") { "" } else { "\n" };
        text + between + "[[package]]\n" + package + "\n"
    })
}

fn fill(text: &str, name: &str, kind: &str) -> String {
    let exported: String = name.split('-').map(capitalised).collect();
    text.replace("{{name}}", name)
        .replace("{{crate}}", &name.replace('-', "_"))
        .replace("{{type}}", &exported)
        .replace("{{world}}", kind)
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    let put = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, content)
    };
    put().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_a_policy_scenarios_and_tests() {
        for lang in [Language::Rust, Language::Python, Language::Javascript] {
            for kind in [Kind::Scheduler, Kind::IdleChecker, Kind::Hook] {
                let files = files(&NewArgs { name: "my-policy".to_owned(), lang, kind, path: None });
                let has = |part: &str| files.iter().any(|(path, _)| path.contains(part));
                for part in
                    ["quarterdeck.toml", "README.md", ".gitignore", "ci.yml", "wit/policy.wit", "scenarios/", "test"]
                {
                    assert!(has(part), "{lang:?} {kind} has no {part}");
                }
                let open = files.iter().find(|(_, text)| text.contains("{{"));
                assert!(open.is_none(), "{lang:?} {kind}: {open:?}");
            }
        }
    }

    #[test]
    fn names_are_those_of_crates_packages_and_plugins_alike() {
        for wrong in ["", "My", "1st", "a_b", "a-", "a/b", &"a".repeat(65)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
        assert!(check_name("my-policy2").is_ok());
        assert_eq!(fill("{{crate}} {{type}}", "my-policy2", "hook"), "my_policy2 MyPolicy2");
    }
}
