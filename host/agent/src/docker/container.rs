//! One kernel's container: programs started in it, and ways to talk to them.
//!
//! Programs are started by the engine (`exec`), but it carries nothing of what they say: that goes through named pipes in
//! a directory which the container sees. So the order of output is exact, and a later start of the agent takes up both
//! ends where they are.

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::StopContainerOptions;
use futures::{FutureExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use quarterdeck_model::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::async_trait;

use super::engine::{is_missing, plain};
use super::programs::{Programs, Record};
use super::reach::Reach;
use crate::process::container::{BATCH, Container, Recalled, Resizer, Running};
use crate::process::spawn::{Exit, fifo};
use crate::sandbox::{TOOLS, WORK};

/// The pipes of programs, below the directory that programs see.
const PIPES: &str = "p";
/// How long a program may take to begin.
const BEGIN: Duration = Duration::from_secs(30);
/// How often the engine is asked whether a program that says nothing still runs.
const ASK: Duration = Duration::from_secs(2);
/// What a program has answered that was ended by force.
const KILLED: i32 = 128 + 9;
const CHUNK: usize = 16 * 1024;
/// How often a terminal is told its size that doesn't take it, and how long apart.
const RESIZES: usize = 10;
const RESIZE_AGAIN: Duration = Duration::from_millis(200);

/// A container that runs.
#[derive(Clone)]
pub(super) struct DockerContainer {
    pub(super) docker: Docker,
    pub(super) id: String,
    pub(super) user: String,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) reach: Reach,
    pub(super) devices: Value,
    programs: Arc<Programs>,
    /// The directory that programs see, and where its pipes are.
    tools: PathBuf,
    last: Arc<AtomicU64>,
}

impl DockerContainer {
    /// One whose kernel has that directory.
    pub(super) fn new(
        docker: Docker,
        id: String,
        user: String,
        owner: Option<(u32, u32)>,
        reach: Reach,
        devices: Value,
        dir: &Path,
    ) -> io::Result<Self> {
        let tools = dir.join("run");
        let programs = Programs::open(&dir.join("programs"))?;
        let last = Arc::new(AtomicU64::new(programs.last()));
        Ok(Self { docker, id, user, owner, reach, devices, programs: Arc::new(programs), tools, last })
    }

    /// Has a shell script run, and answers what it printed, when it ended well.
    pub(super) async fn ask(&self, script: &str, arguments: &[&str]) -> io::Result<Option<String>> {
        let mut command = vec!["/bin/sh", "-c", script, "sh"];
        command.extend(arguments);
        let exec = CreateExecOptions {
            attach_stdout: Some(true),
            cmd: Some(command),
            user: Some(self.user.as_str()),
            working_dir: Some(WORK),
            ..Default::default()
        };
        let exec = self.docker.create_exec(&self.id, exec).await.map_err(failed)?.id;
        let started = self.docker.start_exec(&exec, None::<StartExecOptions>).await.map_err(failed)?;
        let mut text = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(part) = output.next().await {
                text.extend_from_slice(part.map_err(failed)?.as_ref());
            }
        }
        // Its pipes close a little before the engine knows how it ended.
        let code = self.ended(&exec, Duration::from_millis(20)).await;
        Ok((code == 0).then(|| String::from_utf8_lossy(&text).into_owned()))
    }

    /// Waits until the engine says that a program ended.
    async fn ended(&self, exec: &str, mut pause: Duration) -> i32 {
        loop {
            match self.docker.inspect_exec(exec).await {
                Ok(about) if about.running != Some(true) => {
                    return about.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(KILLED);
                }
                // It was forgotten with its container, or with an engine that was started anew.
                Err(error) if is_missing(&error) => return KILLED,
                Err(error) => tracing::debug!(error = plain(&error), "an engine doesn't say how a program is"),
                Ok(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(ASK);
        }
    }

    fn pipe(&self, id: u64, ending: &str) -> PathBuf {
        self.tools.join(PIPES).join(format!("{id}.{ending}"))
    }

    /// Makes a pipe that the container's user may open.
    fn make_pipe(&self, id: u64, ending: &str) -> io::Result<PathBuf> {
        let path = self.pipe(id, ending);
        fifo(&path)?;
        self.give(&path)?;
        Ok(path)
    }

    /// This end of a program's pipes, which are there.
    fn ends(&self, id: u64, stdin: bool) -> io::Result<(Option<pipe::Sender>, [pipe::Receiver; 3])> {
        // Opened for both: a pipe whose other end isn't open yet, or was closed meanwhile, is none the worse for it.
        let receiver = |ending: &str| pipe::OpenOptions::new().read_write(true).open_receiver(self.pipe(id, ending));
        let input = match stdin {
            true => Some(pipe::OpenOptions::new().read_write(true).open_sender(self.pipe(id, "in"))?),
            false => None,
        };
        Ok((input, [receiver("out")?, receiver("err")?, receiver("ctl")?]))
    }

    /// A program's end: told by the shell that started it, or else by the engine.
    fn exit(&self, id: u64, exec: String, mut words: Words) -> Exit {
        let container = self.clone();
        async move {
            let told = async {
                loop {
                    match words.next().await {
                        Ok(word) => {
                            if let Some(code) = word.strip_prefix("exit ").and_then(|code| code.parse().ok()) {
                                return code;
                            }
                        }
                        Err(_) => return std::future::pending().await,
                    }
                }
            };
            let code = tokio::select! {
                biased;
                code = told => code,
                // A shell that was ended by force tells nothing. What it did tell comes first.
                code = async { sleep(ASK).await; container.ended(&exec, ASK).await } => code,
            };
            // What is known of a batch session's command is told again to a host that may not have heard it.
            if container.programs.role(id).as_deref() != Some(BATCH) {
                container.programs.remove(id);
            }
            for ending in ["in", "out", "err", "ctl"] {
                let _ = std::fs::remove_file(container.pipe(id, ending));
            }
            code
        }
        .boxed()
    }

    async fn begin(&self, id: u64, command: &[&OsStr], env: &[(String, String)], stdin: bool) -> io::Result<Running> {
        let text = |word: &OsStr| word.to_str().map(str::to_owned).ok_or_else(|| io::Error::other("it isn't UTF-8"));
        let stem = format!("{TOOLS}/{PIPES}/{id}");
        let mut line: Vec<String> =
            ["/bin/sh", &format!("{TOOLS}/launch.sh"), &stem, if stdin { "1" } else { "0" }].map(str::to_owned).into();
        for word in command {
            line.push(text(word)?);
        }
        let exec = CreateExecOptions {
            cmd: Some(line),
            env: Some(env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            user: Some(self.user.clone()),
            working_dir: Some(WORK.to_owned()),
            ..Default::default()
        };
        let exec = self.docker.create_exec(&self.id, exec).await.map_err(failed)?.id;
        let (input, [out, err, control]) = self.ends(id, stdin)?;
        let detached = StartExecOptions { detach: true, ..Default::default() };
        self.docker.start_exec(&exec, Some(detached)).await.map_err(failed)?;
        let mut words = Words { pipe: control, rest: Vec::new() };
        let begun = async {
            loop {
                let word = words.next().await?;
                if let Some(pid) = word.strip_prefix("pid ").and_then(|pid| pid.parse().ok()) {
                    return Ok::<i32, io::Error>(pid);
                }
            }
        };
        let pid = tokio::select! {
            begun = timeout(BEGIN, begun) => begun.map_err(io::Error::from)??,
            code = self.ended(&exec, Duration::from_millis(250)) => {
                return Err(io::Error::other(format!("it ended at once with exit code {code}")));
            }
        };
        let record = Record { exec: exec.clone(), pid, stdin, since: Timestamp::now().millis(), role: String::new() };
        self.programs.add(id, record)?;
        Ok(Running { id, stdin: input, out, err, exit: self.exit(id, exec, words) })
    }
}

/// The lines that a program's shell tells of it.
struct Words {
    pipe: pipe::Receiver,
    rest: Vec<u8>,
}

impl Words {
    async fn next(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            // The container's programs may write what they like there.
            if self.rest.len() > CHUNK {
                self.rest.clear();
            }
            if self.pipe.read_buf(&mut self.rest).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[async_trait]
impl Container for DockerContainer {
    fn id(&self) -> &str {
        &self.id
    }

    fn devices(&self) -> Value {
        self.devices.clone()
    }

    async fn spawn(&self, command: &[&OsStr], env: &[(String, String)], stdin: bool) -> io::Result<Running> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        std::fs::create_dir_all(self.tools.join(PIPES))?;
        for ending in ["out", "err", "ctl"] {
            self.make_pipe(id, ending)?;
        }
        if stdin {
            self.make_pipe(id, "in")?;
        }
        self.begin(id, command, env, stdin).await
    }

    async fn spawn_on_terminal(
        &self,
        command: &[&OsStr],
        env: &[(String, String)],
        (rows, columns): (u16, u16),
    ) -> io::Result<(OwnedFd, Resizer, Exit)> {
        let exec = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(true),
            cmd: Some(command.iter().map(|word| word.to_string_lossy().into_owned()).collect()),
            env: Some(env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            user: Some(self.user.clone()),
            working_dir: Some(WORK.to_owned()),
            ..Default::default()
        };
        let exec = self.docker.create_exec(&self.id, exec).await.map_err(failed)?.id;
        let options = StartExecOptions { tty: true, ..Default::default() };
        let started = self.docker.start_exec(&exec, Some(options)).await.map_err(failed)?;
        let StartExecResults::Attached { mut output, mut input } = started else {
            return Err(io::Error::other("the engine attached nothing"));
        };
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        let theirs = std::os::unix::net::UnixStream::from(theirs);
        theirs.set_nonblocking(true)?;
        let (mut keys, mut screen) = UnixStream::from_std(theirs)?.into_split();
        let (container, ended) = (self.clone(), exec.clone());
        let typing = tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            while let Ok(size @ 1..) = keys.read(&mut buffer).await {
                if input.write_all(&buffer[..size]).await.is_err() || input.flush().await.is_err() {
                    return;
                }
            }
        });
        let showing = tokio::spawn(async move {
            while let Some(Ok(part)) = output.next().await {
                let bytes = LogOutput::into_bytes(part);
                if screen.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let exit = async move {
            let _ = showing.await;
            typing.abort();
            container.ended(&ended, Duration::from_millis(50)).await
        };
        // One after the other: the last size is the one that stays.
        let (sizes, told) = watch::channel((rows, columns));
        tokio::spawn(resize(self.docker.clone(), exec, told));
        let resizer: Resizer = Box::new(move |rows, columns| {
            // Nobody listens when it has ended.
            let _ = sizes.send((rows, columns));
        });
        Ok((ours, resizer, exit.boxed()))
    }

    fn signal(&self, program: u64, signal: Signal) {
        let Some(record) = self.programs.get(program) else { return };
        let container = self.clone();
        tokio::spawn(async move {
            // The program is the first of its group; without one, it alone is told.
            let script = r#"kill -s "$1" -- "-$2" 2>/dev/null || kill -s "$1" "$2""#;
            let name = signal.as_str().trim_start_matches("SIG");
            if let Err(error) = container.ask(script, &[name, &record.pid.to_string()]).await {
                tracing::debug!(%error, signal = name, "a program can't be signalled");
            }
        });
    }

    fn remember(&self, program: u64, role: &str) {
        self.programs.set_role(program, role);
    }

    async fn recall(&self) -> Vec<Recalled> {
        let mut recalled = Vec::new();
        for (id, record) in self.programs.all() {
            let pipes = self.ends(id, record.stdin);
            let age =
                Duration::from_millis(u64::try_from(Timestamp::now().millis() - record.since).unwrap_or_default());
            let program = match pipes {
                Ok((stdin, [out, err, control])) => {
                    let words = Words { pipe: control, rest: Vec::new() };
                    Running { id, stdin, out, err, exit: self.exit(id, record.exec, words) }
                }
                // It ended and was heard; only what a host may not know is told again.
                Err(_) if record.role == BATCH => {
                    let closed = || -> io::Result<pipe::Receiver> { Ok(pipe::pipe()?.1) };
                    let (Ok(out), Ok(err)) = (closed(), closed()) else { continue };
                    let container = self.clone();
                    let exit = async move { container.ended(&record.exec, ASK).await }.boxed();
                    Running { id, stdin: None, out, err, exit }
                }
                Err(_) => {
                    self.programs.remove(id);
                    continue;
                }
            };
            recalled.push(Recalled { role: record.role, age, program });
        }
        recalled
    }

    async fn program(&self, name: &str) -> Option<PathBuf> {
        let script = r#"PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1""#;
        let found = self.ask(script, &[name]).await.ok()??;
        Some(PathBuf::from(found.trim())).filter(|path| path.is_absolute())
    }

    fn service_address(&self) -> IpAddr {
        self.reach.service_address()
    }

    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.reach.connect(port).await
    }

    async fn listen(&self, port: u16) -> io::Result<TcpListener> {
        self.reach.listen(port).await
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some((uid, gid)) => lchown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    async fn end(&self, grace: Duration) {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), ..Default::default() };
        match self.docker.stop_container(&self.id, Some(options)).await {
            Ok(()) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => tracing::debug!(error = plain(&error), "a container isn't stopped"),
        }
    }
}

/// Gives a terminal the sizes that it is told, for as long as somebody may tell it another.
async fn resize(docker: Docker, exec: String, mut told: watch::Receiver<(u16, u16)>) {
    loop {
        let (height, width) = *told.borrow_and_update();
        // A program that is just being started has no terminal yet.
        for _ in 0..RESIZES {
            match docker.resize_exec(&exec, ResizeExecOptions { height, width }).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(error = plain(&error), "a terminal's size isn't changed yet"),
            }
            sleep(RESIZE_AGAIN).await;
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: bollard::errors::Error) -> io::Error {
    io::Error::other(plain(&error))
}
