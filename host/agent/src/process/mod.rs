//! The runtime `process`: a kernel is a process tree in a work directory of its own.
//!
//! Where the node allows it, each kernel has a sandbox (`crate::sandbox`): namespaces of its own and nothing of the
//! agent's in sight. Elsewhere kernels are kept apart as far as an ordinary user can: own directory, own session and process
//! groups, limits, an environment of their own; they run as the agent's user and see the node's files and network. Either
//! way their `runtime_info` says so.

pub(crate) mod cgroup;
mod cluster;
pub(crate) mod contained;
pub(crate) mod container;
pub(crate) mod files;
pub(crate) mod interpreters;
mod kernel;
pub mod log;
mod measure;
mod processors;
mod procfs;
mod pump;
mod repl;
mod resumable;
mod runs;
pub(crate) mod services;
pub(crate) mod spawn;
pub(crate) mod stats;
mod terminal;
mod workdir;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tonic::async_trait;

use self::cgroup::{ControlGroups, Limits};
use self::container::Containers;
use self::interpreters::Interpreters;
use self::kernel::{Command, Handle};
use self::processors::Processors;
use self::procfs::Scanner;
use self::resumable::Resumable;
use self::services::PortRange;
use self::workdir::Home;
use crate::error::{Error, Failure};
use crate::options::{count_slot, memory_slot};
use crate::reporter::Reporter;
use crate::runtime::{Attachment, Runtime, SessionSpec, Statistics};
use crate::sandbox::{Isolation, Network};
use crate::user_files::UserFiles;

/// The runtime `process` of one agent.
pub struct ProcessRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    home: Home,
    scanner: Mutex<Scanner>,
    interpreters: Interpreters,
    reporter: Arc<Reporter>,
    kernel_host: String,
    kernels: Mutex<HashMap<String, Arc<Handle>>>,
    node: Mutex<stats::Node>,
    /// How kernels are kept apart, or why they aren't.
    isolation: Result<Isolation, String>,
    /// Limits that the system keeps, or why it doesn't.
    groups: Result<ControlGroups, String>,
    processors: Processors,
    ports: PortRange,
    /// What makes kernels' containers, when they have some.
    containers: Option<Arc<dyn Containers>>,
}

/// What an operator decides about the runtime `process`.
#[derive(Clone, Debug, Default)]
pub struct ProcessOptions {
    /// Whether kernels are kept apart.
    pub isolation: IsolationMode,
    /// Their network.
    pub network: Network,
    /// Kernels' system calls aren't filtered: to find out whether the filter is in the way of something.
    pub all_system_calls: bool,
    /// Directories that kernels may read besides the system's and their interpreter's.
    pub exposed: Vec<PathBuf>,
    /// Who kernels are on the node, when the agent is root.
    pub kernel_user: Option<u32>,
    /// The program that becomes the first process of a sandbox; none = this one.
    pub sandbox_program: Option<PathBuf>,
    /// Where service ports are offered on the node; none = on its loopback.
    pub service_address: Option<IpAddr>,
    /// From which ports; none = 30000 to 32767.
    pub service_ports: Option<(u16, u16)>,
}

/// Whether kernels are kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IsolationMode {
    /// Where the node allows it.
    #[default]
    Auto,
    /// Or the agent doesn't start.
    Required,
    /// No.
    None,
}

/// Who kernels are on the node, when the agent is root and nobody said otherwise: beyond what systems give to people,
/// services and containers.
pub const KERNEL_USER: u32 = 1_900_000_000;

impl ProcessRuntime {
    /// Opens the agent's directory, ends and reports what an earlier start left there, looks for interpreters and for what
    /// the node offers to keep kernels apart.
    pub async fn open(
        home: PathBuf,
        reporter: Arc<Reporter>,
        kernel_host: String,
        options: ProcessOptions,
    ) -> Result<Self, Error> {
        // What runs in the background of a script ignores interrupts, and whatever it starts would too: users couldn't
        // interrupt their code. A signal that is caught here starts anew in each program.
        if let Err(error) = signal(SignalKind::interrupt()) {
            tracing::warn!(%error, "kernels may not be interruptible");
        }
        let opened = tokio::task::spawn_blocking(move || {
            let home = Home::open(home)?;
            let leftovers = home.sweep();
            Ok::<_, Error>((home, leftovers))
        });
        let (home, leftovers) = opened.await.map_err(|panic| Error::Option(panic.to_string()))??;
        for left in leftovers {
            tracing::warn!(kernel = left.kernel_id, reason = left.end.reason, "a kernel of an earlier start ended");
            reporter.ended(&left.session_id, &left.kernel_id, left.end, Some(left.remains));
        }
        let interpreters = Interpreters::find().await;
        let isolation = isolation(&home, &options).await?;
        let groups = ControlGroups::find(home.root());
        match &groups {
            Ok(groups) => tracing::info!(controllers = ?groups.controllers(), "kernels have control groups"),
            Err(reason) => {
                tracing::info!(reason, "kernels have no control groups: they are measured by their processes")
            }
        }
        let ports = PortRange::new(options.service_address, options.service_ports);
        let inner = Arc::new(Inner {
            scanner: home.scanner(),
            home,
            interpreters,
            reporter,
            kernel_host,
            kernels: Mutex::default(),
            node: Mutex::default(),
            isolation,
            groups,
            processors: Processors::find(),
            ports,
            containers: None,
        });
        tokio::spawn(measure::watch(Arc::downgrade(&inner)));
        tokio::spawn(measure::weigh(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// As [`ProcessRuntime::open`], for kernels whose programs run in containers. Takes up those of an earlier start whose
    /// containers are among `living`, and has all other containers removed.
    pub(crate) async fn open_contained(
        home: PathBuf,
        reporter: Arc<Reporter>,
        kernel_host: String,
        options: &ProcessOptions,
        containers: Arc<dyn Containers>,
        living: Vec<String>,
    ) -> Result<Self, Error> {
        let opened = tokio::task::spawn_blocking(move || {
            let home = Home::open(home)?;
            let resumable = living.into_iter().filter_map(|id| Resumable::read(&home.kernel(&id))).collect::<Vec<_>>();
            let kept: Vec<String> = resumable.iter().map(|resumable| resumable.spec.kernel_id.clone()).collect();
            let leftovers = home.sweep_but(&kept);
            Ok::<_, Error>((home, leftovers, resumable))
        });
        let (home, leftovers, resumable) = opened.await.map_err(|panic| Error::Option(panic.to_string()))??;
        for left in leftovers {
            tracing::warn!(kernel = left.kernel_id, reason = left.end.reason, "a kernel of an earlier start ended");
            containers.release(&left.session_id, &left.kernel_id).await;
            reporter.ended(&left.session_id, &left.kernel_id, left.end, Some(left.remains));
        }
        let inner = Arc::new(Inner {
            scanner: home.scanner(),
            home,
            interpreters: Interpreters::default(),
            reporter,
            kernel_host,
            kernels: Mutex::default(),
            node: Mutex::default(),
            isolation: Err("kernels are in containers".into()),
            groups: Err("kernels are in containers".into()),
            processors: Processors::find(),
            ports: PortRange::new(options.service_address, options.service_ports),
            containers: Some(containers),
        });
        for resumable in resumable {
            let id = resumable.spec.kernel_id.clone();
            tracing::info!(kernel = id, "a kernel of an earlier start goes on");
            let handle = kernel::resume(inner.clone(), resumable);
            inner.kernels.lock().insert(id, handle);
        }
        tokio::spawn(contained::measure(Arc::downgrade(&inner)));
        tokio::spawn(measure::weigh(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    fn kernel(&self, kernel_id: &str) -> Result<Arc<Handle>, Failure> {
        self.inner.kernels.lock().get(kernel_id).cloned().ok_or_else(|| Failure::NotFound(kernel_id.to_owned()))
    }

    async fn ask<T>(
        &self,
        kernel_id: &str,
        command: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Command,
    ) -> Result<T, Failure> {
        let over = || Failure::Refused("the kernel is terminating".into());
        let (reply, answer) = oneshot::channel();
        self.kernel(kernel_id)?.commands.send(command(reply)).await.map_err(|_| over())?;
        answer.await.map_err(|_| over())?
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    fn runtime_types(&self) -> Vec<String> {
        self.inner.interpreters.types()
    }

    fn compute_plugins(&self) -> Value {
        let version = json!({"version": env!("CARGO_PKG_VERSION")});
        json!({"cpu": version.clone(), "mem": version})
    }

    fn slots(&self) -> Vec<pb::Slot> {
        vec![count_slot("cpu", stats::cores()), memory_slot(stats::memory())]
    }

    fn create(&self, session: Arc<SessionSpec>, kernel: pb::KernelSpec) {
        let mut kernels = self.inner.kernels.lock();
        if !kernels.contains_key(&kernel.kernel_id) {
            let id = kernel.kernel_id.clone();
            let handle = kernel::start(self.inner.clone(), session, kernel);
            kernels.insert(id, handle);
        }
    }

    fn destroy(&self, kernel_id: &str, reason: &str) -> bool {
        match self.kernel(kernel_id) {
            Ok(kernel) => {
                kernel.end(reason);
                true
            }
            Err(_) => {
                // One that was about to restart, perhaps.
                self.inner.home.discard(kernel_id);
                false
            }
        }
    }

    async fn execute(&self, request: pb::ExecuteRequest) -> Result<Value, Failure> {
        let kernel_id = request.kernel_id.clone();
        self.ask(&kernel_id, |reply| Command::Execute(request, reply)).await
    }

    async fn interrupt(&self, kernel_id: &str) -> Result<(), Failure> {
        self.ask(kernel_id, Command::Interrupt).await
    }

    async fn complete(&self, request: pb::CompleteRequest) -> Result<Value, Failure> {
        let kernel_id = request.kernel_id.clone();
        self.ask(&kernel_id, |reply| Command::Complete(request, reply)).await
    }

    fn files(&self, kernel_id: &str) -> Result<UserFiles, Failure> {
        self.kernel(kernel_id)?.files()
    }

    async fn terminal(&self, kernel_id: &str) -> Result<Attachment, Failure> {
        let kernel = self.kernel(kernel_id)?;
        let shell = self.inner.shell().ok_or_else(|| Failure::Refused("this node has no shell".into()))?;
        Ok(kernel.terminal(&shell).await?.attach())
    }

    async fn logs(&self, kernel_id: &str) -> Result<Vec<u8>, Failure> {
        let kernel = self.kernel(kernel_id)?;
        let read = tokio::task::spawn_blocking(move || kernel.log());
        read.await.map_err(|panic| Failure::Refused(panic.to_string()))
    }

    async fn start_service(&self, request: pb::StartServiceRequest) -> Result<pb::StartServiceResponse, Failure> {
        self.kernel(&request.kernel_id)?.services()?.start(&request).await
    }

    async fn shutdown_service(&self, kernel_id: &str, service: &str) -> Result<(), Failure> {
        self.kernel(kernel_id)?.services()?.shut_down(service).await;
        Ok(())
    }

    async fn connect_port(&self, kernel_id: &str, port: u16) -> Result<TcpStream, Failure> {
        let connected = self.kernel(kernel_id)?.services()?.connect(port).await;
        connected.map_err(|error| Failure::Refused(format!("port {port} of the kernel: {error}")))
    }

    fn kernels(&self) -> Vec<pb::KernelState> {
        let kernels = self.inner.kernels.lock();
        kernels
            .iter()
            .map(|(id, kernel)| pb::KernelState {
                kernel_id: id.clone(),
                session_id: kernel.session_id.clone(),
                state: kernel.state().into(),
            })
            .collect()
    }

    fn statistics(&self) -> Statistics {
        let kernels = self.inner.all();
        let running = kernels.iter().filter(|(_, kernel)| kernel.state() == "running");
        let kernels = running.map(|(id, kernel)| (id.clone(), kernel.usage.lock().to_json())).collect();
        let mut node = self.inner.node.lock();
        node.take();
        Statistics { node: Some(node.to_json()), kernels }
    }

    fn forget(&self, kernel_id: &str) {
        let mut kernels = self.inner.kernels.lock();
        if kernels.get(kernel_id).is_some_and(|kernel| kernel.has_ended()) {
            kernels.remove(kernel_id);
        }
    }

    async fn shutdown(&self, reason: &str) {
        let kernels: Vec<Arc<Handle>> = self.inner.kernels.lock().values().cloned().collect();
        for kernel in &kernels {
            kernel.end(reason);
        }
        for kernel in kernels {
            kernel.ended().await;
        }
        if let Ok(groups) = &self.inner.groups {
            groups.give_back();
        }
    }
}

impl Inner {
    /// The program of kernels' terminals, as they see it.
    fn shell(&self) -> Option<PathBuf> {
        match &self.containers {
            Some(containers) => Some(containers.shell()),
            None => self.interpreters.shell().map(Path::to_owned),
        }
    }

    fn all(&self) -> Vec<(String, Arc<Handle>)> {
        self.kernels.lock().iter().map(|(id, kernel)| (id.clone(), kernel.clone())).collect()
    }

    /// What keeps kernels apart here, for people.
    fn isolation_info(&self) -> Value {
        if let Some(containers) = &self.containers {
            return containers.info();
        }
        let limits = match &self.groups {
            Ok(groups) => json!({"control_groups": groups.controllers()}),
            Err(reason) => json!({
                "control_groups": [],
                "control_groups_missing": reason,
                // Kernels that need more than they may have are ended; the processor is shared out by numbers.
                "instead": ["memory (looked at twice a second, the kernel is ended when it has too much)",
                            "processors (as many as cores were asked for)"],
            }),
        };
        match &self.isolation {
            Ok(isolation) => json!({
                "isolated": ["user", "file system", "processes", "IPC", "host name"],
                "network": match isolation.network() {
                    Network::None => "its own, with a loopback only",
                    Network::Host => "the node's",
                },
                "cluster_network": match isolation.sharing() {
                    Ok(()) => "kernels of a session on this node share one that nobody else is on",
                    Err(reason) => reason,
                },
                "rights": "no capabilities, no new privileges, no user namespaces",
                "system_calls": match isolation.filter() {
                    Ok(()) => "filtered",
                    Err(reason) => reason,
                },
                "limits": limits,
            }),
            Err(reason) => json!({
                "isolated": ["work directory", "environment"],
                "missing": reason,
                // What leaves its group, session, environment, directory and parent behind between two looks isn't found.
                "measured_limits": "only processes that keep the kernel's process group, session, environment or directory, \
                    or stay with their parent for half a second",
                "shared": ["user", "file system", "network", "processes", "processor", "devices"],
                "limits": limits,
            }),
        }
    }
}

async fn isolation(home: &Home, options: &ProcessOptions) -> Result<Result<Isolation, String>, Error> {
    let found = match options.isolation {
        IsolationMode::None => Err("the operator wants none".to_owned()),
        _ => {
            let user = options.kernel_user.unwrap_or(KERNEL_USER);
            let (program, exposed) = (options.sandbox_program.clone(), options.exposed.clone());
            let filtered = !options.all_system_calls;
            Isolation::find(program, home.root(), options.network, exposed, user, filtered).await
        }
    };
    match &found {
        Ok(isolation) => {
            tracing::info!(user = isolation.outside().uid, "kernels are isolated by namespaces");
            if let Err(reason) = isolation.filter() {
                tracing::warn!(reason, "KERNELS MAY MAKE ANY SYSTEM CALL");
            }
            if let Err(reason) = isolation.sharing() {
                tracing::warn!(reason, "kernels of a session don't reach each other");
            }
        }
        Err(reason) if options.isolation == IsolationMode::Required => {
            return Err(Error::Option(format!(
                "kernels can't be isolated here: {reason} (see `quarterdeck agent doctor`)"
            )));
        }
        Err(reason) => tracing::warn!(
            reason,
            "KERNELS ARE NOT ISOLATED: they run as this agent's own user (see `quarterdeck agent doctor`)"
        ),
    }
    Ok(found)
}

/// What a kernel may use, as its control group has it.
fn limits(usage: &stats::Usage) -> Limits {
    Limits {
        millicores: (usage.cores() * 1000.0) as u64,
        memory: usage.memory_limit(),
        processes: crate::sandbox::PROCESSES,
    }
}
