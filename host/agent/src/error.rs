//! How an agent fails, and how a call to it does.

use std::path::PathBuf;

use tonic::Status;

/// Why an agent process can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option has no usable value.
    #[error("{0}")]
    Option(String),
    /// The host turned the agent away.
    #[error("the host at {server} doesn't accept this agent: {message}")]
    Refused {
        /// Where the host is.
        server: String,
        /// What it said.
        message: String,
    },
    /// Another agent process works in the same directory.
    #[error("another agent uses {}", .0.display())]
    Busy(PathBuf),
    /// The agent's own service can't listen.
    #[error("can't listen on {addr}: {source}")]
    Listen {
        /// The address asked for.
        addr: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The agent's own service ended.
    #[error("the agent's service failed: {0}")]
    Service(#[from] tonic::transport::Error),
    /// A file or directory of the agent's state.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: names what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why a call about a kernel fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such kernel here.
    #[error("no such kernel: {0}")]
    NotFound(String),
    /// The kernel can't do that (now), and why.
    #[error("{0}")]
    Refused(String),
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::NotFound(_) => Status::not_found(failure.to_string()),
            Failure::Refused(_) => Status::failed_precondition(failure.to_string()),
        }
    }
}
