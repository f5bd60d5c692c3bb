//! Starting programs of a kernel, and reading what they print.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkfifo};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::container::{Container, Recalled, Resizer, Running};
use super::procfs::{Group, Process};
use super::pump::Pump;
use super::runs::Stream;
use crate::sandbox::{self, Sandbox, pty};

const LAUNCH: &str = include_str!("launch.sh");
/// For users other than root: the most processes and threads, those outside the kernel included.
const MOST_PROCESSES: u32 = 16384;
/// Kernels yield to the agent.
const NICENESS: u32 = 5;

/// Starts the programs of one kernel.
pub(super) struct Launcher {
    /// The kernel's directory.
    dir: PathBuf,
    how: How,
}

/// Where programs run.
enum How {
    /// Beside everything else on the node, as the agent's own user.
    Open(Open),
    /// In a sandbox.
    Closed(Arc<Sandbox>),
    /// In a container.
    Contained(Arc<dyn Container>),
}

struct Open {
    work: PathBuf,
    env: Vec<(String, String)>,
    lifeline: PathBuf,
    /// While this is open, the kernel's processes live. Closed by whatever ends this process.
    _held: std::fs::File,
    setsid: Option<PathBuf>,
    groups: Mutex<Vec<Group>>,
}

/// A program that runs.
pub(super) struct Proc {
    pub(super) job: Job,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) io: mpsc::Receiver<Io>,
}

/// What is signalled.
#[derive(Clone)]
pub(super) enum Job {
    Group(Group),
    Program(Arc<Sandbox>, u64),
    Contained(Arc<dyn Container>, u64),
}

/// What comes from a program.
#[derive(Debug)]
pub(super) enum Io {
    Output(Stream, Vec<u8>),
    /// A line of the event pipe. All that was printed before comes before.
    Event(Value),
    /// It ended; nothing comes after that.
    Exited(i32),
}

impl Job {
    /// Signals the program and its process group.
    pub(super) fn signal(&self, signal: Signal) {
        match self {
            Self::Group(group) => group.signal(signal),
            Self::Program(sandbox, id) => sandbox.signal(*id, signal),
            Self::Contained(container, id) => container.signal(*id, signal),
        }
    }
}

impl Launcher {
    /// One for programs beside everything else on the node, with its files in `dir`.
    pub(super) fn open(dir: &Path, env: Vec<(String, String)>) -> io::Result<Self> {
        let lifeline = dir.join("lifeline");
        fifo(&lifeline)?;
        let held = std::fs::OpenOptions::new().read(true).write(true).open(&lifeline)?;
        let setsid = super::interpreters::on_path("setsid");
        let open = Open { work: dir.join("work"), env, lifeline, _held: held, setsid, groups: Mutex::default() };
        Ok(Self { dir: dir.to_owned(), how: How::Open(open) })
    }

    /// One for programs in a sandbox, which shows the parts of `dir` where [`Launcher::inside`] says.
    pub(super) fn closed(dir: &Path, sandbox: Sandbox) -> Self {
        Self { dir: dir.to_owned(), how: How::Closed(Arc::new(sandbox)) }
    }

    /// One for programs in a container, which shows the same parts of `dir` at the same places.
    pub(super) fn contained(dir: &Path, container: Arc<dyn Container>) -> Self {
        Self { dir: dir.to_owned(), how: How::Contained(container) }
    }

    /// The kernel's sandbox, if it has one.
    pub(super) fn sandbox(&self) -> Option<&Arc<Sandbox>> {
        match &self.how {
            How::Open(_) | How::Contained(_) => None,
            How::Closed(sandbox) => Some(sandbox),
        }
    }

    /// The kernel's container, if it has one.
    pub(super) fn container(&self) -> Option<&Arc<dyn Container>> {
        match &self.how {
            How::Open(_) | How::Closed(_) => None,
            How::Contained(container) => Some(container),
        }
    }

    /// Notes what a program is for, so that a later start of the agent knows it again. Only containers live so long.
    pub(super) fn remember(&self, job: &Job, role: &str) {
        if let Job::Contained(container, id) = job {
            container.remember(*id, role);
        }
    }

    /// Takes up a program that an earlier start of the agent began.
    pub(super) fn take_up(&self, recalled: Recalled, events: Option<pipe::Receiver>) -> Option<Proc> {
        let container = self.container()?;
        let Running { id, stdin, out, err, exit } = recalled.program;
        let (tx, io) = mpsc::channel(64);
        tokio::spawn(Pump::new(out, err, events, tx).run(exit));
        Some(Proc { job: Job::Contained(container.clone(), id), stdin, io })
    }

    /// The pipe on which a program tells of itself that an earlier start of the agent made.
    pub(super) fn same_events(path: &Path) -> io::Result<pipe::Receiver> {
        pipe::OpenOptions::new().read_write(true).open_receiver(path)
    }

    /// Where programs find a file of the kernel's directory.
    pub(super) fn inside(&self, path: &Path) -> PathBuf {
        let shown = [("work", sandbox::WORK), ("run", sandbox::TOOLS), ("tmp", "/tmp")];
        match &self.how {
            How::Open(_) => path.to_owned(),
            How::Closed(_) | How::Contained(_) => shown
                .into_iter()
                .find_map(|(part, at)| Some(Path::new(at).join(path.strip_prefix(self.dir.join(part)).ok()?)))
                .unwrap_or_else(|| path.to_owned()),
        }
    }

    /// The process groups started so far that aren't known to be over: each began with the program's own pid.
    pub(super) fn groups(&self) -> Vec<Group> {
        match &self.how {
            How::Open(open) => open.groups.lock().clone(),
            How::Closed(_) | How::Contained(_) => Vec::new(),
        }
    }

    /// Forgets groups that are over.
    pub(super) fn forget(&self, over: &[Group]) {
        if let How::Open(open) = &self.how {
            open.groups.lock().retain(|group| !over.contains(group));
        }
    }

    /// The kernel's work directory.
    pub(super) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Opens a terminal of that size and starts a program on it: the terminal's other side, and the program's end.
    pub(super) async fn spawn_on_terminal(
        &self,
        command: &[&OsStr],
        rows_and_columns: (u16, u16),
    ) -> io::Result<(OwnedFd, Option<Resizer>, Exit)> {
        let env = [("TERM".to_owned(), "xterm-256color".to_owned())];
        match &self.how {
            How::Open(open) => {
                let (terminal, side) = pty::open(rows_and_columns)?;
                let mut launch = open.launch(command, &env, true);
                launch.stdin(side.try_clone()?).stdout(side.try_clone()?).stderr(side);
                let mut child = launch.spawn()?;
                open.enter(&child)?;
                Ok((terminal, None, async move { child.wait().await.map_or(-1, exit_code) }.boxed()))
            }
            How::Closed(sandbox) => {
                let (program, terminal) = sandbox.spawn_on_terminal(command, &env, rows_and_columns).await?;
                Ok((terminal, None, program.end.map(|end| end.unwrap_or(-1)).boxed()))
            }
            How::Contained(container) => {
                let (terminal, resizer, exit) = container.spawn_on_terminal(command, &env, rows_and_columns).await?;
                Ok((terminal, Some(resizer), exit))
            }
        }
    }

    /// Starts a program in the kernel's work directory. `events` is the pipe on which it tells of itself.
    pub(super) async fn spawn(
        &self,
        command: &[&OsStr],
        stdin: bool,
        events: Option<pipe::Receiver>,
    ) -> io::Result<Proc> {
        self.spawn_with(command, &[], stdin, events).await
    }

    /// As [`Launcher::spawn`], with more in its environment.
    pub(super) async fn spawn_with(
        &self,
        command: &[&OsStr],
        env: &[(String, String)],
        stdin: bool,
        events: Option<pipe::Receiver>,
    ) -> io::Result<Proc> {
        let (job, stdin, out, err, exit) = match &self.how {
            How::Open(open) => open.start(command, env, stdin)?,
            How::Closed(sandbox) => start_inside(sandbox, command, env, stdin).await?,
            How::Contained(container) => {
                let Running { id, stdin, out, err, exit } = container.spawn(command, env, stdin).await?;
                (Job::Contained(container.clone(), id), stdin, out, err, exit)
            }
        };
        let (tx, io) = mpsc::channel(64);
        tokio::spawn(Pump::new(out, err, events, tx).run(exit));
        Ok(Proc { job, stdin, io })
    }

    /// Makes the pipe on which a program tells of itself; both ends stay open here, so that it never ends early.
    pub(super) fn events(path: &Path) -> io::Result<pipe::Receiver> {
        let _ = std::fs::remove_file(path);
        fifo(path)?;
        pipe::OpenOptions::new().read_write(true).open_receiver(path)
    }
}

/// Tells a program's exit code when it ends.
pub(crate) type Exit = BoxFuture<'static, i32>;
type Started = (Job, Option<pipe::Sender>, pipe::Receiver, pipe::Receiver, Exit);

impl Open {
    /// How a program is started in the kernel's work directory: in a session of its own, which keeps the kernel away
    /// from the terminal that the agent may have been started on. With `terminal`, its standard input is the terminal
    /// that the session gets.
    fn launch(&self, command: &[&OsStr], env: &[(String, String)], terminal: bool) -> Command {
        let limit = if Uid::effective().is_root() { 0 } else { MOST_PROCESSES };
        let mut launch = match &self.setsid {
            Some(setsid) => {
                let mut launch = Command::new(setsid);
                if terminal {
                    launch.arg("--ctty");
                }
                launch.arg("/bin/sh");
                launch
            }
            None => {
                let mut launch = Command::new("/bin/sh");
                launch.process_group(0);
                launch
            }
        };
        launch.args(["-c", LAUNCH, "sh"]).arg(&self.lifeline).arg(limit.to_string()).arg(NICENESS.to_string());
        launch.args(command).current_dir(&self.work).env_clear();
        launch.envs(self.env.iter().chain(env).map(|(k, v)| (k, v)));
        launch
    }

    /// Remembers a program that was just started.
    fn enter(&self, child: &Child) -> io::Result<Group> {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("the child has no id"))?;
        // Nobody has waited for it yet: the pid is its own, even if it has ended.
        let start = Process::read(pid).ok_or_else(|| io::Error::other("the child isn't in /proc"))?.start;
        let group = Group { id: pid, start };
        self.groups.lock().push(group);
        Ok(group)
    }

    fn start(&self, command: &[&OsStr], env: &[(String, String)], stdin: bool) -> io::Result<Started> {
        let mut launch = self.launch(command, env, false);
        launch.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
        launch.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = launch.spawn()?;
        let group = self.enter(&child)?;
        let missing = || io::Error::other("the child has no pipes");
        let stdin = match child.stdin.take() {
            Some(stdin) => Some(pipe::Sender::from_owned_fd(stdin.into_owned_fd()?)?),
            None => None,
        };
        let out = pipe::Receiver::from_owned_fd(child.stdout.take().ok_or_else(missing)?.into_owned_fd()?)?;
        let err = pipe::Receiver::from_owned_fd(child.stderr.take().ok_or_else(missing)?.into_owned_fd()?)?;
        let exit = async move { child.wait().await.map_or(-1, exit_code) };
        Ok((Job::Group(group), stdin, out, err, exit.boxed()))
    }
}

async fn start_inside(
    sandbox: &Arc<Sandbox>,
    command: &[&OsStr],
    env: &[(String, String)],
    stdin: bool,
) -> io::Result<Started> {
    let (input, theirs) = match stdin {
        true => {
            let (input, theirs) = pipe::pipe()?;
            (Some(input), theirs.into_blocking_fd()?)
        }
        false => (None, std::fs::File::open("/dev/null")?.into()),
    };
    let (their_out, out) = pipe::pipe()?;
    let (their_err, err) = pipe::pipe()?;
    let (their_out, their_err) = (their_out.into_blocking_fd()?, their_err.into_blocking_fd()?);
    let program = sandbox.spawn(command, env, [theirs.as_fd(), their_out.as_fd(), their_err.as_fd()]).await?;
    let job = Job::Program(sandbox.clone(), program.id());
    // A sandbox that ends takes its programs with it.
    let exit = async move { program.end.await.unwrap_or(128 + Signal::SIGKILL as i32) };
    Ok((job, input, out, err, exit.boxed()))
}

pub(crate) fn fifo(path: &Path) -> io::Result<()> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(io::Error::from)
}

/// A command line of plain texts.
pub(super) fn words(words: &[OsString]) -> Vec<&OsStr> {
    words.iter().map(OsString::as_os_str).collect()
}

/// The exit code as shells tell it: 128 + signal for the killed.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
