//! The commands for authors of policies. They need no server, except for `plugin dev`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use quarterdeck_plugin::{COMPILE_CHILD_ARG, Compiler, Plugin, Runtime, RuntimeOptions};

use super::project::Project;
use super::{bench, dev, new, test};
use crate::client::EndpointArgs;

#[derive(Debug, Subcommand)]
pub(super) enum AuthorCommand {
    /// Make a project for a policy: it builds and passes its own tests
    New(new::NewArgs),
    /// Play a policy's scenarios in the server's engine and limits
    Test(test::TestArgs),
    /// Measure a policy: time, fuel, memory
    Bench(bench::BenchArgs),
    /// Build a project at each change, push it, and watch what it would decide, in shadow
    Dev(dev::DevArgs),
}

pub(super) async fn run(command: AuthorCommand, endpoint: &EndpointArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    match command {
        AuthorCommand::New(args) => new::run(&args),
        AuthorCommand::Test(args) => test::run(&args, as_json).await,
        AuthorCommand::Bench(args) => bench::run(&args, as_json).await,
        AuthorCommand::Dev(args) => dev::run(&args, endpoint).await,
    }
}

/// A component to be tried, and where its scenarios are.
pub(super) struct Candidate {
    /// The component's file.
    pub file: PathBuf,
    /// Its folder of scenarios, if there is one.
    pub scenarios: Option<PathBuf>,
}

impl Candidate {
    /// From what an author names: a component, or a project's folder, which is built first.
    pub(super) fn find(path: &Path, scenarios: Option<&PathBuf>, build: bool) -> anyhow::Result<Self> {
        if !path.exists() {
            bail!("{}: no such file or folder", path.display());
        }
        if !path.is_dir() {
            return Ok(Self { file: path.to_owned(), scenarios: scenarios.cloned() });
        }
        let project = Project::read(path)?;
        if build {
            project.build()?;
        }
        let own = project.scenarios();
        Ok(Self { file: project.component(), scenarios: scenarios.cloned().or_else(|| own.exists().then_some(own)) })
    }

    /// Loads it as a server does.
    pub(super) async fn load(&self) -> anyhow::Result<Arc<Plugin>> {
        let wasm = std::fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        runtime()?.load(&wasm).await.with_context(|| self.file.display().to_string())
    }
}

/// An engine like the server's. What it compiles is kept in the user's cache folder, so that a component is compiled
/// once.
fn runtime() -> anyhow::Result<Runtime> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    let compiler = Compiler::Child {
        program: std::env::current_exe().context("the running executable's path")?,
        args: vec![COMPILE_CHILD_ARG.into()],
    };
    let options = RuntimeOptions { compiler, ..RuntimeOptions::default() };
    // Without a folder of one's own to write to, it lives as long as the command.
    let cached = RuntimeOptions { cache_dir: cache.map(|dir| dir.join("quarterdeck/compiled")), ..options.clone() };
    Ok(Runtime::new(cached).or_else(|_| Runtime::new(options))?)
}
