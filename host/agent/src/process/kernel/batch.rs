//! Commands: the steps of a run in batch mode, and the startup command of a batch session.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;
use serde_json::Value;
use tokio::time::Instant;

use super::super::container::BATCH;
use super::super::interpreters::Dialect;
use super::super::runs::{Step, Stream, Work};
use super::super::spawn::{Io, Launcher, Proc};
use super::live::Live;
use crate::error::Failure;

const CLEAN: &str = "if [ -f Makefile ]; then make clean; fi";
const BUILD: &str = "if [ -f Makefile ]; then make; fi";
/// What a run's last step answers when the build before it failed, as shells do for what they can't run.
const NOT_BUILT: i32 = 127;

/// Why a kernel ends whose model's server is over: without it there is nothing to keep it for.
const SERVER_ENDED: &str = "self-terminated";

/// The steps of a run that are left.
pub(super) struct Steps {
    pub(super) proc: Proc,
    ended_as: &'static str,
    left: VecDeque<Step>,
}

/// The command of a batch session.
pub(super) struct Batch {
    pub(super) proc: Proc,
    pub(super) deadline: Option<Instant>,
    pub(super) timed_out: bool,
}

/// What an execute call asks for.
pub(super) fn work(request: &pb::ExecuteRequest, dialect: Dialect, dir: &Path) -> Result<Work, Failure> {
    match request.mode.as_str() {
        "query" => Ok(Work::Query(request.code.clone())),
        "batch" => {
            let options: Value = serde_json::from_str(&request.options).unwrap_or_default();
            let step = |ended_as, name: &str, default: &str| {
                let command = match options[name].as_str() {
                    None | Some("") => None,
                    Some("*") => Some(default.to_owned()),
                    Some(command) => Some(command.to_owned()),
                };
                Step { ended_as, command }
            };
            let main = match dialect {
                Dialect::Python => ("main.py", "python3"),
                Dialect::Node => ("main.js", "node"),
                Dialect::Bash => ("main.sh", "bash"),
                Dialect::Sh => ("main.sh", "sh"),
            };
            let exec = match dir.is_dir() {
                true => format!(
                    "if [ -f {0} ]; then exec {1} {0}; fi; echo 'there is no {0}' >&2; exit 127",
                    main.0, main.1
                ),
                false => return Err(Failure::Refused("the kernel has no work directory any more".into())),
            };
            Ok(Work::Batch(VecDeque::from([
                step("clean-finished", "clean", CLEAN),
                step("build-finished", "build", BUILD),
                step("finished", "exec", &exec),
            ])))
        }
        mode => Err(Failure::Refused(format!("there is no mode {mode:?}"))),
    }
}

async fn shell(launcher: &Launcher, command: &str) -> std::io::Result<Proc> {
    launcher.spawn(&["/bin/sh", "-c", command].map(OsStr::new), false, None).await
}

impl Live<'_> {
    /// Goes on with the steps of the active run.
    pub(super) async fn begin_steps(&mut self, mut left: VecDeque<Step>) {
        while let Some(step) = left.pop_front() {
            let started = match step.command.as_deref() {
                Some(command) => Some(shell(&self.place.launcher, command).await),
                None => None,
            };
            let code = match started {
                None => 0,
                Some(Ok(proc)) => {
                    self.steps = Some(Steps { proc, ended_as: step.ended_as, left });
                    return;
                }
                Some(Err(error)) => {
                    self.runs.text(Stream::Stderr, &format!("the command can't be started: {error}\n"));
                    NOT_BUILT
                }
            };
            if self.step_ended(step.ended_as, code) {
                return;
            }
        }
    }

    /// Enters the end of a step; whether the run is over with it.
    fn step_ended(&mut self, ended_as: &'static str, code: i32) -> bool {
        if ended_as == "finished" {
            self.runs.finish(code);
            return true;
        }
        self.runs.step_ended(ended_as, code);
        if ended_as == "build-finished" && code != 0 {
            self.runs.finish(NOT_BUILT);
            return true;
        }
        false
    }

    pub(super) async fn heard_steps(&mut self, io: Io) {
        match io {
            Io::Output(stream, bytes) => self.print(stream, &bytes),
            Io::Event(_) => {}
            Io::Exited(code) => {
                let Some(steps) = self.steps.take() else { return };
                if !self.step_ended(steps.ended_as, code) {
                    self.begin_steps(steps.left).await;
                }
            }
        }
    }

    /// Whether the startup command is what the session is for as long as it lives: a model's server.
    fn is_service(&self) -> bool {
        self.task.session.session_type == "INFERENCE"
    }

    /// Starts the command of a batch session, or the server of a model.
    pub(super) async fn start_batch(&mut self) {
        let spec = &self.task.spec;
        let is_batch = self.task.session.session_type == "BATCH";
        if !(is_batch || self.is_service()) || spec.startup_command.is_empty() {
            return;
        }
        match shell(&self.place.launcher, &spec.startup_command).await {
            Ok(proc) => {
                self.place.launcher.remember(&proc.job, BATCH);
                let limit = Some(spec.timeout_ms).filter(|millis| *millis > 0).map(Duration::from_millis);
                let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
                self.batch = Some(Batch { proc, deadline, timed_out: false });
            }
            Err(error) => {
                self.place.log.note(&format!("the startup command can't be started: {error}"));
                if self.is_service() {
                    self.task.handle.end(SERVER_ENDED);
                } else {
                    self.batch_finished("task-failed", NOT_BUILT);
                }
            }
        }
    }

    pub(super) fn batch_finished(&self, reason: &str, exit_code: i32) {
        self.task.report(Event::BatchFinished(pb::BatchFinished { reason: reason.into(), exit_code }));
    }

    pub(super) fn heard_batch(&mut self, io: Io) {
        match io {
            Io::Output(_, bytes) => self.place.log.append(&bytes),
            Io::Event(_) => {}
            Io::Exited(code) => {
                let Some(batch) = self.batch.take() else { return };
                if self.is_service() {
                    self.place.log.note(&format!("the model's server ended with exit code {code}"));
                    self.task.handle.end(SERVER_ENDED);
                    return;
                }
                match (batch.timed_out, code) {
                    (true, _) => self.batch_finished("task-timeout", -2),
                    (false, 0) => self.batch_finished("task-done", 0),
                    (false, code) => self.batch_finished("task-failed", code),
                }
            }
        }
    }

    /// Ends the startup command when its time is over.
    pub(super) fn check_batch_time(&mut self) {
        let Some(batch) = &mut self.batch else { return };
        if batch.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            batch.deadline = None;
            batch.timed_out = true;
            self.place.log.note("the startup command took longer than it may and is ended");
            batch.proc.job.signal(Signal::SIGKILL);
        }
    }
}
