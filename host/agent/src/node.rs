//! The agent process: one service and one connection for all its agents.

use std::net::SocketAddr;
use std::sync::Arc;

use quarterdeck_rpc::{HostClient, agent_service, credentials};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::docker::DockerRuntime;
use crate::error::Error;
use crate::member::{Announcement, Identity, Member, Shared};
use crate::options::{AgentOptions, RuntimeKind, hostname};
use crate::process::ProcessRuntime;
use crate::reporter::Reporter;
use crate::runtime::Runtime;
use crate::service::Dispatcher;
use crate::synthetic::SyntheticRuntime;
use crate::transfer::Commits;

/// How many agents of one process register at the same time.
const REGISTERING: usize = 16;

/// Runs the agent process until `shutdown`: then its kernels are destroyed, the last reports handed over, and it leaves.
pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let ids = options.ids()?;
    let given_slots = options.given_slots()?;
    let host = HostClient::new(&options.server).map_err(|error| Error::Option(error.to_string()))?;
    let listener =
        TcpListener::bind(options.listen).await.map_err(|source| Error::Listen { addr: options.listen, source })?;
    let bound = listener.local_addr().map_err(|source| Error::Listen { addr: options.listen, source })?;
    let addr = options.advertise.clone().unwrap_or_else(|| advertised(bound));
    let public_host = options.public_host.clone().unwrap_or_else(|| host_of(&addr));

    let mut members = Vec::with_capacity(ids.len());
    for id in ids {
        let reporter = Arc::new(Reporter::default());
        let runtime: Arc<dyn Runtime> = match options.runtime {
            RuntimeKind::Synthetic => {
                Arc::new(SyntheticRuntime::new(reporter.clone(), public_host.clone(), options.start_delay))
            }
            RuntimeKind::Docker => {
                let (home, docker) = (options.state_dir.join(&id), &options.docker);
                let (reporter, host) = (reporter.clone(), public_host.clone());
                Arc::new(DockerRuntime::open(id.clone(), home, reporter, host, &options.process, docker).await?)
            }
            RuntimeKind::Process => {
                let home = options.state_dir.join(&id);
                Arc::new(
                    ProcessRuntime::open(home, reporter.clone(), public_host.clone(), options.process.clone()).await?,
                )
            }
        };
        let announcement = Announcement {
            join_token: options.token.clone(),
            addr: addr.clone(),
            public_host: public_host.clone(),
            region: options.region.clone(),
            scaling_group: options.scaling_group.clone(),
            slots: given_slots.clone().unwrap_or_else(|| runtime.slots()),
        };
        let (host_secret, boot_id) = (credentials::generate(), uuid::Uuid::new_v4().to_string());
        // Many agents in one process are a load for tests: their credentials aren't worth a file each.
        let file = match options.count {
            1 => {
                let dir = options.state_dir.join(&id);
                std::fs::create_dir_all(&dir).map_err(Error::io(format!("making {}", dir.display())))?;
                Some(dir.join("credential"))
            }
            _ => None,
        };
        let identity = Identity::open(file);
        let dir = options.commit_dir.clone().unwrap_or_else(|| options.state_dir.join(&id).join("commits"));
        let commits = Commits::new(dir);
        members.push(Arc::new(Member { id, host_secret, boot_id, runtime, commits, reporter, announcement, identity }));
    }

    let stop_service = CancellationToken::new();
    let service = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(agent_service(Dispatcher::new(&members)))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop_service.clone().cancelled_owned());
    let service = tokio::spawn(service);
    tracing::info!(addr, agents = members.len(), runtime = %options.runtime, "agent listens");

    let shared = Arc::new(Shared {
        host,
        server: options.server.clone(),
        registering: Semaphore::new(REGISTERING),
        many: members.len() > 1,
    });
    // One agent that is turned away stops the others: they were told the same.
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    for member in members {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { member.run(&shared, &stop).await });
    }
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|panic| Err(Error::Option(format!("an agent's task failed: {panic}"))));
        if ended.is_err() {
            stop.cancel();
            outcome = outcome.and(ended);
        }
    }
    stop_service.cancel();
    service.abort();
    let _ = service.await;
    outcome
}

/// The address to be called under when the operator gave none.
fn advertised(bound: SocketAddr) -> String {
    if bound.ip().is_unspecified() {
        format!("http://{}:{}", hostname(), bound.port())
    } else {
        format!("http://{bound}")
    }
}

fn host_of(addr: &str) -> String {
    let authority = addr.split_once("://").map_or(addr, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or(authority);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host.trim_matches(['[', ']']).to_owned(),
        _ => authority.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(host_of("http://10.0.0.7:6001"), "10.0.0.7");
        assert_eq!(host_of("http://[::1]:6001/"), "::1");
        assert_eq!(host_of("node7"), "node7");
        assert_eq!(advertised("127.0.0.1:5".parse().unwrap()), "http://127.0.0.1:5");
    }
}
