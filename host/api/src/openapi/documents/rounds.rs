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
    pub recording: Option<Value>,
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
