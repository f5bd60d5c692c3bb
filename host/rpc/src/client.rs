//! Clients of both services. Connections are lazy and pooled, each call has its own time limit, errors are typed.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::error::CallError;
use crate::pb::agent_client::AgentClient as AgentStub;
use crate::pb::host_client::HostClient as HostStub;
use crate::tunnel::{self, PortStream};
use crate::{limits, metadata, pb};

/// Calls agents on behalf of the host: one pooled channel for each address, shared by all clones and by all agents
/// that one process serves.
#[derive(Clone, Default)]
pub struct AgentClient {
    channels: Arc<Mutex<HashMap<String, Pooled>>>,
}

struct Pooled {
    channel: Channel,
    used: Instant,
}

impl AgentClient {
    /// A client without connections: they are made when needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle to call one agent: where it listens, its id, and the secret it gave the host when it registered.
    /// Nothing is sent yet. Fails only when the address is none.
    pub fn agent(&self, addr: &str, agent_id: &str, host_secret: &str) -> Result<AgentHandle, CallError> {
        let channel = self.channel(addr)?;
        Ok(AgentHandle { channel, agent_id: agent_id.to_owned(), secret: host_secret.to_owned() })
    }

    fn channel(&self, addr: &str) -> Result<Channel, CallError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(pooled) = channels.get_mut(addr) {
            pooled.used = now;
            return Ok(pooled.channel.clone());
        }
        // Agents that restart elsewhere leave their old address behind.
        channels.retain(|_, pooled| now.duration_since(pooled.used) < limits::POOL_IDLE);
        let channel = endpoint(addr)?.connect_lazy();
        channels.insert(addr.to_owned(), Pooled { channel: channel.clone(), used: now });
        Ok(channel)
    }
}

/// One agent, as the host calls it.
#[derive(Clone)]
pub struct AgentHandle {
    channel: Channel,
    agent_id: String,
    secret: String,
}

impl AgentHandle {
    /// The agent's id.
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    fn stub(&self) -> AgentStub<Channel> {
        AgentStub::new(self.channel.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE)
            .max_encoding_message_size(limits::MAX_MESSAGE)
    }

    /// Has kernels created. Returns when the agent accepted the work.
    pub async fn create_kernels(&self, request: pb::CreateKernelsRequest) -> Result<(), CallError> {
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        within(limits::COMMAND_TIMEOUT, self.stub().create_kernels(request)).await?;
        Ok(())
    }

    /// Has kernels destroyed. Returns those that the agent doesn't have; the others' ends come as reports.
    pub async fn destroy_kernels(&self, request: pb::DestroyKernelsRequest) -> Result<Vec<String>, CallError> {
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        Ok(within(limits::COMMAND_TIMEOUT, self.stub().destroy_kernels(request)).await?.gone)
    }

    /// Executes code, or goes on gathering a run's output. Returns the result document as JSON text.
    pub async fn execute(&self, request: pb::ExecuteRequest) -> Result<String, CallError> {
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        Ok(within(limits::EXECUTE_TIMEOUT, self.stub().execute(request)).await?.result)
    }

    /// Interrupts what runs in a kernel.
    pub async fn interrupt(&self, kernel_id: &str) -> Result<(), CallError> {
        let request = pb::InterruptRequest { kernel_id: kernel_id.to_owned() };
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        within(limits::EXECUTE_TIMEOUT, self.stub().interrupt(request)).await?;
        Ok(())
    }

    /// Asks for completions of code. Returns the result document as JSON text.
    pub async fn complete(&self, request: pb::CompleteRequest) -> Result<String, CallError> {
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        Ok(within(limits::COMPLETE_TIMEOUT, self.stub().complete(request)).await?.result)
    }

    /// What a kernel printed so far, its tail when larger than [`limits::MAX_LOG`].
    pub async fn logs(&self, kernel_id: &str) -> Result<Vec<u8>, CallError> {
        let request = pb::LogsRequest { kernel_id: kernel_id.to_owned() };
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        Ok(within(limits::EXECUTE_TIMEOUT, self.stub().logs(request)).await?.log)
    }

    /// Starts a service of a kernel.
    pub async fn start_service(&self, request: pb::StartServiceRequest) -> Result<pb::StartServiceResponse, CallError> {
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        within(limits::SERVICE_TIMEOUT, self.stub().start_service(request)).await
    }

    /// Ends a service of a kernel.
    pub async fn shutdown_service(&self, kernel_id: &str, service: &str) -> Result<(), CallError> {
        let request = pb::ShutdownServiceRequest { kernel_id: kernel_id.to_owned(), service: service.to_owned() };
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        within(limits::SERVICE_TIMEOUT, self.stub().shutdown_service(request)).await?;
        Ok(())
    }

    /// Connects to a port of a kernel. [`CallError::Refused`] when nothing listens there.
    pub async fn connect_port(&self, kernel_id: &str, port: u16) -> Result<PortStream, CallError> {
        let (outgoing, open) = tunnel::opening(kernel_id, port);
        let request = metadata::request(open, &self.agent_id, &self.secret)?;
        let incoming = within(limits::PORT_TIMEOUT, self.stub().connect_port(request)).await?;
        Ok(PortStream::new(outgoing, incoming))
    }
}

/// Calls the host on behalf of agents: one connection for all agents of the process.
#[derive(Clone)]
pub struct HostClient {
    channel: Channel,
}

impl HostClient {
    /// A client of the host that listens at `server`. Nothing is sent yet. Fails only when that is no address.
    pub fn new(server: &str) -> Result<Self, CallError> {
        Ok(Self { channel: endpoint(server)?.connect_lazy() })
    }

    fn stub(&self) -> HostStub<Channel> {
        HostStub::new(self.channel.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE)
            .max_encoding_message_size(limits::MAX_MESSAGE)
    }

    /// Announces an agent; the request carries the join token. An agent that has a credential (not empty) shows it.
    pub async fn register(
        &self,
        credential: &str,
        request: pb::RegisterRequest,
    ) -> Result<pb::RegisterResponse, CallError> {
        let agent_id = request.agent_id.clone();
        let request = metadata::request(request, &agent_id, credential)?;
        within(limits::HOST_TIMEOUT, self.stub().register(request)).await
    }

    /// Says that an agent lives, and what it holds.
    pub async fn heartbeat(
        &self,
        agent_id: &str,
        credential: &str,
        request: pb::HeartbeatRequest,
    ) -> Result<pb::HeartbeatResponse, CallError> {
        let request = metadata::request(request, agent_id, credential)?;
        within(limits::HOST_TIMEOUT, self.stub().heartbeat(request)).await
    }

    /// Hands over what happened to kernels.
    pub async fn report(
        &self,
        agent_id: &str,
        credential: &str,
        request: pb::ReportRequest,
    ) -> Result<pb::ReportResponse, CallError> {
        let request = metadata::request(request, agent_id, credential)?;
        within(limits::HOST_TIMEOUT, self.stub().report(request)).await
    }

    /// Says that an agent stops on purpose.
    pub async fn leave(&self, agent_id: &str, credential: &str, request: pb::LeaveRequest) -> Result<(), CallError> {
        let request = metadata::request(request, agent_id, credential)?;
        within(limits::HOST_TIMEOUT, self.stub().leave(request)).await?;
        Ok(())
    }
}

/// Whether what is said to that address (`host:port` or a URL) leaves the node, and isn't encrypted.
pub fn is_exposed(addr: &str) -> bool {
    let (scheme, rest) = addr.split_once("://").unwrap_or(("http", addr));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    !scheme.eq_ignore_ascii_case("https") && !is_local
}

/// An address as an endpoint: `host:port` is taken as `http://host:port`.
fn endpoint(addr: &str) -> Result<Endpoint, CallError> {
    let url = if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") };
    let endpoint = Endpoint::from_shared(url).map_err(|error| CallError::NoConnection(format!("{addr:?}: {error}")))?;
    Ok(endpoint
        .connect_timeout(limits::CONNECT_TIMEOUT)
        .http2_keep_alive_interval(limits::KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(CallError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_node_in_plaintext_is_exposed() {
        for addr in
            ["http://10.0.0.1:6021", "10.0.0.1:6021", "db.example.org", "0.0.0.0:6021", "http://[2001:db8::1]:1/"]
        {
            assert!(is_exposed(addr), "{addr}");
        }
        let local =
            ["http://127.0.0.1:6021", "127.8.8.8:1", "http://localhost:6021/x", "[::1]:6021", "[::ffff:127.0.0.1]:1"];
        for addr in local.into_iter().chain(["https://10.0.0.1:6021", "HTTPS://agent.example.org"]) {
            assert!(!is_exposed(addr), "{addr}");
        }
    }
}
