//! The runtime `process`: a kernel is a process tree in a work directory of its own.
//!
//! It keeps kernels apart from each other as far as an ordinary user can: own directory, own session and process
//! groups, limits, an environment of their own. It is no sandbox: kernels run as the agent's user, see the node's files
//! and network, and say so in their `runtime_info`.

mod cluster;
pub(crate) mod files;
mod interpreters;
mod kernel;
pub mod log;
mod procfs;
mod repl;
mod runs;
mod spawn;
mod stats;
mod terminal;
mod workdir;

use std::collections::HashMap;
use std::net::Ipv4Addr;
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

use self::interpreters::Interpreters;
use self::kernel::{Command, Handle};
use self::procfs::{Process, Scanner, belongs};
use self::workdir::Home;
use crate::error::{Error, Failure};
use crate::options::{count_slot, memory_slot};
use crate::reporter::Reporter;
use crate::runtime::{Attachment, Runtime, SessionSpec, Statistics};
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
}

impl ProcessRuntime {
    /// Opens the agent's directory, ends and reports what an earlier start left there, looks for interpreters.
    pub async fn open(home: PathBuf, reporter: Arc<Reporter>, kernel_host: String) -> Result<Self, Error> {
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
        let (kernels, node) = (Mutex::default(), Mutex::default());
        let inner =
            Arc::new(Inner { scanner: home.scanner(), home, interpreters, reporter, kernel_host, kernels, node });
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
        Ok(kernel.terminal(shell)?.attach())
    }

    async fn logs(&self, kernel_id: &str) -> Result<Vec<u8>, Failure> {
        let kernel = self.kernel(kernel_id)?;
        let read = tokio::task::spawn_blocking(move || kernel.log());
        read.await.map_err(|panic| Failure::Refused(panic.to_string()))
    }

    async fn start_service(&self, request: pb::StartServiceRequest) -> Result<pb::StartServiceResponse, Failure> {
        self.kernel(&request.kernel_id)?;
        let error = format!("no service {:?} can be started here", request.service);
        Ok(pb::StartServiceResponse { status: "failed".into(), error })
    }

    async fn shutdown_service(&self, kernel_id: &str, _service: &str) -> Result<(), Failure> {
        self.kernel(kernel_id).map(drop)
    }

    async fn connect_port(&self, kernel_id: &str, port: u16) -> Result<TcpStream, Failure> {
        self.kernel(kernel_id)?;
        let refused = |error: std::io::Error| Failure::Refused(format!("port {port} of the kernel: {error}"));
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(refused)
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

/// Measures all kernels of a runtime for as long as it exists.
async fn measure(runtime: Weak<Inner>) {
    loop {
        tokio::time::sleep(MEASURE).await;
        let Some(inner) = runtime.upgrade() else { return };
        let kernels: Vec<(String, Arc<Handle>)> =
            inner.kernels.lock().iter().map(|(id, kernel)| (id.clone(), kernel.clone())).collect();
        if kernels.is_empty() {
            continue;
        }
        let look = move || {
            // Groups that start after this are not in what is seen.
            let groups: Vec<_> = kernels.iter().map(|(_, kernel)| kernel.groups()).collect();
            let seen = inner.scanner.lock().scan();
            for ((id, kernel), groups) in kernels.into_iter().zip(groups) {
                let (groups, over): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.lives(&seen));
                kernel.forget_groups(&over);
                let belongs =
                    |(process, mark): &&(Process, Option<String>)| belongs(process, mark.as_deref(), &id, &groups);
                let members: Vec<&Process> = seen.iter().filter(belongs).map(|(process, _)| process).collect();
                let excess = kernel.usage.lock().take(&members);
                if let Some(used) = excess {
                    kernel.out_of_memory(used);
                }
            }
        };
        if tokio::task::spawn_blocking(look).await.is_err() {
            return;
        }
    }
}
