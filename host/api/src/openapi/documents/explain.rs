//! Documents about why sessions wait, and whether one would.

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
    pub requested: Value,
    /// Its place among the pending sessions; while it is one.
    pub queue: Option<Position>,
    /// What keeps it from starting, the first first.
    pub reasons: Vec<Value>,
    /// The agents as places for it, best first; for those who may know agents.
    pub agents: Vec<Value>,
    /// How many agents there are.
    pub agents_total: usize,
    /// What the group's scheduler says; while the session is pending.
    pub scheduler: Option<Value>,
    /// What the last rounds noted.
    pub noted: Value,
    /// The group's last round on record.
    pub last_round: Option<Value>,
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
    pub requested: Value,
    /// Where its kernels would run, main kernel first; nothing unless it would start.
    pub kernels: Vec<PlacedKernel>,
    /// Its place in the queue.
    pub queue: Position,
    /// Of the sessions before it: so many would be placed in the same round.
    pub placed_before: usize,
    /// What keeps it from starting, the first first.
    pub reasons: Vec<Value>,
    /// The agents as places for it when its turn comes, best first; for those who may know agents.
    pub agents: Vec<Value>,
    /// How many agents there are.
    pub agents_total: usize,
    /// What the group's scheduler says, if it has one.
    pub scheduler: Option<Value>,
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
