//! What makes kernels' containers, finds them again, and removes them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerSummaryStateEnum};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, EventsOptions, InspectContainerOptions,
    ListContainersOptions, RemoveContainerOptions, StartContainerOptions, StatsOptions, UploadToContainerOptions,
};
use futures::StreamExt as _;
use parking_lot::Mutex;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};
use tonic::async_trait;

use super::container::DockerContainer;
use super::engine::{Facts, is_missing, plain};
use super::gpu::{self, Gpus};
use super::network::Networks;
use super::reach::Reach;
use super::spec::{self, AGENT, DEVICES, Ground, HOME, KERNEL, SESSION};
use super::{ContainerNetwork, image, statistics};
use crate::process::contained::Condition;
use crate::process::container::{Container, Containers, Wanted};
use crate::process::files;
use crate::process::interpreters::{Dialect, Interpreter, NODE_TYPES, PYTHON_TYPES, RUNTIME_PATH, RUNTIME_TYPE};
use crate::process::log::KernelLog;
use crate::sandbox::TOOLS;

const INIT: &str = include_str!("init.sh");
const LAUNCH: &str = include_str!("launch.sh");
const TERMINAL: &str = include_str!("terminal.sh");
const FIND: &str = include_str!("find.sh");
/// The script of a kernel's terminal, below the directory that programs see.
const SHELL: &str = "terminal.sh";
/// How long the engine's events are waited for anew after they broke off.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a container is started whose network the swarm doesn't let it into, and what the engine says then.
const ATTACH_TRIES: usize = 3;
const NOT_ATTACHED: &str = "attaching to network failed";
/// A `passwd` is small.
const PASSWD: usize = 1024 * 1024;

/// The containers of one agent.
pub(super) struct DockerContainers {
    pub(super) docker: Docker,
    pub(super) facts: Facts,
    /// The engine's socket, if kernels that build images may use it.
    pub(super) builder: Option<PathBuf>,
    pub(super) gpus: Gpus,
    pub(super) networks: Networks,
    pub(super) network: ContainerNetwork,
    /// The agent, and its directory.
    pub(super) agent: String,
    pub(super) home: String,
    /// The user that programs run as.
    pub(super) user: (u32, u32),
    /// Whom files are given to; none = they are the agent's, as the programs are.
    pub(super) owner: Option<(u32, u32)>,
    /// Kernels that ran out of memory.
    pub(super) exhausted: Mutex<HashSet<String>>,
}

fn name_of(kernel_id: &str) -> String {
    format!("quarterdeck-{kernel_id}")
}

/// A container that the engine knows.
pub(super) struct Known {
    pub(super) kernel_id: String,
    pub(super) session_id: String,
    pub(super) devices: Vec<String>,
    pub(super) runs: bool,
}

impl DockerContainers {
    /// What the labels of this agent's containers and networks have in common.
    fn own_labels(&self) -> Vec<String> {
        vec![format!("{AGENT}={}", self.agent), format!("{HOME}={}", self.home)]
    }

    /// This agent's containers, and no others.
    pub(super) async fn known(&self) -> Result<Vec<Known>, String> {
        let filters = HashMap::from([("label".to_owned(), self.own_labels())]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let list = self.docker.list_containers(Some(options)).await.map_err(|error| plain(&error))?;
        let known = list.into_iter().filter_map(|container| {
            let labels = container.labels?;
            let label = |name: &str| labels.get(name).cloned();
            let devices = label(DEVICES).unwrap_or_default();
            Some(Known {
                kernel_id: label(KERNEL)?,
                session_id: label(SESSION)?,
                devices: devices.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
                runs: container.state == Some(ContainerSummaryStateEnum::RUNNING),
            })
        });
        Ok(known.collect())
    }

    async fn inspect(&self, kernel_id: &str) -> Result<ContainerInspectResponse, bollard::errors::Error> {
        self.docker.inspect_container(&name_of(kernel_id), None::<InspectContainerOptions>).await
    }

    async fn remove(&self, kernel_id: &str) -> Result<(), String> {
        let options = RemoveContainerOptions { v: true, force: true, ..Default::default() };
        match self.docker.remove_container(&name_of(kernel_id), Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(plain(&error)),
        }
    }

    /// Puts our scripts where the container sees them.
    fn place(&self, dir: &Path) -> io::Result<()> {
        let tools = dir.join("run");
        for (name, text) in [("init.sh", INIT), ("launch.sh", LAUNCH), (SHELL, TERMINAL)] {
            let path = tools.join(name);
            files::write(&path, text.as_bytes())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        fs::set_permissions(dir.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::set_permissions(&tools, fs::Permissions::from_mode(0o755))
    }

    /// Gives the kernel's user a name: SSH, for one, wants nobody without.
    async fn name_user(&self, container: &str) -> Result<(), String> {
        let options = DownloadFromContainerOptions { path: "/etc/passwd".into() };
        let mut parts = self.docker.download_from_container(container, Some(options));
        let mut archive = Vec::new();
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) if archive.len() + part.len() <= PASSWD => archive.extend_from_slice(&part),
                Ok(_) => return Err("the image's /etc/passwd is too large".into()),
                Err(error) if is_missing(&error) => break,
                Err(error) => return Err(plain(&error)),
            }
        }
        let Some(passwd) = spec::with_user(&first_file(&archive), self.user) else { return Ok(()) };
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(passwd.len() as u64);
        let archive = builder
            .append_data(&mut header, "passwd", passwd.as_bytes())
            .and_then(|()| builder.into_inner())
            .map_err(|error| error.to_string())?;
        let options = UploadToContainerOptions { path: "/etc".into(), ..Default::default() };
        let body = bollard::body_full(archive.into());
        self.docker.upload_to_container(container, Some(options), body).await.map_err(|error| plain(&error))
    }

    /// Whose programs are, as engines read it.
    fn user(&self) -> String {
        format!("{}:{}", self.user.0, self.user.1)
    }

    /// The engine's socket, for a kernel that is to build images.
    fn engine_for(&self, spec: &pb::KernelSpec) -> Result<Option<PathBuf>, String> {
        let internal: Value = serde_json::from_str(&spec.internal_data).unwrap_or_default();
        if internal["builds_images"] != true {
            return Ok(None);
        }
        match &self.builder {
            Some(socket) => Ok(Some(socket.clone())),
            None => {
                Err("the session is to build an image, for which this agent has no permission (--build-images)".into())
            }
        }
    }

    async fn create(&self, wanted: &Wanted<'_>) -> Result<ContainerInspectResponse, String> {
        let kernel_id = &wanted.spec.kernel_id;
        let engine = self.engine_for(wanted.spec)?;
        let slot = wanted.spec.slots.iter().find(|slot| slot.name == gpu::SLOT);
        let count = slot.map_or(0, |slot| slot.amount.div_ceil(1000));
        let devices = self.gpus.take(kernel_id, usize::try_from(count).unwrap_or(usize::MAX))?;
        let network = self.networks.enter(&self.docker, &self.facts, wanted.session).await?;
        self.place(wanted.dir).map_err(|error| format!("the kernel's scripts can't be written: {error}"))?;
        let canonical = wanted.spec.image.as_ref().map(|image| image.canonical.as_str()).unwrap_or_default();
        let image = self.docker.inspect_image(canonical).await.map_err(|error| plain(&error))?;
        let ground = Ground {
            labels: HashMap::from([
                (AGENT.to_owned(), self.agent.clone()),
                (HOME.to_owned(), self.home.clone()),
                (SESSION.to_owned(), wanted.session.session_id.clone()),
                (KERNEL.to_owned(), kernel_id.clone()),
                (DEVICES.to_owned(), devices.join(",")),
            ]),
            user: match engine {
                // What builds images is root's in its image.
                Some(_) => "0:0".to_owned(),
                None => self.user(),
            },
            engine,
            network,
            processors: self.facts.processors,
            devices,
            image_env: image.config.and_then(|config| config.env).unwrap_or_default(),
        };
        // A restart, or a start that broke off, may have left one of that name.
        self.remove(kernel_id).await?;
        let options = CreateContainerOptions { name: Some(name_of(kernel_id)), ..Default::default() };
        let created = self.docker.create_container(Some(options), spec::body(wanted, ground)).await;
        let created = created.map_err(|error| format!("the container can't be made: {}", plain(&error)))?;
        for warning in created.warnings {
            wanted.log.note(&format!("the engine warns: {warning}"));
        }
        if let Err(message) = self.name_user(&created.id).await {
            wanted.log.note(&format!("the kernel's user has no name: {message}"));
        }
        self.start(&created.id, wanted.log).await?;
        let about = self.inspect(kernel_id).await.map_err(|error| plain(&error))?;
        match about.state.as_ref().and_then(|state| state.running) {
            Some(true) => Ok(about),
            _ => Err("the container ended at once: its image needs a shell at /bin/sh".into()),
        }
    }

    /// Starts a container. A swarm whose managers are busy, or elect their leader, lets nobody into a network for a
    /// while; the engine gives up after 20 seconds.
    async fn start(&self, container: &str, log: &KernelLog) -> Result<(), String> {
        let mut tries = 0;
        loop {
            tries += 1;
            let started = self.docker.start_container(container, None::<StartContainerOptions>).await;
            let message = match started {
                Ok(()) => return Ok(()),
                Err(error) => plain(&error),
            };
            if tries == ATTACH_TRIES || !message.contains(NOT_ATTACHED) {
                return Err(format!("the container can't be started: {message}"));
            }
            log.note(&format!("once more: {message}"));
        }
    }

    fn container(&self, about: &ContainerInspectResponse, dir: &Path) -> Result<DockerContainer, String> {
        let labels = about.config.as_ref().and_then(|config| config.labels.as_ref());
        let devices = labels.and_then(|labels| labels.get(DEVICES)).map_or("", String::as_str);
        let devices: Vec<String> = devices.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
        let user = about.config.as_ref().and_then(|config| config.user.clone()).filter(|user| !user.is_empty());
        let container = DockerContainer::new(
            self.docker.clone(),
            about.id.clone().unwrap_or_default(),
            user.unwrap_or_else(|| self.user()),
            self.owner,
            Reach::find(about),
            self.gpus.attached(&devices),
            dir,
        );
        container.map_err(|error| format!("the kernel's directory: {error}"))
    }

    /// What a kernel of that image runs.
    async fn interpreter(&self, container: &DockerContainer, wanted: &Wanted<'_>) -> Result<Interpreter, String> {
        let labels = wanted.spec.image.as_ref().map(|image| &image.labels);
        let label = |name: &str| labels.and_then(|labels| labels.get(name)).map_or("", String::as_str);
        let (kind, named) = (label(RUNTIME_TYPE), Path::new(label(RUNTIME_PATH)));
        let (what, usual): (_, &[&str]) = match kind {
            kind if PYTHON_TYPES.contains(&kind) => ("python", &["python3", "python"]),
            kind if NODE_TYPES.contains(&kind) => ("node", &["node", "nodejs"]),
            _ => ("shell", &["bash", "sh"]),
        };
        let is_shell =
            |path: &Path| path.file_name().is_some_and(|name| name == "bash" || name == "sh" || name == "dash");
        let named = named.to_str().filter(|path| !path.is_empty() && (what != "shell" || is_shell(named)));
        let arguments: Vec<&str> = [what].into_iter().chain(named).chain(usual.iter().copied()).collect();
        let found = container.ask(FIND, &arguments).await.map_err(|error| format!("looking for {what}: {error}"))?;
        let missing = || format!("the image has nothing to run a kernel of the type {kind:?} with ({what})");
        let found = found.ok_or_else(missing)?;
        let mut lines = found.lines();
        let (path, version) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let dialect = match what {
            "python" => Dialect::Python,
            "node" => Dialect::Node,
            _ if version.is_empty() => Dialect::Sh,
            _ => Dialect::Bash,
        };
        Ok(Interpreter { dialect, path: path.into(), version: version.to_owned(), needs: Vec::new() })
    }

    /// Listens for containers that run out of memory, for as long as there is somebody to tell.
    pub(super) async fn watch(this: Weak<Self>) {
        loop {
            let Some(containers) = this.upgrade() else { return };
            let filters = HashMap::from([
                ("type".to_owned(), vec!["container".to_owned()]),
                ("event".to_owned(), vec!["oom".to_owned()]),
                ("label".to_owned(), containers.own_labels()),
            ]);
            let mut events =
                containers.docker.events(Some(EventsOptions { filters: Some(filters), ..Default::default() }));
            drop(containers);
            while let Some(Ok(event)) = events.next().await {
                let Some(containers) = this.upgrade() else { return };
                let kernel = event.actor.and_then(|actor| actor.attributes?.remove(KERNEL));
                containers.exhausted.lock().extend(kernel);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The first file of an archive, as a text; empty when there is none.
fn first_file(archive: &[u8]) -> String {
    let mut text = String::new();
    let mut archive = tar::Archive::new(archive);
    if let Ok(mut entries) = archive.entries()
        && let Some(Ok(mut entry)) = entries.next()
    {
        let _ = io::Read::read_to_string(&mut entry, &mut text);
    }
    text
}

#[async_trait]
impl Containers for DockerContainers {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn prepare(&self, spec: &pb::KernelSpec, log: &KernelLog, pulling: &(dyn Fn() + Sync)) -> Result<(), String> {
        image::prepare(&self.docker, spec, log, pulling).await
    }

    async fn enter(&self, wanted: Wanted<'_>) -> Result<(Arc<dyn Container>, Interpreter), String> {
        let about = self.create(&wanted).await?;
        let container = self.container(&about, wanted.dir)?;
        let interpreter = self.interpreter(&container, &wanted).await?;
        Ok((Arc::new(container), interpreter))
    }

    async fn find(&self, kernel_id: &str, dir: &Path) -> Result<Arc<dyn Container>, String> {
        let about = self.inspect(kernel_id).await.map_err(|error| plain(&error))?;
        if about.state.as_ref().and_then(|state| state.running) != Some(true) {
            return Err("its container doesn't run".into());
        }
        Ok(Arc::new(self.container(&about, dir)?))
    }

    async fn release(&self, session_id: &str, kernel_id: &str) {
        if let Err(message) = self.remove(kernel_id).await {
            tracing::warn!(kernel = kernel_id, message, "a container can't be removed");
        }
        self.gpus.release(kernel_id);
        self.exhausted.lock().remove(kernel_id);
        self.networks.leave(&self.docker, session_id).await;
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    fn shell(&self) -> PathBuf {
        Path::new(TOOLS).join(SHELL)
    }

    fn own_network(&self) -> bool {
        self.network != ContainerNetwork::Host
    }

    async fn condition(&self, kernel_id: &str) -> Condition {
        if self.exhausted.lock().remove(kernel_id) {
            return Condition::OutOfMemory;
        }
        let options = StatsOptions { stream: false, one_shot: true };
        let stats = self.docker.stats(&name_of(kernel_id), Some(options)).next().await;
        let sample = match &stats {
            Some(Ok(stats)) => statistics::sample(stats),
            Some(Err(error)) if is_missing(error) => return Condition::Gone,
            Some(Err(_)) | None => return Condition::Unknown,
        };
        if sample.memory > 0 {
            return Condition::Runs(sample);
        }
        // Engines have numbers for what doesn't run, too.
        match self.inspect(kernel_id).await {
            Ok(about) => match about.state {
                Some(state) if state.running == Some(true) => Condition::Runs(sample),
                Some(state) if state.oom_killed == Some(true) => Condition::OutOfMemory,
                _ => Condition::Gone,
            },
            Err(error) if is_missing(&error) => Condition::Gone,
            Err(_) => Condition::Unknown,
        }
    }

    fn info(&self) -> Value {
        json!({
            "isolated": ["file system", "processes", "IPC", "host name"],
            "engine": format!("Docker {}", self.facts.version),
            "network": match self.network {
                ContainerNetwork::Bridge => "its own, behind the node's address; kernels of a session share one",
                ContainerNetwork::None => "its own, with a loopback only; kernels of a session share one",
                ContainerNetwork::Host => "the node's",
            },
            "user": self.user(),
            "rights": "no capabilities, no new privileges",
            "limits": {"control_groups": self.facts.cgroup_version},
        })
    }
}
