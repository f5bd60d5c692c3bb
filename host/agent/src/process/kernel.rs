//! One kernel: a task that owns its processes and its runs, and a handle to talk to it.

mod batch;
mod contained;
mod live;
mod session;
mod setup;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::live::{Ended, Live};
use super::Inner;
use super::cgroup::ControlGroup;
use super::interpreters::Interpreter;
use super::log::KernelLog;
use super::procfs::{Group, end_all};
use super::resumable::Resumable;
use super::runs::Reply;
use super::services::Services;
use super::spawn::Launcher;
use super::stats::Usage;
use super::terminal::Terminal;
use super::workdir::RESTARTING;
use crate::error::Failure;
use crate::runtime::SessionSpec;
use crate::user_files::UserFiles;

/// How long processes have to end when asked to.
const GRACE: Duration = Duration::from_secs(2);
const OUT_OF_MEMORY: &str = "out-of-memory";

/// What a kernel's task is asked to do.
pub(super) enum Command {
    Execute(pb::ExecuteRequest, Reply),
    Interrupt(oneshot::Sender<Result<(), Failure>>),
    Complete(pb::CompleteRequest, Reply),
}

/// A kernel, seen from outside of its task.
pub(super) struct Handle {
    pub(super) session_id: String,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) usage: Mutex<Usage>,
    state: Mutex<&'static str>,
    reason: Mutex<Option<String>>,
    stop: CancellationToken,
    /// The task is over: processes are gone, the end is reported.
    over: CancellationToken,
    log: Mutex<Option<Arc<KernelLog>>>,
    launcher: Mutex<Option<Arc<Launcher>>>,
    terminal: Mutex<Option<Arc<Terminal>>>,
    opening: tokio::sync::Mutex<()>,
    /// Its control group, where the node has them.
    group: Mutex<Option<Arc<ControlGroup>>>,
    services: Mutex<Option<Arc<Services>>>,
    busy: AtomicBool,
    /// Whom files belong to that come in from outside; none = the agent.
    owner: Option<(u32, u32)>,
}

impl Handle {
    /// `preparing`, `running` or `terminating`.
    pub(super) fn state(&self) -> &'static str {
        *self.state.lock()
    }

    /// Has the kernel end. The first reason counts.
    pub(super) fn end(&self, reason: &str) {
        self.reason.lock().get_or_insert_with(|| reason.to_owned());
        *self.state.lock() = "terminating";
        self.stop.cancel();
    }

    /// The kernel uses more memory than it may: it ends.
    pub(super) fn out_of_memory(&self, used: u64) {
        if self.stop.is_cancelled() {
            return;
        }
        if let Some(log) = &*self.log.lock() {
            let mib = used >> 20;
            log.note(&format!("out of memory: the kernel uses {mib} MiB, more than its limit, and is ended"));
        }
        self.end(OUT_OF_MEMORY);
    }

    /// What the kernel printed.
    pub(super) fn log(&self) -> Vec<u8> {
        let log = self.log.lock().clone();
        log.map(|log| log.read()).unwrap_or_default()
    }

    /// What starts its programs, while they may be started.
    fn launcher(&self) -> Result<Arc<Launcher>, Failure> {
        match (self.state(), self.launcher.lock().as_ref()) {
            ("running", Some(launcher)) => Ok(launcher.clone()),
            (state, _) => Err(Failure::Refused(format!("the kernel is {state}"))),
        }
    }

    /// The files of its work directory.
    pub(super) fn files(&self) -> Result<UserFiles, Failure> {
        let launcher = self.launcher()?;
        UserFiles::open(&launcher.work())
            .map(|files| files.owned_by(self.owner))
            .map_err(|error| Failure::Refused(format!("the kernel's work directory can't be opened: {error}")))
    }

    /// Its terminal: the one there is, or a new one with a shell.
    pub(super) async fn terminal(&self, shell: &Path) -> Result<Arc<Terminal>, Failure> {
        let launcher = self.launcher()?;
        // Two who come at once get the same.
        let _turn = self.opening.lock().await;
        let there = self.terminal.lock().clone();
        if let Some(open) = there.filter(|open| !open.has_ended()) {
            return Ok(open);
        }
        let open = Terminal::open(&launcher, shell)
            .await
            .map_err(|error| Failure::Refused(format!("no terminal can be opened: {error}")))?;
        *self.terminal.lock() = Some(open.clone());
        Ok(open)
    }

    /// The terminal's new size, if there is one.
    fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = self.terminal.lock().as_ref() {
            terminal.resize(rows, columns);
        }
    }

    /// What starts its programs, once there is one, also while they are ended.
    pub(super) fn any_launcher(&self) -> Option<Arc<Launcher>> {
        self.launcher.lock().clone()
    }

    /// What it offers on its ports.
    pub(super) fn services(&self) -> Result<Arc<Services>, Failure> {
        self.services.lock().clone().ok_or_else(|| Failure::Refused(format!("the kernel is {}", self.state())))
    }

    /// Its control group.
    pub(super) fn control_group(&self) -> Option<Arc<ControlGroup>> {
        self.group.lock().clone()
    }

    /// The process from which all others of its sandbox descend.
    pub(super) fn root(&self) -> Option<i32> {
        self.launcher.lock().as_ref().and_then(|launcher| launcher.sandbox().map(|sandbox| sandbox.pid()))
    }

    /// Its process groups.
    pub(super) fn groups(&self) -> Vec<Group> {
        self.launcher.lock().as_ref().map(|launcher| launcher.groups()).unwrap_or_default()
    }

    /// Forgets process groups that are over.
    pub(super) fn forget_groups(&self, over: &[Group]) {
        if let Some(launcher) = &*self.launcher.lock() {
            launcher.forget(over);
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits until nothing of it runs.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }
}

/// Starts a kernel's task.
pub(super) fn start(inner: Arc<Inner>, session: Arc<SessionSpec>, spec: pb::KernelSpec) -> Arc<Handle> {
    launch(inner, session, spec, None)
}

/// Starts the task of a kernel that an earlier start of the agent began.
pub(super) fn resume(inner: Arc<Inner>, resumable: Resumable) -> Arc<Handle> {
    let (session, spec) = (Arc::new(resumable.session.clone()), resumable.spec.clone());
    launch(inner, session, spec, Some(resumable))
}

fn launch(
    inner: Arc<Inner>,
    session: Arc<SessionSpec>,
    spec: pb::KernelSpec,
    resumable: Option<Resumable>,
) -> Arc<Handle> {
    let (commands, inbox) = mpsc::channel(32);
    let amount = |name: &str| spec.slots.iter().find(|slot| slot.name == name).map_or(0, |slot| slot.amount);
    let handle = Arc::new(Handle {
        session_id: session.session_id.clone(),
        commands,
        usage: Mutex::new(Usage::new(amount("cpu") as f64 / 1000.0, amount("mem"))),
        state: Mutex::new("preparing"),
        reason: Mutex::default(),
        stop: CancellationToken::new(),
        over: CancellationToken::new(),
        log: Mutex::default(),
        launcher: Mutex::default(),
        terminal: Mutex::default(),
        opening: tokio::sync::Mutex::default(),
        group: Mutex::default(),
        services: Mutex::default(),
        busy: AtomicBool::default(),
        owner: inner.containers.as_ref().and_then(|containers| containers.owner()),
    });
    let task = Task { inner, session, spec, handle: handle.clone(), resumable };
    tokio::spawn(task.run(inbox));
    handle
}

/// What a kernel's task knows all its life.
struct Task {
    inner: Arc<Inner>,
    session: Arc<SessionSpec>,
    spec: pb::KernelSpec,
    handle: Arc<Handle>,
    /// It runs already: an earlier start of the agent began it.
    resumable: Option<Resumable>,
}

/// What there is once a kernel's directory is made.
struct Place {
    dir: PathBuf,
    log: Arc<KernelLog>,
    launcher: Arc<Launcher>,
    interpreter: Interpreter,
}

impl Task {
    fn report(&self, event: Event) {
        self.inner.reporter.send(&self.session.session_id, &self.spec.kernel_id, event);
    }

    async fn run(self, inbox: mpsc::Receiver<Command>) {
        let mut dir = None;
        let begin = async {
            match (&self.resumable, &self.inner.containers) {
                (Some(resumable), Some(containers)) => {
                    let (place, recalled) = self.resume(containers, resumable, &mut dir).await?;
                    Ok((place, None, Some(recalled)))
                }
                _ => {
                    self.report(Event::Preparing(pb::Preparing {}));
                    let (place, repl) = self.begin(&mut dir).await?;
                    Ok((place, repl, None))
                }
            }
        };
        let begun = tokio::select! {
            begun = begin => begun.map(Some),
            () = self.handle.stop.cancelled() => Ok(None),
        };
        let (reason, exit_code) = match begun {
            Ok(Some((place, repl, recalled))) => {
                let mut live = Live::new(&self, &place, repl);
                match recalled {
                    Some(recalled) => live.take_up(recalled),
                    None => live.start_batch().await,
                }
                let end = live.serve(inbox).await;
                live.close(&end).await;
                end
            }
            Ok(None) => self.told_to_end(),
            Err(message) if self.resumable.is_some() => {
                tracing::warn!(kernel = self.spec.kernel_id, message, "a kernel can't be taken up");
                ("agent-restart".into(), 137)
            }
            Err(message) => {
                tracing::warn!(kernel = self.spec.kernel_id, message, "a kernel can't start");
                // The processes go first: a failed start leaves nothing.
                self.end_processes().await;
                self.release().await;
                if let Some(dir) = dir {
                    let _ = tokio::fs::remove_dir_all(dir).await;
                }
                *self.handle.state.lock() = "terminating";
                self.handle.over.cancel();
                self.report(Event::StartFailed(pb::StartFailed { name: "KernelCreationError".into(), message }));
                return;
            }
        };
        self.finish(dir, reason, exit_code).await;
    }

    /// The end that was asked for from outside.
    fn told_to_end(&self) -> Ended {
        let reason = self.handle.reason.lock().clone().unwrap_or_else(|| "self-terminated".into());
        let exit_code = if reason == OUT_OF_MEMORY { 137 } else { 0 };
        (reason, exit_code)
    }

    async fn end_processes(&self) {
        if let Some(services) = self.handle.services.lock().take() {
            services.close();
        }
        let launcher = self.handle.any_launcher();
        if let Some(sandbox) = launcher.as_ref().and_then(|launcher| launcher.sandbox()) {
            // The system ends every process of it with the first: there is nothing to look for.
            return sandbox.end(GRACE).await;
        }
        if let Some(container) = launcher.as_ref().and_then(|launcher| launcher.container()) {
            return container.end(GRACE).await;
        }
        if self.inner.containers.is_some() {
            // There is none yet, or whatever there is goes when it is released.
            return;
        }
        let (id, groups) = (self.spec.kernel_id.clone(), self.handle.groups());
        let inner = self.inner.clone();
        let _ = tokio::task::spawn_blocking(move || end_all(&id, groups, GRACE, &inner.scanner)).await;
    }

    /// Gives back what the node lent for the kernel.
    async fn release(&self) {
        self.inner.processors.release(&self.spec.kernel_id);
        if let Some(containers) = &self.inner.containers {
            containers.release(&self.session.session_id, &self.spec.kernel_id).await;
        }
        let group = self.handle.group.lock().take();
        if let Some(group) = group {
            let _ = tokio::task::spawn_blocking(move || group.end()).await;
        }
    }

    async fn finish(&self, dir: Option<PathBuf>, reason: String, exit_code: i32) {
        *self.handle.state.lock() = "terminating";
        self.end_processes().await;
        let last_stat = self.handle.usage.lock().to_json().to_string();
        let end = pb::Terminated { reason, exit_code, log: Vec::new(), last_stat };
        let inner = self.inner.clone();
        let kept = end.clone();
        let retire = tokio::task::spawn_blocking(move || {
            let Some(dir) = dir else { return Ok(None) };
            if kept.reason == RESTARTING
                && let Err(error) = inner.home.keep(&dir)
            {
                tracing::warn!(dir = %dir.display(), %error, "the files of a kernel that restarts can't be kept");
            }
            inner.home.retire(&dir, &kept).map(Some)
        });
        let remains = match retire.await {
            Ok(Ok(remains)) => remains,
            Ok(Err(error)) => {
                tracing::warn!(kernel = self.spec.kernel_id, %error, "can't put a kernel's log aside");
                None
            }
            Err(_) => None,
        };
        self.handle.launcher.lock().take();
        self.release().await;
        self.handle.over.cancel();
        self.inner.reporter.ended(&self.session.session_id, &self.spec.kernel_id, end, remains);
    }
}

/// The work directory below a kernel's directory.
fn work_of(dir: &Path) -> PathBuf {
    dir.join("work")
}
