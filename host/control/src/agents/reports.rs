//! What each piece of news does to the rows, and what follows after the commit.

use std::collections::HashMap;

use indexmap::IndexMap;
use quarterdeck_model::{AgentId, KernelId, KernelStatus, SessionId, SessionResult, SessionStatus, predicates};
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_store::work::{Change, Ended, Started, Work};
use serde_json::{Value, json};

use super::{amounts, json as parsed, scrub};
use crate::{Control, sessions, terminate};

/// What is done once the transaction is committed.
pub(crate) struct Aftermath<'c> {
    control: &'c Control,
    /// `true` = busy.
    access: IndexMap<SessionId, bool>,
    started: Vec<SessionId>,
    finished: Vec<SessionId>,
    /// Kernels that run from now on, and those that are over.
    began: Vec<(AgentId, KernelId)>,
    over: Vec<(Option<AgentId>, KernelId)>,
    leftovers: HashMap<(AgentId, SessionId), Vec<KernelId>>,
    start: bool,
    terminate: bool,
}

impl<'c> Aftermath<'c> {
    pub(crate) fn new(control: &'c Control) -> Self {
        Self {
            control,
            access: IndexMap::new(),
            started: Vec::new(),
            finished: Vec::new(),
            began: Vec::new(),
            over: Vec::new(),
            leftovers: HashMap::new(),
            start: false,
            terminate: false,
        }
    }

    /// Sessions that are busy, and sessions last used now.
    pub(crate) fn access(&self) -> (Vec<SessionId>, Vec<SessionId>) {
        let pick = |busy: bool| self.access.iter().filter(|(_, b)| **b == busy).map(|(id, _)| *id).collect();
        (pick(true), pick(false))
    }

    fn leftover(&mut self, agent: &AgentId, session: SessionId, kernel: KernelId) {
        self.leftovers.entry((agent.clone(), session)).or_default().push(kernel);
    }

    /// Wakes loops and callers, and starts what needn't be waited for.
    pub(crate) fn run(self, changes: &[Change]) {
        let control = self.control;
        control.announce(changes);
        control.live().began(&self.began);
        control.live().over(&self.over);
        if self.start {
            control.signals().start.notify_one();
        }
        if self.terminate {
            control.signals().terminate.notify_one();
        }
        for ((agent, session), kernels) in self.leftovers {
            terminate::clean_up(control, agent, session, kernels, "not-found-in-manager");
        }
        if !self.started.is_empty() && control.policies().has_hooks("POST_START_SESSION") {
            sessions::hooks::notify_started(control, self.started);
        }
        if !self.finished.is_empty() {
            terminate::batches_finished(control, self.finished);
        }
    }
}

/// Applies one report of the agent that `kernel` was placed on. News about anything else is ignored: an agent speaks
/// for its own kernels only.
pub(crate) fn apply(work: &mut Work, after: &mut Aftermath<'_>, agent: &AgentId, report: &pb::Report) {
    let (Ok(kernel), Some(event)) = (report.kernel_id.parse::<KernelId>(), &report.event) else {
        tracing::warn!(%agent, seq = report.seq, "a report makes no sense");
        return;
    };
    let Some(state) = work.kernel(kernel) else { return };
    if state.agent.as_ref() != Some(agent) {
        tracing::warn!(%agent, %kernel, "an agent reports on a kernel that isn't its own");
        return;
    }
    let (session, status) = (state.session, state.status);
    match event {
        Event::Preparing(_) if !status.is_dead() => work.kernel_event("kernel_preparing", kernel, "", None),
        Event::Preparing(_) => {}
        Event::Pulling(pb::Pulling { image }) => {
            if work.set_kernel(kernel, KernelStatus::Pulling, Some(image), None) {
                work.set_session(session, SessionStatus::Pulling, Some(image), None);
                work.kernel_event("kernel_pulling", kernel, image, None);
            }
        }
        Event::Creating(_) => {
            if status == KernelStatus::Pulling {
                work.set_kernel(kernel, KernelStatus::Preparing, Some(""), None);
            }
            if !status.is_dead() {
                work.kernel_event("kernel_creating", kernel, "", None);
            }
        }
        Event::Started(started) => start(work, after, agent, session, kernel, started),
        Event::StartFailed(pb::StartFailed { name, message }) => {
            if !status.is_dead() {
                let data = json!({"error": {"src": "agent", "name": name, "repr": message}});
                start_failed(work, after, session, &data);
            }
        }
        Event::Terminated(ended) => {
            let log = String::from_utf8_lossy(&ended.log).into_owned();
            let last_stat = parsed(&ended.last_stat)
                .map(|_| ended.last_stat.clone())
                .or_else(|| after.control.live().kernel_stat_text(kernel).map(|text| text.to_string()));
            let exit_code = Some(i64::from(ended.exit_code));
            let reason = if ended.reason.is_empty() { "unknown" } else { &ended.reason };
            end(work, after, kernel, reason, Ended { exit_code, last_stat, log: Some(log) });
        }
        Event::BatchFinished(pb::BatchFinished { reason, exit_code }) => {
            let success = *exit_code == 0 && reason == "task-done";
            let result = if success { SessionResult::Success } else { SessionResult::Failure };
            if work.set_result(session, result, i64::from(*exit_code)) {
                let name = if success { "session_success" } else { "session_failure" };
                work.session_event(name, session, reason, Some(i64::from(*exit_code)));
                work.retry_at(session, work.now());
                after.finished.push(session);
            }
        }
        Event::Execution(pb::ExecutionChanged { running }) => {
            after.access.insert(session, *running);
        }
    }
}

fn start(
    work: &mut Work,
    after: &mut Aftermath<'_>,
    agent: &AgentId,
    session: SessionId,
    kernel: KernelId,
    started: &pb::Started,
) {
    if !work.set_kernel(kernel, KernelStatus::Running, Some(""), None) {
        // It isn't wanted any more: it was cancelled or ended while the agent was at it.
        if work.kernel(kernel).is_some_and(|k| k.status.is_dead()) {
            after.leftover(agent, session, kernel);
        }
        return;
    }
    let reserved = work.kernel(kernel).map(|k| k.held.clone()).unwrap_or_default();
    let allocated = (!started.allocated.is_empty()).then(|| {
        let (units, shown) = amounts(&scrub::within(&started.allocated, &reserved));
        (units, shown.to_json())
    });
    after.began.push((agent.clone(), kernel));
    work.started(
        kernel,
        Started {
            container_id: started.container_id.clone(),
            kernel_host: Some(started.kernel_host.clone()).filter(|host| !host.is_empty()),
            service_ports: parsed(&started.service_ports).filter(Value::is_array).unwrap_or_else(|| json!([])),
            runtime_info: parsed(&started.runtime_info).filter(Value::is_object),
            attached_devices: parsed(&started.attached_devices).filter(Value::is_object).unwrap_or_else(|| json!({})),
            allocated,
        },
    );
    work.kernel_event("kernel_started", kernel, "", None);
    let has_run = work.has_run(session);
    if work.derive(session, Some("")) == Some(SessionStatus::Running) {
        work.session_event("session_started", session, "unknown", None);
        after.access.entry(session).or_insert(false);
        // A restart is no start that hooks are told of.
        if !has_run {
            after.started.push(session);
        }
        // Its command was faster than its last kernel.
        if work.session(session).is_some_and(|s| s.result != SessionResult::Undefined) {
            after.finished.push(session);
        }
    }
}

/// A kernel has ended; what it means for its session.
fn end(work: &mut Work, after: &mut Aftermath<'_>, kernel: KernelId, reason: &str, ended: Ended) {
    let Some(state) = work.kernel(kernel) else { return };
    let (session, status, role) = (state.session, state.status, state.role.clone());
    let agent = state.agent.clone();
    if status == KernelStatus::Restarting {
        // The first half of a restart is done; from here it starts like a new one.
        work.set_kernel(kernel, KernelStatus::Preparing, Some("restarting"), None);
        // The session stays where the loop that ends kernels sees it, until all of them are down.
        if work.kernels_of(session).iter().all(|k| k.status != KernelStatus::Restarting) {
            work.derive(session, Some("restarting"));
            after.start = true;
        }
        return;
    }
    let exit_code = ended.exit_code;
    if !work.end_kernel(kernel, reason, ended) {
        return;
    }
    after.over.push((agent, kernel));
    work.kernel_event("kernel_terminated", kernel, reason, Some(exit_code.unwrap_or(-1)));
    if role == "main" {
        // Without its main kernel a session is over: what is left of it follows.
        let rest: Vec<_> = work.kernels_of(session).iter().filter(|k| !k.status.is_dead()).map(|k| k.id).collect();
        for sibling in rest {
            if work.set_kernel(sibling, KernelStatus::Terminating, Some(reason), None) {
                work.kernel_event("kernel_terminating", sibling, reason, None);
                after.terminate = true;
            }
        }
    }
    settle(work, session, reason);
}

/// Derives the session's status after a kernel ended, and says so.
pub(crate) fn settle(work: &mut Work, session: SessionId, reason: &str) {
    let mut status = work.derive(session, Some(reason));
    if status.is_none() && work.kernels_of(session).iter().all(|k| k.status.is_dead()) {
        // It ended on the way up, where the table knows no direct way down.
        for step in [SessionStatus::Cancelled, SessionStatus::Terminating] {
            if work.set_session(session, step, Some(reason), None) {
                status = Some(step);
                break;
            }
        }
        if status == Some(SessionStatus::Terminating) {
            status = work.derive(session, Some(reason)).or(status);
        }
    }
    match status {
        Some(SessionStatus::Terminated) => work.session_event("session_terminated", session, reason, None),
        Some(SessionStatus::Cancelled) => work.session_event("session_cancelled", session, reason, None),
        Some(SessionStatus::Terminating) => work.session_event("session_terminating", session, reason, None),
        _ => {}
    }
}

/// A kernel that was to be ended isn't there.
pub(crate) fn gone(work: &mut Work, after: &mut Aftermath<'_>, kernel: KernelId) {
    let Some(state) = work.kernel(kernel) else { return };
    if !matches!(state.status, KernelStatus::Terminating | KernelStatus::Restarting) {
        return;
    }
    let reason = state.info.clone().filter(|info| !info.is_empty()).unwrap_or_else(|| "already-terminated".to_owned());
    let last_stat = after.control.live().kernel_stat_text(kernel).map(|text| text.to_string());
    end(work, after, kernel, &reason, Ended { last_stat, ..Ended::default() });
}

/// A kernel that ran isn't there any more.
pub(crate) fn vanished(work: &mut Work, after: &mut Aftermath<'_>, kernel: KernelId) {
    if work.kernel(kernel).is_none_or(|k| k.status != KernelStatus::Running) {
        return;
    }
    let last_stat = after.control.live().kernel_stat_text(kernel).map(|text| text.to_string());
    end(work, after, kernel, "self-terminated", Ended { last_stat, ..Ended::default() });
}

/// The agents of a session couldn't be told of it: it waits for others. Returns whether it may.
pub(crate) fn requeue(work: &mut Work, session: SessionId, reason: &str) -> bool {
    let data = predicates::note_no_instance(None, &work.now().iso(), reason);
    work.requeue(session, predicates::AGENT_UNREACHABLE, &data)
}

/// A session can't be started: it and its kernels are cancelled, and what was created is cleaned up.
pub(crate) fn start_failed(work: &mut Work, after: &mut Aftermath<'_>, session: SessionId, data: &Value) {
    const REASON: &str = "failed-to-start";
    let Some(state) = work.session(session) else { return };
    if !matches!(state.status, SessionStatus::Scheduled | SessionStatus::Preparing | SessionStatus::Pulling) {
        return;
    }
    let kernels: Vec<_> =
        work.kernels_of(session).iter().filter(|k| !k.status.is_dead()).map(|k| (k.id, k.agent.clone())).collect();
    for (kernel, agent) in kernels {
        if !work.set_kernel(kernel, KernelStatus::Cancelled, Some(REASON), Some(data.clone())) {
            work.end_kernel(kernel, REASON, Ended::default());
        }
        if let Some(agent) = agent {
            after.leftover(&agent, session, kernel);
        }
    }
    if work.set_session(session, SessionStatus::Cancelled, Some(REASON), Some(data.clone())) {
        work.session_event("session_cancelled", session, REASON, None);
    } else {
        settle(work, session, REASON);
    }
}
