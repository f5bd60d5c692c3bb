//! `quarterdeck.toml`: what the commands for authors need to know of a project.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// The file's name.
pub(super) const FILE: &str = "quarterdeck.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The component, once built.
    component: PathBuf,
    /// The command that builds it, run in the project's folder.
    build: Vec<String>,
    /// What it is made of: files and folders.
    #[serde(default)]
    watch: Vec<PathBuf>,
    #[serde(default = "scenarios")]
    scenarios: PathBuf,
}

fn scenarios() -> PathBuf {
    "scenarios".into()
}

/// A policy's project.
#[derive(Debug)]
pub(super) struct Project {
    dir: PathBuf,
    settings: Settings,
}

impl Project {
    /// Reads the project in a folder.
    ///
    /// # Errors
    /// When it has none, or it makes no sense.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: `quarterdeck plugin new` makes projects with one", path.display()))?;
        let settings: Settings = toml::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(!settings.build.is_empty(), "{}: `build` is empty", path.display());
        Ok(Self { dir: dir.to_owned(), settings })
    }

    /// Where the component is, once built.
    pub(super) fn component(&self) -> PathBuf {
        self.dir.join(&self.settings.component)
    }

    /// Where its scenarios are.
    pub(super) fn scenarios(&self) -> PathBuf {
        self.dir.join(&self.settings.scenarios)
    }

    /// Builds the component; what the tools say goes to standard error.
    ///
    /// # Errors
    /// When they fail.
    pub(super) fn build(&self) -> anyhow::Result<()> {
        let [program, args @ ..] = &self.settings.build[..] else { anyhow::bail!("`build` is empty") };
        let shown = self.settings.build.join(" ");
        let output = Command::new(program)
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| shown.clone())?;
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        ensure!(output.status.success(), "{shown}: {}", output.status);
        ensure!(self.component().exists(), "{shown} made no {}", self.component().display());
        Ok(())
    }

    /// The latest change of what the component is made of.
    pub(super) fn changed(&self) -> Option<std::time::SystemTime> {
        let mut latest = None;
        for path in &self.settings.watch {
            newest(&self.dir.join(path), &mut latest);
        }
        latest
    }
}

fn newest(path: &Path, latest: &mut Option<std::time::SystemTime>) {
    let Ok(found) = std::fs::metadata(path) else { return };
    *latest = (*latest).max(found.modified().ok());
    if found.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            newest(&entry.path(), latest);
        }
    }
}
