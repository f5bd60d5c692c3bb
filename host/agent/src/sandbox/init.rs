//! The first process of a sandbox: it sets the sandbox up, then starts, signals and buries programs as the agent says.
//! When the agent is gone it ends, and with it, by the system's own rule, every process of the sandbox.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

use super::plan::Plan;
use super::pty;
use super::setup::{self, Outcome, at};
use super::wire::{self, Order, Word};

/// What this program is told to be by its second argument.
pub(super) const KERNEL: &str = "kernel";
pub(super) const USERS: &str = "users";
pub(super) const NETWORK: &str = "network";

/// Exit code: it couldn't be set up.
const FAILED: u8 = 70;

/// The whole life of a sandbox's process. The conversation with the agent is its standard input.
pub(super) fn main() -> ExitCode {
    match std::env::args_os().nth(2).as_deref().and_then(OsStr::to_str) {
        Some(KERNEL) => converse(kernel),
        Some(NETWORK) => converse(|agent| super::network::hold(&agent)),
        Some(USERS) => users(),
        _ => {
            eprintln!("this is for the agent's own use");
            ExitCode::from(2)
        }
    }
}

/// Holds a new user namespace open until its standard input ends.
fn users() -> ExitCode {
    if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
        return ExitCode::from(FAILED);
    }
    let _ = io::copy(&mut b"\n".as_slice(), &mut io::stdout());
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    ExitCode::SUCCESS
}

/// Takes the conversation with the agent from the standard input.
fn converse(role: impl FnOnce(OwnedFd) -> ExitCode) -> ExitCode {
    let Ok(agent) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::from(FAILED) };
    // The agent's end of the conversation must be the only thing that is still open.
    if let Err(error) = hide_stdin() {
        return fail(&agent, at("standard input")(error));
    }
    role(agent)
}

fn kernel(mut agent: OwnedFd) -> ExitCode {
    let (plan, maps) = match wire::receive::<Order>(&agent) {
        Ok(Some((Order::Begin(plan), maps))) => (plan, maps),
        _ => return ExitCode::from(FAILED),
    };
    match outer(&mut agent, &plan, maps) {
        Ok(Some(code)) => code,
        Ok(None) => inner(agent, plan),
        Err(message) => fail(&agent, message),
    }
}

fn hide_stdin() -> nix::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)
}

pub(super) fn fail(agent: &OwnedFd, message: String) -> ExitCode {
    let _ = wire::send(agent, &Word::Failed(message), &[]);
    ExitCode::from(FAILED)
}

/// Makes the namespaces and the first process in them. Answers an exit code in the outer process, when the inner one has
/// ended, and nothing in the inner one, when its file tree stands.
fn outer(agent: &mut OwnedFd, plan: &Plan, maps: Vec<OwnedFd>) -> Outcome<Option<ExitCode>> {
    let early = if plan.privileged { Some(setup::open_binds(plan, &maps)?) } else { None };
    let network = match &plan.shared {
        None => {
            setup::leave(plan.own_network)?;
            None
        }
        Some(shared) => {
            setup::enter_users(maps.get(shared.users).ok_or("no namespace of the session's network came")?)?;
            setup::become_worker()?;
            setup::leave(true)?;
            // Nobody else is in a place to say who its user is: the agent is two namespaces away.
            setup::stay_worker()?;
            Some(File::open("/proc/self/ns/net").map_err(at("the network namespace"))?)
        }
    };
    let fds: Vec<BorrowedFd<'_>> = network.iter().map(|network| network.as_fd()).collect();
    wire::send(&*agent, &Word::Unshared, &fds).map_err(at("speaking to the agent"))?;
    drop(network);
    match wire::receive::<Order>(&*agent) {
        Ok(Some((Order::Mapped, _))) => {}
        _ => return Err("the agent gave no users".into()),
    }
    let binds = match early {
        Some(binds) => binds,
        None => setup::open_binds(plan, &maps)?,
    };
    drop(maps);
    setup::become_worker()?;
    // The inner process will take the root away from this one, too.
    let null = File::open("/dev/null").map_err(at("/dev/null"))?;
    // SAFETY: this process has one thread, so that the child may do what it likes.
    #[allow(unsafe_code, reason = "a process with one thread may fork")]
    let forked = unsafe { fork() };
    match forked.map_err(at("the first process"))? {
        ForkResult::Parent { child } => {
            // The conversation is the inner process's: its end is the end for the agent.
            nix::unistd::dup2(null, agent).map_err(at("handing over"))?;
            Ok(Some(wait_for(child)))
        }
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("following its parent"))?;
            setup::build(plan, &binds)?;
            setup::settle(plan)?;
            Ok(None)
        }
    }
}

fn wait_for(child: Pid) -> ExitCode {
    let _ = super::sys::drop_capabilities();
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return ExitCode::from(u8::try_from(code).unwrap_or(FAILED)),
            Ok(WaitStatus::Signaled(..)) | Err(nix::errno::Errno::ECHILD) => return ExitCode::from(FAILED),
            _ => {}
        }
    }
}

/// The programs of a sandbox.
struct Init {
    agent: OwnedFd,
    env: Vec<(String, String)>,
    /// Process id → the number that the agent gave.
    programs: HashMap<Pid, u64>,
    /// When all have to be over.
    deadline: Option<Instant>,
}

fn inner(agent: OwnedFd, plan: Plan) -> ExitCode {
    let mut init = Init { agent, env: plan.env, programs: HashMap::new(), deadline: None };
    match init.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&init.agent, at("the sandbox")(error)),
    }
}

impl Init {
    fn serve(&mut self) -> io::Result<()> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        children.thread_block()?;
        let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        self.say(&Word::Ready, &[])?;
        loop {
            let timeout = match self.deadline {
                Some(deadline) if deadline <= Instant::now() => return Ok(()),
                Some(deadline) => PollTimeout::try_from(deadline - Instant::now()).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let mut fds =
                [PollFd::new(self.agent.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let (agent, child) = (fds[0].any().unwrap_or(true), fds[1].any().unwrap_or(true));
            if child {
                while let Ok(Some(_)) = signals.read_signal() {}
                let left = self.bury()?;
                if self.deadline.is_some() && !left {
                    return Ok(());
                }
            }
            if agent {
                match wire::receive::<Order>(&self.agent)? {
                    Some((order, fds)) => self.obey(order, fds)?,
                    // The agent is gone.
                    None => return Ok(()),
                }
            }
        }
    }

    fn say(&self, word: &Word, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(&self.agent, word, fds)
    }

    /// Takes in processes that ended; whether there are others.
    fn bury(&mut self) -> io::Result<bool> {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) => return Ok(true),
                Ok(_) => continue,
                Err(_) => return Ok(false),
            };
            if let Some(id) = self.programs.remove(&pid) {
                self.say(&Word::Ended { id, code }, &[])?;
            }
        }
    }

    fn obey(&mut self, order: Order, fds: Vec<OwnedFd>) -> io::Result<()> {
        match order {
            Order::Begin(_) | Order::Mapped | Order::Attach { .. } => Ok(()),
            Order::Start { id, command, env, terminal } => {
                let command = command.into_iter().map(OsString::from_vec).collect::<Vec<_>>();
                let started = match terminal {
                    Some(size) => self.start_on_terminal(&command, &env, size).map(|(pid, fd)| (pid, Some(fd))),
                    None => self.start_on(&command, &env, fds).map(|pid| (pid, None)),
                };
                match started {
                    Ok((pid, terminal)) => {
                        self.programs.insert(pid, id);
                        let fds: Vec<BorrowedFd<'_>> = terminal.iter().map(|fd| fd.as_fd()).collect();
                        self.say(&Word::Started { id }, &fds)
                    }
                    Err(error) => self.say(&Word::NotStarted { id, error: number(&error) }, &[]),
                }
            }
            Order::Signal { id, signal } => {
                let pid = self.programs.iter().find(|(_, program)| **program == id).map(|(pid, _)| *pid);
                if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(signal)) {
                    let _ = killpg(pid, signal);
                }
                Ok(())
            }
            Order::Connect { id, port } => match dial(port) {
                Ok(connection) => self.say(&Word::Connecting { id }, &[connection.as_fd()]),
                Err(error) => self.say(&Word::NotConnecting { id, error: number(&error) }, &[]),
            },
            Order::Listen { id, port } => match std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(listener) => self.say(&Word::Connecting { id }, &[listener.as_fd()]),
                Err(error) => self.say(&Word::NotConnecting { id, error: number(&error) }, &[]),
            },
            Order::End { grace_ms } => {
                // Interactive shells ignore the first and heed the second.
                for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
                    let _ = kill(Pid::from_raw(-1), signal);
                }
                let grace = Instant::now().checked_add(Duration::from_millis(grace_ms));
                self.deadline = Some(if self.bury()? { grace.unwrap_or_else(Instant::now) } else { Instant::now() });
                Ok(())
            }
        }
    }

    fn start_on(&self, command: &[OsString], env: &[(String, String)], fds: Vec<OwnedFd>) -> io::Result<Pid> {
        let mut fds = fds.into_iter().map(Stdio::from);
        let (Some(stdin), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.start(command, env, [stdin, stdout, stderr], false)
    }

    /// A program on a terminal of its own; the terminal's other side.
    fn start_on_terminal(
        &self,
        command: &[OsString],
        env: &[(String, String)],
        rows_and_columns: (u16, u16),
    ) -> io::Result<(Pid, OwnedFd)> {
        let (terminal, side) = pty::open(rows_and_columns)?;
        let stdio = [side.try_clone()?.into(), side.try_clone()?.into(), side.into()];
        let pid = self.start(command, env, stdio, true)?;
        Ok((pid, terminal))
    }

    fn start(
        &self,
        command: &[OsString],
        env: &[(String, String)],
        [stdin, stdout, stderr]: [Stdio; 3],
        terminal: bool,
    ) -> io::Result<Pid> {
        let [program, arguments @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut child = Command::new(program);
        child.args(arguments).stdin(stdin).stdout(stdout).stderr(stderr);
        child.env_clear().envs(self.env.iter().chain(env).map(|(name, value)| (name, value)));
        // SAFETY: between fork and exec it makes system calls only.
        #[allow(unsafe_code, reason = "a session of its own has to be made between fork and exec")]
        unsafe {
            child.pre_exec(move || {
                setsid()?;
                if terminal {
                    rustix::process::ioctl_tiocsctty(BorrowedFd::borrow_raw(0))?;
                }
                Ok(())
            });
        }
        let child = child.spawn()?;
        // It is waited for with all the others.
        Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
    }
}

/// Begins a connection to a port of the sandbox.
fn dial(port: u16) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    match connect(connection.as_raw_fd(), &address) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(connection),
        Err(error) => Err(error.into()),
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(nix::libc::EIO)
}

/// For commands that come as bytes.
pub(super) fn bytes(command: &[&OsStr]) -> Vec<Vec<u8>> {
    command.iter().map(|word| word.as_bytes().to_vec()).collect()
}
