//! A dry run: would this session start now, and where? The live policy decides on the live state, and nothing is written.

use quarterdeck_model::{SessionStatus, policy::Target};
use quarterdeck_store::scaling_groups;
use quarterdeck_store::schedule::{self as rows, Dependency, KernelRow, SessionRow, Visitor};
use quarterdeck_store::sessions::{self, NewSession};
use serde::Serialize;
use serde_json::Value as Json;

use crate::Control;
use crate::enqueue::{self, CreateSession};
use crate::error::{Error, Result};
use crate::explain::{
    self, AgentView, Live, Position, Reason, SchedulerSays, annotate, in_words, may_know_agents, says,
};
use crate::principal::Principal;
use crate::schedule::{self, Books, Decision, Verdict};

/// What a request would come to.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    /// Whether the session would start now.
    pub would_start: bool,
    /// All of it in one sentence.
    pub summary: String,
    /// The scaling group that it would be in.
    pub scaling_group: String,
    /// What it asks for: slot → decimal text.
    pub requested: Json,
    /// Where its kernels would run, main kernel first; nothing unless it would start.
    pub kernels: Vec<PlacedKernel>,
    /// Its place in the queue.
    pub queue: Position,
    /// Of the sessions before it: so many would be placed in the same round.
    pub placed_before: usize,
    /// What keeps it from starting, the first first.
    pub reasons: Vec<Reason>,
    /// The agents as places for it when its turn comes, best first; left out for those who may not know agents.
    pub agents: Vec<AgentView>,
    /// How many agents there are.
    pub agents_total: usize,
    /// What the group's scheduler says, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerSays>,
}

/// Where a kernel would run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacedKernel {
    /// Its name in the cluster, such as `main1`.
    pub name: String,
    /// The agent's id; hidden from those who may not know agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The image.
    pub image: String,
}

/// Plays a round of the group with the requested session in it: as the youngest, or, `ahead`, before all others. Hooks
/// that decide about new sessions are asked, since they decide from what they are shown alone; nobody is told, and
/// nothing is written.
///
/// # Errors
/// Those of [`enqueue::create`] about the request, [`Error::SessionAlreadyExists`] when its name is taken, and
/// [`Error::Unavailable`] when too many questions wait.
pub async fn dry_run(control: &Control, caller: &Principal, request: &CreateSession, ahead: bool) -> Result<DryRun> {
    let session = enqueue::rehearse(control, caller, request).await?;
    let group = scaling_groups::get(&mut control.store().reader(), &session.scaling_group).await?;
    let group = group.ok_or_else(|| Error::not_found("scaling group"))?;
    let names: Vec<String> = session.kernels.iter().map(|k| k.cluster_hostname.clone()).collect();
    let (id, requested) = (session.id, session.requested_slots.clone());

    let mut tx = control.store().begin_read().await?;
    let mut queue = rows::load_with(&mut tx, &group.name, &visitor(&session)).await?;
    let extras = rows::extras(&mut tx, &group.name, rows::Wanted::ALL, control.clock().now()).await?;
    let row = visiting(&mut tx, session).await?;
    tx.rollback().await?;
    insert(&mut queue.sessions, row, ahead);
    let view = Live::of(control, &group, queue, extras);
    let frame = &view.frame;
    let mut out = DryRun {
        would_start: false,
        summary: String::new(),
        scaling_group: group.name.clone(),
        requested,
        kernels: Vec::new(),
        queue: Position { ahead: 0, pending: frame.pending.len() },
        placed_before: 0,
        reasons: Vec::new(),
        agents: Vec::new(),
        agents_total: 0,
        scheduler: None,
    };
    let Some(row) = frame.pending.iter().position(|s| s.row.id == id) else {
        let problem = frame.broken.iter().find(|(row, _)| row.id == id).map_or("", |(_, problem)| problem.as_str());
        return Err(Error::invalid(format!("The session could never be scheduled: {problem}.")));
    };
    out.queue.ahead = row;

    let mut books = Books::new(&**frame);
    let mut placed: Option<Vec<u32>> = None;
    match explain::policy(control, &group).await? {
        Err(reason) => out.reasons.push(Reason::new("not-scheduled", reason)),
        Ok((mut bound, mut instead)) => {
            let mut consulted = schedule::consult(control, &bound, frame, row, explain::CANDIDATES).await?;
            // As in a live round.
            if let Some(failure) = consulted.failed() {
                instead = Some(format!("The scheduler {} failed: {failure}", bound.plugin.info.name));
                bound = control.policies().fallback_scheduler().await?;
                bound.target = Target::scaling_group(&group.name);
                consulted = schedule::consult(control, &bound, frame, row, explain::CANDIDATES).await?;
            }
            books = consulted.books(frame);
            out.placed_before = books.placed();
            let mut says = says(&bound, &consulted);
            says.instead = instead;
            if let Some(Decision { verdict: Verdict::Placed(agents), .. }) = &consulted.decision {
                placed = Some(agents.clone());
            }
            let diagnosis = explain::diagnose(frame, &books, row, &view.agents);
            out.agents = diagnosis.agents;
            annotate(&mut out.agents, frame, &consulted);
            if placed.is_none() {
                out.reasons = diagnosis.reasons;
                if out.reasons.is_empty() {
                    out.reasons.push(Reason::new("scheduler", in_words(&says, row)));
                }
            }
            out.scheduler = Some(says);
        }
    }
    if out.scheduler.is_none() {
        out.agents = explain::diagnose(frame, &books, row, &view.agents).agents;
    }
    out.agents_total = out.agents.len();
    out.agents.truncate(explain::MAX_AGENTS);
    let known = may_know_agents(control, caller);
    if !known {
        out.agents.clear();
    }
    if let Some(agents) = &placed {
        let kernels = frame.pending[row].kernels.iter().zip(agents).zip(names);
        out.kernels = kernels
            .map(|((kernel, agent), name)| PlacedKernel {
                name,
                agent: known.then(|| frame.agents[*agent as usize].id.to_string()),
                image: kernel.row.image.clone(),
            })
            .collect();
    }
    out.would_start = placed.is_some();
    out.summary = sentence(&out);
    Ok(out)
}

fn visitor(session: &NewSession) -> Visitor {
    Visitor {
        access_key: session.access_key.clone(),
        project_id: session.project_id,
        domain_name: session.domain_name.clone(),
        agents: session.kernels.iter().filter_map(|k| k.designated_agent.clone()).collect(),
    }
}

/// The session as its row would be read.
async fn visiting(tx: &mut quarterdeck_store::Tx, session: NewSession) -> Result<SessionRow> {
    let found = sessions::get_many(tx, &session.dependencies).await?;
    let kernel = |k: quarterdeck_store::kernels::NewKernel| KernelRow {
        id: k.id,
        image: k.image,
        architecture: k.architecture,
        status: quarterdeck_model::KernelStatus::Pending,
        requested_slots: k.requested_slots.to_string(),
        held: "{}".to_owned(),
        designated_agent: k.designated_agent,
        agent_id: None,
        status_data: None,
    };
    Ok(SessionRow {
        id: session.id,
        creation_id: session.creation_id,
        name: session.name,
        session_type: session.session_type,
        priority: session.priority,
        expected_ms: session.expected_ms,
        cluster_mode: session.cluster_mode,
        is_private: session.is_private,
        domain_name: session.domain_name,
        project_id: session.project_id,
        access_key: session.access_key,
        status: SessionStatus::Pending,
        created_at: session.created_at,
        starts_at: session.starts_at,
        status_data: None,
        kernels: session.kernels.into_iter().map(kernel).collect(),
        dependencies: found.into_iter().map(|s| Dependency { id: s.id, name: s.name, result: s.result }).collect(),
    })
}

/// Puts a session in at its place; the order of a queue is that of ages.
fn insert(sessions: &mut Vec<SessionRow>, mut row: SessionRow, ahead: bool) {
    let mut pending = sessions.iter().filter(|s| s.status == SessionStatus::Pending).map(|s| s.created_at);
    // Clocks of several hosts differ a little: the youngest it is nevertheless.
    if ahead {
        row.created_at = pending.next().map_or(row.created_at, |oldest| row.created_at.min(oldest.plus_micros(-1)));
    } else {
        row.created_at =
            pending.next_back().map_or(row.created_at, |youngest| row.created_at.max(youngest.plus_micros(1)));
    }
    let at = sessions.partition_point(|s| s.created_at <= row.created_at);
    sessions.insert(at, row);
}

fn sentence(run: &DryRun) -> String {
    if run.would_start {
        let mut agents: Vec<&str> = run.kernels.iter().filter_map(|k| k.agent.as_deref()).collect();
        agents.dedup();
        let place = if agents.is_empty() { String::new() } else { format!(" on {}", agents.join(", ")) };
        return format!("It would start now{place}.");
    }
    let mut text = "It would not start now.".to_owned();
    if let Some(first) = run.reasons.first() {
        text.push(' ');
        text.push_str(&first.message);
    }
    match run.queue.ahead {
        0 => {}
        1 => text.push_str(" (1 session is ahead)"),
        n => text.push_str(&format!(" ({n} sessions are ahead)")),
    }
    text
}
