//! The loop that has agents create the kernels of placed sessions.

mod request;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_model::{AgentId, AgentStatus, KernelStatus, SessionId, SessionStatus, Timestamp};
use quarterdeck_rpc::{CallError, pb};
use quarterdeck_store::agents::{self as agent_rows, AgentRow};
use quarterdeck_store::kernels::KernelRow;
use quarterdeck_store::sessions::SessionRow;
use quarterdeck_store::work::Work;
use quarterdeck_store::{kernels, sessions};
use serde_json::json;

use crate::error::{Error, Result};
use crate::metrics::ByOutcome;
use crate::{AgentOperation, Control, agents, clusters};
use request::Facts;

/// Sessions looked at in one pass.
const PASS: i64 = 1000;
/// After agents accepted to create kernels, when they are asked again (which does no harm: they leave alone what exists).
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The loop's memory.
#[derive(Debug)]
pub(crate) struct Starter {
    control: Control,
    under_way: Arc<Mutex<HashSet<SessionId>>>,
    memory: Arc<Memory>,
}

/// What the loop remembers of single sessions, and since when.
#[derive(Debug, Default)]
struct Memory {
    /// The start hook let them pass.
    admitted: Mutex<HashMap<SessionId, Timestamp>>,
    /// Some agent may know them.
    told: Mutex<HashMap<SessionId, Timestamp>>,
    /// An agent of theirs can't be reached.
    cut_off: Mutex<HashMap<SessionId, Timestamp>>,
}

impl Starter {
    pub(crate) fn new(control: Control) -> Self {
        Self { control, under_way: Arc::default(), memory: Arc::default() }
    }

    /// This host begins to lead: it doesn't know what was sent before, so everything is due, and may have been sent.
    pub(crate) async fn begin(&self) -> Result<()> {
        let statuses = [SessionStatus::Scheduled, SessionStatus::Preparing, SessionStatus::Pulling];
        let (mut reader, now) = (self.control.store().reader(), self.control.clock().now());
        sessions::hasten_all(&mut reader, &statuses).await?;
        let sent = sessions::due(&mut reader, &statuses[1..], now, i64::MAX, &[]).await?;
        self.memory.told.lock().extend(sent.into_iter().map(|(id, _)| (id, now)));
        Ok(())
    }

    /// One pass: newly placed sessions become `PREPARING`, and agents are told of everything that is due.
    pub(crate) async fn pass(&self) -> Result<()> {
        loop {
            let (prepared, full) = self.prepare().await?;
            // Nobody else looks at these for a while, so they are told of at once.
            self.tell(prepared, true).await?;
            if !full {
                break;
            }
        }
        let now = self.control.clock().now();
        loop {
            // Calls may take longer than the time after which they are due again.
            let under_way: Vec<_> = self.under_way.lock().iter().copied().collect();
            let statuses = [SessionStatus::Preparing, SessionStatus::Pulling];
            let mut reader = self.control.store().reader();
            let due = sessions::due(&mut reader, &statuses, now, PASS, &under_way).await?;
            let full = due.len() as i64 == PASS;
            if due.is_empty() || !self.tell(due, false).await? || !full {
                return Ok(());
            }
        }
    }

    /// Moves placed sessions to `PREPARING`, many at once, as told of: they are due again only after [`ASK_AGAIN`]. A host
    /// that leads anew doesn't count on that. Returns them, and whether there may be more.
    async fn prepare(&self) -> Result<(Vec<(SessionId, SessionStatus)>, bool)> {
        let control = &self.control;
        let now = control.clock().now();
        let due = sessions::due(&mut control.store().reader(), &[SessionStatus::Scheduled], now, PASS, &[]).await?;
        if due.is_empty() {
            return Ok((Vec::new(), false));
        }
        let full = due.len() as i64 == PASS;
        let changes = crate::retry(|| async {
            let mut tx = control.store().begin().await?;
            let mut work = Work::open(&mut tx, due.iter().map(|(id, _)| *id), now).await?;
            for (id, _) in &due {
                let kernels: Vec<_> = work.kernels_of(*id).iter().map(|k| k.id).collect();
                if work.set_session(*id, SessionStatus::Preparing, Some(""), Some(json!({}))) {
                    work.retry_at(*id, later(now));
                    work.session_event("session_preparing", *id, "unknown", None);
                    for kernel in kernels {
                        work.set_kernel(kernel, KernelStatus::Preparing, Some(""), Some(json!({})));
                    }
                }
            }
            let changes = work.flush(&mut tx).await?;
            tx.commit().await?;
            Ok(changes)
        })
        .await?;
        control.announce(&changes);
        Ok((changes.into_iter().map(|change| (change.session, change.to)).collect(), full))
    }

    /// Has the agents of these sessions told, unless that is under way already. `leased`: nobody else looks at them now.
    /// Returns whether there was any.
    async fn tell(&self, due: Vec<(SessionId, SessionStatus)>, leased: bool) -> Result<bool> {
        let (due, busy): (Vec<_>, Vec<_>) = {
            let mut under_way = self.under_way.lock();
            due.into_iter().partition(|(id, _)| under_way.insert(*id))
        };
        if leased && !busy.is_empty() {
            // What is under way is about an earlier place of theirs.
            self.hasten(&busy).await;
        }
        if due.is_empty() {
            return Ok(false);
        }
        if let Err(error) = self.send(&due, leased).await {
            {
                let mut under_way = self.under_way.lock();
                for (id, _) in &due {
                    under_way.remove(id);
                }
            }
            self.hasten(&due).await;
            return Err(error);
        }
        Ok(true)
    }

    /// Takes leases back. Where that doesn't succeed they run out.
    async fn hasten(&self, leased: &[(SessionId, SessionStatus)]) {
        let ids: Vec<_> = leased.iter().map(|(id, _)| *id).collect();
        if let Err(error) = sessions::hasten(&mut self.control.store().reader(), &ids).await {
            tracing::debug!(%error, "sessions wait until they are due again");
        }
    }

    async fn send(&self, due: &[(SessionId, SessionStatus)], leased: bool) -> Result<()> {
        let control = &self.control;
        let ids: Vec<_> = due.iter().map(|(id, _)| *id).collect();
        let mut reader = control.store().reader();
        if !leased {
            let later = later(control.clock().now());
            let leases: Vec<_> = due.iter().map(|(id, status)| (*id, *status, later)).collect();
            sessions::postpone(&mut reader, &leases, false).await?;
        }
        let rows = sessions::get_many(&mut reader, &ids).await?;
        let mut by_session: HashMap<SessionId, Vec<KernelRow>> = HashMap::new();
        for kernel in kernels::of_sessions(&mut reader, &ids).await? {
            by_session.entry(kernel.session_id).or_default().push(kernel);
        }
        let facts = Arc::new(Facts::gather(control, &rows, &by_session).await?);
        let mut unknown: HashSet<SessionId> = ids.into_iter().collect();
        for row in rows {
            unknown.remove(&row.id);
            let kernels = by_session.remove(&row.id).unwrap_or_default();
            let (control, facts) = (control.clone(), Arc::clone(&facts));
            let (under_way, memory) = (Arc::clone(&self.under_way), Arc::clone(&self.memory));
            tokio::spawn(async move {
                let id = row.id;
                if let Err(error) = start(&control, &facts, &memory, row, kernels).await {
                    // The lease runs out and the session is looked at again.
                    tracing::warn!(session = %id, %error, "a session can't be started now");
                }
                under_way.lock().remove(&id);
            });
        }
        let mut under_way = self.under_way.lock();
        for id in unknown {
            under_way.remove(&id);
        }
        Ok(())
    }

    /// Forgets what is of no use any more: sessions that start are looked at more often than that.
    pub(crate) fn tidy(&self) {
        let horizon = self.control.clock().now().plus_millis(-3_600_000);
        self.memory.admitted.lock().retain(|_, at| *at > horizon);
        self.memory.told.lock().retain(|_, at| *at > horizon);
        self.memory.cut_off.lock().retain(|_, at| *at > horizon);
    }
}

/// When sessions that were told of are due again.
fn later(now: Timestamp) -> Timestamp {
    now.plus_micros(i64::try_from(ASK_AGAIN.as_micros()).unwrap_or(i64::MAX))
}

/// Tells the session's agents; failures are counted, and end the start when there were too many.
async fn start(
    control: &Control,
    facts: &Facts,
    memory: &Memory,
    session: SessionRow,
    kernels: Vec<KernelRow>,
) -> Result<()> {
    let id = session.id;
    if control.policies().has_hooks("PRE_START_SESSION") && !memory.admitted.lock().contains_key(&id) {
        match crate::sessions::hooks::before_start(control, &session, &kernels).await {
            Ok(()) => {
                memory.admitted.lock().insert(id, control.clock().now());
            }
            Err(Error::RejectedByHook { plugin, reason }) => {
                let data = crate::hooks::rejection_data(&plugin, &reason);
                return control.intake().start_failed(id, data).await;
            }
            Err(error) => return Err(error),
        }
    }
    let trust = if kernels.len() > 1 { Some(clusters::keys(control, &session).await?) } else { None };
    let mut groups: BTreeMap<AgentId, Vec<&KernelRow>> = BTreeMap::new();
    for kernel in &kernels {
        match (&kernel.agent_id, kernel.status) {
            (Some(agent), KernelStatus::Preparing | KernelStatus::Pulling) => {
                groups.entry(agent.clone()).or_default().push(kernel);
            }
            // Runs already, or is over.
            (Some(_), _) => {}
            (None, _) => {
                let data = json!({"error": {"src": "other", "name": "MissingAgentAllocation", "repr": "missing-agent-allocation"}});
                return control.intake().start_failed(id, data).await;
            }
        }
    }
    let mut failure: Option<(AgentId, Error)> = None;
    let mut absent: Option<(AgentId, String, bool)> = None;
    let calls = groups.into_iter().map(|(agent, group)| {
        let (session, kernels, trust) = (&session, &kernels, trust.as_ref());
        async move {
            let Some(row) = facts.agents.get(&agent).filter(|row| row.status == AgentStatus::Alive) else {
                return (agent, Told::Lost);
            };
            let request = facts.request(session, kernels, &group, trust);
            let told = call(control, row, request).await;
            (agent, told)
        }
    });
    let now = control.clock().now();
    for (agent, told) in futures::future::join_all(calls).await {
        if !matches!(told, Told::Lost | Told::Unreachable(_)) {
            memory.told.lock().insert(id, now);
        }
        match told {
            Told::Lost => {
                let reason = format!("The agent {agent} is lost.");
                absent = Some((agent, reason, false));
            }
            Told::Unreachable(reason) => absent = Some((agent, reason, true)),
            Told::Refused(error) => failure = Some((agent, error)),
            Told::Unanswered(error) => {
                // The next sessions needn't wait for it, too.
                control.intake().unreachable(id, Some(agent.clone()), error.to_string(), false).await?;
                failure = Some((agent, error));
            }
            Told::Accepted => {}
        }
    }
    if let Some((agent, error)) = failure {
        return failed(control, &session, &agent, &error).await;
    }
    let Some((agent, reason, lives)) = absent else {
        memory.cut_off.lock().remove(&id);
        return Ok(());
    };
    let untold = !memory.told.lock().contains_key(&id);
    let unreachable = lives.then(|| agent.clone());
    if control.intake().unreachable(id, unreachable, reason.clone(), untold).await? {
        tracing::warn!(session = %id, %agent, reason, "a session goes back into the queue");
        return Ok(());
    }
    let since = lives.then(|| *memory.cut_off.lock().entry(id).or_insert(now));
    wait_for(control, &session, &agent, since).await
}

/// How telling an agent to create kernels went.
enum Told {
    Accepted,
    /// It has heard of it, and doesn't.
    Refused(Error),
    /// Whether it has heard of it is unknown.
    Unanswered(Error),
    /// It hasn't heard of it: there is no connection, for this reason.
    Unreachable(String),
    /// It isn't there to be told.
    Lost,
}

async fn call(control: &Control, agent: &Arc<AgentRow>, request: pb::CreateKernelsRequest) -> Told {
    let result = control.orders().place(control, agent, request).await;
    let outcome = if result.is_ok() { "ok" } else { "failed" };
    control.metrics().starts.get_or_create(&ByOutcome { outcome: outcome.to_owned() }).inc();
    let Err(error) = result else { return Told::Accepted };
    let repr = agents::call_error(AgentOperation::Create, &error);
    match error {
        CallError::NoConnection(cause) => {
            Told::Unreachable(format!("The agent {} can't be reached ({cause}).", agent.id))
        }
        CallError::Unreachable(_) | CallError::Timeout => Told::Unanswered(repr),
        _ => Told::Refused(repr),
    }
}

/// An agent that is alive didn't take the start.
async fn failed(control: &Control, session: &SessionRow, agent: &AgentId, error: &Error) -> Result<()> {
    let attempts = session.attempts + 1;
    tracing::warn!(session = %session.id, %agent, attempts, %error, "an agent doesn't take a start");
    if attempts >= control.settings().start_attempts {
        let data =
            json!({"error": {"src": "agent", "agent_id": agent, "name": "AgentError", "repr": error.to_string()}});
        return control.intake().start_failed(session.id, data).await;
    }
    let wait = 500 * (1_i64 << attempts.clamp(0, 6));
    let at = control.clock().now().plus_millis(wait);
    sessions::postpone(&mut control.store().reader(), &[(session.id, session.status, at)], true).await?;
    Ok(())
}

/// The agent is lost, or alive but cut off since then: it may come back soon, or never.
async fn wait_for(control: &Control, session: &SessionRow, agent: &AgentId, cut_off: Option<Timestamp>) -> Result<()> {
    let now = control.clock().now();
    let grace = i64::try_from(control.settings().lost_start_grace.as_millis()).unwrap_or(i64::MAX);
    let lost_at = agent_rows::get(&mut control.store().reader(), agent).await?.and_then(|row| row.lost_at);
    // It may have been lost before the session was placed there.
    let since = lost_at.map_or(session.status_changed, |at| at.max(session.status_changed));
    let since = cut_off.unwrap_or(since);
    if since.plus_millis(grace) < now {
        let data =
            json!({"error": {"src": "agent", "agent_id": agent, "name": "AgentLost", "repr": "the agent was lost"}});
        return control.intake().start_failed(session.id, data).await;
    }
    sessions::postpone(&mut control.store().reader(), &[(session.id, session.status, now.plus_millis(2_000))], false)
        .await?;
    Ok(())
}
