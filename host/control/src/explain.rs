//! "Why is this session pending": what the host's rules say on the live state, what the scheduler says of it, and what
//! the last round noted.

mod diagnosis;

use std::sync::Arc;

use quarterdeck_model::policy::{BindingMode, PluginKind, RevisionStatus, Target};
use quarterdeck_model::scheduler_opts::SchedulerOpts;
use quarterdeck_model::{SessionId, SessionStatus};
use quarterdeck_plugin::Failure;
use quarterdeck_store::rounds;
use quarterdeck_store::scaling_groups::{self, ScalingGroupRow};
use quarterdeck_store::schedule::{self as rows, AgentRow};
use quarterdeck_store::{plugins, sessions};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::Control;
use crate::error::{Error, Result};
use crate::policies::Bound;
use crate::principal::Principal;
use crate::schedule::{self, Consulted, Frame, Verdict};
use crate::scope;
use crate::sessions::{Found, find, no_such_session};

pub use diagnosis::{AgentView, Awaited, MAX_AGENTS, Opinion, Reason, Shortage};
pub(crate) use diagnosis::{Diagnosis, diagnose};

/// Agents that a scheduler is asked about.
pub(crate) const CANDIDATES: u32 = 32;

/// Why a session is where it is.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// The session.
    pub session: SessionId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: SessionStatus,
    /// When it was enqueued, ISO 8601.
    pub created_at: String,
    /// Its scaling group.
    pub scaling_group: String,
    /// All of it in one sentence.
    pub summary: String,
    /// What it asks for: slot → decimal text.
    pub requested: Json,
    /// Older pending sessions of the group, and how many there are in all. Only while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Position>,
    /// What keeps it from starting, the first first.
    pub reasons: Vec<Reason>,
    /// The agents as places for it, best first; left out for those who may not know agents.
    pub agents: Vec<AgentView>,
    /// How many agents there are.
    pub agents_total: usize,
    /// What the group's scheduler says. Only while it is pending and the group has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerSays>,
    /// What the last rounds noted: `retries`, `last_try`, `failed_predicates`, `passed_predicates`, `msg`, `error`.
    pub noted: Json,
    /// The group's last round on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_round: Option<LastRound>,
}

/// A session's place in its group's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Pending sessions that are older.
    pub ahead: usize,
    /// Pending sessions.
    pub pending: usize,
}

/// What a scheduler does with a session in a round on the live state, and what it says about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SchedulerSays {
    /// Its name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// `placed`, `ineligible`, `no-room`, `refused` (the host turned its proposal down), `not-reached` (its round ends
    /// before the session's turn) or `failed`.
    pub turn: &'static str,
    /// The host's words about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The scheduler's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// Why it could not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why another policy than the one that was bound answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

/// How the last round of a group went that is on record: those that decide nothing new are not kept one by one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastRound {
    /// When, ISO 8601.
    pub at: String,
    /// Who decided.
    pub plugin: String,
    /// `ok`, or what went wrong.
    pub outcome: String,
    /// Sessions placed.
    pub placed: i64,
    /// Sessions that found no room.
    pub deferred: i64,
}

/// Tells why a session is pending, or what it does instead. `owner_access_key` names the key pair whose session it is,
/// for those who may act for it; an id alone finds the sessions of everybody that the caller may act for.
///
/// # Errors
/// [`Error::NotFound`], also for sessions that are out of the caller's reach; what `owner_access_key` is refused for;
/// [`Error::Unavailable`] when too many questions wait.
pub async fn why(
    control: &Control,
    caller: &Principal,
    reference: &str,
    owner_access_key: Option<&str>,
) -> Result<Why> {
    let found = visible(control, caller, reference, owner_access_key).await?;
    let session = &found.session;
    let mut why = Why {
        session: session.id,
        name: session.name.clone(),
        status: session.status,
        created_at: session.created_at.iso(),
        scaling_group: session.scaling_group.clone(),
        summary: String::new(),
        requested: session.requested_slots.clone(),
        queue: None,
        reasons: Vec::new(),
        agents: Vec::new(),
        agents_total: 0,
        scheduler: None,
        noted: noted(session.status_data.as_ref()),
        last_round: None,
    };
    if session.status != SessionStatus::Pending {
        why.reasons.push(not_pending(session));
        why.summary = sentence(&why);
        return Ok(why);
    }
    let of_group = rounds::Filter { scaling_group: Some(session.scaling_group.clone()), ..rounds::Filter::default() };
    let newest = rounds::list(&mut control.store().reader(), &of_group, 1).await?;
    why.last_round = newest.into_iter().next().map(|round| LastRound {
        at: round.at.iso(),
        plugin: round.plugin,
        outcome: round.outcome,
        placed: round.placed,
        deferred: round.deferred,
    });
    let group = scaling_groups::get(&mut control.store().reader(), &session.scaling_group).await?;
    match group {
        Some(group) => look(control, &group, session.id, &mut why).await?,
        None => why.reasons.push(Reason::new("no-group", "The scaling group doesn't exist any more.")),
    }
    if may_know_agents(control, caller) {
        why.agents.truncate(MAX_AGENTS);
    } else {
        why.agents.clear();
    }
    why.summary = sentence(&why);
    Ok(why)
}

/// Whether a caller may be told of agents one by one.
pub(crate) fn may_know_agents(control: &Control, caller: &Principal) -> bool {
    caller.is_superadmin() || !control.settings().hide_agents
}

async fn visible(
    control: &Control,
    caller: &Principal,
    reference: &str,
    owner_access_key: Option<&str>,
) -> Result<Arc<Found>> {
    let owner = scope::resolve_owner(control, caller, owner_access_key).await?;
    match find(control, &owner.access_key, reference, true).await {
        Err(Error::NotFound { .. }) if owner_access_key.is_none() => {}
        other => return other,
    }
    // An id says itself whose session it is: of another key pair of the caller's, or of somebody that they may act for.
    let Ok(id) = reference.parse::<SessionId>() else { return Err(no_such_session(reference)) };
    let session = sessions::get(&mut control.store().reader(), id).await?;
    let session = session.ok_or_else(|| no_such_session(reference))?;
    if session.user_id != caller.user_id {
        match scope::resolve_owner(control, caller, Some(session.access_key.as_str())).await {
            Ok(_) => {}
            Err(Error::Forbidden(_) | Error::InvalidParams { .. }) => return Err(no_such_session(reference)),
            Err(error) => return Err(error),
        }
    }
    Ok(Arc::new(Found { session, kernels: Vec::new() }))
}

/// What rounds noted at a session.
fn noted(status_data: Option<&Json>) -> Json {
    let mut noted = match status_data.and_then(|data| data.get("scheduler")) {
        Some(Json::Object(scheduler)) => scheduler.clone(),
        _ => Map::new(),
    };
    if let Some(error) = status_data.and_then(|data| data.get("error")) {
        noted.insert("error".to_owned(), error.clone());
    }
    Json::Object(noted)
}

fn not_pending(session: &sessions::SessionRow) -> Reason {
    let status = session.status;
    let info = session.status_info.as_deref().filter(|info| !info.is_empty());
    let mut message = format!("The session isn't pending: it is {status} since {}", session.status_changed.iso());
    if let Some(info) = info {
        message.push_str(&format!(" ({info})"));
    }
    message.push('.');
    let starting = matches!(status, SessionStatus::Scheduled | SessionStatus::Preparing | SessionStatus::Pulling);
    if starting && session.attempts > 0 {
        message.push_str(&format!(" Its start failed {} times.", session.attempts));
        if let Some(at) = session.retry_at {
            message.push_str(&format!(" The next try is at {}.", at.iso()));
        }
    }
    let mut reason = Reason::new("status", message);
    reason.until = session.retry_at.filter(|_| starting).map(|at| at.iso());
    reason
}

/// Looks at a pending session on the live state of its group.
async fn look(control: &Control, group: &ScalingGroupRow, id: SessionId, why: &mut Why) -> Result<()> {
    let view = Live::read(control, group).await?;
    let frame = &view.frame;
    if view.expired.contains(&id) {
        let message = "The session has waited for longer than its scaling group allows: the next round cancels it.";
        why.reasons.push(Reason::new("pending-timeout", message));
        return Ok(());
    }
    if let Some((_, problem)) = frame.broken.iter().find(|(row, _)| row.id == id) {
        why.reasons.push(Reason::new("malformed-request", format!("Its request makes no sense: {problem}.")));
        return Ok(());
    }
    let Some(row) = frame.pending.iter().position(|s| s.row.id == id) else {
        // It left the queue while we were looking.
        why.reasons.push(Reason::new("status", "The session is no longer pending: ask again."));
        return Ok(());
    };
    why.queue = Some(Position { ahead: row, pending: frame.pending.len() });
    let Diagnosis { reasons, agents } = diagnose(frame, &schedule::Books::new(&**frame), row, &view.agents);
    why.reasons = reasons;
    why.agents_total = agents.len();
    why.agents = agents;
    match policy(control, group).await? {
        Ok((bound, instead)) => {
            let consulted = schedule::consult(control, &bound, frame, row, CANDIDATES).await?;
            annotate(&mut why.agents, frame, &consulted);
            let mut says = says(&bound, &consulted);
            says.instead = instead;
            if why.reasons.is_empty() && says.turn != "placed" {
                why.reasons.push(Reason::new("scheduler", in_words(&says, row)));
            }
            why.scheduler = Some(says);
        }
        Err(reason) => why.reasons.insert(0, Reason::new("not-scheduled", reason)),
    }
    Ok(())
}

/// A group as it is now.
pub(crate) struct Live {
    pub(crate) frame: Arc<Frame>,
    /// Its agents as they were read.
    pub(crate) agents: Vec<AgentRow>,
    /// Sessions that the next round cancels.
    pub(crate) expired: Vec<SessionId>,
}

impl Live {
    async fn read(control: &Control, group: &ScalingGroupRow) -> Result<Self> {
        let mut tx = control.store().begin_read().await?;
        let queue = rows::load(&mut tx, &group.name).await?;
        let extras = rows::extras(&mut tx, &group.name, rows::Wanted::ALL, control.clock().now()).await?;
        tx.rollback().await?;
        Ok(Self::of(control, group, queue, extras))
    }

    /// From what was read of it.
    pub(crate) fn of(control: &Control, group: &ScalingGroupRow, queue: rows::Queue, extras: rows::Extras) -> Self {
        let now = control.clock().now();
        // Options that make no sense keep the group from being scheduled, which is told elsewhere.
        let timeout = SchedulerOpts::parse(&group.scheduler_opts).map_or(0.0, |opts| opts.pending_timeout_s);
        let (queue, expired) = schedule::split_expired(queue, now, timeout);
        let agents = queue.agents.clone();
        let frame = Frame::build(&group.name, now, control.config_tree().slot_types(), queue).with_extras(extras);
        Self { frame: Arc::new(frame), agents, expired: expired.into_iter().map(|s| s.id).collect() }
    }
}

/// The policy that decides in a group now, and why it isn't the one that was bound there; or why nobody does.
pub(crate) async fn policy(
    control: &Control,
    group: &ScalingGroupRow,
) -> Result<std::result::Result<(Bound, Option<String>), String>> {
    let (target, mut reader) = (Target::scaling_group(&group.name), control.store().reader());
    let suspended = |digest: Option<String>| async move {
        let mut reader = control.store().reader();
        let all = plugins::revisions(&mut reader).await?;
        let revision = all.into_iter().find(|r| match &digest {
            Some(digest) => r.digest == *digest,
            None => r.name == group.scheduler,
        });
        Ok::<_, Error>(revision.filter(|r| r.status == RevisionStatus::Suspended).map(|r| {
            let reason = r.status_reason.unwrap_or_default();
            format!("The scheduler {}@{} is suspended: {reason}", r.name, r.version)
        }))
    };
    if let Err(error) = SchedulerOpts::parse(&group.scheduler_opts) {
        return Ok(Err(format!("the group's scheduler options make no sense: {error}")));
    }
    match control.policies().scheduler(group).await {
        Ok(Some(bound)) => {
            let bindings = plugins::bindings(&mut reader).await?;
            let wanted = bindings.into_iter().find(|b| {
                b.kind == PluginKind::Scheduler
                    && b.mode == BindingMode::Live
                    && b.target == target
                    && b.plugin == group.scheduler
            });
            let instead = match wanted.filter(|b| b.digest != bound.plugin.digest) {
                Some(binding) => suspended(Some(binding.digest)).await?,
                None => None,
            };
            Ok(Ok((bound, instead)))
        }
        Ok(None) => {
            let reason = format!("Cannot load the scheduler plugin: {}", group.scheduler);
            Ok(Err(match suspended(None).await? {
                Some(more) => format!("{reason}. {more}"),
                None => reason,
            }))
        }
        Err(Error::InvalidParams { msg, .. }) => Ok(Err(msg)),
        // The round goes on with the built-in one.
        Err(Error::Unavailable(reason)) => Ok(Ok((control.policies().fallback_scheduler().await?, Some(reason)))),
        Err(error) => Err(error),
    }
}

/// Writes a scheduler's opinions to the agents that they are about.
pub(crate) fn annotate(agents: &mut [AgentView], frame: &Frame, consulted: &Consulted) {
    let Ok(explanation) = &consulted.explanation else { return };
    for candidate in &explanation.candidates {
        let id = &frame.agents[candidate.agent as usize].id;
        if let Some(agent) = agents.iter_mut().find(|a| a.id == id.as_str()) {
            agent.scheduler =
                Some(Opinion { feasible: candidate.feasible, score: candidate.score, why: printable(&candidate.why) });
        }
    }
}

/// A scheduler's part of an answer.
pub(crate) fn says(bound: &Bound, consulted: &Consulted) -> SchedulerSays {
    let (turn, message) = match consulted.decision.as_ref().map(|d| (&d.verdict, &d.checks)) {
        _ if consulted.failed().is_some() => ("failed", None),
        None => ("not-reached", None),
        Some((Verdict::Placed(_), _)) => ("placed", None),
        Some((Verdict::Ineligible, checks)) => ("ineligible", checks.failed.first().map(|(_, msg, _)| msg.clone())),
        Some((Verdict::NoRoom { msg, .. }, _)) => ("no-room", Some(msg.clone())),
        Some((Verdict::Refused { why, .. }, _)) => ("refused", Some(why.clone())),
    };
    let explanation = consulted.explanation.as_ref();
    SchedulerSays {
        plugin: bound.plugin.info.name.clone(),
        version: bound.plugin.info.version.clone(),
        digest: bound.plugin.digest.clone(),
        turn,
        message,
        says: explanation.ok().map(|e| printable(&e.summary)).filter(|text| !text.is_empty()),
        failure: explanation.err().map(Failure::to_string),
        instead: None,
    }
}

/// Text of a guest's, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// What a scheduler does with a session for which there is room; `ahead` sessions are older.
pub(crate) fn in_words(says: &SchedulerSays, ahead: usize) -> String {
    let name = &says.plugin;
    let message = says.message.as_deref().unwrap_or_default();
    match says.turn {
        "placed" => format!("It has room now: the scheduler {name} places it in its next round."),
        "not-reached" => match ahead {
            0 => format!("The scheduler {name} ends its round before this session's turn."),
            1 => format!("The scheduler {name} ends its round before this session's turn: one older session waits."),
            n => format!("The scheduler {name} ends its round before this session's turn: {n} older sessions wait."),
        },
        "failed" => format!(
            "The scheduler {name} fails ({}); the built-in one decides instead.",
            says.failure.as_deref().unwrap_or("no reason given")
        ),
        "refused" => format!("The host refuses what the scheduler {name} proposes: {message}"),
        _ => format!("The scheduler {name} does not place it now: {message}"),
    }
}

fn sentence(why: &Why) -> String {
    let mut text = match (why.reasons.as_slice(), &why.scheduler) {
        ([], Some(says)) => in_words(says, why.queue.map_or(0, |q| q.ahead)),
        ([], None) => "Nothing keeps it from starting: the next round decides.".to_owned(),
        ([first, ..], _) => first.message.clone(),
    };
    if why.reasons.len() > 1 {
        let others: Vec<&str> = why.reasons[1..].iter().map(|r| r.code).collect();
        text.push_str(&format!(" (also: {})", others.join(", ")));
    }
    text
}
