//! The end of sessions: asking for it, and the loop that sees it through.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_model::{AgentId, AgentStatus, KernelId, KernelStatus, SessionId, SessionStatus, Timestamp};
use quarterdeck_rpc::pb;
use quarterdeck_store::agents::{self as agent_rows, AgentRow};
use quarterdeck_store::occupancy::{self, Concerned};
use quarterdeck_store::work::{Ended, Work};
use quarterdeck_store::{kernels, sessions};

use crate::agents::reports::settle;
use crate::agents::{self, in_background};
use crate::error::{Error, Result};
use crate::metrics::ByOutcome;
use crate::{AgentOperation, Control};

/// Sessions looked at in one pass.
const PASS: i64 = 1000;
/// After an agent accepted to end kernels, when it is asked again (it reports the end before that).
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// How long to wait for an agent that can't be asked now.
const WAIT_FOR_AGENT: Duration = Duration::from_secs(5);

/// What asking for the end of a session led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It never ran: it is `CANCELLED` now.
    Cancelled,
    /// Its agents are being told.
    Terminating,
    /// It has ended on the books; agents clean up what they may have.
    Ended,
}

/// Asks for the end of sessions, in one transaction. Each has its own answer, in their order.
/// `PRE_DESTROY_SESSION` isn't asked here: [`crate::sessions::destroy`] and [`end_quietly`] do that.
///
/// # Errors
/// [`Error::Store`] for all; per session [`Error::NotFound`] when it is over, [`Error::Forbidden`] where its status
/// doesn't allow it.
pub async fn request(control: &Control, ids: &[SessionId], reason: &str, forced: bool) -> Result<Vec<Result<Outcome>>> {
    let unreachable = if forced { unreachable_agents(control).await? } else { HashSet::new() };
    let (answers, leftovers, concerned) = crate::retry(|| async {
        let mut tx = control.store().begin().await?;
        let mut work = Work::open(&mut tx, ids.iter().copied(), control.clock().now()).await?;
        let mut leftovers = Vec::new();
        let answers: Vec<_> =
            ids.iter().map(|id| mark(&mut work, *id, reason, forced, &unreachable, &mut leftovers)).collect();
        let concerned = concerned(&work);
        let changes = work.flush(&mut tx).await?;
        tx.commit().await?;
        control.announce(&changes);
        Ok((answers, leftovers, concerned))
    })
    .await?;
    control.signals().terminate.notify_one();
    let mut by_session: BTreeMap<(AgentId, SessionId), Vec<KernelId>> = BTreeMap::new();
    for (agent, session, kernel) in leftovers {
        by_session.entry((agent, session)).or_default().push(kernel);
    }
    for ((agent, session), kernels) in by_session {
        clean_up(control, agent, session, kernels, reason);
    }
    if forced {
        crate::retry(|| async {
            let mut tx = control.store().begin().await?;
            occupancy::recalculate_of(&mut tx, &concerned).await?;
            Ok(tx.commit().await?)
        })
        .await?;
    }
    Ok(answers)
}

/// Whose books these sessions are in.
fn concerned(work: &Work) -> Concerned {
    let mut concerned = Concerned::default();
    for session in work.sessions() {
        concerned.agents.extend(work.kernels_of(session.id).into_iter().filter_map(|k| k.agent.clone()));
        concerned.keys.insert(session.access_key.clone());
        concerned.projects.insert(session.project);
        concerned.domains.insert(session.domain.clone());
    }
    concerned
}

async fn unreachable_agents(control: &Control) -> Result<HashSet<AgentId>> {
    let rows = agent_rows::list(&mut control.store().reader()).await?;
    Ok(rows.into_iter().filter(|row| row.status != AgentStatus::Alive).map(|row| row.id).collect())
}

/// Marks one session, as `spec/session.md` §6.6 says.
fn mark(
    work: &mut Work,
    id: SessionId,
    reason: &str,
    forced: bool,
    unreachable: &HashSet<AgentId>,
    leftovers: &mut Vec<(AgentId, SessionId, KernelId)>,
) -> Result<Outcome> {
    let Some(session) = work.session(id) else { return Err(Error::not_found("session")) };
    let status = session.status;
    let forbidden =
        || Err(Error::Forbidden(format!("Cannot destroy sessions in {} status", status.as_str().to_lowercase())));
    let gone = work
        .kernels_of(id)
        .iter()
        .filter(|k| !k.status.is_dead())
        .all(|k| k.agent.as_ref().is_none_or(|agent| unreachable.contains(agent)));
    match status {
        SessionStatus::Terminated | SessionStatus::Cancelled => Err(Error::not_found("session")),
        SessionStatus::Pulling => forbidden(),
        SessionStatus::Pending => {
            let kernels: Vec<_> = work.kernels_of(id).iter().map(|k| k.id).collect();
            for kernel in kernels {
                if work.set_kernel(kernel, KernelStatus::Cancelled, Some(reason), None) {
                    work.kernel_event("kernel_cancelled", kernel, reason, None);
                }
            }
            if work.set_session(id, SessionStatus::Cancelled, Some(reason), None) {
                work.session_event("session_cancelled", id, reason, None);
            }
            Ok(Outcome::Cancelled)
        }
        SessionStatus::Scheduled | SessionStatus::Preparing | SessionStatus::Terminating | SessionStatus::Error
            if !forced =>
        {
            forbidden()
        }
        SessionStatus::Running | SessionStatus::Restarting | SessionStatus::RunningDegraded if !(forced && gone) => {
            if !work.set_session(id, SessionStatus::Terminating, Some(reason), None) {
                return forbidden();
            }
            work.session_event("session_terminating", id, reason, None);
            let kernels: Vec<_> = work.kernels_of(id).iter().filter(|k| !k.status.is_dead()).map(|k| k.id).collect();
            for kernel in kernels {
                let data = serde_json::json!({"kernel": {"exit_code": null}, "session": {"status": "terminating"}});
                if work.set_kernel(kernel, KernelStatus::Terminating, Some(reason), Some(data)) {
                    work.kernel_event("kernel_terminating", kernel, reason, None);
                }
            }
            Ok(Outcome::Terminating)
        }
        _ => {
            let kernels: Vec<_> =
                work.kernels_of(id).iter().filter(|k| !k.status.is_dead()).map(|k| (k.id, k.agent.clone())).collect();
            for (kernel, agent) in kernels {
                if work.end_kernel(kernel, reason, Ended::default()) {
                    work.kernel_event("kernel_terminated", kernel, reason, Some(-1));
                }
                if let Some(agent) = agent {
                    leftovers.push((agent, id, kernel));
                }
            }
            settle(work, id, reason);
            if work.session(id).is_some_and(|s| !s.status.is_dead()) {
                return forbidden();
            }
            Ok(Outcome::Ended)
        }
    }
}

/// Ends a session for the host's own reasons: hooks may refuse, which is logged and leaves it alone.
///
/// # Errors
/// As [`request`], and [`Error::RejectedByHook`].
pub async fn end_quietly(control: &Control, id: SessionId, reason: &str) -> Result<Outcome> {
    let body = crate::sessions::hooks::before_destroy(control, id, reason, false).await?;
    let outcome = request(control, &[id], reason, false).await?.pop().unwrap_or(Err(Error::not_found("session")))?;
    if let Some(body) = body {
        crate::sessions::hooks::notify_destroyed(control, body);
    }
    Ok(outcome)
}

/// Batch sessions whose command ended are over.
pub(crate) fn batches_finished(control: &Control, ids: Vec<SessionId>) {
    let control = control.clone();
    in_background("finished batch sessions can't be ended", async move { finish(&control, &ids).await });
}

async fn finish(control: &Control, ids: &[SessionId]) -> Result<()> {
    if !control.policies().has_hooks("PRE_DESTROY_SESSION") && !control.policies().has_hooks("POST_DESTROY_SESSION") {
        request(control, ids, "task-finished", false).await?;
        return Ok(());
    }
    for id in ids {
        if let Err(error) = end_quietly(control, *id, "task-finished").await {
            tracing::warn!(session = %id, %error, "a finished batch session stays for now");
            let later = control.clock().now().plus_millis(60_000);
            for status in [SessionStatus::Running, SessionStatus::RunningDegraded] {
                sessions::postpone(&mut control.store().reader(), &[(*id, status, later)], false).await?;
            }
        }
    }
    Ok(())
}

/// Has an agent destroy kernels that the rows no longer count on it. Best effort: its next heartbeats show what is left.
pub(crate) fn clean_up(control: &Control, agent: AgentId, session: SessionId, kernels: Vec<KernelId>, reason: &str) {
    let control = control.clone();
    let reason = reason.to_owned();
    in_background("kernels that aren't wanted can't be destroyed", async move {
        let Some(row) = agent_rows::get(&mut control.store().reader(), &agent).await? else { return Ok(()) };
        if row.status == AgentStatus::Alive {
            call(&control, &row, session, &kernels, &reason).await?;
        }
        Ok(())
    });
}

async fn call(
    control: &Control,
    agent: &AgentRow,
    session: SessionId,
    kernels: &[KernelId],
    reason: &str,
) -> Result<Vec<KernelId>> {
    let request = pb::DestroyKernelsRequest {
        session_id: session.to_string(),
        kernel_ids: kernels.iter().map(ToString::to_string).collect(),
        reason: reason.to_owned(),
    };
    let result = agents::handle(control, agent, AgentOperation::Destroy)?.destroy_kernels(request).await;
    let outcome = if result.is_ok() { "ok" } else { "failed" };
    control.metrics().destroys.get_or_create(&ByOutcome { outcome: outcome.to_owned() }).inc();
    let gone = result.map_err(|error| agents::call_error(AgentOperation::Destroy, &error))?;
    Ok(gone.iter().filter_map(|id| id.parse().ok()).collect())
}

/// The loop that tells agents to end kernels, until they say that those are gone.
#[derive(Debug)]
pub(crate) struct Terminator {
    control: Control,
    under_way: Arc<Mutex<HashSet<SessionId>>>,
}

impl Terminator {
    pub(crate) fn new(control: Control) -> Self {
        Self { control, under_way: Arc::default() }
    }

    /// This host begins to lead: it doesn't know what was sent before, so everything is due.
    pub(crate) async fn begin(&self) -> Result<()> {
        let statuses = [SessionStatus::Terminating, SessionStatus::Restarting];
        sessions::hasten_all(&mut self.control.store().reader(), &statuses).await?;
        sessions::hasten_finished(&mut self.control.store().reader(), self.control.clock().now()).await?;
        Ok(())
    }

    /// One pass: everything that is due is sent on its way.
    pub(crate) async fn pass(&self) -> Result<()> {
        let control = &self.control;
        let now = control.clock().now();
        let mut reader = control.store().reader();
        let finished = sessions::finished_batches(&mut reader, now, PASS).await?;
        if !finished.is_empty() {
            finish(control, &finished).await?;
        }
        loop {
            // Calls may take longer than the time after which they are due again.
            let under_way: Vec<_> = self.under_way.lock().iter().copied().collect();
            let statuses = [SessionStatus::Terminating, SessionStatus::Restarting];
            let due = sessions::due(&mut reader, &statuses, now, PASS, &under_way).await?;
            let full = due.len() as i64 == PASS;
            let due: Vec<_> = {
                let mut under_way = self.under_way.lock();
                due.into_iter().filter(|(id, _)| under_way.insert(*id)).collect()
            };
            if due.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.send(&due, now).await {
                let mut under_way = self.under_way.lock();
                for (id, _) in &due {
                    under_way.remove(id);
                }
                return Err(error);
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn send(&self, due: &[(SessionId, SessionStatus)], now: Timestamp) -> Result<()> {
        let control = &self.control;
        let mut reader = control.store().reader();
        let ids: Vec<_> = due.iter().map(|(id, _)| *id).collect();
        let rows = kernels::of_sessions(&mut reader, &ids).await?;
        let mut agent_ids: Vec<_> = rows.iter().filter_map(|k| k.agent_id.clone()).collect();
        agent_ids.sort();
        agent_ids.dedup();
        let agents: HashMap<AgentId, Arc<AgentRow>> = agent_rows::get_many(&mut reader, &agent_ids)
            .await?
            .into_iter()
            .map(|row| (row.id.clone(), Arc::new(row)))
            .collect();

        let mut calls: BTreeMap<(SessionId, AgentId), (String, Vec<KernelId>)> = BTreeMap::new();
        let mut unplaced = Vec::new();
        let mut waiting: HashSet<SessionId> = HashSet::new();
        for kernel in rows.iter().filter(|k| matches!(k.status, KernelStatus::Terminating | KernelStatus::Restarting)) {
            match &kernel.agent_id {
                None => unplaced.push(kernel.id),
                Some(id) if agents.get(id).is_some_and(|row| row.status == AgentStatus::Alive) => {
                    let reason = match kernel.status {
                        KernelStatus::Restarting => "restarting".to_owned(),
                        _ => kernel.status_info.clone().unwrap_or_else(|| "unknown".to_owned()),
                    };
                    calls
                        .entry((kernel.session_id, id.clone()))
                        .or_insert_with(|| (reason, Vec::new()))
                        .1
                        .push(kernel.id);
                }
                Some(_) => {
                    waiting.insert(kernel.session_id);
                }
            }
        }
        let later = |id: &SessionId| {
            let wait = if waiting.contains(id) { WAIT_FOR_AGENT } else { ASK_AGAIN };
            now.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX))
        };
        let leases: Vec<_> = due.iter().map(|(id, status)| (*id, *status, later(id))).collect();
        sessions::postpone(&mut control.store().reader(), &leases, false).await?;
        if !unplaced.is_empty() {
            control.intake().gone(unplaced).await?;
        }
        self.repair(&rows, &ids).await?;

        let mut by_session: BTreeMap<SessionId, Vec<(AgentId, String, Vec<KernelId>)>> = BTreeMap::new();
        for ((session, agent), (reason, kernels)) in calls {
            by_session.entry(session).or_default().push((agent, reason, kernels));
        }
        for id in ids {
            let calls = by_session.remove(&id).unwrap_or_default();
            let (control, under_way, agents) = (control.clone(), Arc::clone(&self.under_way), agents.clone());
            tokio::spawn(async move {
                for (agent, reason, kernels) in calls {
                    let Some(row) = agents.get(&agent) else { continue };
                    if let Err(error) = destroy(&control, row, id, &kernels, &reason).await {
                        tracing::warn!(session = %id, %agent, %error, "an agent can't be told to end kernels; it is told again");
                        let soon = control.clock().now().plus_millis(2_000);
                        for status in [SessionStatus::Terminating, SessionStatus::Restarting] {
                            let _ =
                                sessions::postpone(&mut control.store().reader(), &[(id, status, soon)], true).await;
                        }
                    }
                }
                under_way.lock().remove(&id);
            });
        }
        Ok(())
    }

    /// Sessions that are to end but have no kernel left that could: their status follows.
    async fn repair(&self, rows: &[kernels::KernelRow], ids: &[SessionId]) -> Result<()> {
        let done: Vec<_> = ids
            .iter()
            .copied()
            .filter(|id| rows.iter().filter(|k| k.session_id == *id).all(|k| k.status.is_dead()))
            .collect();
        if done.is_empty() {
            return Ok(());
        }
        let control = &self.control;
        let mut tx = control.store().begin().await?;
        let mut work = Work::open(&mut tx, done.iter().copied(), control.clock().now()).await?;
        for id in done {
            if work.kernels_of(id).iter().all(|k| k.status.is_dead()) {
                settle(&mut work, id, "already-terminated");
            }
        }
        let changes = work.flush(&mut tx).await?;
        tx.commit().await?;
        control.announce(&changes);
        Ok(())
    }
}

async fn destroy(
    control: &Control,
    agent: &AgentRow,
    session: SessionId,
    kernels: &[KernelId],
    reason: &str,
) -> Result<()> {
    let _permit = control.calls().permit(&agent.id).await;
    let gone = call(control, agent, session, kernels, reason).await?;
    if !gone.is_empty() {
        control.intake().gone(gone).await?;
    }
    Ok(())
}
