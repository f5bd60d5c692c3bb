//! Kernels whose programs run in containers: what this needs of whoever makes them.

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use quarterdeck_rpc::pb;
use serde_json::Value;
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tonic::async_trait;

use super::contained::Condition;
use super::interpreters::Interpreter;
use super::log::KernelLog;
use super::spawn::Exit;
use crate::runtime::SessionSpec;
use crate::sandbox::Bind;

/// What a program is for, as it is remembered over a restart of the agent.
pub(crate) const REPL: &str = "repl";
/// The command of a batch session.
pub(crate) const BATCH: &str = "batch";
/// Followed by the name of the service.
pub(crate) const SERVICE: &str = "service:";

/// A container that is wanted.
pub(crate) struct Wanted<'a> {
    pub(crate) session: &'a SessionSpec,
    pub(crate) spec: &'a pb::KernelSpec,
    /// The kernel's directory; `work`, `tmp` and `run` of it are shown inside.
    pub(crate) dir: &'a Path,
    pub(crate) log: &'a KernelLog,
    /// The folders that were asked for, checked.
    pub(crate) binds: &'a [Bind],
    /// What programs have in their environment, besides what the image says.
    pub(crate) env: Vec<(String, String)>,
    /// The processors it should keep to; empty = any.
    pub(crate) processors: Vec<usize>,
    /// Bytes.
    pub(crate) shared_memory: u64,
}

/// A program in a container, with this end of its pipes.
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) out: pipe::Receiver,
    pub(crate) err: pipe::Receiver,
    pub(crate) exit: Exit,
}

/// A program that an earlier start of the agent began.
pub(crate) struct Recalled {
    pub(crate) role: String,
    /// How long ago it began.
    pub(crate) age: Duration,
    pub(crate) program: Running,
}

/// Tells a terminal its size: lines, characters of a line.
pub(crate) type Resizer = Box<dyn Fn(u16, u16) + Send + Sync>;

/// Makes containers.
#[async_trait]
pub(crate) trait Containers: Send + Sync {
    /// The name of the runtime.
    fn name(&self) -> &'static str;
    /// Makes sure that the image is here; calls `pulling` when that takes time.
    async fn prepare(&self, spec: &pb::KernelSpec, log: &KernelLog, pulling: &(dyn Fn() + Sync)) -> Result<(), String>;
    /// Makes and starts a container, and finds in it what a kernel of its kind runs.
    async fn enter(&self, wanted: Wanted<'_>) -> Result<(Arc<dyn Container>, Interpreter), String>;
    /// Finds the container of a kernel again that an earlier start made.
    async fn find(&self, kernel_id: &str, dir: &Path) -> Result<Arc<dyn Container>, String>;
    /// Removes what was made for a kernel, if anything was.
    async fn release(&self, session_id: &str, kernel_id: &str);
    /// The user and group whom files in a kernel's directory belong to; none = the agent's own.
    fn owner(&self) -> Option<(u32, u32)>;
    /// Whether containers have a network of their own.
    fn own_network(&self) -> bool;
    /// The program of a kernel's terminal, as a container has it.
    fn shell(&self) -> PathBuf;
    /// How a kernel's container is.
    async fn condition(&self, kernel_id: &str) -> Condition;
    /// How kernels are kept apart, for people.
    fn info(&self) -> Value;
}

/// One kernel's container.
#[async_trait]
pub(crate) trait Container: Send + Sync {
    /// Its id.
    fn id(&self) -> &str;
    /// What it got of the node's devices: device → list of {device_id, model_name, data}.
    fn devices(&self) -> Value;
    /// Starts a program in the work directory.
    async fn spawn(&self, command: &[&OsStr], env: &[(String, String)], stdin: bool) -> io::Result<Running>;
    /// Starts a program on a terminal: the terminal's other side, what resizes it, and the program's end.
    async fn spawn_on_terminal(
        &self,
        command: &[&OsStr],
        env: &[(String, String)],
        size: (u16, u16),
    ) -> io::Result<(OwnedFd, Resizer, Exit)>;
    /// Signals a program and its process group.
    fn signal(&self, program: u64, signal: Signal);
    /// Notes what a program is for.
    fn remember(&self, program: u64, role: &str);
    /// The programs that an earlier start of the agent began and that matter still.
    async fn recall(&self) -> Vec<Recalled>;
    /// Where a program is, by its name.
    async fn program(&self, name: &str) -> Option<PathBuf>;
    /// Where services have to listen to be reached by [`Container::connect`].
    fn service_address(&self) -> IpAddr;
    /// Connects to a port of it.
    async fn connect(&self, port: u16) -> io::Result<TcpStream>;
    /// Listens on a port of its loopback.
    async fn listen(&self, port: u16) -> io::Result<TcpListener>;
    /// Lets the container's user have a file of the kernel's directory.
    fn give(&self, path: &Path) -> io::Result<()>;
    /// Ends all that runs in it: asks first, and waits that long.
    async fn end(&self, grace: Duration);
}
