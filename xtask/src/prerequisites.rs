//! What the tests and the demo need from the machine: installed when we may, named exactly when not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use quarterdeck_tests::engine::{self, Engine};
use quarterdeck_tests::{postgres, root};

use crate::run::{exists, output, run, say, timed};

/// The Wasm target for guests.
pub(crate) fn wasm_target() -> anyhow::Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    let target = Path::new(sysroot.trim()).join("lib/rustlib/wasm32-wasip2");
    if target.exists() {
        return Ok(());
    }
    if !exists("rustup") {
        bail!("the target wasm32-wasip2 is missing; install it, with rustup: rustup target add wasm32-wasip2");
    }
    timed("Installing the target wasm32-wasip2", || {
        run(Command::new("rustup").args(["target", "add", "wasm32-wasip2"]).current_dir(root()))
    })
}

/// PostgreSQL's server programs.
pub(crate) fn postgresql() -> anyhow::Result<()> {
    if postgres::binaries().is_some() && exists("psql") {
        return Ok(());
    }
    install("PostgreSQL", &["postgresql"])
}

/// Installs what is missing from Debian's packages, or names the command where that isn't ours to do.
fn install(what: &str, packages: &[&str]) -> anyhow::Result<()> {
    if !nix::unistd::Uid::effective().is_root() || !exists("apt-get") {
        bail!("{what} is missing: sudo apt-get install {}", packages.join(" "));
    }
    timed(&format!("Installing {what}"), || {
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        run(Command::new("apt-get")
            .args(["-qq", "-y", "--no-install-recommends", "install"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    })
}

/// A container engine for tests: the one that answers already (none is returned then), or one of our own, as far as this
/// machine can have one. Kernels in containers are tried where there is an engine.
pub(crate) fn container_engine() -> Option<Engine> {
    if engine::found().is_some() {
        return None;
    }
    let started = installed_engine().and_then(|()| timed("Starting a private container engine", Engine::start));
    match started {
        Ok(engine) => Some(engine),
        Err(error) => {
            say(&format!("no container engine, so the runtime docker isn't tried: {error:#}"));
            None
        }
    }
}

fn installed_engine() -> anyhow::Result<()> {
    if engine::daemon().is_some() && exists("docker") {
        return Ok(());
    }
    install("a container engine", &["docker.io", "iptables"])
}

/// nginx, which the app proxy is measured beside.
pub(crate) fn nginx() -> anyhow::Result<PathBuf> {
    let found = || ["/usr/sbin/nginx", "/usr/bin/nginx"].iter().map(PathBuf::from).find(|path| path.exists());
    if let Some(path) = found() {
        return Ok(path);
    }
    install("nginx", &["nginx-light"])?;
    found().ok_or_else(|| anyhow::anyhow!("nginx was installed and isn't there"))
}

/// Python 3.11, which the official client asks for.
fn python() -> anyhow::Result<String> {
    for candidate in ["python3.11", "python3", "python"] {
        let version =
            Command::new(candidate).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).output();
        if version.is_ok_and(|v| v.status.success() && v.stdout.starts_with(b"3.11")) {
            return Ok(candidate.to_owned());
        }
    }
    bail!("Python 3.11 is missing, which the official client asks for: apt-get install python3.11 python3.11-venv")
}

/// The virtual environment with the official client.
#[derive(Clone, Debug)]
pub(crate) struct ClientVenv(PathBuf);

impl ClientVenv {
    /// Makes it when it is missing or its requirements changed.
    pub(crate) fn ready() -> anyhow::Result<Self> {
        let dir = root().join("target/official-client");
        let requirements = root().join("tests/conformance/requirements.txt");
        let wanted = std::fs::read_to_string(&requirements).context("requirements of the official client")?;
        let stamp = dir.join("requirements.installed");
        if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
            return Ok(Self(dir));
        }
        timed("Installing the official client into a private virtual environment", || {
            let python = python()?;
            run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&dir))?;
            run(Command::new(dir.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&requirements))?;
            std::fs::write(&stamp, &wanted)?;
            Ok(())
        })?;
        Ok(Self(dir))
    }

    /// The client's command line program.
    pub(crate) fn cli(&self) -> PathBuf {
        self.0.join("bin/backend.ai")
    }

    /// Its Python.
    pub(crate) fn python(&self) -> PathBuf {
        self.0.join("bin/python")
    }
}

/// `cargo deny`, compiled here when it isn't installed: hastily, since it looks at a few hundred crates only.
pub(crate) fn cargo_deny() -> anyhow::Result<PathBuf> {
    if Command::new("cargo-deny").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let dir = root().join("target/tools");
    let program = dir.join("bin/cargo-deny");
    if !program.exists() {
        timed("Installing cargo-deny", || {
            run(crate::run::cargo()
                .args(["install", "--quiet", "--locked", "cargo-deny@0.20.2", "--root"])
                .arg(&dir)
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"))
        })?;
    }
    say(&format!("using {}", program.display()));
    Ok(program)
}
