//! The agent protocol: messages and services generated from `proto/agent.proto`, the credentials both sides present,
//! and clients with pooled connections, time limits and typed errors.
//!
//! The generated code is checked in, so that building needs no protocol compiler; the test
//! `generated_code_is_current` compares it with the `.proto` (and rewrites it when asked to).

pub mod client;
pub mod credentials;
mod error;
pub mod limits;
mod line;
pub mod metadata;
mod redacted;
pub mod service;
pub mod tunnel;

/// Messages, clients and service traits generated from `proto/agent.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
#[rustfmt::skip]
#[path = "generated/quarterdeck.agent.v1.rs"]
pub mod pb;

pub use client::{
    AgentClient, AgentHandle, Commit, Download, HostClient, Terminal, TerminalInput, TerminalOutput, is_exposed,
    order_size,
};
pub use error::CallError;
pub use service::{agent_service, host_service};
pub use tunnel::PortStream;
