//! Services with the protocol's message limits, ready for a tonic server.

use crate::limits::MAX_MESSAGE;
use crate::pb::agent_server::{Agent, AgentServer};
use crate::pb::host_server::{Host, HostServer};

/// The host's service, for agents to call.
pub fn host_service<T: Host>(service: T) -> HostServer<T> {
    HostServer::new(service).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

/// The agent's service, for the host to call.
pub fn agent_service<T: Agent>(service: T) -> AgentServer<T> {
    AgentServer::new(service).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}
