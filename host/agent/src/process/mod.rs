//! The runtime `process`: a kernel is a process tree in a work directory of its own.
//!
//! Where the node allows it, each kernel has a sandbox (`crate::sandbox`): namespaces of its own and nothing of the
//! agent's in sight. Elsewhere kernels are kept apart as far as an ordinary user can: own directory, own session and process
//! groups, limits, an environment of their own; they run as the agent's user and see the node's files and network. Either
//! way their `runtime_info` says so.

pub(crate) mod cgroup;
mod cluster;
pub(crate) mod files;
pub(crate) mod interpreters;
mod kernel;
pub mod log;
mod processors;
mod procfs;
mod pump;
mod repl;
mod runs;
pub(crate) mod services;
mod spawn;
mod stats;
mod terminal;
mod workdir;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tonic::async_trait;

use self::cgroup::{ControlGroups, Limits};
use self::interpreters::Interpreters;
use self::kernel::{Command, Handle};
use self::processors::Processors;
use self::procfs::{Process, Scanner, belongs, programs};
use self::services::PortRange;
use self::workdir::Home;
use crate::error::{Error, Failure};
use crate::options::{count_slot, memory_slot};
use crate::reporter::Reporter;
use crate::runtime::{Attachment, Runtime, SessionSpec, Statistics};
use crate::sandbox::{Isolation, Network};
use crate::user_files::UserFiles;

/// How often kernels are measured (and their memory limit looked after).
const MEASURE: Duration = Duration::from_millis(500);

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
}

/// What an operator decides about the runtime `process`.
#[derive(Clone, Debug, Default)]
pub struct ProcessOptions {
    /// Whether kernels are kept apart.
    pub isolation: IsolationMode,
    /// Their network.
    pub network: Network,
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
        let groups = match home.name() {
            Some(name) => ControlGroups::find(name),
            None => Err("the agent has no name".into()),
        };
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
        });
        tokio::spawn(measure(Arc::downgrade(&inner)));
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
        let shell = self.inner.interpreters.shell().ok_or_else(|| Failure::Refused("this node has no shell".into()))?;
        Ok(kernel.terminal(shell).await?.attach())
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
        let kernels = self.inner.kernels.lock();
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
    }
}

impl Inner {
    /// What keeps kernels apart here, for people.
    fn isolation_info(&self) -> Value {
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
                "rights": "no capabilities, no new privileges, no user namespaces",
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
            Isolation::find(program, home.root(), options.network, exposed, user).await
        }
    };
    match &found {
        Ok(isolation) => tracing::info!(user = isolation.outside().uid, "kernels are isolated by namespaces"),
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

/// How many looks pass between two sums of a kernel's files.
const SCRATCH_EVERY: u64 = 30;
/// How many files such a sum looks at.
const SCRATCH_FILES: usize = 200_000;

/// Measures all kernels of a runtime for as long as it exists.
async fn measure(runtime: Weak<Inner>) {
    let mut turn = 0_u64;
    loop {
        tokio::time::sleep(MEASURE).await;
        let Some(inner) = runtime.upgrade() else { return };
        let kernels: Vec<(String, Arc<Handle>)> =
            inner.kernels.lock().iter().map(|(id, kernel)| (id.clone(), kernel.clone())).collect();
        if kernels.is_empty() {
            continue;
        }
        turn += 1;
        let look = move || {
            // Groups that start after this are not in what is seen.
            let groups: Vec<_> = kernels.iter().map(|(_, kernel)| kernel.groups()).collect();
            let seen = inner.scanner.lock().scan();
            for ((id, kernel), groups) in kernels.into_iter().zip(groups) {
                let (groups, over): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.lives(&seen));
                kernel.forget_groups(&over);
                let root = kernel.any_launcher().and_then(|launcher| launcher.sandbox().map(|sandbox| sandbox.pid()));
                let belongs =
                    |(process, mark): &&(Process, Option<String>)| belongs(process, mark.as_deref(), &id, &groups);
                let members: Vec<&Process> = match root {
                    Some(root) => programs(root, &seen),
                    None => seen.iter().filter(belongs).map(|(process, _)| process).collect(),
                };
                measure_one(&inner, &kernel, &members, root);
                if turn % SCRATCH_EVERY == 1 {
                    let dir = inner.home.kernel(&id);
                    let size = stats::size_of(&dir.join("work"), SCRATCH_FILES)
                        + stats::size_of(&dir.join("tmp"), SCRATCH_FILES);
                    kernel.usage.lock().note_scratch(size);
                }
            }
        };
        if tokio::task::spawn_blocking(look).await.is_err() {
            return;
        }
    }
}

/// Measures one kernel, and ends it when it has more memory than it may.
fn measure_one(inner: &Inner, kernel: &Handle, members: &[&Process], root: Option<i32>) {
    let has_network = inner.isolation.as_ref().is_ok_and(|isolation| isolation.network() == Network::None);
    let net = root.filter(|_| has_network).and_then(stats::network_of);
    let mut usage = kernel.usage.lock();
    let mut sample = usage.sample(members, net);
    let Some(group) = kernel.control_group() else {
        usage.take(sample);
        let excess = usage.excess(members);
        drop(usage);
        if let Some(used) = excess {
            kernel.out_of_memory(used);
        }
        return;
    };
    let used = group.used();
    sample.cpu_ms = used.cpu_ms.unwrap_or(sample.cpu_ms);
    sample.memory = used.memory.unwrap_or(sample.memory);
    sample.memory_most = used.memory_most;
    sample.io = used.io.unwrap_or(sample.io);
    usage.take(sample);
    let limited = inner.groups.as_ref().is_ok_and(|groups| groups.has("memory"));
    let excess = if limited { None } else { usage.excess(members) };
    let limit = usage.memory_limit();
    drop(usage);
    if used.out_of_memory > 0 {
        kernel.out_of_memory(limit);
    } else if let Some(used) = excess {
        kernel.out_of_memory(used);
    }
}

/// What a kernel may use, as its control group has it.
fn limits(usage: &stats::Usage) -> Limits {
    Limits {
        millicores: (usage.cores() * 1000.0) as u64,
        memory: usage.memory_limit(),
        processes: crate::sandbox::PROCESSES,
    }
}
