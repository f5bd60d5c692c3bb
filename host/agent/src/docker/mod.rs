//! The runtime `docker`: a kernel's programs run in a container of its image.
//!
//! What a kernel is stays the business of [`crate::process`]: its directory, its log, its runs, its services. This says
//! where its programs run ([`container`]), what the container is made of ([`spec`]), and how it is found again when the
//! agent comes back ([`containers`]).

mod container;
mod containers;
pub(crate) mod engine;
pub(crate) mod gpu;
mod image;
mod network;
mod programs;
mod reach;
mod spec;
mod statistics;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::async_trait;

use self::containers::DockerContainers;
use self::gpu::Gpus;
use self::network::Networks;
use crate::error::{Error, Failure};
use crate::options::{count_slot, memory_slot};
use crate::process::container::Containers as _;
use crate::process::{ProcessOptions, ProcessRuntime};
use crate::reporter::Reporter;
use crate::runtime::{Attachment, Runtime, SessionSpec, Statistics};
use crate::user_files::UserFiles;

/// Who programs in containers are when the agent is root and nobody said otherwise: what images call their first user.
const USER: User = (1000, 1000);

/// The numbers of a user and a group.
type User = (u32, u32);

/// What an operator decides about the runtime `docker`.
#[derive(Clone, Debug, Default)]
pub struct DockerOptions {
    /// The engine's socket; none = that of `DOCKER_HOST`, else the usual one.
    pub socket: Option<PathBuf>,
    /// What kernels have for a network.
    pub network: ContainerNetwork,
    /// The user and group that programs run as; none = 1000, or the agent's own when it isn't root.
    pub user: Option<(u32, u32)>,
    /// Whether sessions that the host has build images get the engine: it makes them the node's masters.
    pub builds_images: bool,
}

/// What containers have for a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerNetwork {
    /// One behind the node's address; kernels of a session share it.
    #[default]
    Bridge,
    /// A loopback; kernels of a session also have each other.
    None,
    /// The node's.
    Host,
}

/// The runtime `docker` of one agent.
pub struct DockerRuntime {
    kernels: ProcessRuntime,
    containers: Arc<DockerContainers>,
}

impl DockerRuntime {
    /// Connects to the engine, takes up the agent's containers that run, and removes its others.
    ///
    /// # Errors
    /// When no engine answers, or when the agent can't be who programs are to run as.
    pub async fn open(
        agent: String,
        home: PathBuf,
        reporter: Arc<Reporter>,
        kernel_host: String,
        process: &ProcessOptions,
        options: &DockerOptions,
    ) -> Result<Self, Error> {
        let docker_host = std::env::var("DOCKER_HOST").ok();
        let socket = engine::socket(options.socket.as_deref(), docker_host.as_deref()).map_err(Error::Option)?;
        let (docker, facts) = engine::connect(&socket).await.map_err(Error::Option)?;
        let (user, owner) = user(options.user).map_err(Error::Option)?;
        std::fs::create_dir_all(&home).map_err(Error::io(format!("making {}", home.display())))?;
        let resolved = home.canonicalize().map_err(Error::io(format!("resolving {}", home.display())))?;
        let place = resolved.display().to_string();
        let gpus = if facts.nvidia { Gpus::find() } else { Gpus::default() };
        tracing::info!(engine = facts.version, socket = %socket.display(), gpus = gpus.count(), "kernels are containers");
        let containers = Arc::new(DockerContainers {
            docker,
            facts,
            builder: options.builds_images.then_some(socket),
            gpus,
            networks: Networks::new(options.network, agent.clone(), place.clone()),
            network: options.network,
            agent,
            home: place,
            user,
            owner,
            exhausted: Mutex::default(),
        });
        let known = containers.known().await.map_err(Error::Option)?;
        let living: Vec<String> =
            known.iter().filter(|known| known.runs).map(|known| known.kernel_id.clone()).collect();
        for known in &known {
            containers.gpus.restore(&known.kernel_id, known.devices.clone());
        }
        let kernels =
            ProcessRuntime::open_contained(resolved, reporter, kernel_host, process, containers.clone(), living)
                .await?;
        // The directory is this process's alone from here on: what nobody takes up is nobody's.
        let taken_up: Vec<String> = kernels.kernels().into_iter().map(|kernel| kernel.kernel_id).collect();
        for known in known.iter().filter(|known| !taken_up.contains(&known.kernel_id)) {
            tracing::warn!(kernel = known.kernel_id, "a container of an earlier start is removed");
            containers.release(&known.session_id, &known.kernel_id).await;
        }
        containers.networks.sweep(&containers.docker).await;
        tokio::spawn(DockerContainers::watch(Arc::downgrade(&containers)));
        Ok(Self { kernels, containers })
    }
}

/// Who programs are, and whom files have to be given to.
fn user(wanted: Option<User>) -> Result<(User, Option<User>), String> {
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    if own.0 == 0 {
        let user = wanted.unwrap_or(USER);
        return Ok((user, Some(user)));
    }
    match wanted {
        Some(wanted) if wanted != own => {
            Err("only root gives kernels' files to another user (--container-user)".into())
        }
        _ => Ok((own, None)),
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        self.containers.name()
    }

    fn runtime_types(&self) -> Vec<String> {
        vec!["*".into()]
    }

    fn compute_plugins(&self) -> Value {
        let version = json!({"version": env!("CARGO_PKG_VERSION")});
        let mut plugins = json!({"cpu": version.clone(), "mem": version.clone()});
        if self.containers.gpus.count() > 0 {
            plugins["cuda"] = version;
        }
        plugins
    }

    fn slots(&self) -> Vec<pb::Slot> {
        let facts = &self.containers.facts;
        let mut slots = vec![count_slot("cpu", facts.processors), memory_slot(facts.memory)];
        match self.containers.gpus.count() {
            0 => {}
            count => slots.push(count_slot(gpu::SLOT, count)),
        }
        slots
    }

    fn create(&self, session: Arc<SessionSpec>, mut kernel: pb::KernelSpec) {
        if self.containers.own_network() {
            by_name(&mut kernel);
        }
        self.kernels.create(session, kernel);
    }

    fn destroy(&self, kernel_id: &str, reason: &str) -> bool {
        self.kernels.destroy(kernel_id, reason)
    }

    async fn execute(&self, request: pb::ExecuteRequest) -> Result<Value, Failure> {
        self.kernels.execute(request).await
    }

    async fn interrupt(&self, kernel_id: &str) -> Result<(), Failure> {
        self.kernels.interrupt(kernel_id).await
    }

    async fn complete(&self, request: pb::CompleteRequest) -> Result<Value, Failure> {
        self.kernels.complete(request).await
    }

    fn files(&self, kernel_id: &str) -> Result<UserFiles, Failure> {
        self.kernels.files(kernel_id)
    }

    async fn terminal(&self, kernel_id: &str) -> Result<Attachment, Failure> {
        self.kernels.terminal(kernel_id).await
    }

    async fn logs(&self, kernel_id: &str) -> Result<Vec<u8>, Failure> {
        self.kernels.logs(kernel_id).await
    }

    async fn start_service(&self, request: pb::StartServiceRequest) -> Result<pb::StartServiceResponse, Failure> {
        self.kernels.start_service(request).await
    }

    async fn shutdown_service(&self, kernel_id: &str, service: &str) -> Result<(), Failure> {
        self.kernels.shutdown_service(kernel_id, service).await
    }

    async fn connect_port(&self, kernel_id: &str, port: u16) -> Result<TcpStream, Failure> {
        self.kernels.connect_port(kernel_id, port).await
    }

    fn kernels(&self) -> Vec<pb::KernelState> {
        self.kernels.kernels()
    }

    fn statistics(&self) -> Statistics {
        self.kernels.statistics()
    }

    fn forget(&self, kernel_id: &str) {
        self.kernels.forget(kernel_id);
    }

    async fn shutdown(&self, reason: &str) {
        self.kernels.shutdown(reason).await;
        self.containers.networks.close(&self.containers.docker).await;
    }
}

/// Kernels of a session find each other by their names: the engine answers for them on the network that they share.
fn by_name(kernel: &mut pb::KernelSpec) {
    let Ok(mut internal) = serde_json::from_str::<Value>(&kernel.internal_data) else { return };
    let Some(hosts) = internal["cluster"]["hosts"].as_array_mut() else { return };
    let mut addresses = Vec::new();
    for host in hosts {
        if let Some(name) = host["hostname"].as_str().map(str::to_owned) {
            addresses.push(format!("{name}={name}"));
            host["address"] = name.into();
        }
    }
    kernel.internal_data = internal.to_string();
    if let Some(told) = kernel.environ.get_mut("QUARTERDECK_CLUSTER_ADDRESSES") {
        *told = addresses.join(",");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kernels_of_a_session_are_known_by_name() {
        let internal = json!({"cluster": {"hosts": [
            {"hostname": "main1", "address": "127.0.0.1"}, {"hostname": "sub1", "address": "10.0.0.7"},
        ]}});
        let told = ("QUARTERDECK_CLUSTER_ADDRESSES".to_owned(), "main1=127.0.0.1,sub1=10.0.0.7".to_owned());
        let mut kernel =
            pb::KernelSpec { internal_data: internal.to_string(), environ: [told].into(), ..Default::default() };
        by_name(&mut kernel);
        let internal: Value = serde_json::from_str(&kernel.internal_data).unwrap();
        assert_eq!(internal["cluster"]["hosts"][1]["address"], "sub1");
        assert_eq!(kernel.environ["QUARTERDECK_CLUSTER_ADDRESSES"], "main1=main1,sub1=sub1");
        let mut alone = pb::KernelSpec { internal_data: r#"{"cluster": null}"#.into(), ..Default::default() };
        by_name(&mut alone);
        assert_eq!(alone.internal_data, r#"{"cluster": null}"#);
    }
}
