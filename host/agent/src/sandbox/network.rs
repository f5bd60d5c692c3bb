//! A network that the kernels of one session share: each has a network namespace of its own, with its own ports, and a
//! cable from there to a bridge in a further namespace, which a process of the agent holds open. Nothing else is on it.
//!
//! Whoever lays a cable needs rights in both namespaces. The kernels' user namespaces are made inside the holder's, so
//! that the holder has them, also where the agent is an ordinary user.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::sync::Mutex;

use super::netlink::Netlink;
use super::plan::WORKER;
use super::setup::{Outcome, at};
use super::wire::{self, Order, Word};
use super::{Outside, converse, expect, init, receive, send};

/// The bridge's name in the namespace that holds it.
const BRIDGE: &str = "session";
/// The name that a kernel's end of its cable has.
pub(super) const INTERFACE: &str = "eth0";
/// The network that kernels of a session see. Each session has its own, so that all may have the same addresses.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 0);
/// Bits that all addresses have in common.
pub(super) const PREFIX: u8 = 16;
/// How many kernels have a place in it.
const PLACES: usize = 65_000;
/// How long the holder may take to begin, or to lay a cable.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The network of a session. It ends when it is dropped.
pub(crate) struct SharedNetwork {
    /// The user namespace in which the kernels' are made.
    users: OwnedFd,
    socket: Mutex<AsyncFd<OwnedFd>>,
    next: AtomicU64,
    broken: AtomicBool,
    _holder: Child,
}

/// A kernel's place in a network.
pub(crate) struct Seat {
    pub(crate) network: Arc<SharedNetwork>,
    pub(crate) address: Ipv4Addr,
    /// Name and address of each kernel of the session, its own included.
    pub(crate) names: Vec<(String, String)>,
}

/// The address of the session's kernel of that number, from 0.
pub(crate) fn address(number: usize) -> Option<Ipv4Addr> {
    let number = u32::try_from(number).ok().filter(|_| number < PLACES)?;
    Some(Ipv4Addr::from_bits(FIRST.to_bits() + number + 1))
}

impl SharedNetwork {
    /// Makes a network whose kernels have that user. `privileged`: the agent is root.
    pub(super) async fn start(program: &Path, outside: Outside, privileged: bool) -> Result<Self, String> {
        let (holder, pid, socket) = converse(program, init::NETWORK)?;
        let fail = |error: std::io::Error| format!("the session's network can't be made: {error}");
        let begin = async {
            let users = expect(&socket, &Word::Unshared).await?.into_iter().next().ok_or("no namespace came")?;
            outside.write_maps(pid, WORKER, privileged).map_err(fail)?;
            send(&socket, &Order::Mapped, &[]).await.map_err(fail)?;
            expect(&socket, &Word::Ready).await?;
            Ok(users)
        };
        let begun = tokio::time::timeout(TIMEOUT, begin).await;
        let users = begun.unwrap_or_else(|_| Err(format!("the session's network isn't there after {TIMEOUT:?}")))?;
        let (next, broken) = (AtomicU64::new(1), AtomicBool::default());
        Ok(Self { users, socket: Mutex::new(socket), next, broken, _holder: holder })
    }

    pub(super) fn users(&self) -> &OwnedFd {
        &self.users
    }

    /// Whether it can take no more kernels.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Lays a cable to the network namespace of a kernel, where it ends in [`INTERFACE`].
    pub(super) async fn attach(&self, kernel: &OwnedFd) -> Result<(), String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let socket = self.socket.lock().await;
        let attach = async {
            send(&socket, &Order::Attach { id }, &[kernel.as_fd()]).await.map_err(|error| error.to_string())?;
            loop {
                match receive(&socket).await {
                    Ok(Some((Word::Attached { id: other, error }, _))) if other == id => return Ok(error),
                    // Somebody who didn't wait for it was answered.
                    Ok(Some((Word::Attached { .. }, _))) => {}
                    Ok(Some((word, _))) => return Err(format!("it says {word:?}")),
                    Ok(None) => return Err("its process ended".into()),
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, attach).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(message))) => Err(format!("the session's network: {message}")),
            Ok(Err(message)) => {
                self.broken.store(true, Ordering::Relaxed);
                Err(format!("the session's network: {message}"))
            }
            Err(_) => {
                self.broken.store(true, Ordering::Relaxed);
                Err(format!("the session's network doesn't answer within {TIMEOUT:?}"))
            }
        }
    }
}

/// The whole life of the process that holds a session's network, until the agent lets go of it.
pub(super) fn hold(agent: &OwnedFd) -> ExitCode {
    match serve(agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => init::fail(agent, message),
    }
}

fn serve(agent: &OwnedFd) -> Outcome<()> {
    prctl::set_no_new_privs().map_err(at("no new privileges"))?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(at("new namespaces"))?;
    let users = File::open("/proc/self/ns/user").map_err(at("the user namespace"))?;
    wire::send(agent, &Word::Unshared, &[users.as_fd()]).map_err(at("speaking to the agent"))?;
    drop(users);
    match wire::receive::<Order>(agent) {
        Ok(Some((Order::Mapped, _))) => {}
        _ => return Err("the agent gave no users".into()),
    }
    let mut netlink = Netlink::open().map_err(at("the network's protocol"))?;
    netlink.add_bridge(BRIDGE).map_err(at("a bridge between kernels"))?;
    let bridge = if_nametoindex(BRIDGE).map_err(at("the bridge"))?;
    wire::send(agent, &Word::Ready, &[]).map_err(at("speaking to the agent"))?;
    while let Some((order, fds)) = wire::receive::<Order>(agent).map_err(at("hearing the agent"))? {
        let Order::Attach { id } = order else { continue };
        let laid = match fds.first() {
            Some(kernel) => netlink
                .add_pair(&format!("kernel{id}"), bridge, INTERFACE, kernel.as_fd())
                .map_err(at("a cable to a kernel")),
            None => Err("no kernel was named".into()),
        };
        let word = Word::Attached { id, error: laid.err() };
        wire::send(agent, &word, &[]).map_err(at("speaking to the agent"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_has_an_address() {
        assert_eq!(address(0), Some(Ipv4Addr::new(10, 83, 0, 1)));
        assert_eq!(address(255), Some(Ipv4Addr::new(10, 83, 1, 0)));
        assert_eq!(address(PLACES), None);
    }
}
