//! One kernel: a task that owns its processes and its runs, and a handle to talk to it.

mod batch;
mod setup;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::batch::{Batch, Steps};
use super::Inner;
use super::cgroup::ControlGroup;
use super::interpreters::{Dialect, Interpreter};
use super::log::KernelLog;
use super::procfs::{Group, end_all};
use super::pump::Decoder;
use super::repl::{Repl, Said};
use super::runs::{self, Entered, Pseudo, Reply, Runs, Stream, Work};
use super::services::Services;
use super::spawn::{Io, Launcher, Proc};
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
    });
    let task = Task { inner, session, spec, handle: handle.clone() };
    tokio::spawn(task.run(inbox));
    handle
}

/// What a kernel's task knows all its life.
struct Task {
    inner: Arc<Inner>,
    session: Arc<SessionSpec>,
    spec: pb::KernelSpec,
    handle: Arc<Handle>,
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
        self.report(Event::Preparing(pb::Preparing {}));
        let mut dir = None;
        let begun = tokio::select! {
            begun = self.begin(&mut dir) => begun.map(Some),
            () = self.handle.stop.cancelled() => Ok(None),
        };
        let (reason, exit_code) = match begun {
            Ok(Some((place, repl))) => {
                let mut live = Live::new(&self, &place, repl);
                let end = live.serve(inbox).await;
                live.close(&end).await;
                end
            }
            Ok(None) => self.told_to_end(),
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
        let (id, groups) = (self.spec.kernel_id.clone(), self.handle.groups());
        let inner = self.inner.clone();
        let _ = tokio::task::spawn_blocking(move || end_all(&id, groups, GRACE, &inner.scanner)).await;
    }

    /// Gives back what the node lent for the kernel.
    async fn release(&self) {
        self.inner.processors.release(&self.spec.kernel_id);
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

/// A kernel that runs.
struct Live<'a> {
    task: &'a Task,
    place: &'a Place,
    repl: Option<Repl>,
    /// Steps of a run in batch mode, while they run.
    steps: Option<Steps>,
    /// The command of a batch session, while it runs.
    batch: Option<Batch>,
    runs: Runs,
    decoders: [Decoder; 2],
    questions: HashMap<u64, Reply>,
    last_question: u64,
}

/// Why a kernel ended, and its exit code.
type Ended = (String, i32);

impl<'a> Live<'a> {
    fn new(task: &'a Task, place: &'a Place, repl: Option<Repl>) -> Self {
        Self {
            task,
            place,
            repl,
            steps: None,
            batch: None,
            runs: Runs::default(),
            decoders: Default::default(),
            questions: HashMap::new(),
            last_question: 0,
        }
    }

    async fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) -> Ended {
        self.start_batch().await;
        loop {
            while let Some(work) = self.runs.next() {
                if let Err(ended) = self.begin(work).await {
                    return ended;
                }
            }
            self.runs.deliver(Instant::now());
            self.tell_busy();
            let deadline = [self.runs.deadline(), self.batch.as_ref().and_then(|batch| batch.deadline)];
            let deadline = deadline.into_iter().flatten().min();
            tokio::select! {
                biased;
                () = self.task.handle.stop.cancelled() => return self.task.told_to_end(),
                io = next(self.repl.as_mut().map(|repl| &mut repl.proc)) => {
                    if let Err(ended) = self.heard_repl(io) {
                        return ended;
                    }
                }
                io = next(self.steps.as_mut().map(|steps| &mut steps.proc)) => self.heard_steps(io).await,
                io = next(self.batch.as_mut().map(|batch| &mut batch.proc)) => self.heard_batch(io),
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return self.task.told_to_end(),
                },
                () = at(deadline) => self.check_batch_time(),
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Execute(request, reply) if request.mode == "query" && runs::pseudo(&request.code).is_some() => {
                // It concerns the terminal and waits for nobody's turn.
                if let Some(Pseudo::Resize { rows, columns }) = runs::pseudo(&request.code) {
                    self.task.handle.resize(rows, columns);
                }
                let _ = reply.send(Ok(runs::done(&request.run_id)));
            }
            Command::Execute(request, reply) => {
                let interpreter = &self.place.interpreter;
                let work = || batch::work(&request, interpreter.dialect, &work_of(&self.place.dir));
                if let Entered::Input(text) = self.runs.enter(&request, reply, work)
                    && let Some(repl) = &mut self.repl
                    && let Err(error) = repl.input(&text).await
                {
                    self.place.log.note(&format!("input didn't reach the interpreter: {error}"));
                }
            }
            Command::Interrupt(reply) => {
                let job = match (&self.steps, &self.repl) {
                    (Some(steps), _) => Some(&steps.proc.job),
                    (None, Some(repl)) if self.runs.is_busy() => Some(&repl.proc.job),
                    _ => None,
                };
                if let Some(job) = job {
                    job.signal(Signal::SIGINT);
                }
                let _ = reply.send(Ok(()));
            }
            Command::Complete(request, reply) => {
                self.last_question += 1;
                let id = self.last_question;
                let asked = match &mut self.repl {
                    Some(repl) => repl.complete(id, &request.code).await.unwrap_or(false),
                    None => false,
                };
                if asked {
                    self.questions.retain(|_, reply| !reply.is_closed());
                    self.questions.insert(id, reply);
                } else {
                    let _ = reply.send(Ok(completions(Vec::new())));
                }
            }
        }
    }

    /// Begins a run's work.
    async fn begin(&mut self, work: Work) -> Result<(), Ended> {
        match work {
            Work::Query(code) => {
                if self.repl.is_none() {
                    match Repl::start(&self.place.launcher, &self.place.interpreter, &self.place.dir).await {
                        Ok(repl) => self.repl = Some(repl),
                        Err(message) => {
                            self.place.log.note(&message);
                            self.runs.text(Stream::Stderr, &format!("{message}\n"));
                            self.runs.finish(127);
                            return Ok(());
                        }
                    }
                }
                if let Some(repl) = &mut self.repl
                    && let Err(error) = repl.run(&code).await
                {
                    // Its end, if that is why, is told next.
                    self.place.log.note(&format!("code didn't reach the interpreter: {error}"));
                    if error.kind() != std::io::ErrorKind::BrokenPipe {
                        self.runs.text(Stream::Stderr, &format!("the interpreter takes no code: {error}\n"));
                        self.runs.finish(126);
                    }
                }
            }
            Work::Batch(steps) => self.begin_steps(steps).await,
        }
        Ok(())
    }

    fn print(&mut self, stream: Stream, bytes: &[u8]) {
        self.place.log.append(bytes);
        let text = self.decoders[stream as usize].text(bytes);
        self.runs.text(stream, &text);
    }

    fn heard_repl(&mut self, io: Io) -> Result<(), Ended> {
        match io {
            Io::Output(stream, bytes) => self.print(stream, &bytes),
            Io::Event(event) => match Repl::understand(&event) {
                Said::Done(code) => self.runs.finish(code),
                Said::Input { password } => self.runs.waiting(password),
                Said::Completions(id, matches) => {
                    if let Some(reply) = self.questions.remove(&id) {
                        let _ = reply.send(Ok(completions(matches)));
                    }
                }
                Said::Shown(kind, value) => self.runs.shown(kind, value),
                Said::Nothing => {}
            },
            Io::Exited(code) => {
                let Some(repl) = self.repl.take() else { return Ok(()) };
                if matches!(repl.dialect, Dialect::Python | Dialect::Node) {
                    self.place.log.note(&format!("the interpreter ended with exit code {code}"));
                    return Err(("self-terminated".into(), code));
                }
                // `exit` in a shell ends the run; the next one finds a fresh shell.
                self.runs.finish(code);
            }
        }
        Ok(())
    }

    /// Tells the host when the kernel begins or ends to work.
    fn tell_busy(&mut self) {
        let busy = self.runs.is_busy() || self.batch.is_some();
        if self.task.handle.busy.swap(busy, Ordering::Relaxed) != busy {
            self.task.report(Event::Execution(pb::ExecutionChanged { running: busy }));
        }
    }

    async fn close(&mut self, end: &Ended) {
        let code = if end.1 == 0 { 130 } else { end.1 };
        self.runs.text(Stream::Stderr, &format!("the kernel ended: {}\n", end.0));
        self.runs.close(code, &Failure::Refused(format!("the kernel ended: {}", end.0)));
        for (_, reply) in self.questions.drain() {
            let _ = reply.send(Ok(completions(Vec::new())));
        }
        // What it prints while it is asked to end belongs to its log.
        *self.task.handle.state.lock() = "terminating";
        let ending = self.task.end_processes();
        tokio::pin!(ending);
        loop {
            let io = tokio::select! {
                biased;
                io = next(self.repl.as_mut().map(|repl| &mut repl.proc)) => io,
                io = next(self.steps.as_mut().map(|steps| &mut steps.proc)) => io,
                io = next(self.batch.as_mut().map(|batch| &mut batch.proc)) => io,
                () = &mut ending => break,
            };
            match io {
                Io::Output(_, bytes) => self.place.log.append(&bytes),
                Io::Event(_) | Io::Exited(_) => {}
            }
        }
        if self.batch.take().is_some() && self.task.session.session_type == "BATCH" {
            match end.0.as_str() {
                OUT_OF_MEMORY => self.batch_finished("task-failed", end.1),
                _ => self.batch_finished("task-cancelled", -2),
            }
        }
    }
}

fn completions(matches: Vec<Value>) -> Value {
    json!({"status": "finished", "completions": matches})
}

/// The next word of a program, if there is one.
async fn next(proc: Option<&mut Proc>) -> Io {
    match proc {
        Some(proc) => match proc.io.recv().await {
            Some(io) => io,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The work directory below a kernel's directory.
fn work_of(dir: &Path) -> PathBuf {
    dir.join("work")
}
