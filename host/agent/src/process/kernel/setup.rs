//! From a request to a running kernel: directory, files, environment, bootstrap script, interpreter.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;
use serde_json::{Value, json};

use super::super::cgroup::ControlGroup;
use super::super::cluster;
use super::super::files;
use super::super::interpreters::Interpreter;
use super::super::log::KernelLog;
use super::super::procfs::MARK;
use super::super::repl::Repl;
use super::super::services::{Ground, Keys, Services};
use super::super::spawn::{Io, Launcher};
use super::super::workdir::place;
use super::{Place, Task, work_of};
use crate::sandbox::{self, Bind, Network, Seat, View};

/// A label that names variables to be set to the number of cores.
const CORE_COUNT: &str = "ai.backend.envs.corecount";

impl Task {
    /// Brings the kernel up. `made` holds its directory as soon as there is one.
    pub(super) async fn begin(&self, made: &mut Option<PathBuf>) -> Result<(Place, Option<Repl>), String> {
        if let Some(containers) = &self.inner.containers {
            return self.begin_contained(containers, made).await;
        }
        let binds = self.binds()?;
        let (runtime_type, runtime_path) = self.runtime_labels();
        let interpreter = self.inner.interpreters.choose(runtime_type, runtime_path).await?;
        self.report(Event::Creating(pb::Creating {}));
        let (dir, log) = self.make_home(made)?;
        self.place_files(&work_of(&dir), &log);
        self.place_keys(&dir, &log).await;
        let launcher = Arc::new(self.launcher(&dir, &interpreter, &binds, &self.core_counts()).await?);
        *self.handle.launcher.lock() = Some(launcher.clone());
        let (place, repl, _) = self.open_up(dir, log, launcher, interpreter).await?;
        Ok((place, repl))
    }

    /// The kernel's directory with its log. `made` holds the directory as soon as there is one.
    pub(super) fn make_home(&self, made: &mut Option<PathBuf>) -> Result<(PathBuf, Arc<KernelLog>), String> {
        let dir = self
            .inner
            .home
            .make(&self.spec.kernel_id, &self.session.session_id)
            .map_err(|error| format!("the kernel's directory can't be made: {error}"))?;
        *made = Some(dir.clone());
        let log = KernelLog::create(&dir).map_err(|error| format!("the kernel's log can't be made: {error}"))?;
        let log = Arc::new(log);
        *self.handle.log.lock() = Some(log.clone());
        Ok((dir, log))
    }

    /// What the image's label of that name says; empty = nothing.
    pub(super) fn label(&self, name: &str) -> &str {
        let labels = self.spec.image.as_ref().map(|image| &image.labels);
        labels.and_then(|labels| labels.get(name)).map_or("", String::as_str)
    }

    /// The variables that the image wants set to the number of cores.
    pub(super) fn core_counts(&self) -> Vec<&str> {
        self.label(CORE_COUNT).split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
    }

    /// A kernel whose programs can be started: its ports, its bootstrap script, its interpreter. Tells the host, and
    /// answers its ports as the host has them.
    pub(super) async fn open_up(
        &self,
        dir: PathBuf,
        log: Arc<KernelLog>,
        launcher: Arc<Launcher>,
        interpreter: Interpreter,
    ) -> Result<(Place, Option<Repl>, Value), String> {
        let services = self.services(&dir, &launcher, &log, &interpreter, None).await?;
        let ssh = self.neighbours().map(|_| self.open_ssh(&services, &log));
        self.bootstrap(&dir, &launcher, &log).await;
        // A batch session may never need one: it gets it with its first execution.
        let repl = match self.session.session_type.as_str() {
            "BATCH" => None,
            _ => Some(Repl::start(&launcher, &interpreter, &dir).await?),
        };
        if let Some(ssh) = ssh {
            // The others may want to come in as soon as the session runs.
            let _ = ssh.await;
        }
        self.running();
        let place = Place { dir, log, launcher, interpreter };
        self.report_started(&place, &services);
        Ok((place, repl, services.report()))
    }

    /// The kernel runs, unless it is ending already.
    pub(super) fn running(&self) {
        let mut state = self.handle.state.lock();
        if *state == "preparing" {
            *state = "running";
        }
    }

    pub(super) fn report_started(&self, place: &Place, services: &Services) {
        let container = place.launcher.container();
        let own_name = || self.spec.kernel_id.replace('-', "");
        self.report(Event::Started(pb::Started {
            container_id: container.map_or_else(own_name, |container| container.id().to_owned()),
            kernel_host: self.inner.kernel_host.clone(),
            service_ports: services.report().to_string(),
            allocated: self.spec.slots.clone(),
            runtime_info: self.runtime_info(self.runtime_labels().0, &place.interpreter).to_string(),
            attached_devices: container.map_or_else(|| "{}".into(), |container| container.devices().to_string()),
        }));
    }

    /// What starts the kernel's programs: in a sandbox, when this agent has them.
    async fn launcher(
        &self,
        dir: &Path,
        interpreter: &Interpreter,
        binds: &[Bind],
        cores: &[&str],
    ) -> Result<Launcher, String> {
        let Ok(isolation) = &self.inner.isolation else {
            link(&work_of(dir), binds)?;
            let env = self.environment(&work_of(dir), &dir.join("tmp"), Some(interpreter), cores);
            return Launcher::open(dir, env).map_err(|error| format!("no process can be started: {error}"));
        };
        let env = self.environment(Path::new(sandbox::WORK), Path::new("/tmp"), Some(interpreter), cores);
        let hostname = match self.spec.cluster_hostname.as_str() {
            "" => "main1",
            name => name,
        };
        let opts: Value = serde_json::from_str(&self.spec.resource_opts).unwrap_or_default();
        let shared_memory = opts["shmem"].as_u64().unwrap_or(sandbox::SHARED_MEMORY);
        let processors = self.inner.processors.assign(&self.spec.kernel_id, self.handle.usage.lock().cores());
        let programs = &interpreter.needs;
        let seat = match self.neighbours() {
            None => None,
            Some(neighbours) => Some(Seat {
                network: isolation.network_of(&self.session.session_id).await?,
                address: neighbours.own,
                names: neighbours.names(),
            }),
        };
        let view = View { dir, hostname, env, programs, binds, shared_memory, processors, seat };
        let group = self.make_group()?;
        let sandbox = isolation.enter(view, |pid| group.map_or(Ok(()), |group| group.join(pid))).await?;
        Ok(Launcher::closed(dir, sandbox))
    }

    /// The kernel's control group, where the node has them. Only what is in a sandbox can be sure to be in it.
    fn make_group(&self) -> Result<Option<Arc<ControlGroup>>, String> {
        let Ok(groups) = &self.inner.groups else { return Ok(None) };
        let limits = super::super::limits(&self.handle.usage.lock());
        let group = groups.make(&self.spec.kernel_id, limits);
        let group = group.map_err(|error| format!("the kernel's control group can't be made: {error}"))?;
        let group = Arc::new(group);
        *self.handle.group.lock() = Some(group.clone());
        Ok(Some(group))
    }

    /// The keys with which people come in by SSH: the owner's, else a pair made for the kernel.
    pub(super) async fn place_keys(&self, dir: &Path, log: &KernelLog) {
        let internal: Value = serde_json::from_str(&self.spec.internal_data).unwrap_or_default();
        let half = |name: &str| internal["ssh_keypair"][name].as_str().filter(|text| !text.is_empty());
        let given = match (half("private_key"), half("public_key")) {
            (Some(private), Some(public)) => Some(Keys { private, public }),
            _ => None,
        };
        if let Err(message) = Keys::place(dir, given).await {
            log.note(&format!("the kernel has no SSH: {message}"));
        }
    }

    pub(super) async fn services(
        &self,
        dir: &Path,
        launcher: &Arc<Launcher>,
        log: &Arc<KernelLog>,
        interpreter: &Interpreter,
        again: Option<&Value>,
    ) -> Result<Arc<Services>, String> {
        let labels = self.spec.image.as_ref().map(|image| image.labels.clone()).unwrap_or_default();
        let isolation = self.inner.isolation.as_ref();
        let own_network = match &self.inner.containers {
            Some(containers) => containers.own_network(),
            None => isolation.is_ok_and(|isolation| isolation.network() == Network::None),
        };
        let ground = Ground {
            launcher: launcher.clone(),
            log: log.clone(),
            interpreter: interpreter.clone(),
            dir: dir.to_owned(),
            labels: labels.into_iter().collect(),
            own_network,
            address: self.neighbours().map(|neighbours| neighbours.own),
            terminal: self.terminal(),
        };
        let services = Services::open(ground, &self.spec.preopen_ports, &self.inner.ports, again).await;
        let services = services.map_err(|error| format!("the kernel gets no ports: {error}"))?;
        *self.handle.services.lock() = Some(services.clone());
        Ok(services)
    }

    /// The folders that were asked for, checked: where a sandbox has them, and that they are there.
    pub(super) fn binds(&self) -> Result<Vec<Bind>, String> {
        let mut binds = Vec::new();
        for mount in &self.spec.mounts {
            let (source, target) = (PathBuf::from(&mount.source), Path::new(&mount.target));
            let plain = |path: &Path| path.components().all(|part| !matches!(part, Component::ParentDir));
            if !source.is_absolute() || !source.exists() {
                return Err(format!("the folder {:?} isn't on this node ({})", mount.name, source.display()));
            }
            // What the system, the agent and the kernel's own places need stays theirs.
            let taken = ["/proc", "/dev", "/sys", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/run", "/tmp"];
            let is_taken = taken.iter().any(|taken| target.starts_with(taken));
            if !target.is_absolute()
                || !plain(target)
                || is_taken
                || [Path::new("/"), Path::new(sandbox::WORK)].contains(&target)
            {
                return Err(format!("the folder {:?} can't be mounted at {:?}", mount.name, mount.target));
            }
            binds.push(Bind { source, target: target.to_owned(), read_only: mount.read_only });
        }
        // Outer ones first: an inner one would be covered else.
        binds.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(binds)
    }

    /// What kernels of a cluster know of each other, dotfiles, and without a cluster the owner's SSH key pair.
    pub(super) fn place_files(&self, work: &Path, log: &KernelLog) {
        let internal: Value = serde_json::from_str(&self.spec.internal_data).unwrap_or_default();
        if self.lacks_network() {
            log.note("the session's kernels don't reach each other on this node (see `quarterdeck agent doctor`)");
        }
        let cluster = cluster::files(&internal, self.neighbours().as_ref());
        let mut files: Vec<_> = cluster.iter().map(|(path, data, mode)| (*path, data.as_str(), *mode)).collect();
        for dotfile in internal["dotfiles"].as_array().into_iter().flatten() {
            let (Some(path), Some(data)) = (dotfile["path"].as_str(), dotfile["data"].as_str()) else { continue };
            let mode = dotfile["perm"].as_str().and_then(|perm| u32::from_str_radix(perm, 8).ok()).unwrap_or(0o600);
            files.push((path, data, mode));
        }
        let pair = &internal["ssh_keypair"];
        for (path, key, mode) in
            [(".ssh/id_cluster", "private_key", 0o600), (".ssh/id_cluster.pub", "public_key", 0o644)]
        {
            if let Some(data) = pair[key].as_str().filter(|data| !data.is_empty() && cluster.is_empty()) {
                files.push((path, data, mode));
            }
        }
        for (path, data, mode) in files {
            if let Err(message) = place(work, path, data.as_bytes(), mode) {
                log.note(&format!("a file wasn't placed: {message}"));
            }
        }
    }

    /// What the kernel's programs have in their environment. Without an interpreter of the node, whoever makes their
    /// place knows their `PATH`.
    pub(super) fn environment(
        &self,
        home: &Path,
        tmp: &Path,
        interpreter: Option<&Interpreter>,
        cores: &[&str],
    ) -> Vec<(String, String)> {
        let mut env = BTreeMap::new();
        let mut set = |name: &str, value: String| drop(env.insert(name.to_owned(), value));
        if let Some(interpreter) = interpreter {
            let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
            // What the kernel starts by name is what it runs in.
            let first = interpreter.path.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
            set("PATH", format!("{first}:{path}"));
        }
        set("LANG", "C.UTF-8".into());
        set("TERM", "dumb".into());
        let count =
            self.spec.slots.iter().find(|slot| slot.name == "cpu").map_or(1, |slot| slot.amount.div_ceil(1000).max(1));
        for name in cores {
            set(name, count.to_string());
        }
        let given = self
            .spec
            .environ
            .iter()
            .filter(|(name, value)| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
        for (name, value) in given {
            set(name, value.clone());
        }
        let (session, spec) = (&self.session, &self.spec);
        set("HOME", home.display().to_string());
        set("TMPDIR", tmp.display().to_string());
        set(MARK, spec.kernel_id.clone());
        set("BACKENDAI_SESSION_ID", session.session_id.clone());
        set("BACKENDAI_SESSION_NAME", session.session_name.clone());
        set("BACKENDAI_ACCESS_KEY", session.access_key.clone());
        set("BACKENDAI_CLUSTER_MODE", session.cluster_mode.clone());
        set("BACKENDAI_CLUSTER_SIZE", session.cluster_size.to_string());
        set("BACKENDAI_CLUSTER_ROLE", spec.cluster_role.clone());
        set("BACKENDAI_CLUSTER_IDX", spec.cluster_idx.to_string());
        set("BACKENDAI_CLUSTER_LOCAL_RANK", spec.local_rank.to_string());
        set("BACKENDAI_CLUSTER_HOST", spec.cluster_hostname.clone());
        if let Some(neighbours) = self.neighbours() {
            let addresses: Vec<_> =
                neighbours.names().into_iter().map(|(name, address)| format!("{name}={address}")).collect();
            set("QUARTERDECK_CLUSTER_ADDRESSES", addresses.join(","));
        }
        let image = spec.image.as_ref().map(|image| image.canonical.clone()).unwrap_or_default();
        set("BACKENDAI_KERNEL_IMAGE", image);
        env.retain(|_, value| !value.contains('\0'));
        env.into_iter().collect()
    }

    /// Runs the bootstrap script. Its failure is told in the log; the kernel starts all the same.
    async fn bootstrap(&self, dir: &Path, launcher: &Launcher, log: &KernelLog) {
        let script = &self.spec.bootstrap_script;
        if script.trim().is_empty() {
            return;
        }
        let outcome = async {
            let path = dir.join("run").join("bootstrap");
            files::write(&path, script.as_bytes())?;
            let interpreter = script.lines().next().and_then(|line| line.strip_prefix("#!")).map(str::trim);
            let mut command: Vec<&OsStr> = match interpreter {
                Some(line) if !line.is_empty() => line.split_whitespace().map(OsStr::new).collect(),
                _ => vec![OsStr::new("/bin/sh")],
            };
            let inside = launcher.inside(&path);
            command.push(inside.as_os_str());
            let mut proc = launcher.spawn(&command, false, None).await?;
            while let Some(io) = proc.io.recv().await {
                match io {
                    Io::Output(_, bytes) => log.append(&bytes),
                    Io::Event(_) => {}
                    Io::Exited(code) => return Ok(code),
                }
            }
            Ok::<i32, std::io::Error>(-1)
        };
        match outcome.await {
            Ok(0) => {}
            Ok(code) => log.note(&format!("the bootstrap script failed with exit code {code}")),
            Err(error) => log.note(&format!("the bootstrap script couldn't run: {error}")),
        }
    }
}

/// Folders where there are no mounts: links, which a program may remove and which keep nobody from writing.
fn link(work: &Path, binds: &[Bind]) -> Result<(), String> {
    for bind in binds {
        let name = bind.target.display();
        let Ok(inner) = bind.target.strip_prefix(sandbox::WORK) else {
            return Err(format!("without isolation, folders appear below {} only: not {name}", sandbox::WORK));
        };
        if bind.read_only {
            return Err(format!("without isolation, a folder can't be protected from writing: {name}"));
        }
        let made = std::fs::create_dir_all(work.join(inner.parent().unwrap_or_else(|| Path::new(""))))
            // A work directory that is used again has the link already.
            .and_then(|()| match work.join(inner) {
                link if link.is_symlink() => std::fs::remove_file(link),
                _ => Ok(()),
            })
            .and_then(|()| std::os::unix::fs::symlink(&bind.source, work.join(inner)));
        made.map_err(|error| format!("linking {name}: {error}"))?;
    }
    Ok(())
}

impl Task {
    fn runtime_info(&self, runtime_type: &str, interpreter: &Interpreter) -> Value {
        json!({
            "runtime": self.inner.containers.as_ref().map_or("process", |containers| containers.name()),
            "runtime_type": runtime_type,
            "interpreter": interpreter.path.display().to_string(),
            "language": interpreter.dialect.as_str(),
            "version": interpreter.version,
            "isolation": self.inner.isolation_info(),
        })
    }
}
