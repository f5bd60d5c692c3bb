//! The persistent interpreter of a kernel: how each kind is started, given code, and understood.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::container::{REPL, Recalled};
use super::files;
use super::interpreters::{Dialect, Interpreter};
use super::spawn::{Io, Launcher, Proc, words};

const PYTHON_DRIVER: &str = include_str!("driver.py");
const NODE_DRIVER: &str = include_str!("driver.js");
/// A node under load takes its time to start an interpreter.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an interpreter may not read what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// An interpreter that runs.
pub(super) struct Repl {
    pub(super) proc: Proc,
    pub(super) dialect: Dialect,
    code: PathBuf,
    /// Where the interpreter finds it.
    code_inside: PathBuf,
}

/// What an event of an interpreter means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The code ended, with this exit code.
    Done(i32),
    /// The code waits for input.
    Input { password: bool },
    /// Completions, and the question they answer.
    Completions(u64, Vec<Value>),
    /// Something to be shown that is no text: its MIME type, and what it is.
    Shown(String, String),
    /// Nothing that matters.
    Nothing,
}

impl Repl {
    /// Starts an interpreter and waits until it is ready. `dir` is the kernel's own directory.
    pub(super) async fn start(launcher: &Launcher, interpreter: &Interpreter, dir: &Path) -> Result<Self, String> {
        let fail = |error: io::Error| format!("{} can't be started: {error}", interpreter.path.display());
        let tools = dir.join("run");
        let events = Launcher::events(&tools.join("events")).map_err(fail)?;
        let events_path = launcher.inside(&tools.join("events"));
        let mut command = vec![interpreter.path.clone().into_os_string()];
        if interpreter.dialect == Dialect::Node {
            // It can't move a descriptor itself: children of the code must not read our commands.
            let moved = ["/bin/sh", "-c", "exec \"$@\" 3<&0 </dev/null", "sh"].map(OsString::from);
            command.splice(0..0, moved);
        }
        match interpreter.dialect {
            Dialect::Python | Dialect::Node => {
                let (name, text, options) = match interpreter.dialect {
                    Dialect::Python => ("driver.py", PYTHON_DRIVER, &["-u"][..]),
                    _ => ("driver.js", NODE_DRIVER, &["--no-warnings"][..]),
                };
                let driver = tools.join(name);
                files::write(&driver, text.as_bytes()).map_err(fail)?;
                command.extend(options.iter().map(OsString::from));
                command.extend([launcher.inside(&driver).into_os_string(), events_path.clone().into_os_string()]);
            }
            Dialect::Bash => command.extend(["--noediting", "--norc", "--noprofile", "+m", "-i"].map(OsString::from)),
            Dialect::Sh => command.push("-i".into()),
        }
        if let Some(container) = launcher.container() {
            container.give(&tools.join("events")).map_err(fail)?;
            // The interpreter outlives this agent there: its events must always find a reader, or the code would fail.
            let held = ["/bin/sh", "-c", "events=$1; shift; exec \"$@\" 9<>\"$events\"", "sh"].map(OsString::from);
            command.splice(0..0, held.into_iter().chain([events_path.clone().into_os_string()]));
        }
        let proc = launcher.spawn(&words(&command), true, Some(events)).await.map_err(fail)?;
        let mut repl = Self {
            proc,
            dialect: interpreter.dialect,
            code: tools.join("code"),
            code_inside: launcher.inside(&tools.join("code")),
        };
        // The events of a shell come from its prompt. Until that is set up, it prints a prompt and complaints of its own.
        let tell = format!("printf '{{\"t\":\"done\",\"code\":%d}}\\n' \"$?\" >{}", quoted(&events_path));
        let setup = match interpreter.dialect {
            Dialect::Python | Dialect::Node => None,
            Dialect::Bash => Some(format!(
                "PS1= PS2=; HISTFILE=; PROMPT_COMMAND={}; readonly PROMPT_COMMAND PS1 PS2\n",
                quote(&tell)
            )),
            Dialect::Sh => Some(format!("PS2=; PS1={}\n", quote(&format!("$({tell})")))),
        };
        if let Some(setup) = setup {
            repl.write(setup.as_bytes()).await.map_err(fail)?;
        }
        match tokio::time::timeout(START_TIMEOUT, repl.ready()).await {
            Ok(Ok(())) => {
                launcher.remember(&repl.proc.job, REPL);
                Ok(repl)
            }
            Ok(Err(said)) => Err(format!("{} ended at once: {said}", interpreter.path.display())),
            Err(_) => Err(format!("{} isn't ready after {START_TIMEOUT:?}", interpreter.path.display())),
        }
    }

    /// Takes up an interpreter that an earlier start of the agent began.
    pub(super) fn take_up(launcher: &Launcher, dialect: Dialect, dir: &Path, recalled: Recalled) -> io::Result<Self> {
        let tools = dir.join("run");
        let events = Launcher::same_events(&tools.join("events"))?;
        let proc =
            launcher.take_up(recalled, Some(events)).ok_or_else(|| io::Error::other("it isn't in a container"))?;
        let code_inside = launcher.inside(&tools.join("code"));
        Ok(Self { proc, dialect, code: tools.join("code"), code_inside })
    }

    async fn ready(&mut self) -> Result<(), String> {
        let mut said = String::new();
        loop {
            match self.proc.io.recv().await {
                Some(Io::Event(_)) => return Ok(()),
                Some(Io::Output(_, bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Io::Exited(code)) => return Err(format!("exit code {code} {}", said.trim_end())),
                None => return Err(said),
            }
        }
    }

    /// Has code run.
    pub(super) async fn run(&mut self, code: &str) -> io::Result<()> {
        match self.dialect {
            Dialect::Python | Dialect::Node => self.send(&json!({"op": "run", "code": code})).await,
            // The code goes through a file: what it reads from its standard input is never the code itself.
            Dialect::Bash | Dialect::Sh => {
                let (path, code) = (self.code.clone(), code.to_owned());
                let written = tokio::task::spawn_blocking(move || files::write(&path, code.as_bytes()));
                written.await.map_err(io::Error::other)??;
                let line = format!("eval \"$(cat {})\" </dev/null\n", quoted(&self.code_inside));
                self.write(line.as_bytes()).await
            }
        }
    }

    /// Answers code that waits for input.
    pub(super) async fn input(&mut self, text: &str) -> io::Result<()> {
        match self.dialect {
            Dialect::Python | Dialect::Node => {
                self.send(&json!({"op": "input", "text": text.trim_end_matches(['\r', '\n'])})).await
            }
            Dialect::Bash | Dialect::Sh => Ok(()),
        }
    }

    /// Asks for completions; false when this kind has none.
    pub(super) async fn complete(&mut self, id: u64, code: &str) -> io::Result<bool> {
        match self.dialect {
            Dialect::Python | Dialect::Node => {
                self.send(&json!({"op": "complete", "id": id, "code": code})).await.map(|()| true)
            }
            Dialect::Bash | Dialect::Sh => Ok(false),
        }
    }

    async fn send(&mut self, message: &Value) -> io::Result<()> {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        self.write(&line).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stdin = self.proc.stdin.as_mut().ok_or_else(|| io::Error::other("it has no standard input"))?;
        let write = async {
            stdin.write_all(bytes).await?;
            stdin.flush().await
        };
        tokio::time::timeout(WRITE_TIMEOUT, write).await.map_err(io::Error::other)?
    }

    /// Understands an event.
    pub(super) fn understand(event: &Value) -> Said {
        match event["t"].as_str() {
            Some("done") => Said::Done(event["code"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(-1)),
            Some("input") => Said::Input { password: event["password"].as_bool().unwrap_or_default() },
            Some("show") => match (event["k"].as_str(), event["v"].as_str()) {
                (Some(kind), Some(value)) => Said::Shown(kind.to_owned(), value.to_owned()),
                _ => Said::Nothing,
            },
            Some("complete") => {
                let matches = event["matches"].as_array().cloned().unwrap_or_default();
                Said::Completions(event["id"].as_u64().unwrap_or_default(), matches)
            }
            _ => Said::Nothing,
        }
    }
}

fn quoted(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A text as one word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
