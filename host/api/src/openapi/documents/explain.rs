//! Documents about why sessions wait, and whether one would.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// Why a session is where it is.
#[derive(Debug, ToSchema)]
pub struct Why {
    /// The session's id.
    pub session: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: String,
    /// When it was enqueued.
    pub created_at: String,
    /// Its scaling group.
    pub scaling_group: String,
    /// All of it in one sentence.
    pub summary: String,
    /// What it asks for: slot to decimal text.
    pub requested: BTreeMap<String, String>,
    /// Its place among the pending sessions; while it is one.
    pub queue: Option<Position>,
    /// What keeps it from starting, the first first.
    pub reasons: Vec<Reason>,
    /// The agents as places for it, best first; for those who may know agents.
    pub agents: Vec<AgentView>,
    /// How many agents there are.
    pub agents_total: usize,
    /// What the group's scheduler says; while the session is pending.
    pub scheduler: Option<SchedulerSays>,
    /// What the last rounds noted.
    pub noted: Noted,
    /// The group's last round on record.
    pub last_round: Option<LastRound>,
}

/// One thing that keeps a session from starting.
#[derive(Debug, ToSchema)]
pub struct Reason {
    /// A stable word: `reserved_time`, `dependencies`, `concurrency`, `keypair_resource_limit`,
    /// `user_group_resource_limit`, `domain_resource_limit`, `status`, `pending-timeout`, `no-group`, `no-agent`,
    /// `not-scheduled`, `malformed-request`, `designated-agent`, `no-schedulable-agent`, `no-compatible-agent`,
    /// `no-room` or `scheduler`.
    pub code: String,
    /// For people.
    pub message: String,
    /// What there is too little of; for `no-room`: on the agent that lacks least.
    pub shortages: Option<Vec<Shortage>>,
    /// Sessions that must succeed first.
    pub waits_for: Option<Vec<Awaited>>,
    /// When it ends by itself.
    pub until: Option<String>,
}

/// Too little of a resource. Amounts are decimal texts; memory is in bytes.
#[derive(Debug, ToSchema)]
pub struct Shortage {
    /// The slot, or `sessions`.
    pub slot: String,
    /// `count`, `bytes` or `unique`.
    pub kind: String,
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
#[derive(Debug, ToSchema)]
pub struct Awaited {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it ended: `SUCCESS` or `FAILURE`; `UNDEFINED` while it runs.
    pub result: String,
}

/// An agent as a place for a session.
#[derive(Debug, ToSchema)]
pub struct AgentView {
    /// Its id.
    pub id: String,
    /// Its architecture.
    pub architecture: String,
    /// Whether the session could be placed there.
    pub fits: bool,
    /// The first thing that forbids it: `dead`, `another-group`, `not-schedulable`, `cooling-down`, `architecture`,
    /// `designated-elsewhere` or `capacity`.
    pub obstacle: Option<String>,
    /// When it has cooled down.
    pub until: Option<String>,
    /// What it has too little of.
    pub lacks: Vec<Shortage>,
    /// What the scheduler thinks of it.
    pub scheduler: Option<Opinion>,
}

/// What a scheduler thinks of an agent as a place for a session.
#[derive(Debug, ToSchema)]
pub struct Opinion {
    /// Whether it could be placed there.
    pub feasible: bool,
    /// Larger is better; comparable within one answer only.
    pub score: f64,
    /// For people.
    pub why: String,
}

/// What a scheduler does with a session in a round on the live state, and what it says about it.
#[derive(Debug, ToSchema)]
pub struct SchedulerSays {
    /// Its name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Its component.
    pub digest: String,
    /// `placed`, `ineligible`, `no-room`, `refused`, `not-reached` (its round ends before the session's turn) or
    /// `failed`.
    pub turn: String,
    /// The host's words about that.
    pub message: Option<String>,
    /// The scheduler's words.
    pub says: Option<String>,
    /// Why it could not answer.
    pub failure: Option<String>,
    /// Why another policy than the one that was bound answers.
    pub instead: Option<String>,
}

/// What rounds noted at a session.
#[derive(Debug, ToSchema)]
pub struct Noted {
    /// In how many rounds it found no place.
    pub retries: Option<i64>,
    /// When it had its last turn.
    pub last_try: Option<String>,
    /// The host's words about that.
    pub msg: Option<String>,
    /// Predicates that didn't hold: `name` and `msg`.
    pub failed_predicates: Option<Vec<BTreeMap<String, String>>>,
    /// Predicates that held: `name`.
    pub passed_predicates: Option<Vec<BTreeMap<String, String>>>,
    /// A fault, if there was one.
    pub error: Option<BTreeMap<String, Value>>,
}

/// A group's last round on record.
#[derive(Debug, ToSchema)]
pub struct LastRound {
    /// When.
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

/// A session's place in its group's queue.
#[derive(Debug, ToSchema)]
pub struct Position {
    /// Pending sessions before it.
    pub ahead: usize,
    /// Pending sessions.
    pub pending: usize,
}

/// A session that somebody thinks of: the body of `POST /session`, and `ahead`.
#[derive(Debug, ToSchema)]
pub struct DryRunRequest {
    /// Its name.
    pub name: Option<String>,
    /// The image.
    pub image: String,
    /// Its configuration, as for `POST /session`; other fields are as there, too.
    pub config: Option<Value>,
    /// Before all others, instead of behind them.
    pub ahead: Option<bool>,
}

/// What a request would come to.
#[derive(Debug, ToSchema)]
pub struct DryRun {
    /// Whether the session would start now.
    pub would_start: bool,
    /// All of it in one sentence.
    pub summary: String,
    /// The scaling group that it would be in.
    pub scaling_group: String,
    /// What it asks for: slot to decimal text.
    pub requested: BTreeMap<String, String>,
    /// Where its kernels would run, main kernel first; nothing unless it would start.
    pub kernels: Vec<PlacedKernel>,
    /// Its place in the queue.
    pub queue: Position,
    /// Of the sessions before it: so many would be placed in the same round.
    pub placed_before: usize,
    /// What keeps it from starting, the first first.
    pub reasons: Vec<Reason>,
    /// The agents as places for it when its turn comes, best first; for those who may know agents.
    pub agents: Vec<AgentView>,
    /// How many agents there are.
    pub agents_total: usize,
    /// What the group's scheduler says, if it has one.
    pub scheduler: Option<SchedulerSays>,
}

/// Where a kernel would run.
#[derive(Debug, ToSchema)]
pub struct PlacedKernel {
    /// Its name in the cluster, such as `main1`.
    pub name: String,
    /// The agent's id; for those who may know agents.
    pub agent: Option<String>,
    /// The image.
    pub image: String,
}
