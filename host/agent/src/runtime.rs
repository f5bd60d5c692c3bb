//! What every runtime offers: the same calls whatever a kernel is made of.

use std::sync::Arc;

use quarterdeck_rpc::pb;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::async_trait;

use crate::error::Failure;
use crate::user_files::UserFiles;

/// What the kernels of one session share.
#[derive(Clone, Debug, Default)]
pub struct SessionSpec {
    /// The session's id.
    pub session_id: String,
    /// Its name.
    pub session_name: String,
    /// `INTERACTIVE`, `BATCH` or `INFERENCE`.
    pub session_type: String,
    /// `single-node` or `multi-node`.
    pub cluster_mode: String,
    /// How many kernels the session has.
    pub cluster_size: u32,
    /// Whether all of them were asked for together: none is on another node.
    pub all_here: bool,
    /// The access key of its owner.
    pub access_key: String,
}

impl SessionSpec {
    /// What a request says of the session, and the kernels that it asks for.
    pub(crate) fn of(request: pb::CreateKernelsRequest) -> (Self, Vec<pb::KernelSpec>) {
        let session = Self {
            session_id: request.session_id,
            session_name: request.session_name,
            session_type: request.session_type,
            cluster_mode: request.cluster_mode,
            cluster_size: request.cluster_size,
            all_here: request.kernels.len() as u64 >= u64::from(request.cluster_size),
            access_key: request.access_key,
        };
        (session, request.kernels)
    }
}

/// Live statistics.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// `{"node": {…}, "devices": {…}}`, or nothing.
    pub node: Option<Value>,
    /// Kernel id → metrics.
    pub kernels: Vec<(String, Value)>,
}

/// What goes into a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminalInput {
    /// Keys, as bytes.
    Data(Vec<u8>),
    /// Its new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters of a line.
        columns: u16,
    },
}

/// Somebody's hold of a terminal. The terminal goes on when it is dropped.
#[derive(Debug)]
pub struct Attachment {
    /// What is typed. Whoever fills it up waits until the terminal took it.
    pub input: mpsc::Sender<TerminalInput>,
    /// What is shown, in order. It ends with the terminal, or when nobody takes it for a while.
    pub output: mpsc::Receiver<Vec<u8>>,
}

/// One agent's kernels. What happens to them is told through the agent's [`Reporter`](crate::reporter::Reporter).
#[async_trait]
pub trait Runtime: Send + Sync {
    /// `process`, `docker` or `synthetic`.
    fn name(&self) -> &'static str;
    /// The runtime types (image label `ai.backend.runtime-type`) that it can run; `*` = any.
    fn runtime_types(&self) -> Vec<String>;
    /// JSON object of what provides the slots: name → `{"version"}`.
    fn compute_plugins(&self) -> Value;
    /// What the node offers when the operator doesn't say.
    fn slots(&self) -> Vec<pb::Slot>;
    /// Starts to create a kernel and returns; leaves one that exists alone.
    fn create(&self, session: Arc<SessionSpec>, kernel: pb::KernelSpec);
    /// Starts to destroy a kernel and returns; false = there is none.
    fn destroy(&self, kernel_id: &str, reason: &str) -> bool;
    /// Executes code or goes on with a run; answers the result document.
    async fn execute(&self, request: pb::ExecuteRequest) -> Result<Value, Failure>;
    /// Interrupts what runs.
    async fn interrupt(&self, kernel_id: &str) -> Result<(), Failure>;
    /// Completes code; answers the result document.
    async fn complete(&self, request: pb::CompleteRequest) -> Result<Value, Failure>;
    /// The files that users see in the kernel.
    fn files(&self, kernel_id: &str) -> Result<UserFiles, Failure>;
    /// Attaches to the kernel's terminal, which is opened when there is none.
    async fn terminal(&self, kernel_id: &str) -> Result<Attachment, Failure>;
    /// What the kernel printed.
    async fn logs(&self, kernel_id: &str) -> Result<Vec<u8>, Failure>;
    /// Starts a service of a kernel and waits until it listens.
    async fn start_service(&self, request: pb::StartServiceRequest) -> Result<pb::StartServiceResponse, Failure>;
    /// Ends a service of a kernel.
    async fn shutdown_service(&self, kernel_id: &str, service: &str) -> Result<(), Failure>;
    /// Connects to a port as the kernel itself would on its loopback.
    async fn connect_port(&self, kernel_id: &str, port: u16) -> Result<TcpStream, Failure>;
    /// The kernels there are, those whose end isn't acknowledged yet included.
    fn kernels(&self) -> Vec<pb::KernelState>;
    /// Live statistics.
    fn statistics(&self) -> Statistics;
    /// The host knows of the kernel's end: nothing of it has to be remembered.
    fn forget(&self, kernel_id: &str);
    /// Destroys all kernels and waits until they ended.
    async fn shutdown(&self, reason: &str);
}
