//! Ways into a container: its ports.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpStream};

const TIMEOUT: Duration = Duration::from_secs(5);

/// How the ports of a container are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// On its own loopback, through the network of this process.
    Namespace(i32),
    /// At its address.
    Address(IpAddr),
    /// Not at all, and why.
    Nowhere(String),
}

impl Reach {
    /// How the ports of a container that runs are reached.
    pub(super) fn find(about: &ContainerInspectResponse) -> Self {
        let id = about.id.as_deref().unwrap_or_default();
        let pid = about.state.as_ref().and_then(|state| state.pid).and_then(|pid| i32::try_from(pid).ok());
        if nix::unistd::geteuid().is_root()
            && let Some(pid) = pid.filter(|pid| *pid > 1 && is_in(*pid, id))
        {
            return Self::Namespace(pid);
        }
        let networks = about.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let address = networks
            .into_iter()
            .flat_map(|networks| networks.values())
            .find_map(|network| network.ip_address.as_deref()?.parse().ok());
        match address {
            Some(address) => Self::Address(address),
            None => Self::Nowhere("the container has no address, and only root enters its network".into()),
        }
    }

    /// Where services have to listen.
    pub(super) fn service_address(&self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Namespace(_) => Ipv4Addr::LOCALHOST,
            Self::Address(_) | Self::Nowhere(_) => Ipv4Addr::UNSPECIFIED,
        })
    }

    pub(super) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        match self {
            Self::Namespace(pid) => {
                let pid = *pid;
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let connect = move || std::net::TcpStream::connect_timeout(&address, TIMEOUT);
                let connected = tokio::task::spawn_blocking(move || inside(pid, connect));
                let stream = connected.await.map_err(io::Error::other)??;
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            }
            Self::Address(address) => {
                tokio::time::timeout(TIMEOUT, TcpStream::connect((*address, port))).await.map_err(io::Error::from)?
            }
            Self::Nowhere(reason) => Err(io::Error::other(reason.clone())),
        }
    }

    pub(super) async fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let Self::Namespace(pid) = *self else {
            return Err(io::Error::other("only an agent that is root listens in a container"));
        };
        let listen = move || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listening = tokio::task::spawn_blocking(move || inside(pid, listen));
        let listener = listening.await.map_err(io::Error::other)??;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }
}

/// Whether a process is in that container: numbers of an engine elsewhere would mean others here.
fn is_in(pid: i32, container: &str) -> bool {
    !container.is_empty()
        && std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(container))
}

/// Makes a socket in another network. The thread that enters it ends with that: it never does anything else there.
fn inside<T: Send + 'static>(pid: i32, make: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let network = File::open(format!("/proc/{pid}/ns/net"))?;
    let enter = move || {
        setns(network, CloneFlags::CLONE_NEWNET)?;
        make()
    };
    let thread = std::thread::Builder::new().name("container-port".into()).spawn(enter)?;
    thread.join().map_err(|_| io::Error::other("the thread failed"))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_of_another_node_is_reached_by_its_address() {
        let about: ContainerInspectResponse = serde_json::from_value(json!({
            "Id": "0123456789abcdef",
            "State": {"Pid": std::process::id()},
            "NetworkSettings": {"Networks": {"n": {"IPAddress": "172.18.0.2"}}},
        }))
        .unwrap();
        let reach = Reach::find(&about);
        assert_eq!(reach, Reach::Address("172.18.0.2".parse().unwrap()));
        assert_eq!(reach.service_address().to_string(), "0.0.0.0");
        let about: ContainerInspectResponse = serde_json::from_value(json!({"Id": "0123456789abcdef"})).unwrap();
        assert!(matches!(Reach::find(&about), Reach::Nowhere(_)));
    }
}
