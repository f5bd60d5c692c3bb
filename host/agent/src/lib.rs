//! The node agent: registers with a host, creates and destroys kernels for it, executes code in them, and reports what
//! happens to them until the host acknowledged it.
//!
//! [`run`] is all that a program needs. A [`Runtime`](runtime::Runtime) says what a kernel is made of: `process` (a
//! process tree of this node), `docker` (a container of its image) or `synthetic` (an entry in a book).

pub mod docker;
pub mod doctor;
mod error;
mod member;
mod node;
mod options;
pub mod process;
pub mod reporter;
pub mod runtime;
pub mod sandbox;
mod service;
mod synthetic;
mod transfer;
pub mod user_files;

pub use docker::{ContainerNetwork, DockerOptions};
pub use error::{Error, Failure};
pub use node::run;
pub use options::{AgentOptions, RuntimeKind, parse_slots};
pub use process::{IsolationMode, KERNEL_USER, ProcessOptions};
pub use sandbox::{Network, SANDBOX_ARG};
pub use synthetic::SyntheticRuntime;
