//! A kernel's own view of the node: namespaces of users, mounts, processes, names, messages and network.
//!
//! The agent starts its own binary again as the first process of each sandbox ([`main`]). That process makes the
//! namespaces, puts a file tree together in which there is nothing of the agent's, gives up all rights and then starts
//! programs as the agent says. Both speak over a socket pair ([`wire`]); its end is the end of the sandbox.

mod filter;
mod init;
mod netlink;
mod network;
mod plan;
pub(crate) mod pty;
mod setup;
mod sys;
mod view;
mod wire;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::network::SharedNetwork;
pub(crate) use self::network::{Seat, address};
use self::plan::{Plan, WORKER};
pub use self::view::Network;
pub(crate) use self::view::{Bind, Isolation, PROCESSES, SHARED_MEMORY, View};
use self::wire::{Order, Word};

/// The first argument with which a program that holds this library becomes the first process of a sandbox.
pub const SANDBOX_ARG: &str = "__sandbox";

/// What a program does that was started with [`SANDBOX_ARG`]. To be called before anything else, on its only thread.
pub fn main() -> ExitCode {
    init::main()
}

/// Where the work directory is inside.
pub(crate) const WORK: &str = "/home/work";
/// Where the agent puts files for programs.
pub(crate) const TOOLS: &str = "/run/quarterdeck";

/// How long a node under load may take to set a sandbox up.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the first process may take to start a program.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the system may take to end what it was told to end.
const LAST_TIMEOUT: Duration = Duration::from_secs(10);

/// A sandbox that stands. Dropping it ends it.
pub(crate) struct Sandbox {
    socket: Arc<AsyncFd<OwnedFd>>,
    /// The outer process: all others descend from it.
    pid: i32,
    next: AtomicU64,
    asked: Arc<Asked>,
    over: CancellationToken,
    /// Held for as long as anybody is on it.
    _network: Option<Arc<SharedNetwork>>,
}

/// Who waits for what.
#[derive(Default)]
struct Asked {
    answers: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    ends: Mutex<HashMap<u64, oneshot::Sender<i32>>>,
}

type Answer = io::Result<Option<OwnedFd>>;

/// A program in a sandbox.
pub(crate) struct Program {
    id: u64,
    /// Its exit code, once it ended; an error when the sandbox ended first.
    pub(crate) end: oneshot::Receiver<i32>,
}

/// The ids of a kernel's user as the node sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Sandbox {
    /// Sets a sandbox up. `enter` is called with the id of its process before that does anything.
    async fn start(
        program: &Path,
        plan: Plan,
        maps: &[BorrowedFd<'_>],
        outside: Outside,
        shared: Option<Arc<SharedNetwork>>,
        enter: impl FnOnce(i32) -> io::Result<()>,
    ) -> Result<Self, String> {
        let fail = |error: io::Error| format!("the sandbox can't be set up: {error}");
        let (mut child, pid, socket) = converse(program, init::KERNEL)?;
        let set_up = async {
            enter(pid).map_err(|error| format!("the sandbox has no control group: {error}"))?;
            let privileged = plan.privileged;
            send(&socket, &Order::Begin(plan), maps).await.map_err(fail)?;
            let network = expect(&socket, &Word::Unshared).await?.into_iter().next();
            match &shared {
                Some(shared) => shared.attach(&network.ok_or("the sandbox has no network")?).await?,
                None => outside
                    .write_maps(pid, WORKER, privileged)
                    .map_err(|error| format!("users can't be mapped: {error}"))?,
            }
            send(&socket, &Order::Mapped, &[]).await.map_err(fail)?;
            expect(&socket, &Word::Ready).await
        };
        match tokio::time::timeout(START_TIMEOUT, set_up).await {
            Ok(Ok(_)) => {}
            outcome => {
                drop(socket);
                let _ = child.start_kill();
                let _ = child.wait().await;
                return Err(match outcome {
                    Ok(Err(message)) => message,
                    _ => format!("the sandbox isn't there after {START_TIMEOUT:?}"),
                });
            }
        }
        let (socket, asked, over) = (Arc::new(socket), Arc::new(Asked::default()), CancellationToken::new());
        tokio::spawn(listen(socket.clone(), asked.clone(), child, over.clone()));
        Ok(Self { socket, pid, next: AtomicU64::new(1), asked, over, _network: shared })
    }

    /// The process from which all others descend.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Starts a program on the three descriptors.
    pub(crate) async fn spawn(
        &self,
        command: &[&OsStr],
        env: &[(String, String)],
        stdio: [BorrowedFd<'_>; 3],
    ) -> io::Result<Program> {
        Ok(self.start_program(command, env, None, &stdio).await?.0)
    }

    /// Starts a program on a terminal of its own; answers the terminal's other side.
    pub(crate) async fn spawn_on_terminal(
        &self,
        command: &[&OsStr],
        env: &[(String, String)],
        rows_and_columns: (u16, u16),
    ) -> io::Result<(Program, OwnedFd)> {
        let (program, terminal) = self.start_program(command, env, Some(rows_and_columns), &[]).await?;
        Ok((program, terminal.ok_or_else(|| io::Error::other("the terminal didn't come"))?))
    }

    async fn start_program(
        &self,
        command: &[&OsStr],
        env: &[(String, String)],
        terminal: Option<(u16, u16)>,
        stdio: &[BorrowedFd<'_>],
    ) -> io::Result<(Program, Option<OwnedFd>)> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (ended, end) = oneshot::channel();
        self.asked.ends.lock().insert(id, ended);
        let order = Order::Start { id, command: init::bytes(command), env: env.to_vec(), terminal };
        match self.ask(id, &order, stdio).await {
            Ok(fd) => Ok((Program { id, end }, fd)),
            Err(error) => {
                self.asked.ends.lock().remove(&id);
                Err(error)
            }
        }
    }

    /// A connection to a port, which may still be on its way.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<OwnedFd> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = self.ask(id, &Order::Connect { id, port }, &[]).await?;
        connection.ok_or_else(|| io::Error::other("the connection didn't come"))
    }

    /// Somebody who listens on a port of its loopback, from outside of it.
    pub(crate) async fn listen(&self, port: u16) -> io::Result<OwnedFd> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let listener = self.ask(id, &Order::Listen { id, port }, &[]).await?;
        listener.ok_or_else(|| io::Error::other("the listener didn't come"))
    }

    async fn ask(&self, id: u64, order: &Order, fds: &[BorrowedFd<'_>]) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.asked.answers.lock().insert(id, answer);
        let asked = async {
            send(&self.socket, order, fds).await?;
            answered.await.map_err(|_| io::Error::other("the sandbox ended"))?
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_TIMEOUT, asked) => answer.unwrap_or_else(|late| Err(late.into())),
            () = self.over.cancelled() => Err(io::Error::other("the sandbox ended")),
        };
        self.asked.answers.lock().remove(&id);
        answer
    }

    /// Signals a program and its process group.
    pub(crate) fn signal(&self, program: u64, signal: Signal) {
        let order = Order::Signal { id: program, signal: signal as i32 };
        // It reads all the time: the socket isn't full.
        if let Err(error) = wire::send(self.socket.get_ref(), &order, &[]) {
            tracing::debug!(%error, "a signal didn't reach the sandbox");
        }
    }

    /// Asks all programs to end, ends them after `grace`, and returns when nothing is left.
    pub(crate) async fn end(&self, grace: Duration) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let _ = send(&self.socket, &Order::End { grace_ms }, &[]).await;
        if tokio::time::timeout(grace + LAST_TIMEOUT, self.over.cancelled()).await.is_ok() {
            return;
        }
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        if tokio::time::timeout(LAST_TIMEOUT, self.over.cancelled()).await.is_err() {
            tracing::error!(pid = self.pid, "a sandbox doesn't end");
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }
}

impl Program {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Outside {
    /// Tells who a user of a new namespace is outside of it. `privileged`: root says so, and may.
    fn write_maps(self, pid: i32, inside: u32, privileged: bool) -> io::Result<()> {
        let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        if !privileged {
            // Else the group's map of an ordinary user isn't accepted.
            std::fs::write(at("setgroups"), "deny")?;
        }
        std::fs::write(at("gid_map"), format!("{inside} {} 1\n", self.gid))?;
        std::fs::write(at("uid_map"), format!("{inside} {} 1\n", self.uid))
    }
}

/// Starts the program in one of its roles: the process, its id, and the conversation with it. It is killed with the first.
fn converse(program: &Path, role: &str) -> Result<(Child, i32, AsyncFd<OwnedFd>), String> {
    let fail = |error: io::Error| format!("no conversation with the sandbox: {error}");
    let (mine, theirs) = wire::pair().map_err(fail)?;
    let mut command = Command::new(program);
    command.args([SANDBOX_ARG, role]).env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| format!("{} can't be started: {error}", program.display()))?;
    // The command holds the other end, too.
    drop(command);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or("the sandbox ended at once")?;
    rustix::io::ioctl_fionbio(&mine, true).map_err(|error| fail(error.into()))?;
    // SAFETY: the registration owns the descriptor, which nothing else closes.
    #[allow(unsafe_code, reason = "the only way to wait for a socket of this kind")]
    let socket = unsafe { AsyncFd::register(mine) }.map_err(|error| fail(error.into()))?;
    Ok((child, pid, socket))
}

async fn send(socket: &AsyncFd<OwnedFd>, order: &Order, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    loop {
        let mut ready = socket.writable().await?;
        if let Ok(sent) = ready.try_io(|socket| wire::send(socket.as_fd(), order, fds)) {
            return sent;
        }
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(received) = ready.try_io(|socket| wire::receive(socket.as_fd())) {
            return received;
        }
    }
}

async fn expect(socket: &AsyncFd<OwnedFd>, wanted: &Word) -> Result<Vec<OwnedFd>, String> {
    match receive(socket).await {
        Ok(Some((word, fds))) if word == *wanted => Ok(fds),
        Ok(Some((Word::Failed(message), _))) => Err(message),
        Ok(Some((word, _))) => Err(format!("the sandbox says {word:?} instead of {wanted:?}")),
        Ok(None) => Err("the sandbox ended while it was set up".into()),
        Err(error) => Err(format!("the sandbox can't be heard: {error}")),
    }
}

/// Hands on what the sandbox says, and notes its end.
async fn listen(socket: Arc<AsyncFd<OwnedFd>>, asked: Arc<Asked>, mut child: Child, over: CancellationToken) {
    while let Ok(Some((word, fds))) = receive(&socket).await {
        let (id, answer) = match word {
            Word::Started { id } | Word::Connecting { id } => (id, Ok(fds.into_iter().next())),
            Word::NotStarted { id, error } | Word::NotConnecting { id, error } => {
                (id, Err(io::Error::from_raw_os_error(error)))
            }
            Word::Ended { id, code } => {
                if let Some(ended) = asked.ends.lock().remove(&id) {
                    let _ = ended.send(code);
                }
                continue;
            }
            Word::Unshared | Word::Ready | Word::Attached { .. } => continue,
            Word::Failed(message) => {
                tracing::warn!(message, "a sandbox failed");
                continue;
            }
        };
        if let Some(waiting) = asked.answers.lock().remove(&id) {
            let _ = waiting.send(answer);
        }
    }
    // It ends when its inner process did, and that when nothing else was left.
    let _ = child.wait().await;
    over.cancel();
    asked.answers.lock().clear();
    asked.ends.lock().clear();
}
