//! The official client's command line, unmodified.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::KeyPair;

/// The variable that names the Python interpreter which has the official client installed.
pub const PYTHON_VARIABLE: &str = "QUARTERDECK_TEST_PYTHON";

/// The official client, set up for one server and one key pair.
#[derive(Debug)]
pub struct OfficialClient {
    program: PathBuf,
    endpoint: String,
    home: PathBuf,
    keys: KeyPair,
}

/// What a run of it left.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output and standard error.
    pub output: String,
}

impl Ran {
    /// The output of a run that ended well.
    ///
    /// # Errors
    /// With all that is known when it didn't.
    pub fn ok(self) -> anyhow::Result<String> {
        anyhow::ensure!(self.code == Some(0), "the official client ended with {:?}: {}", self.code, self.output);
        Ok(self.output)
    }

    /// The last of its output: what turns while the client waits fills pages.
    fn end(&self) -> &str {
        let from = self.output.len().saturating_sub(4_000);
        (from..).find_map(|from| self.output.get(from..)).unwrap_or_default()
    }

    #[track_caller]
    fn has_all(self, args: &[&str], parts: &[&str]) -> String {
        for part in parts {
            assert!(self.output.contains(part), "{args:?}: {part:?} is not in {}", self.end());
        }
        self.output
    }
}

impl OfficialClient {
    /// The client that is installed beside the interpreter which [`PYTHON_VARIABLE`] names, with its state below
    /// `home`; `None` without that variable.
    ///
    /// # Errors
    /// When it isn't there, or `home` can't be made.
    pub fn installed(endpoint: &str, keys: KeyPair, home: &Path) -> anyhow::Result<Option<Self>> {
        let Some(python) = std::env::var_os(PYTHON_VARIABLE) else { return Ok(None) };
        let program = Path::new(&python).with_file_name("backend.ai");
        anyhow::ensure!(program.exists(), "{} is missing, though {PYTHON_VARIABLE} is set", program.display());
        std::fs::create_dir_all(home)?;
        Ok(Some(Self { program, endpoint: endpoint.to_owned(), home: home.to_owned(), keys }))
    }

    /// Runs a command of it to its end.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run(&self, args: &[&str]) -> anyhow::Result<Ran> {
        self.run_with_input(args, "")
    }

    /// As [`OfficialClient::run`], with answers to what the command asks.
    ///
    /// # Errors
    /// As [`OfficialClient::run`].
    pub fn run_with_input(&self, args: &[&str], input: &str) -> anyhow::Result<Ran> {
        self.spawn(&self.program, args, input)
    }

    /// Runs a script that uses the client's library to its end.
    ///
    /// # Errors
    /// As [`OfficialClient::run`].
    pub fn python(&self, script: &str) -> anyhow::Result<Ran> {
        self.spawn(&self.program.with_file_name("python"), &["-c", script], "")
    }

    /// Starts a script that uses the client's library; the caller reads its output, and may end it before its time.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_python(&self, script: &str) -> anyhow::Result<Child> {
        self.start(&self.program.with_file_name("python"), &["-c", script])
    }

    /// Runs a command that is to end well; its output.
    ///
    /// # Panics
    /// When it doesn't, or one of `parts` isn't in the output.
    #[track_caller]
    pub fn does(&self, args: &[&str], parts: &[&str]) -> String {
        self.does_when_told(args, "", parts)
    }

    /// As [`OfficialClient::does`], with answers to what the command asks.
    ///
    /// # Panics
    /// As [`OfficialClient::does`].
    #[track_caller]
    pub fn does_when_told(&self, args: &[&str], input: &str, parts: &[&str]) -> String {
        let ran = self.run_with_input(args, input).unwrap_or_else(|e| panic!("{args:?}: {e:#}"));
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.end());
        ran.has_all(args, parts)
    }

    /// Runs a command that is to be refused; its output.
    ///
    /// # Panics
    /// When it isn't, or one of `parts` isn't in the output.
    #[track_caller]
    pub fn may_not(&self, args: &[&str], parts: &[&str]) -> String {
        self.may_not_when_told(args, "", parts)
    }

    /// As [`OfficialClient::may_not`], with answers to what the command asks.
    ///
    /// # Panics
    /// As [`OfficialClient::may_not`].
    #[track_caller]
    pub fn may_not_when_told(&self, args: &[&str], input: &str, parts: &[&str]) -> String {
        let ran = self.run_with_input(args, input).unwrap_or_else(|e| panic!("{args:?}: {e:#}"));
        assert_ne!(ran.code, Some(0), "{args:?}: {}", ran.end());
        ran.has_all(args, parts)
    }

    fn spawn(&self, program: &Path, args: &[&str], input: &str) -> anyhow::Result<Ran> {
        let mut child = self.start(program, args)?;
        // A command that asks nothing may be gone before it reads.
        let _ = child.stdin.take().context("standard input is piped")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Ran { code: output.status.code(), output: text })
    }

    fn start(&self, program: &Path, args: &[&str]) -> anyhow::Result<Child> {
        Command::new(program)
            .args(args)
            .env("BACKEND_ENDPOINT", &self.endpoint)
            .env("BACKEND_ENDPOINT_TYPE", "api")
            .env("BACKEND_ACCESS_KEY", self.keys.access)
            .env("BACKEND_SECRET_KEY", self.keys.secret)
            .env("BACKEND_DOMAIN", "default")
            .env("BACKEND_GROUP", "default")
            // The client keeps state below the home directory; that of whoever runs the tests stays as it is.
            .env("HOME", &self.home)
            .env("NO_COLOR", "1")
            .env("LANG", "C.UTF-8")
            .current_dir(&self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| program.display().to_string())
    }
}
