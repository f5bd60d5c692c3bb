//! Policies in Rust, Python and JavaScript: the examples, and what `quarterdeck plugin new` makes, built with the tools of
//! the public registries and tried in the server's engine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use quarterdeck_tests::root;

use crate::prerequisites::wasm_target;
use crate::run::{cargo, output, run, say, timed};

/// Where the tools for Python and JavaScript are installed.
#[derive(Debug)]
pub(crate) struct Tools {
    python: PathBuf,
    node_modules: PathBuf,
}

impl Tools {
    /// Installs them when they are missing or other versions are pinned now.
    pub(crate) fn ready() -> anyhow::Result<Self> {
        Ok(Self { python: python_tools()?, node_modules: javascript_tools()? })
    }

    /// `PATH` with the Python tools before everything else.
    fn path(&self) -> anyhow::Result<std::ffi::OsString> {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(self.python.join("bin")).chain(std::env::split_paths(&old));
        Ok(std::env::join_paths(dirs)?)
    }
}

/// Whether what `stamp` says is installed is what is wanted.
fn installed(stamp: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|have| have == wanted)
}

fn python_tools() -> anyhow::Result<PathBuf> {
    let dir = root().join("target/authors/python");
    let requirements = root().join("templates/python/common/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    let stamp = dir.join("requirements.installed");
    if !installed(&stamp, &wanted) {
        timed("Installing componentize-py into a private virtual environment", || {
            let made = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
            made.context("Python is missing, or its venv: apt-get install python3 python3-venv")?;
            run(Command::new(dir.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&requirements))?;
            Ok(std::fs::write(&stamp, &wanted)?)
        })?;
    }
    Ok(dir)
}

fn javascript_tools() -> anyhow::Result<PathBuf> {
    let dir = root().join("target/authors/javascript");
    let templates = root().join("templates/javascript/common");
    let mut wanted = String::new();
    for file in ["package.json", "package-lock.json"] {
        wanted.push_str(&std::fs::read_to_string(templates.join(file))?.replace("{{name}}", "tools"));
    }
    let stamp = dir.join("package.installed");
    if !installed(&stamp, &wanted) {
        node()?;
        timed("Installing componentize-qjs into a private folder", || {
            std::fs::create_dir_all(&dir)?;
            for file in ["package.json", "package-lock.json"] {
                let text = std::fs::read_to_string(templates.join(file))?.replace("{{name}}", "tools");
                std::fs::write(dir.join(file), text)?;
            }
            run(Command::new("npm").args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&dir))?;
            Ok(std::fs::write(&stamp, &wanted)?)
        })?;
    }
    Ok(dir.join("node_modules"))
}

/// Node 20 or later.
fn node() -> anyhow::Result<()> {
    let version = output(Command::new("node").arg("--version")).unwrap_or_default();
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 20) {
        bail!("Node.js 20 or later is missing, with npm: see https://nodejs.org, or apt-get install nodejs npm");
    }
    Ok(())
}

/// Builds the examples in Python and JavaScript: tests push them to a server.
pub(crate) fn examples(tools: &Tools) -> anyhow::Result<()> {
    timed("Building the example policies in Python and JavaScript", || {
        for dir in projects("examples/python")? {
            python_unit_tests(tools, &dir)?;
            python_build(tools, &dir)?;
        }
        for dir in projects("examples/javascript")? {
            link_modules(tools, &dir)?;
            javascript_unit_tests(&dir)?;
            run(Command::new("node").arg("build.mjs").current_dir(&dir))?;
        }
        Ok(())
    })
}

/// Plays the scenarios of the examples, and tries the SDK and the built-in policies natively.
pub(crate) fn play_examples() -> anyhow::Result<()> {
    timed("Policies without WebAssembly", || {
        for workspace in ["plugins", "examples/rust/best-fit"] {
            run(guest_cargo(&root().join(workspace)).args(["test", "--quiet", "--locked"]))?;
        }
        Ok(())
    })?;
    timed("Scenarios of the examples", || {
        for language in ["rust", "python", "javascript"] {
            for dir in projects(&format!("examples/{language}"))? {
                plugin_test(&dir, &["--no-build"])?;
            }
        }
        let best_fit = root().join("examples/rust/best-fit");
        plugin_test(&best_fit, &["--no-build", "--properties"])
    })
}

/// A hook in another language than Rust, as `quarterdeck plugin new` makes it.
#[derive(Debug)]
pub(crate) struct Component {
    /// `python` or `javascript`.
    pub(crate) language: &'static str,
    /// The component, or why there is none: its tools may be missing.
    pub(crate) built: Result<PathBuf, String>,
}

/// Makes and builds a hook in each language with an interpreter.
pub(crate) fn hooks() -> Vec<Component> {
    let made = root().join("target/authors/bench");
    let build = |language: &'static str| {
        let tools = Tools::ready()?;
        let dir = made.join(format!("{language}-hook"));
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        timed(&format!("A hook in {language}"), || make(&tools, language, "hook", &dir))
    };
    let component = |language| Component { language, built: build(language).map_err(|error| format!("{error:#}")) };
    ["python", "javascript"].map(component).into()
}

/// Makes, builds and tries a project for every language and kind.
pub(crate) fn templates(tools: &Tools) -> anyhow::Result<()> {
    wasm_target()?;
    let made = root().join("target/authors/projects");
    if made.exists() {
        std::fs::remove_dir_all(&made)?;
    }
    for kind in ["scheduler", "idle-checker", "hook"] {
        timed(&format!("A project in each language, of the kind {kind}"), || {
            for lang in ["rust", "python", "javascript"] {
                let dir = made.join(format!("{lang}-{kind}"));
                let component = make(tools, lang, kind, &dir)?;
                let scenarios = dir.join("scenarios").display().to_string();
                // The interpreters need far more fuel than compiled code: 10,000 sessions are for the latter.
                let sessions = if lang == "rust" { "10000" } else { "200" };
                plugin_test(&component, &["--scenarios", &scenarios, "--properties", "--sessions", sessions])?;
            }
            Ok(())
        })?;
    }
    say("nine projects were built and pass their tests");
    Ok(())
}

/// Makes a project, runs its own tests and builds it: its component.
fn make(tools: &Tools, lang: &str, kind: &str, dir: &Path) -> anyhow::Result<PathBuf> {
    let name = format!("{lang}-{kind}");
    let new = ["plugin", "new", "--lang", lang, "--kind", kind, &name, "--path"];
    run(Command::new(quarterdeck_tests::process::binary()?).args(new).arg(dir))?;
    Ok(match lang {
        "rust" => {
            // One for all kinds, so that what they have in common is compiled once.
            let target = root().join("target/authors/rust");
            let cargo = || {
                let mut command = guest_cargo(dir);
                command.env("CARGO_TARGET_DIR", &target);
                command
            };
            run(cargo().args(["test", "--quiet", "--locked"]))?;
            run(cargo().args(["build", "--quiet", "--locked", "--release", "--target", "wasm32-wasip2"]))?;
            target.join("wasm32-wasip2/release").join(format!("{}.wasm", name.replace('-', "_")))
        }
        "python" => {
            python_unit_tests(tools, dir)?;
            python_build(tools, dir)?;
            dir.join("policy.wasm")
        }
        _ => {
            link_modules(tools, dir)?;
            javascript_unit_tests(dir)?;
            run(Command::new("node").arg("build.mjs").current_dir(dir))?;
            dir.join("dist/policy.wasm")
        }
    })
}

fn plugin_test(path: &Path, args: &[&str]) -> anyhow::Result<()> {
    run(Command::new(quarterdeck_tests::process::binary()?).args(["plugin", "test"]).arg(path).args(args))
}

/// `cargo` for a workspace of guests.
fn guest_cargo(dir: &Path) -> Command {
    let mut command = cargo();
    command.current_dir(dir).env_remove("CARGO_TARGET_DIR");
    command
}

fn python_unit_tests(tools: &Tools, dir: &Path) -> anyhow::Result<()> {
    let python = tools.python.join("bin/python");
    run(Command::new(python).args(["-m", "unittest", "-q"]).current_dir(dir).env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// Runs the build command of a project's `quarterdeck.toml`.
fn python_build(tools: &Tools, dir: &Path) -> anyhow::Result<()> {
    let settings: toml::Table = toml::from_str(&std::fs::read_to_string(dir.join("quarterdeck.toml"))?)?;
    let words: Vec<&str> = settings["build"].as_array().into_iter().flatten().filter_map(toml::Value::as_str).collect();
    let [_, args @ ..] = &words[..] else { bail!("{} has no build command", dir.display()) };
    let program = tools.python.join("bin/componentize-py");
    // It tells at length that it succeeded.
    output(Command::new(program).args(args).current_dir(dir).env("PATH", tools.path()?)).map(drop)
}

fn javascript_unit_tests(dir: &Path) -> anyhow::Result<()> {
    output(Command::new("node").arg("--test").current_dir(dir)).map(drop)
}

fn link_modules(tools: &Tools, dir: &Path) -> anyhow::Result<()> {
    let link = dir.join("node_modules");
    if link.is_symlink() {
        std::fs::remove_file(&link)?;
    }
    if !link.exists() {
        std::os::unix::fs::symlink(&tools.node_modules, &link)?;
    }
    Ok(())
}

/// The projects in a folder of examples.
fn projects(folder: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(root().join(folder))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("quarterdeck.toml").exists())
        .collect();
    dirs.sort();
    Ok(dirs)
}
