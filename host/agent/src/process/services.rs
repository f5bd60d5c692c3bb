//! What a kernel offers on its ports: programs that the agent starts there on demand, and ways to reach them.
//!
//! A kernel with a network of its own keeps the ports that its image names; one that shares the node's gets others, as
//! several may want the same. Both are offered on ports of the node, too, at an address that the operator chooses.

mod programs;
mod web_terminal;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use quarterdeck_model::image;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::container::SERVICE;
use super::interpreters::Interpreter;
use super::log::KernelLog;
use super::spawn::{Io, Job, Launcher, Proc, words};
use crate::error::Failure;
use crate::runtime::Attachment;

pub(super) use self::programs::Keys;
pub(crate) use self::programs::finds;

/// Where service ports are offered on the node, when the operator doesn't say.
const RANGE: (u16, u16) = (30_000, 32_767);
/// How long a service may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(45);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a service has to end when asked to.
const GRACE: Duration = Duration::from_secs(2);
/// Connections from the node to one kernel at a time.
const CONNECTIONS: usize = 256;
/// How much of what a failed service printed is told.
const TOLD: usize = 2000;

/// Ports of the node for services.
pub(super) struct PortRange {
    address: IpAddr,
    first: u16,
    last: u16,
    next: Mutex<u16>,
}

impl PortRange {
    pub(super) fn new(address: Option<IpAddr>, range: Option<(u16, u16)>) -> Self {
        let (first, last) = range.filter(|(first, last)| first <= last).unwrap_or(RANGE);
        // Agents that share a node begin at different places.
        let start = first + (rand::random::<u16>() % (last - first + 1));
        Self { address: address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), first, last, next: Mutex::new(start) }
    }

    /// Takes that port, or another when it isn't free.
    async fn take_again(&self, port: u16) -> io::Result<TcpListener> {
        match TcpListener::bind(SocketAddr::new(self.address, port)).await {
            Ok(listener) => Ok(listener),
            Err(_) => self.take().await,
        }
    }

    /// Takes a free port.
    async fn take(&self) -> io::Result<TcpListener> {
        for _ in self.first..=self.last {
            let port = {
                let mut next = self.next.lock();
                let port = *next;
                *next = if port >= self.last { self.first } else { port + 1 };
                port
            };
            match TcpListener::bind(SocketAddr::new(self.address, port)).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                outcome => return outcome,
            }
        }
        Err(io::Error::other(format!("no port between {} and {} is free", self.first, self.last)))
    }
}

/// A service port of a kernel.
#[derive(Debug)]
struct Port {
    name: String,
    protocol: String,
    /// As the image has it.
    container: Vec<u16>,
    /// Where it is offered on the node.
    host: Vec<u16>,
    /// Where the program listens.
    real: Vec<u16>,
}

/// What the services of a kernel need of it.
pub(super) struct Ground {
    pub(super) launcher: Arc<Launcher>,
    pub(super) log: Arc<KernelLog>,
    pub(super) interpreter: Interpreter,
    /// The kernel's directory.
    pub(super) dir: PathBuf,
    /// The image's labels.
    pub(super) labels: HashMap<String, String>,
    pub(super) own_network: bool,
    /// Its address in the network of its session, when it is on one.
    pub(super) address: Option<Ipv4Addr>,
    /// Attaches to the kernel's terminal.
    pub(super) terminal: Attach,
}

/// Attaches to a kernel's terminal, which is opened when there is none.
pub(super) type Attach = Arc<dyn Fn() -> BoxFuture<'static, Result<Attachment, Failure>> + Send + Sync>;

/// The services of one kernel.
pub(super) struct Services {
    ground: Ground,
    ports: Vec<Port>,
    /// Each service of them.
    slots: HashMap<String, Slot>,
    closed: CancellationToken,
}

/// Where a service runs, or doesn't. Each has its own: one that takes its time keeps no other waiting.
#[derive(Default)]
struct Slot {
    /// Held by whoever starts it.
    turn: tokio::sync::Mutex<()>,
    running: Mutex<Option<Running>>,
}

struct Running {
    what: What,
    ended: watch::Receiver<Option<i32>>,
}

/// What a service is made of.
enum What {
    /// A program of the kernel.
    Program(Job),
    /// A part of this agent, until it is told to stop.
    Own(CancellationToken),
}

impl What {
    fn signal(&self, signal: Signal) {
        match self {
            Self::Program(job) => job.signal(signal),
            Self::Own(stop) => stop.cancel(),
        }
    }
}

/// Reaches ports of a kernel.
#[derive(Clone)]
struct Reach {
    launcher: Arc<Launcher>,
    own_network: bool,
}

impl Reach {
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        if let Some(container) = self.launcher.container().filter(|_| self.own_network) {
            return timeout(CONNECT_TIMEOUT, container.connect(port)).await.map_err(io::Error::from)?;
        }
        let sandbox = self.launcher.sandbox().filter(|_| self.own_network);
        let Some(sandbox) = sandbox else { return TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await };
        let connection = TcpStream::from_std(std::net::TcpStream::from(sandbox.connect(port).await?))?;
        timeout(CONNECT_TIMEOUT, connection.writable()).await.map_err(io::Error::from)??;
        match connection.take_error()? {
            Some(error) => Err(error),
            None => Ok(connection),
        }
    }
}

impl Services {
    /// Gives a kernel its ports. What an image says wrongly of its ports was refused before.
    /// `again` are its ports as they were before the agent was started anew: they are the same where they are free.
    pub(super) async fn open(
        ground: Ground,
        preopen: &[u32],
        range: &PortRange,
        again: Option<&Value>,
    ) -> io::Result<Arc<Self>> {
        let label = ground.labels.get("ai.backend.service-ports").map_or("", String::as_str);
        let mut wanted: Vec<(String, String, Vec<u16>)> =
            vec![("sshd".into(), "tcp".into(), vec![2200]), ("ttyd".into(), "http".into(), vec![7681])];
        for service in image::service_ports(label).unwrap_or_default() {
            wanted.push((service.name, service.protocol, service.ports));
        }
        for port in preopen.iter().filter_map(|port| u16::try_from(*port).ok()) {
            if !wanted.iter().any(|(_, _, ports)| ports.contains(&port)) {
                wanted.push((port.to_string(), "preopen".into(), vec![port]));
            }
        }
        let closed = CancellationToken::new();
        // What is offered already is taken back when not all can be.
        let unfinished = closed.clone().drop_guard();
        let reach = Reach { launcher: ground.launcher.clone(), own_network: ground.own_network };
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        let mut ports = Vec::new();
        for (name, protocol, container) in wanted {
            let (mut host, mut real) = (Vec::new(), Vec::new());
            for port in &container {
                // Whoever opens a port himself on the node's network does so at its own number.
                if !ground.own_network && protocol == "preopen" {
                    host.push(*port);
                    real.push(*port);
                    continue;
                }
                let listener = match before(again, &name, host.len()) {
                    Some(number) if ground.own_network => range.take_again(number).await?,
                    // The program itself listens there.
                    Some(number) => {
                        host.push(number);
                        real.push(number);
                        continue;
                    }
                    None => range.take().await?,
                };
                let number = listener.local_addr()?.port();
                host.push(number);
                if ground.own_network {
                    real.push(*port);
                    tokio::spawn(offer(listener, reach.clone(), *port, turns.clone(), closed.clone()));
                } else {
                    // The program itself will listen there.
                    real.push(number);
                }
            }
            ports.push(Port { name, protocol, container, host, real });
        }
        unfinished.disarm();
        let slots = ports.iter().map(|port| (port.name.clone(), Slot::default())).collect();
        Ok(Arc::new(Self { ground, ports, slots, closed }))
    }

    /// The ports as reports have them.
    pub(super) fn report(&self) -> Value {
        let ports = self.ports.iter().map(|port| {
            json!({
                "name": port.name,
                "protocol": port.protocol,
                "container_ports": port.container,
                "host_ports": port.host,
                "is_inference": false,
            })
        });
        ports.collect()
    }

    fn reach(&self) -> Reach {
        Reach { launcher: self.ground.launcher.clone(), own_network: self.ground.own_network }
    }

    /// A connection to a port, by the number that the image gives it.
    pub(super) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let known = self.ports.iter().find_map(|known| {
            let index = known.container.iter().position(|number| *number == port)?;
            known.real.get(index).copied()
        });
        match known {
            Some(real) => self.reach().connect(real).await,
            None if self.ground.own_network => self.reach().connect(port).await,
            // On the node's network other numbers are other people's.
            None => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "it isn't one of the kernel's ports")),
        }
    }

    /// Starts a service, when it doesn't run, and waits until it listens.
    pub(super) async fn start(&self, request: &pb::StartServiceRequest) -> Result<pb::StartServiceResponse, Failure> {
        let answer = |status: &str, error: String| pb::StartServiceResponse { status: status.into(), error };
        let Some(port) = self.ports.iter().find(|port| port.name == request.service) else {
            return Ok(answer("failed", format!("the kernel has no service {:?}", request.service)));
        };
        let Some(real) = port.real.first().copied() else { return Ok(answer("failed", "it has no port".into())) };
        if port.protocol == "preopen" {
            // The user's own program listens there, or will.
            return Ok(answer("started", String::new()));
        }
        let Some(slot) = self.slots.get(&port.name) else { return Ok(answer("failed", "it has no place".into())) };
        let _turn = slot.turn.lock().await;
        let runs = slot.running.lock().as_ref().is_some_and(|service| service.ended.borrow().is_none());
        if runs || self.reach().connect(real).await.is_ok() {
            return Ok(answer("running", String::new()));
        }
        if self.is_web_terminal(&port.name) {
            return Ok(match self.serve_terminal(real).await {
                Ok(running) => {
                    *slot.running.lock() = Some(running);
                    answer("started", String::new())
                }
                Err(error) => answer("failed", format!("the web terminal can't listen: {error}")),
            });
        }
        let program = match self.program(&port.name, real, request).await {
            Ok(program) => program,
            Err(message) => return Ok(answer("failed", message)),
        };
        let spawned = self.ground.launcher.spawn_with(&words(&program.command), &program.env, false, None).await;
        let proc = match spawned {
            Ok(proc) => proc,
            Err(error) => {
                let name = program.command.first().map(|word| word.to_string_lossy().into_owned());
                return Ok(answer("failed", format!("{} can't be started: {error}", name.unwrap_or_default())));
            }
        };
        let (tell, ended) = watch::channel(None);
        let job = proc.job.clone();
        self.ground.launcher.remember(&job, &format!("{SERVICE}{}", port.name));
        let printed = Arc::new(Mutex::new(String::new()));
        tokio::spawn(follow(proc.io, self.ground.log.clone(), printed.clone(), tell));
        *slot.running.lock() = Some(Running { what: What::Program(job.clone()), ended: ended.clone() });
        let begun = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            if self.reach().connect(real).await.is_ok() {
                return Ok(answer("started", String::new()));
            }
            let exit = *ended.borrow();
            if let Some(code) = exit {
                slot.running.lock().take();
                let said = printed.lock().trim().to_owned();
                return Ok(answer("failed", format!("{} ended with exit code {code}: {said}", port.name)));
            }
            if begun.elapsed() > START_TIMEOUT {
                job.signal(Signal::SIGKILL);
                slot.running.lock().take();
                return Ok(answer("failed", format!("{} doesn't listen after {START_TIMEOUT:?}", port.name)));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    /// Takes up a service that an earlier start of the agent began.
    pub(super) async fn take_up(&self, name: String, proc: Proc) {
        let (tell, ended) = watch::channel(None);
        let job = proc.job.clone();
        if let Some(slot) = self.slots.get(&name) {
            *slot.running.lock() = Some(Running { what: What::Program(job), ended });
        }
        follow(proc.io, self.ground.log.clone(), Arc::default(), tell).await;
    }

    /// Ends a service, if it runs; also one that is just being started.
    pub(super) async fn shut_down(&self, name: &str) {
        let running = self.slots.get(name).and_then(|slot| slot.running.lock().take());
        let Some(mut service) = running else { return };
        service.what.signal(Signal::SIGTERM);
        let over = timeout(GRACE, service.ended.wait_for(Option::is_some)).await;
        if over.is_err() {
            service.what.signal(Signal::SIGKILL);
        }
    }

    /// The kernel ends: its ports are given back.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }
}

/// The port of the node that a service had, by its place among the service's ports.
fn before(again: Option<&Value>, name: &str, index: usize) -> Option<u16> {
    let port = again?.as_array()?.iter().find(|port| port["name"] == name)?;
    u16::try_from(port["host_ports"].get(index)?.as_u64()?).ok()
}

/// Carries connections from a port of the node to one of the kernel.
async fn offer(listener: TcpListener, reach: Reach, port: u16, turns: Arc<Semaphore>, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
        };
        let Ok((mut caller, _)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(turn) = turns.clone().try_acquire_owned() else { continue };
        let (reach, closed) = (reach.clone(), closed.clone());
        tokio::spawn(async move {
            let _turn = turn;
            let carry = async {
                let mut kernel = reach.connect(port).await?;
                tokio::io::copy_bidirectional(&mut caller, &mut kernel).await
            };
            tokio::select! {
                _ = carry => {}
                () = closed.cancelled() => {}
            }
        });
    }
}

/// Writes what a service prints to the kernel's log, and notes its end.
async fn follow(
    mut io: tokio::sync::mpsc::Receiver<Io>,
    log: Arc<KernelLog>,
    printed: Arc<Mutex<String>>,
    tell: watch::Sender<Option<i32>>,
) {
    while let Some(word) = io.recv().await {
        match word {
            Io::Output(_, bytes) => {
                log.append(&bytes);
                let mut printed = printed.lock();
                if printed.len() < TOLD {
                    printed.push_str(&String::from_utf8_lossy(&bytes));
                }
            }
            Io::Event(_) => {}
            Io::Exited(code) => drop(tell.send(Some(code))),
        }
    }
}
