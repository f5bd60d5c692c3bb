//! The book of a kernel's runs: which one is active, what each has printed, who waits for what.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use quarterdeck_rpc::pb;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Failure;

/// A run with so much output waiting answers at once.
const ENOUGH: usize = 1024 * 1024;
/// More output than this isn't kept for someone who doesn't ask; the log has it.
const MOST: usize = 4 * 1024 * 1024;
/// Finished runs whose last output nobody collected.
const KEPT: usize = 16;
const DEFAULT_FLUSH: Duration = Duration::from_secs(2);

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A step of a run in batch mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The status that tells of its end; `finished` for the last.
    pub(super) ended_as: &'static str,
    /// The shell command; none = nothing to do.
    pub(super) command: Option<String>,
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Code for the interpreter.
    Query(String),
    /// Shell commands, one after the other.
    Batch(VecDeque<Step>),
}

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<Value, Failure>>;

#[derive(Debug)]
enum Item {
    Text(Stream, String),
    /// Something that is no text: its MIME type, and what it is.
    Shown(String, String),
    StepEnd(&'static str, i32),
    End(i32),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Queued,
    Active,
    WaitingInput { password: bool },
    Finished,
}

#[derive(Debug)]
struct Run {
    state: State,
    work: Option<Work>,
    items: VecDeque<Item>,
    size: usize,
    waiter: Option<(Reply, Instant)>,
}

/// What the caller has to do after an execute call was entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// Nothing: the answer comes with the run's progress.
    Nothing,
    /// Hand this text to the code that waits for input.
    Input(String),
}

/// The runs of one kernel.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: HashMap<String, Run>,
    queue: VecDeque<String>,
    active: Option<String>,
    finished: VecDeque<String>,
}

impl Runs {
    /// Enters an execute call. `work` makes the run's work of a new run.
    pub(super) fn enter(
        &mut self,
        request: &pb::ExecuteRequest,
        reply: Reply,
        work: impl FnOnce() -> Result<Work, Failure>,
    ) -> Entered {
        let flush = match request.flush_ms {
            0 => DEFAULT_FLUSH,
            millis => Duration::from_millis(u64::from(millis)),
        };
        let waiter = Some((reply, Instant::now() + flush));
        let id = match request.run_id.as_str() {
            "" => uuid::Uuid::new_v4().simple().to_string(),
            id => id.to_owned(),
        };
        if let Some(run) = self.runs.get_mut(&id) {
            // Who waited before is answered: one waiter for each run.
            if let Some((old, _)) = std::mem::replace(&mut run.waiter, waiter) {
                let _ = old.send(Ok(document("continued", &id, None, Value::Null, Vec::new())));
            }
            if request.mode == "input" && matches!(run.state, State::WaitingInput { .. }) {
                run.state = State::Active;
                return Entered::Input(request.code.clone());
            }
            return Entered::Nothing;
        }
        let Some((reply, deadline)) = waiter else { return Entered::Nothing };
        if matches!(request.mode.as_str(), "continue" | "input") {
            // The run is over and collected, or never was.
            let _ = reply.send(Ok(document("finished", &id, Some(130), json!({}), Vec::new())));
            return Entered::Nothing;
        }
        match work() {
            Err(failure) => drop(reply.send(Err(failure))),
            Ok(work) => {
                let run = Run {
                    state: State::Queued,
                    work: Some(work),
                    items: VecDeque::new(),
                    size: 0,
                    waiter: Some((reply, deadline)),
                };
                self.runs.insert(id.clone(), run);
                self.queue.push_back(id);
            }
        }
        Entered::Nothing
    }

    /// Makes the next run the active one, when there is none, and answers its work.
    pub(super) fn next(&mut self) -> Option<Work> {
        if self.active.is_some() {
            return None;
        }
        let id = self.queue.pop_front()?;
        let run = self.runs.get_mut(&id)?;
        run.state = State::Active;
        self.active = Some(id);
        run.work.take()
    }

    /// The run that is active.
    pub(super) fn active(&self) -> Option<&str> {
        self.active.as_deref()
    }

    /// A run went on while the agent was away: what it prints from now on is its output.
    pub(super) fn go_on(&mut self, id: String) {
        let run = Run { state: State::Active, work: None, items: VecDeque::new(), size: 0, waiter: None };
        self.runs.insert(id.clone(), run);
        self.active = Some(id);
    }

    /// Whether a run is active.
    pub(super) fn is_busy(&self) -> bool {
        self.active.is_some()
    }

    fn current(&mut self) -> Option<&mut Run> {
        self.runs.get_mut(self.active.as_ref()?)
    }

    /// The active run printed something.
    pub(super) fn text(&mut self, stream: Stream, text: &str) {
        let Some(run) = self.current() else { return };
        if run.size >= MOST || text.is_empty() {
            return;
        }
        run.size += text.len();
        let mut add = |stream: Stream, text: &str| match run.items.back_mut() {
            Some(Item::Text(last, kept)) if *last == stream => kept.push_str(text),
            _ => run.items.push_back(Item::Text(stream, text.to_owned())),
        };
        add(stream, text);
        if run.size >= MOST {
            add(Stream::Stderr, "\n[more output than can be kept: the rest is in the log only]\n");
        }
    }

    /// The active run shows something that is no text.
    pub(super) fn shown(&mut self, kind: String, value: String) {
        let Some(run) = self.current() else { return };
        if run.size < MOST {
            run.size += value.len();
            run.items.push_back(Item::Shown(kind, value));
        }
    }

    /// The active run waits for input.
    pub(super) fn waiting(&mut self, password: bool) {
        if let Some(run) = self.current() {
            run.state = State::WaitingInput { password };
        }
    }

    /// A step of the active run ended.
    pub(super) fn step_ended(&mut self, status: &'static str, exit_code: i32) {
        if let Some(run) = self.current() {
            run.items.push_back(Item::StepEnd(status, exit_code));
        }
    }

    /// The active run ended.
    pub(super) fn finish(&mut self, exit_code: i32) {
        let Some(id) = self.active.take() else { return };
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.items.push_back(Item::End(exit_code));
        run.state = State::Finished;
        self.finished.push_back(id);
        // The oldest of those that nobody waits for goes.
        while self.finished.len() > KEPT {
            let runs = &self.runs;
            let idle = |id: &String| runs.get(id).is_none_or(|run| run.waiter.is_none());
            let Some(position) = self.finished.iter().position(idle) else { break };
            if let Some(id) = self.finished.remove(position) {
                self.runs.remove(&id);
            }
        }
    }

    /// Answers whoever can be answered.
    pub(super) fn deliver(&mut self, now: Instant) {
        let mut over = Vec::new();
        for (id, run) in &mut self.runs {
            let Some((reply, deadline)) = &run.waiter else { continue };
            if reply.is_closed() {
                // The caller went away: the output waits for the next one.
                run.waiter = None;
                continue;
            }
            let marked = run.items.iter().any(|item| matches!(item, Item::StepEnd(..) | Item::End(..)));
            let asks = matches!(run.state, State::WaitingInput { .. });
            if !(marked || asks || run.size >= ENOUGH || *deadline <= now) {
                continue;
            }
            let Some((reply, _)) = run.waiter.take() else { continue };
            let (document, last) = run.take(id);
            if last {
                over.push(id.clone());
            }
            let _ = reply.send(Ok(document));
        }
        for id in over {
            self.runs.remove(&id);
            self.finished.retain(|kept| *kept != id);
        }
    }

    /// When `deliver` has to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.runs.values().filter_map(|run| Some(run.waiter.as_ref()?.1)).min()
    }

    /// The kernel ends: everybody who waits is answered.
    pub(super) fn close(&mut self, exit_code: i32, failure: &Failure) {
        self.finish(exit_code);
        self.deliver(Instant::now());
        for (_, run) in self.runs.drain() {
            if let Some((reply, _)) = run.waiter {
                let _ = reply.send(Err(failure.clone()));
            }
        }
        self.queue.clear();
        self.finished.clear();
    }
}

impl Run {
    /// The output up to the next mark, as a result document; whether it is the run's last.
    fn take(&mut self, id: &str) -> (Value, bool) {
        let mut console = Vec::new();
        while let Some(item) = self.items.pop_front() {
            match item {
                Item::Text(stream, text) => {
                    self.size = self.size.saturating_sub(text.len());
                    console.push(json!([stream.as_str(), text]));
                }
                Item::Shown(kind, value) => {
                    self.size = self.size.saturating_sub(value.len());
                    console.push(match kind.as_str() {
                        "text/html" => json!(["html", value]),
                        _ => json!(["media", [kind, value]]),
                    });
                }
                Item::StepEnd(status, code) => return (document(status, id, Some(code), Value::Null, console), false),
                Item::End(code) => return (document("finished", id, Some(code), Value::Null, console), true),
            }
        }
        match self.state {
            State::WaitingInput { password } => {
                (document("waiting-input", id, None, json!({"is_password": password}), console), false)
            }
            _ => (document("continued", id, None, Value::Null, console), false),
        }
    }
}

/// Code that is a word to the kernel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pseudo {
    /// `%ping`
    Ping,
    /// `%resize ROWS COLUMNS`: the terminal's new size.
    Resize { rows: u16, columns: u16 },
}

/// Understands such code.
pub(super) fn pseudo(code: &str) -> Option<Pseudo> {
    let words: Vec<&str> = code.split_whitespace().collect();
    match words[..] {
        ["%ping"] => Some(Pseudo::Ping),
        ["%resize", rows, columns] => Some(Pseudo::Resize { rows: rows.parse().ok()?, columns: columns.parse().ok()? }),
        _ => None,
    }
}

/// What a run answers that had nothing to do.
pub(super) fn done(run_id: &str) -> Value {
    let made_up = || uuid::Uuid::new_v4().simple().to_string();
    let id = if run_id.is_empty() { made_up() } else { run_id.to_owned() };
    document("finished", &id, Some(0), Value::Null, Vec::new())
}

fn document(status: &str, id: &str, exit_code: Option<i32>, options: Value, console: Vec<Value>) -> Value {
    json!({"status": status, "runId": id, "exitCode": exit_code, "options": options, "console": console})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn enter(runs: &mut Runs, id: &str, mode: &str, flush_ms: u32) -> oneshot::Receiver<Result<Value, Failure>> {
        let (reply, answer) = oneshot::channel();
        let request = pb::ExecuteRequest {
            run_id: id.into(),
            mode: mode.into(),
            flush_ms,
            code: "x".into(),
            ..Default::default()
        };
        runs.enter(&request, reply, || Ok(Work::Query("x".into())));
        answer
    }

    #[tokio::test]
    async fn another_run_waits_for_its_turn() {
        let mut runs = Runs::default();
        let mut one = enter(&mut runs, "one", "query", 60_000);
        let mut two = enter(&mut runs, "two", "query", 60_000);
        assert!(runs.next().is_some());
        assert!(runs.next().is_none());
        runs.text(Stream::Stdout, "a");
        runs.text(Stream::Stdout, "b");
        runs.text(Stream::Stderr, "c");
        runs.deliver(Instant::now());
        assert!(one.try_recv().is_err());
        runs.finish(0);
        runs.deliver(Instant::now());
        let answer = one.try_recv().unwrap().unwrap();
        assert_eq!(
            answer,
            json!({"status": "finished", "runId": "one", "exitCode": 0, "options": null,
                   "console": [["stdout", "ab"], ["stderr", "c"]]})
        );
        assert!(two.try_recv().is_err());
        assert!(runs.next().is_some());
        runs.waiting(true);
        runs.deliver(Instant::now());
        let answer = two.try_recv().unwrap().unwrap();
        assert_eq!((&answer["status"], &answer["options"]), (&json!("waiting-input"), &json!({"is_password": true})));
    }

    #[tokio::test]
    async fn output_of_a_finished_run_waits_for_its_caller() {
        let mut runs = Runs::default();
        drop(enter(&mut runs, "one", "query", 60_000));
        runs.next();
        runs.text(Stream::Stdout, "kept");
        runs.finish(3);
        runs.deliver(Instant::now());
        let mut late = enter(&mut runs, "one", "continue", 60_000);
        runs.deliver(Instant::now());
        let answer = late.try_recv().unwrap().unwrap();
        assert_eq!((&answer["exitCode"], &answer["console"]), (&json!(3), &json!([["stdout", "kept"]])));
        let answer = enter(&mut runs, "one", "continue", 1).try_recv().unwrap().unwrap();
        assert_eq!(answer["exitCode"], 130);
    }

    #[tokio::test]
    async fn steps_are_told_one_by_one() {
        let mut runs = Runs::default();
        let mut first = enter(&mut runs, "b", "batch", 60_000);
        runs.next();
        runs.step_ended("clean-finished", 0);
        runs.text(Stream::Stdout, "built");
        runs.step_ended("build-finished", 1);
        runs.finish(127);
        runs.deliver(Instant::now());
        assert_eq!(first.try_recv().unwrap().unwrap()["status"], "clean-finished");
        for (status, code) in [("build-finished", 1), ("finished", 127)] {
            let mut next = enter(&mut runs, "b", "continue", 60_000);
            runs.deliver(Instant::now());
            let answer = next.try_recv().unwrap().unwrap();
            assert_eq!((&answer["status"], &answer["exitCode"]), (&json!(status), &json!(code)));
        }
    }

    #[test]
    fn words_to_the_kernel_are_no_code() {
        assert_eq!(pseudo("%ping"), Some(Pseudo::Ping));
        assert_eq!(pseudo(" %resize 40 120\n"), Some(Pseudo::Resize { rows: 40, columns: 120 }));
        for code in ["%resize 40", "%resize a b", "%resize -1 9", "%pin", "x %ping", "", "%%time"] {
            assert_eq!(pseudo(code), None, "{code}");
        }
    }

    #[tokio::test]
    async fn a_flood_is_cut() {
        let mut runs = Runs::default();
        let mut answer = enter(&mut runs, "f", "query", 60_000);
        runs.next();
        for _ in 0..10 {
            runs.text(Stream::Stdout, &"x".repeat(ENOUGH));
        }
        runs.deliver(Instant::now());
        let text = answer.try_recv().unwrap().unwrap().to_string();
        assert!(text.len() < MOST + ENOUGH && text.contains("more output than can be kept"));
    }
}
