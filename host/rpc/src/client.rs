//! Clients of both services. Connections are lazy and pooled, each call has its own time limit, errors are typed.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use crate::error::CallError;
use crate::line::Line;
use crate::pb::agent_client::AgentClient as AgentStub;
use crate::pb::agent_server::Agent;
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
    line: Line,
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
        let line = self.line(addr)?;
        Ok(AgentHandle { line, agent_id: agent_id.to_owned(), secret: host_secret.to_owned() })
    }

    /// Reaches what listens at `addr` within this process from now on: what is said goes through the same messages, and
    /// over no network. For tests that need everything in one place.
    pub fn attach<T: Agent>(&self, addr: &str, service: T) {
        self.lay(addr, Line::local(crate::agent_service(service)));
    }

    /// Nothing listens at `addr` from now on: no call gets through.
    pub fn detach(&self, addr: &str) {
        self.lay(addr, Line::cut());
    }

    fn lay(&self, addr: &str, line: Line) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.insert(addr.to_owned(), Pooled { line, used: Instant::now() });
    }

    fn line(&self, addr: &str) -> Result<Line, CallError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(pooled) = channels.get_mut(addr) {
            pooled.used = now;
            return Ok(pooled.line.clone());
        }
        // Agents that restart elsewhere leave their old address behind.
        channels.retain(|_, pooled| now.duration_since(pooled.used) < limits::POOL_IDLE);
        let line = Line::Network(endpoint(addr)?.connect_lazy());
        channels.insert(addr.to_owned(), Pooled { line: line.clone(), used: now });
        Ok(line)
    }
}

/// How many bytes an order travels in.
pub fn order_size(order: &pb::CreateKernelsRequest) -> usize {
    prost::Message::encoded_len(order)
}

/// One agent, as the host calls it.
#[derive(Clone)]
pub struct AgentHandle {
    line: Line,
    agent_id: String,
    secret: String,
}

impl AgentHandle {
    /// The agent's id.
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    fn stub(&self) -> AgentStub<Line> {
        AgentStub::new(self.line.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE)
            .max_encoding_message_size(limits::MAX_MESSAGE)
    }

    /// Has kernels created. Returns when the agent accepted the work.
    pub async fn create_kernels(&self, request: pb::CreateKernelsRequest) -> Result<(), CallError> {
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        within(limits::COMMAND_TIMEOUT, self.stub().create_kernels(request)).await?;
        Ok(())
    }

    /// As [`Self::create_kernels`] for several sessions, each by itself; answers in their order.
    pub async fn create_several(&self, sessions: Vec<pb::CreateKernelsRequest>) -> Vec<Result<(), CallError>> {
        let ids: Vec<String> = sessions.iter().map(|session| session.session_id.clone()).collect();
        let call = async {
            let sent = pb::CreateSeveralRequest { sessions: sessions.clone() };
            let request = metadata::request(sent, &self.agent_id, &self.secret)?;
            let mut stub = self.stub();
            let call = stub.create_several(request);
            match tokio::time::timeout(limits::COMMAND_TIMEOUT, call).await {
                Ok(Ok(answer)) => Ok(Some(answer.into_inner().refused)),
                Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
                Ok(Err(status)) => Err(CallError::from(status)),
                Err(_) => Err(CallError::Timeout),
            }
        };
        match call.await {
            Ok(Some(refused)) => {
                let mut refused: HashMap<String, String> =
                    refused.into_iter().map(|refusal| (refusal.session_id, refusal.reason)).collect();
                ids.iter().map(|id| refused.remove(id).map_or(Ok(()), |why| Err(CallError::Refused(why)))).collect()
            }
            // An older agent hears of one after the other.
            Ok(None) => {
                let mut answers = Vec::with_capacity(sessions.len());
                for session in sessions {
                    answers.push(self.create_kernels(session).await);
                }
                answers
            }
            Err(error) => ids.iter().map(|_| Err(error.clone())).collect(),
        }
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

impl AgentHandle {
    /// Takes a file into a kernel's work directory, whole or not at all.
    pub async fn upload(&self, kernel_id: &str, path: &str, data: &[u8]) -> Result<(), CallError> {
        use pb::upload_file_request::Part;
        let head =
            pb::UploadFileHead { kernel_id: kernel_id.to_owned(), path: path.to_owned(), size: data.len() as u64 };
        let chunks: Vec<Part> = data.chunks(limits::CHUNK).map(|chunk| Part::Data(chunk.to_vec())).collect();
        let parts = std::iter::once(Part::Head(head)).chain(chunks);
        let parts = tokio_stream::iter(parts.map(|part| pb::UploadFileRequest { part: Some(part) }));
        let request = metadata::request(parts, &self.agent_id, &self.secret)?;
        within(limits::EXECUTE_TIMEOUT, self.stub().upload_file(request)).await?;
        Ok(())
    }

    /// Opens a file of a kernel's work directory, or with `archive` a tar of a file or directory, for download.
    pub async fn download(&self, request: pb::DownloadFileRequest) -> Result<Download, CallError> {
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        let mut parts = within(limits::EXECUTE_TIMEOUT, self.stub().download_file(request)).await?;
        let first = next(&mut parts).await?.ok_or_else(|| CallError::Refused("the agent sent no file".into()))?;
        Ok(Download { size: first.size, left: first.size, parts })
    }

    /// Lists a directory of a kernel.
    pub async fn list_files(&self, kernel_id: &str, path: &str) -> Result<pb::ListFilesResponse, CallError> {
        let request = pb::ListFilesRequest { kernel_id: kernel_id.to_owned(), path: path.to_owned() };
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        within(limits::EXECUTE_TIMEOUT, self.stub().list_files(request)).await
    }

    /// Has a kernel's work directory archived, and hears how that goes. It ends when the result is dropped.
    pub async fn commit(&self, kernel_id: &str, path: &str) -> Result<Commit, CallError> {
        let request = pb::CommitRequest { kernel_id: kernel_id.to_owned(), path: path.to_owned() };
        let request = metadata::request(request, &self.agent_id, &self.secret)?;
        Ok(Commit { parts: within(limits::EXECUTE_TIMEOUT, self.stub().commit(request)).await? })
    }

    /// Attaches to a kernel's terminal. It goes on when the result is dropped.
    pub async fn terminal(&self, kernel_id: &str) -> Result<Terminal, CallError> {
        use pb::terminal_request::Input;
        let (input, inputs) = mpsc::channel(16);
        let open = Input::Open(pb::OpenTerminal { kernel_id: kernel_id.to_owned() });
        // The channel is new and has room.
        let _ = input.send(pb::TerminalRequest { input: Some(open) }).await;
        let request = metadata::request(ReceiverStream::new(inputs), &self.agent_id, &self.secret)?;
        let output = within(limits::EXECUTE_TIMEOUT, self.stub().terminal(request)).await?;
        Ok(Terminal { input: TerminalInput(input), output })
    }
}

/// A file on its way from an agent.
#[derive(Debug)]
pub struct Download {
    /// Its size in bytes.
    pub size: u64,
    left: u64,
    parts: Streaming<pb::DownloadFileResponse>,
}

impl Download {
    /// The next bytes; `None` after the last. A file that breaks off is an error.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        if self.left == 0 {
            return Ok(None);
        }
        let part = next(&mut self.parts).await?.ok_or_else(|| CallError::Unreachable("the file broke off".into()))?;
        let left = self.left.checked_sub(part.data.len() as u64).filter(|_| !part.data.is_empty());
        self.left = left.ok_or_else(|| CallError::Refused("the agent sent another file than it announced".into()))?;
        Ok(Some(part.data))
    }

    /// All of it, at most `limit` bytes.
    pub async fn whole(mut self, limit: u64) -> Result<Vec<u8>, CallError> {
        if self.size > limit {
            return Err(CallError::Refused("the agent sends more than it was asked for".into()));
        }
        let mut data = Vec::new();
        while let Some(part) = self.next().await? {
            data.extend(part);
        }
        Ok(data)
    }
}

/// An archive that is being made.
#[derive(Debug)]
pub struct Commit {
    parts: Streaming<pb::CommitResponse>,
}

impl Commit {
    /// Waits for the next word about it.
    pub async fn next(&mut self) -> Result<pb::CommitResponse, CallError> {
        next(&mut self.parts).await?.ok_or_else(|| CallError::Unreachable("the archive broke off".into()))
    }
}

/// A kernel's terminal, both directions.
#[derive(Debug)]
pub struct Terminal {
    /// What is typed.
    pub input: TerminalInput,
    output: Streaming<pb::TerminalResponse>,
}

impl Terminal {
    /// Takes both directions apart.
    pub fn split(self) -> (TerminalInput, TerminalOutput) {
        (self.input, TerminalOutput(self.output))
    }
}

/// The way into a terminal. Who types faster than it reads waits.
#[derive(Clone, Debug)]
pub struct TerminalInput(mpsc::Sender<pb::TerminalRequest>);

impl TerminalInput {
    /// Types; false when nobody takes it any more.
    pub async fn type_in(&self, data: Vec<u8>) -> bool {
        self.send(pb::terminal_request::Input::Data(data)).await
    }

    /// Tells the terminal's new size; false when nobody takes it any more.
    pub async fn resize(&self, rows: u32, columns: u32) -> bool {
        self.send(pb::terminal_request::Input::Resize(pb::TerminalSize { rows, columns })).await
    }

    async fn send(&self, input: pb::terminal_request::Input) -> bool {
        self.0.send(pb::TerminalRequest { input: Some(input) }).await.is_ok()
    }
}

/// What a terminal shows.
#[derive(Debug)]
pub struct TerminalOutput(Streaming<pb::TerminalResponse>);

impl TerminalOutput {
    /// The next bytes, however long they take; `None` when the terminal ended.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        let message = self.0.message().await?;
        Ok(message.filter(|message| !message.exited).map(|message| message.data))
    }
}

/// The next message of a stream, which must not take too long.
async fn next<T>(parts: &mut Streaming<T>) -> Result<Option<T>, CallError> {
    match tokio::time::timeout(limits::STREAM_TIMEOUT, parts.message()).await {
        Ok(message) => Ok(message?),
        Err(_) => Err(CallError::Timeout),
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
