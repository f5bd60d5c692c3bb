//! Kernels in containers: how they begin, and how they go on when their agent comes back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::super::container::{BATCH, Containers, REPL, Recalled, SERVICE, Wanted};
use super::super::files;
use super::super::interpreters::{Dialect, Interpreter, RUNTIME_PATH, RUNTIME_TYPE};
use super::super::log::KernelLog;
use super::super::repl::Repl;
use super::super::resumable::Resumable;
use super::super::spawn::{Io, Launcher, Proc};
use super::super::workdir::give;
use super::batch::Batch;
use super::live::Live;
use super::{Place, Task, work_of};
use crate::sandbox;
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;

/// Names the run that the interpreter is at, while it is.
const ACTIVE: &str = "active";

impl Task {
    /// Brings a kernel up in a container. `made` holds its directory as soon as there is one.
    pub(super) async fn begin_contained(
        &self,
        containers: &Arc<dyn Containers>,
        made: &mut Option<PathBuf>,
    ) -> Result<(Place, Option<Repl>), String> {
        let binds = self.binds()?;
        let (dir, log) = self.make_home(made)?;
        let image = self.spec.image.as_ref().map(|image| image.canonical.clone()).unwrap_or_default();
        let pulling = || self.report(Event::Pulling(pb::Pulling { image: image.clone() }));
        containers.prepare(&self.spec, &log, &pulling).await?;
        self.report(Event::Creating(pb::Creating {}));
        self.place_files(&work_of(&dir), &log);
        self.place_keys(&dir, &log).await;
        if let Some(owner) = containers.owner() {
            let tree = dir.clone();
            let given = tokio::task::spawn_blocking(move || give(&tree, owner)).await;
            given
                .map_err(|panic| panic.to_string())?
                .map_err(|error| format!("giving files to the kernel: {error}"))?;
        }
        let opts: Value = serde_json::from_str(&self.spec.resource_opts).unwrap_or_default();
        let wanted = Wanted {
            session: &self.session,
            spec: &self.spec,
            dir: &dir,
            log: &log,
            binds: &binds,
            env: self.environment(Path::new(sandbox::WORK), Path::new("/tmp"), None, &self.core_counts()),
            processors: self.inner.processors.assign(&self.spec.kernel_id, self.handle.usage.lock().cores()),
            shared_memory: opts["shmem"].as_u64().unwrap_or(sandbox::SHARED_MEMORY),
        };
        let (container, interpreter) = containers.enter(wanted).await?;
        let launcher = Arc::new(Launcher::contained(&dir, container));
        *self.handle.launcher.lock() = Some(launcher.clone());
        let (place, repl, services) = self.open_up(dir, log, launcher, interpreter).await?;
        let resumable = Resumable {
            session: (*self.session).clone(),
            spec: self.spec.clone(),
            dialect: place.interpreter.dialect.as_str().into(),
            interpreter: place.interpreter.path.clone(),
            version: place.interpreter.version.clone(),
            ports: services,
        };
        if let Err(error) = resumable.keep(&place.dir) {
            place.log.note(&format!("the kernel won't survive a restart of its agent: {error}"));
        }
        Ok((place, repl))
    }

    /// Takes a kernel up again whose container lived on while the agent didn't.
    pub(super) async fn resume(
        &self,
        containers: &Arc<dyn Containers>,
        resumable: &Resumable,
        made: &mut Option<PathBuf>,
    ) -> Result<(Place, Vec<Recalled>), String> {
        let dir = self.inner.home.kernel(&self.spec.kernel_id);
        *made = Some(dir.clone());
        let log = KernelLog::go_on(&dir).map_err(|error| format!("the kernel's log can't go on: {error}"))?;
        let log = Arc::new(log);
        *self.handle.log.lock() = Some(log.clone());
        let container = containers.find(&self.spec.kernel_id, &dir).await?;
        let recalled = container.recall().await;
        let launcher = Arc::new(Launcher::contained(&dir, container));
        *self.handle.launcher.lock() = Some(launcher.clone());
        let dialect = [Dialect::Python, Dialect::Node, Dialect::Bash, Dialect::Sh]
            .into_iter()
            .find(|dialect| dialect.as_str() == resumable.dialect)
            .unwrap_or(Dialect::Sh);
        let (path, version) = (resumable.interpreter.clone(), resumable.version.clone());
        let interpreter = Interpreter { dialect, path, version, needs: Vec::new() };
        let services = self.services(&dir, &launcher, &log, &interpreter, Some(&resumable.ports)).await?;
        self.running();
        let place = Place { dir, log, launcher, interpreter };
        // Whether the host heard of it before isn't known here; hearing it twice does no harm.
        self.report_started(&place, &services);
        Ok((place, recalled))
    }

    /// What an image's labels say of what a kernel runs: its type, and the path of the interpreter.
    pub(super) fn runtime_labels(&self) -> (&str, &str) {
        (self.label(RUNTIME_TYPE), self.label(RUNTIME_PATH))
    }
}

impl Live<'_> {
    /// Takes up the programs of an earlier start of the agent.
    pub(super) fn take_up(&mut self, recalled: Vec<Recalled>) {
        for known in recalled {
            let (role, age) = (known.role.clone(), known.age);
            if role == REPL {
                match Repl::take_up(&self.place.launcher, self.place.interpreter.dialect, &self.place.dir, known) {
                    Ok(repl) => self.repl = Some(repl),
                    Err(error) => self.place.log.note(&format!("the interpreter can't be taken up: {error}")),
                }
                if let Ok(id) = files::read(&self.place.dir.join(ACTIVE))
                    && self.repl.is_some()
                {
                    self.runs.go_on(String::from_utf8_lossy(&id).into_owned());
                }
                continue;
            }
            let Some(proc) = self.place.launcher.take_up(known, None) else { continue };
            if role == BATCH {
                let limit = Some(self.task.spec.timeout_ms).filter(|millis| *millis > 0).map(Duration::from_millis);
                let deadline = limit.and_then(|limit| Instant::now().checked_add(limit.saturating_sub(age)));
                self.batch = Some(Batch { proc, deadline, timed_out: false });
            } else if let (Some(name), Ok(services)) = (role.strip_prefix(SERVICE), self.task.handle.services()) {
                let name = name.to_owned();
                tokio::spawn(async move { services.take_up(name, proc).await });
            } else {
                tokio::spawn(drain(proc, self.place.log.clone()));
            }
        }
    }

    /// Notes which run the interpreter is at, where that outlives the agent.
    pub(super) fn note_active(&self) {
        if self.place.launcher.container().is_none() {
            return;
        }
        let path = self.place.dir.join(ACTIVE);
        let noted = match self.runs.active() {
            Some(id) => files::write(&path, id.as_bytes()),
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if let Err(error) = noted {
            tracing::debug!(%error, "a kernel's run can't be noted");
        }
    }
}

/// Writes what a program prints that nobody waits for to the log, until its end.
async fn drain(mut proc: Proc, log: Arc<KernelLog>) {
    while let Some(io) = proc.io.recv().await {
        if let Io::Output(_, bytes) = io {
            log.append(&bytes);
        }
    }
}
