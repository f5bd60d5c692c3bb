//! A kernel that runs: it hears commands and programs, one at a time.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::super::interpreters::Dialect;
use super::super::pump::Decoder;
use super::super::repl::{Repl, Said};
use super::super::runs::{self, Entered, Pseudo, Reply, Runs, Stream, Work};
use super::super::spawn::{Io, Proc};
use super::batch::{self, Batch, Steps};
use super::{Command, OUT_OF_MEMORY, Place, Task, work_of};
use crate::error::Failure;

/// A kernel that runs.
pub(super) struct Live<'a> {
    pub(super) task: &'a Task,
    pub(super) place: &'a Place,
    pub(super) repl: Option<Repl>,
    /// Steps of a run in batch mode, while they run.
    pub(super) steps: Option<Steps>,
    /// The command of a batch session, while it runs.
    pub(super) batch: Option<Batch>,
    pub(super) runs: Runs,
    decoders: [Decoder; 2],
    questions: HashMap<u64, Reply>,
    last_question: u64,
}

/// Why a kernel ended, and its exit code.
pub(super) type Ended = (String, i32);

impl<'a> Live<'a> {
    pub(super) fn new(task: &'a Task, place: &'a Place, repl: Option<Repl>) -> Self {
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

    pub(super) async fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) -> Ended {
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
                self.note_active();
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

    pub(super) fn print(&mut self, stream: Stream, bytes: &[u8]) {
        self.place.log.append(bytes);
        let text = self.decoders[stream as usize].text(bytes);
        self.runs.text(stream, &text);
    }

    fn heard_repl(&mut self, io: Io) -> Result<(), Ended> {
        match io {
            Io::Output(stream, bytes) => self.print(stream, &bytes),
            Io::Event(event) => match Repl::understand(&event) {
                Said::Done(code) => {
                    self.runs.finish(code);
                    self.note_active();
                }
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
                self.note_active();
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

    pub(super) async fn close(&mut self, end: &Ended) {
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
