//! Documents about scheduling rounds.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// A page of rounds.
#[derive(Debug, ToSchema)]
pub struct Rounds {
    /// Newest first.
    pub rounds: Vec<Round>,
    /// `before` of the next page; nothing on the last.
    pub next: Option<i64>,
}

/// A scheduling round.
#[derive(Debug, ToSchema)]
pub struct Round {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: String,
    /// Whose round.
    pub scaling_group: String,
    /// The policy that decided.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Its component.
    pub digest: String,
    /// `ok`, or why the built-in policy had to take over.
    pub outcome: String,
    /// Sessions that waited.
    pub pending: i64,
    /// Sessions that were placed.
    pub placed: i64,
    /// Sessions that the policy put off.
    pub deferred: i64,
    /// Proposals that the host refused.
    pub refused: i64,
    /// Sessions that had changed meanwhile.
    pub stale: i64,
    /// How long it took, in microseconds.
    pub duration_us: i64,
    /// Whether its recording is kept.
    pub recorded: bool,
    /// How large the recording is.
    pub recording_bytes: Option<i64>,
    /// What the recording holds, in short: sizes, decisions, timings. Where a round is asked for by itself.
    pub recording: Option<Recording>,
}

/// What a recording holds, with names instead of rows.
#[derive(Debug, ToSchema)]
pub struct Recording {
    /// The form of the recording.
    pub format: u32,
    /// Numbers the rounds of the group since the host began.
    pub round: u64,
    /// The policy that was asked.
    pub plugin: RecordedPlugin,
    /// How it was asked.
    pub call: RecordedCall,
    /// How much it was shown.
    pub sizes: Sizes,
    /// The policy that took over, when it failed.
    pub fallback: Option<RecordedPlugin>,
    /// Sessions that had changed until it was written.
    pub stale: Vec<String>,
    /// Sessions whose requests make no sense.
    pub malformed: Vec<Malformed>,
    /// What the decisions come to.
    pub metrics: RoundMetrics,
    /// Where the time went.
    pub timings: Timings,
    /// Log and counters of the policy.
    pub journal: Journal,
    /// What became of the sessions, in the order of their turns.
    pub decisions: Vec<Decision>,
    /// How many more there are.
    pub decisions_left_out: usize,
}

/// A session whose request makes no sense.
#[derive(Debug, ToSchema)]
pub struct Malformed {
    /// Its id.
    pub id: String,
    /// What is wrong.
    pub problem: String,
}

/// The policy of a recording.
#[derive(Debug, ToSchema)]
pub struct RecordedPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its component.
    pub digest: String,
    /// Its configuration: the text of a JSON object.
    pub config: String,
}

/// Everything about a call that can influence the policy, apart from its configuration and what it was shown.
#[derive(Debug, ToSchema)]
pub struct RecordedCall {
    /// Seed of its randomness.
    pub seed: u64,
    /// Its limits by name: numbers, or spans of `secs` and `nanos`.
    pub limits: BTreeMap<String, Value>,
    /// Fuel that it used, when it was metered.
    pub fuel_used: Option<u64>,
    /// Its largest linear memory in bytes.
    pub peak_memory: u64,
}

/// How many rows a snapshot has.
#[derive(Debug, ToSchema)]
pub struct Sizes {
    /// Pending sessions.
    pub pending: u32,
    /// Running sessions.
    pub running: u32,
    /// Agents.
    pub agents: u32,
    /// Owners.
    pub owners: u32,
    /// Projects.
    pub projects: u32,
    /// Domains.
    pub domains: u32,
}

/// What decisions come to, in figures.
#[derive(Debug, ToSchema)]
pub struct RoundMetrics {
    /// Sessions that were to be placed.
    pub pending: u32,
    /// Of those: placed.
    pub placed: u32,
    /// Of those: found no place.
    pub deferred: u32,
    /// Of those: turned down by the host.
    pub refused: u32,
    /// Of those: had no turn.
    pub untouched: u32,
    /// How long the placed ones had waited, summed, in milliseconds.
    pub placed_waited_ms: u64,
    /// How long the others have waited, summed, in milliseconds.
    pub left_waited_ms: u64,
    /// Agents that got a kernel.
    pub agents_touched: u32,
    /// Share of each slot that is taken afterwards.
    pub used: Vec<SlotShare>,
    /// How many requests of the largest pending shape fit afterwards.
    pub fits: u64,
    /// How many would fit if all free amounts were on one agent.
    pub fits_pooled: u64,
    /// `1 - fits / fits_pooled`: the part of the room that is in pieces too small.
    pub fragmentation: f64,
    /// Jain's index over the owners' dominant shares of the group: 1 = all alike, 1/n = one has everything.
    pub fairness: f64,
}

/// How much of a slot is taken.
#[derive(Debug, ToSchema)]
pub struct SlotShare {
    /// The slot.
    pub slot: String,
    /// From 0 to 1, or more on agents that shrank.
    pub share: f64,
}

/// Where the time of a round went, in microseconds.
#[derive(Debug, ToSchema)]
pub struct Timings {
    /// Turning rows into columns.
    pub snapshot_us: u64,
    /// Making the instance and handing it the snapshot.
    pub open_us: u64,
    /// Each `propose`.
    pub propose_us: Vec<u64>,
    /// The host's verdicts on it.
    pub judge_us: Vec<u64>,
    /// Each `settle`.
    pub settle_us: Vec<u64>,
    /// The policy's call from begin to end.
    pub call_us: u64,
    /// The transaction that wrote the round.
    pub commit_us: u64,
    /// The pass from its first look at the group to the end of that transaction.
    pub total_us: u64,
}

/// Log and counters of one call.
#[derive(Debug, ToSchema)]
pub struct Journal {
    /// The lines that were kept.
    pub lines: Vec<LogLine>,
    /// How many lines exceeded the limits.
    pub dropped: u32,
    /// What the plugin counted.
    pub counters: BTreeMap<String, u64>,
}

/// A line of a plugin's log.
#[derive(Debug, ToSchema)]
pub struct LogLine {
    /// Its severity.
    pub level: String,
    /// The message.
    pub message: String,
    /// Named details: pairs of name and value.
    pub fields: Vec<Vec<String>>,
}

/// What became of a session.
#[derive(Debug, ToSchema)]
pub struct Decision {
    /// The session's id.
    pub session: String,
    /// Its name.
    pub name: String,
    /// Its owner's access key.
    pub owner: String,
    /// `untouched`, `placed`, `deferred` or `refused`.
    pub fate: String,
    /// The agents of a placed session, one per kernel.
    pub agents: Option<Vec<String>>,
    /// What was lacking, or why it was refused.
    pub why: Option<String>,
    /// What its user was told; missing for untouched sessions.
    pub reason: Option<DecisionReason>,
}

/// What a user is told of a decision.
#[derive(Debug, ToSchema)]
pub struct DecisionReason {
    /// Row of the session in the snapshot.
    pub session: u32,
    /// Predicates that hold.
    pub passed: Vec<String>,
    /// Predicates that don't hold: pairs of name and message.
    pub failed: Vec<Vec<String>>,
    /// What there is to say beside that.
    pub message: Option<String>,
}

/// Two takes of one round.
#[derive(Debug, ToSchema)]
pub struct Compared {
    /// The round.
    pub id: Option<i64>,
    /// Whose round.
    pub scaling_group: String,
    /// What is compared.
    pub left: Take,
    /// With what.
    pub right: Take,
    /// Whether both decided the same about every session, in the same order.
    pub same: bool,
    /// How many sessions fare differently.
    pub counts: Changes,
    /// The first turn at which another session had it.
    pub order_parts_at: Option<u32>,
    /// What the left decisions come to.
    pub left_metrics: RoundMetrics,
    /// What the right decisions come to.
    pub right_metrics: RoundMetrics,
    /// The sessions that fare differently.
    pub changes: Vec<NamedChange>,
    /// How many more there are.
    pub left_out: usize,
}

/// What one policy made of a round.
#[derive(Debug, ToSchema)]
pub struct Take {
    /// The policy and its configuration.
    pub plugin: RecordedPlugin,
    /// How it went, unless these are the recorded decisions.
    pub replay: Option<Replay>,
}

/// How a replay went.
#[derive(Debug, ToSchema)]
pub struct Replay {
    /// `ok`, or how it failed.
    pub outcome: String,
    /// Fuel that it used.
    pub fuel_used: Option<u64>,
    /// Its largest linear memory in bytes.
    pub peak_memory: u64,
    /// Its log and counters.
    pub journal: Journal,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// How many sessions fare differently.
#[derive(Debug, ToSchema)]
pub struct Changes {
    /// Placed on the left only.
    pub only_left: u32,
    /// Placed on the right only.
    pub only_right: u32,
    /// Placed by both, on other agents.
    pub moved: u32,
    /// Placed by neither, for other reasons.
    pub reasons: u32,
}

/// A session that fares differently.
#[derive(Debug, ToSchema)]
pub struct NamedChange {
    /// The session's id.
    pub session: String,
    /// Its name.
    pub name: String,
    /// On the left.
    pub left: NamedFate,
    /// On the right.
    pub right: NamedFate,
}

/// What became of a session on one side.
#[derive(Debug, ToSchema)]
pub struct NamedFate {
    /// `untouched`, `placed`, `deferred` or `refused`.
    pub fate: String,
    /// The agents of a placed session, one per kernel.
    pub agents: Option<Vec<String>>,
    /// What was lacking, or why it was refused.
    pub why: Option<String>,
}

/// What shall decide instead.
#[derive(Debug, ToSchema)]
pub struct Candidate {
    /// `NAME`, `NAME@VERSION`, or 8 or more digits of a digest; without one, the policy of the recording.
    pub plugin: Option<String>,
    /// Its configuration; without one, that of the recording.
    pub config: Option<BTreeMap<String, Value>>,
}

/// What to replay a round with.
#[derive(Debug, ToSchema)]
pub struct ReplayRequest {
    /// `NAME`, `NAME@VERSION`, or 8 or more digits of a digest; without one, the policy of the recording.
    pub plugin: Option<String>,
    /// Its configuration; without one, that of the recording.
    pub config: Option<BTreeMap<String, Value>>,
    /// How many units of fuel a round may take.
    pub fuel: Option<i64>,
}

/// What to compare about a round.
#[derive(Debug, ToSchema)]
pub struct DiffRequest {
    /// One side; without it, what was decided.
    pub left: Option<Candidate>,
    /// The other side; without it, what was decided.
    pub right: Option<Candidate>,
    /// How many units of fuel a round may take.
    pub fuel: Option<i64>,
}
