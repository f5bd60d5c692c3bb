//! Which interpreters the node has, and which one an image's labels ask for.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The label that says what an image's kernels are programmed in.
pub(crate) const RUNTIME_TYPE: &str = "ai.backend.runtime-type";
/// The label that says where the interpreter is.
pub(crate) const RUNTIME_PATH: &str = "ai.backend.runtime-path";
pub(crate) const PYTHON_TYPES: [&str; 1] = ["python"];
pub(crate) const NODE_TYPES: [&str; 3] = ["nodejs", "node", "javascript"];
const SHELL_TYPES: [&str; 5] = ["shell", "bash", "sh", "command", "app"];
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// How an interpreter is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Python 3, driven by our own driver.
    Python,
    /// Node.js, driven by our own driver.
    Node,
    /// GNU bash.
    Bash,
    /// Any other shell of the POSIX family.
    Sh,
}

impl Dialect {
    /// What it is called.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Bash => "bash",
            Self::Sh => "sh",
        }
    }
}

/// An interpreter of this node.
#[derive(Clone, Debug)]
pub(crate) struct Interpreter {
    pub(crate) dialect: Dialect,
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    /// The directories that it can't do without.
    pub(crate) needs: Vec<PathBuf>,
}

/// The interpreters found when the agent started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interpreters {
    python: Option<Interpreter>,
    node: Option<Interpreter>,
    shell: Option<Interpreter>,
}

impl Interpreters {
    /// Looks for interpreters on the `PATH`.
    pub(crate) async fn find() -> Self {
        let mut python = None;
        for name in ["python3", "python"] {
            if let Some(path) = on_path(name) {
                python = probe_python(&path).await;
            }
            if python.is_some() {
                break;
            }
        }
        let shell = match on_path("bash") {
            Some(path) => probe_shell(&path).await,
            None => None,
        };
        let shell = match (shell, on_path("sh")) {
            (None, Some(path)) => probe_shell(&path).await,
            (found, _) => found,
        };
        let mut node = None;
        for name in ["node", "nodejs"] {
            if node.is_none()
                && let Some(path) = on_path(name)
            {
                node = probe_node(&path).await;
            }
        }
        Self { python, node, shell }
    }

    /// The interpreters that the node has, by name.
    pub(crate) fn found(&self) -> [(&'static str, Option<&Interpreter>); 3] {
        [("python", self.python.as_ref()), ("node", self.node.as_ref()), ("shell", self.shell.as_ref())]
    }

    /// Whether the node's Python has a module.
    pub(crate) async fn python_has(&self, module: &str) -> bool {
        let Some(python) = &self.python else { return false };
        ask(&python.path, &["-c", &format!("import {module}")]).await.is_some()
    }

    /// The runtime types that this node can run.
    pub(super) fn types(&self) -> Vec<String> {
        let python = self.python.iter().flat_map(|_| PYTHON_TYPES.iter());
        let node = self.node.iter().flat_map(|_| NODE_TYPES.iter());
        let shell = self.shell.iter().flat_map(|_| SHELL_TYPES.iter());
        python.chain(node).chain(shell).map(ToString::to_string).collect()
    }

    /// The node's shell.
    pub(super) fn shell(&self) -> Option<&Path> {
        self.shell.as_ref().map(|shell| shell.path.as_path())
    }

    /// The interpreter for a runtime type: the one the image names when it is here, else the node's own.
    pub(super) async fn choose(&self, runtime_type: &str, runtime_path: &str) -> Result<Interpreter, String> {
        let path = Path::new(runtime_path);
        let named = path.is_absolute() && path.is_file();
        let (found, own) = if PYTHON_TYPES.contains(&runtime_type) {
            (if named { probe_python(path).await } else { None }, &self.python)
        } else if NODE_TYPES.contains(&runtime_type) {
            (if named { probe_node(path).await } else { None }, &self.node)
        } else if SHELL_TYPES.contains(&runtime_type) {
            let is_shell =
                path.file_name().is_some_and(|name| ["bash", "sh", "dash"].iter().any(|shell| name == *shell));
            (if named && is_shell { probe_shell(path).await } else { None }, &self.shell)
        } else if runtime_type.is_empty() {
            return Err(format!("the image has no label {RUNTIME_TYPE}: nothing says what should run"));
        } else {
            let known = self.types().join(", ");
            return Err(format!(
                "this node has no interpreter for the runtime type {runtime_type:?} (it has: {known})"
            ));
        };
        found
            .or_else(|| own.clone())
            .ok_or_else(|| format!("this node has no interpreter for the runtime type {runtime_type:?}"))
    }
}

/// Finds a program as a shell would.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let found = std::env::split_paths(&path).map(|dir| dir.join(name));
    found
        .into_iter()
        .filter(|file| file.is_absolute())
        .find(|file| file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// The program may be a wrapper that depends on the caller's home: the kernel needs what is behind it.
async fn probe_python(path: &Path) -> Option<Interpreter> {
    let script = "import sys, os; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3]); \
        assert sys.version_info >= (3, 8); print(sys.prefix); print(sys.base_prefix); \
        print(os.path.dirname(os.path.realpath(sys.executable)))";
    let text = ask(path, &["-c", script]).await?;
    let mut lines = text.lines();
    let (executable, version) = (lines.next()?, lines.next()?);
    let needs = lines.map(PathBuf::from).collect();
    Some(Interpreter { dialect: Dialect::Python, path: executable.into(), version: version.to_owned(), needs })
}

async fn probe_node(path: &Path) -> Option<Interpreter> {
    let text = ask(path, &["-p", "process.execPath + '\\n' + process.versions.node"]).await?;
    let mut lines = text.lines();
    let (executable, version) = (PathBuf::from(lines.next()?), lines.next()?.to_owned());
    // Promises in scripts, and what the driver is written in.
    let major: u32 = version.split('.').next()?.parse().ok()?;
    // `…/bin/node` has its modules in `…/lib/node_modules`.
    let needs = executable.parent().and_then(Path::parent).map(Path::to_owned).into_iter().collect();
    (major >= 14).then_some(Interpreter { dialect: Dialect::Node, path: executable, version, needs })
}

async fn probe_shell(path: &Path) -> Option<Interpreter> {
    let version = ask(path, &["-c", "echo \"$BASH_VERSION\""]).await?.trim().to_owned();
    let dialect = if version.is_empty() { Dialect::Sh } else { Dialect::Bash };
    let needs = path.parent().map(Path::to_owned).into_iter().collect();
    Some(Interpreter { dialect, path: path.to_owned(), version, needs })
}

async fn ask(path: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new(path);
    // It runs code of whoever made the image's labels or the program: what the agent was told stays with the agent.
    command.env_clear();
    let kept = ["PATH", "HOME", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(kept);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROBE_TIMEOUT, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn types_without_an_interpreter_are_refused() {
        let found = Interpreters::find().await;
        let types = found.types();
        assert!(types.contains(&"python".to_owned()) && types.contains(&"shell".to_owned()), "{types:?}");
        let python = found.choose("python", "/nowhere/python3").await.unwrap();
        assert!(python.version.starts_with("3."), "{python:?}");
        assert_eq!(found.choose("sh", "/bin/sh").await.unwrap().path, Path::new("/bin/sh"));
        assert!(found.choose("fortran", "").await.unwrap_err().contains("fortran"));
        assert!(found.choose("", "").await.is_err());
    }
}
