//! What stands between a pending session and its agents, in amounts. The rules are those of the books; here they are
//! told in full.

use std::collections::HashMap;

use quarterdeck_model::slots::{self, SlotKind};
use quarterdeck_model::{AgentId, ClusterMode, SessionResult, predicates};
use quarterdeck_plugin::scheduling::{Deferral, Lack};
use quarterdeck_store::schedule::AgentRow;
use serde::Serialize;

use crate::schedule::{Account, Books, Checks, Frame, Place, Session, Verdict};

/// Agents that are told about one by one; of others only the number is told.
pub const MAX_AGENTS: usize = 100;

/// One thing that keeps a session from starting.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reason {
    /// A stable word: a predicate's name (`reserved_time`, `dependencies`, `concurrency`, `keypair_resource_limit`,
    /// `user_group_resource_limit`, `domain_resource_limit`), or `status`, `pending-timeout`, `no-group`, `no-agent`,
    /// `not-scheduled`, `malformed-request`, `designated-agent`, `no-schedulable-agent`, `no-compatible-agent`,
    /// `no-room`, `scheduler`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What there is too little of. For `no-room`: on the agent that lacks least.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shortages: Vec<Shortage>,
    /// Sessions that must succeed first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Awaited>,
    /// When it ends by itself, ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Reason {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), ..Self::default() }
    }
}

/// An amount of which there is too little. Amounts are decimal texts, bytes whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// The slot, or `sessions`.
    pub slot: String,
    /// `count`, `bytes` or `unique`.
    pub kind: &'static str,
    /// The most there is: the quota, or the agent's capacity.
    pub limit: String,
    /// What is taken of it.
    pub used: String,
    /// What is asked for.
    pub requested: String,
    /// How much is missing.
    pub missing: String,
}

/// A session that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Awaited {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it ended; `UNDEFINED` while it runs.
    pub result: SessionResult,
}

/// An agent as a place for a session; for one of several kernels over several agents: for its main kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentView {
    /// Its id.
    pub id: String,
    /// Its architecture.
    pub architecture: String,
    /// Whether the session could be placed there.
    pub fits: bool,
    /// The first thing that forbids it: `dead`, `another-group`, `not-schedulable`, `cooling-down`, `architecture`,
    /// `designated-elsewhere` or `capacity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<&'static str>,
    /// End of a cool-down, ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What it has too little of.
    pub lacks: Vec<Shortage>,
    /// What the scheduler thinks of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Opinion>,
}

/// What a scheduler thinks of an agent as a place for a session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Opinion {
    /// Whether it could be placed there.
    pub feasible: bool,
    /// Larger is better; comparable within one answer only.
    pub score: f64,
    /// For people.
    pub why: String,
}

impl Eq for Opinion {}

/// What was found about a session.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    /// What keeps it from starting, the first first; nothing when it has room.
    pub reasons: Vec<Reason>,
    /// The agents, best first.
    pub agents: Vec<AgentView>,
}

/// Looks at a pending session on the books as they are. `rows` are the agents as they were read.
pub(crate) fn diagnose(frame: &Frame, books: &Books<'_>, row: usize, rows: &[AgentRow]) -> Diagnosis {
    let session = &frame.pending[row];
    let mut reasons = failed_predicates(frame, books, session, &books.predicates(row));
    let mut agents = agents(frame, books, session, rows);
    if let Some(reason) = room(frame, books, row, &agents) {
        reasons.push(reason);
    }
    agents.sort_by(|a, b| nearness(a).total_cmp(&nearness(b)).then_with(|| a.id.cmp(&b.id)));
    Diagnosis { reasons, agents }
}

fn failed_predicates(frame: &Frame, books: &Books<'_>, session: &Session, checks: &Checks) -> Vec<Reason> {
    let ([owners, projects, domains], concurrent) = books.accounts();
    let quota = |account: &Account, held: &[u64]| -> Vec<Shortage> {
        let Ok(limit) = &account.limit else { return Vec::new() };
        (0..frame.slots.len())
            .filter(|slot| limit[*slot] != u64::MAX)
            .filter_map(|slot| shortage(frame, slot, limit[slot], held[slot], session.requested[slot]))
            .collect()
    };
    let reason = |(name, message, _): &(&'static str, String, _)| {
        let mut reason = Reason::new(name, message.clone());
        match *name {
            predicates::RESERVED_TIME => reason.until = session.row.starts_at.map(|at| at.iso()),
            predicates::DEPENDENCIES => {
                let open = session.row.dependencies.iter().filter(|d| d.result != SessionResult::Success);
                reason.waits_for =
                    open.map(|d| Awaited { id: d.id.to_string(), name: d.name.clone(), result: d.result }).collect();
            }
            predicates::CONCURRENCY => {
                let limits = frame.owners[session.owner].session_limit;
                let counted = concurrent[session.owner];
                let private = session.row.is_private;
                let (used, limit) = if private { (counted.1, limits.1) } else { (counted.0, limits.0) };
                let text = |n: u64| n.to_string();
                reason.shortages.push(Shortage {
                    slot: "sessions".to_owned(),
                    kind: "count",
                    limit: text(limit),
                    used: text(used),
                    requested: text(1),
                    missing: text(used.saturating_add(1).saturating_sub(limit)),
                });
            }
            predicates::KEYPAIR_RESOURCE_LIMIT => {
                reason.shortages = quota(&frame.owners[session.owner], &owners[session.owner]);
            }
            predicates::USER_GROUP_RESOURCE_LIMIT => {
                reason.shortages = quota(&frame.projects[session.project], &projects[session.project]);
            }
            predicates::DOMAIN_RESOURCE_LIMIT => {
                reason.shortages = quota(&frame.domains[session.domain], &domains[session.domain]);
            }
            _ => {}
        }
        reason
    };
    checks.failed.iter().map(reason).collect()
}

/// What is missing of a slot when so much of it is asked for.
fn shortage(frame: &Frame, slot: usize, limit: u64, used: u64, requested: u64) -> Option<Shortage> {
    let missing = used.saturating_add(requested).checked_sub(limit).filter(|missing| *missing > 0)?;
    let (name, kind) = &frame.slots[slot];
    let text = |amount: u64| slots::from_units(*kind, amount).to_string();
    Some(Shortage {
        slot: name.clone(),
        kind: word(*kind),
        limit: text(limit),
        used: text(used),
        requested: text(requested),
        missing: text(missing),
    })
}

/// A slot's kind in one word.
fn word(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Count => "count",
        SlotKind::Bytes => "bytes",
        SlotKind::Unique => "unique",
    }
}

/// What must fit onto one agent: the whole session, or its main kernel.
fn piece(session: &Session) -> &[u64] {
    match session.row.cluster_mode {
        ClusterMode::SingleNode => &session.requested,
        ClusterMode::MultiNode => &session.kernels[0].requested,
    }
}

fn agents(frame: &Frame, books: &Books<'_>, session: &Session, rows: &[AgentRow]) -> Vec<AgentView> {
    let rows: HashMap<&AgentId, &AgentRow> = rows.iter().map(|row| (&row.id, row)).collect();
    let main = &session.kernels[0];
    let tied = |index: usize| session.kernels.iter().any(|k| k.agent == Place::At(index as u32));
    let view = |(index, agent): (usize, &crate::schedule::Agent)| {
        let row = rows.get(&agent.id)?;
        // Agents of other groups are there for what runs on them.
        if row.scaling_group != frame.group && !tied(index) {
            return None;
        }
        let lacks: Vec<Shortage> = piece(session)
            .iter()
            .enumerate()
            .filter_map(|(slot, wanted)| {
                shortage(frame, slot, agent.capacity[slot], books.occupied()[index][slot], *wanted)
            })
            .collect();
        let cooling = row.cooldown_until.filter(|until| *until > frame.now);
        let pinned = main.agent == Place::At(index as u32);
        let obstacle = match main.agent {
            _ if !agent.alive => Some("dead"),
            Place::At(_) | Place::Missing(_) if !pinned => Some("designated-elsewhere"),
            Place::Free if row.scaling_group != frame.group => Some("another-group"),
            Place::Free if !row.schedulable => Some("not-schedulable"),
            Place::Free if cooling.is_some() => Some("cooling-down"),
            _ if agent.architecture != main.architecture => Some("architecture"),
            _ if !lacks.is_empty() => Some("capacity"),
            _ => None,
        };
        Some(AgentView {
            id: agent.id.to_string(),
            architecture: frame.architectures[agent.architecture as usize].clone(),
            fits: obstacle.is_none(),
            obstacle,
            until: cooling.map(|at| at.iso()),
            lacks,
            scheduler: None,
        })
    };
    frame.agents.iter().enumerate().filter_map(view).collect()
}

/// Smaller is nearer to a fit: 0 fits, below 1 lacks less than all of what is asked for, and what amounts alone can't
/// mend comes last.
fn nearness(agent: &AgentView) -> f64 {
    let part = |s: &Shortage| {
        let number = |text: &str| text.parse::<f64>().unwrap_or(f64::INFINITY);
        number(&s.missing) / number(&s.requested).max(f64::MIN_POSITIVE)
    };
    match agent.obstacle {
        None => 0.0,
        Some("capacity") => agent.lacks.iter().map(part).fold(0.0, f64::max).min(1e300),
        Some(_) => f64::INFINITY,
    }
}

/// Why no agents have room for the session; `None` when some have.
fn room(frame: &Frame, books: &Books<'_>, row: usize, agents: &[AgentView]) -> Option<Reason> {
    let session = &frame.pending[row];
    let has_room = match session.row.cluster_mode {
        ClusterMode::SingleNode => {
            let main = &session.kernels[0];
            session.kernels.iter().all(|k| k.architecture == main.architecture) && agents.iter().any(|a| a.fits)
        }
        ClusterMode::MultiNode => spread_fits(frame, books, session),
    };
    if has_room {
        return None;
    }
    // The host's own words about it, as they are noted at the session.
    let deferral = Deferral { session: row as u32, lack: Lack::NoRoom, detail: String::new() };
    let message = match books.no_room(row, &deferral) {
        Verdict::NoRoom { msg, .. } => msg,
        _ => String::new(),
    };
    let pinned = session.kernels.iter().any(|k| k.agent != Place::Free);
    let with = |obstacle: &str| agents.iter().filter(|a| a.obstacle == Some(obstacle)).count();
    let closed = with("not-schedulable") + with("cooling-down") + with("dead");
    let code = if pinned {
        "designated-agent"
    } else if closed == agents.len() {
        let group = &frame.group;
        let message = match agents.len() {
            0 => format!("No agent of the scaling group {group} is alive."),
            n => format!("None of the {n} agents of the scaling group {group} takes sessions now."),
        };
        let mut reason = Reason::new(if agents.is_empty() { "no-agent" } else { "no-schedulable-agent" }, message);
        reason.until = agents.iter().filter_map(|a| a.until.clone()).min();
        return Some(reason);
    } else if with("architecture") + closed == agents.len() {
        "no-compatible-agent"
    } else {
        "no-room"
    };
    let mut reason = Reason::new(code, message);
    let nearest = agents.iter().filter(|a| a.obstacle == Some("capacity"));
    if let Some(nearest) = nearest.min_by(|a, b| nearness(a).total_cmp(&nearness(b))) {
        reason.shortages = nearest.lacks.clone();
    }
    Some(reason)
}

/// Whether all kernels find an agent, each the first with room.
fn spread_fits(frame: &Frame, books: &Books<'_>, session: &Session) -> bool {
    let mut occupied: Vec<Vec<u64>> = books.occupied().to_vec();
    session.kernels.iter().all(|kernel| {
        let found = frame.agents.iter().enumerate().position(|(index, agent)| {
            let allowed = match kernel.agent {
                Place::Free => agent.schedulable,
                Place::At(pin) => pin as usize == index && agent.alive,
                Place::Missing(_) => false,
            };
            let fits = || {
                (0..frame.slots.len())
                    .all(|slot| occupied[index][slot].saturating_add(kernel.requested[slot]) <= agent.capacity[slot])
            };
            allowed && agent.architecture == kernel.architecture && fits()
        });
        if let Some(index) = found {
            for (cell, amount) in occupied[index].iter_mut().zip(kernel.requested.iter()) {
                *cell = cell.saturating_add(*amount);
            }
        }
        found.is_some()
    })
}
