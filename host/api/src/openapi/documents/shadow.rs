//! Documents about candidates that watch.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::Target;

/// All candidates that watch.
#[derive(Debug, ToSchema)]
pub struct Shadows {
    /// One for each shadow binding.
    pub shadows: Vec<Shadow>,
}

/// A candidate that watches what is decided.
#[derive(Debug, ToSchema)]
pub struct Shadow {
    /// Its binding's id.
    pub binding: String,
    /// The plugin.
    pub plugin: String,
    /// Its version.
    pub version: Option<String>,
    /// `scheduler`, `idle-checker` or `hook`.
    pub kind: String,
    /// Its component.
    pub digest: String,
    /// What it watches.
    pub target: Target,
    /// Its configuration.
    pub config: BTreeMap<String, Value>,
    /// Who bound it.
    pub bound_by: String,
    /// When.
    pub bound_at: String,
    /// When it was shown something last.
    pub last_at: Option<String>,
    /// What it saw, in figures.
    pub figures: Figures,
    /// Why it watches no longer.
    pub rested: Option<Rested>,
}

/// What a candidate saw, and how it would have done.
#[derive(Debug, ToSchema)]
pub struct Figures {
    /// Rounds, ticks or events that it was shown.
    pub seen: i64,
    /// Others that came while it was busy.
    pub skipped: i64,
    /// Of those seen: that it failed in.
    pub failed: i64,
    /// Share of those seen, failed ones excepted, without any difference.
    pub agreement: Option<f64>,
    /// Sessions that both placed on the same agents (found idle; events that both denied).
    pub same: i64,
    /// Sessions that both placed, on other agents.
    pub elsewhere: i64,
    /// Sessions that only the live policy placed (found idle; denied).
    pub only_live: i64,
    /// Sessions that only the candidate placed (found idle; denied).
    pub only_candidate: i64,
    /// How much longer the sessions that the candidate places have waited, in milliseconds.
    pub wait_difference_ms: Option<f64>,
    /// How much more of the free room is in pieces too small after the candidate's rounds.
    pub fragmentation_difference: Option<f64>,
    /// How long the candidate takes for each microsecond of the live policy.
    pub latency_ratio: Option<f64>,
}

/// Why a candidate watches no longer.
#[derive(Debug, ToSchema)]
pub struct Rested {
    /// Since when.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// A candidate and where it differed.
#[derive(Debug, ToSchema)]
pub struct ShadowRuns {
    /// The candidate.
    pub shadow: Shadow,
    /// Newest first.
    pub runs: Vec<ShadowRun>,
    /// `before` of the next page; nothing on the last.
    pub next: Option<i64>,
}

/// A round, tick or event that a candidate was shown.
#[derive(Debug, ToSchema)]
pub struct ShadowRun {
    /// Its number.
    pub id: i64,
    /// The round that was recorded, if it was one.
    pub round: Option<i64>,
    /// When.
    pub at: String,
    /// `ok`, or how the candidate failed.
    pub outcome: String,
    /// Sessions that both placed on the same agents.
    pub same: i64,
    /// Sessions that both placed, on other agents.
    pub elsewhere: i64,
    /// Sessions that only the live policy placed.
    pub only_live: i64,
    /// Sessions that only the candidate placed.
    pub only_candidate: i64,
    /// The live policy's round.
    pub live: ShadowSide,
    /// The candidate's.
    pub candidate: ShadowSide,
    /// Where they differ; nothing where they don't.
    pub details: Option<ShadowDetails>,
}

/// A round of one side in figures; all 0 of ticks and events.
#[derive(Debug, ToSchema)]
pub struct ShadowSide {
    /// How long the sessions that it placed had waited, summed, in milliseconds.
    pub waited_ms: i64,
    /// How long it took, in microseconds.
    pub duration_us: i64,
    /// The part of the free room that is in pieces too small afterwards.
    pub fragmentation: f64,
}

/// Where a candidate differs from the live policy: in which sessions, or in its verdict on an event.
#[derive(Debug, ToSchema)]
pub struct ShadowDetails {
    /// The sessions that fare differently, at most 200.
    pub sessions: Option<Vec<ShadowedSession>>,
    /// How many more there are.
    pub left_out: Option<usize>,
    /// The hook event.
    pub event: Option<String>,
    /// The domain that it concerns.
    pub domain: Option<String>,
    /// The live hooks' verdict.
    pub live: Option<ShadowVerdict>,
    /// The candidate's.
    pub candidate: Option<ShadowVerdict>,
}

/// A session that fares differently.
#[derive(Debug, ToSchema)]
pub struct ShadowedSession {
    /// Its id.
    pub session: String,
    /// Its name. In rounds.
    pub name: Option<String>,
    /// Its owner's access key. In rounds.
    pub owner: Option<String>,
    /// By the live policy.
    pub live: ShadowedFate,
    /// By the candidate.
    pub candidate: ShadowedFate,
}

/// What becomes of a session.
#[derive(Debug, ToSchema)]
pub struct ShadowedFate {
    /// `untouched`, `placed`, `deferred` or `refused` in a round; `idle` or `active` in a tick.
    pub fate: String,
    /// The agents of a placed session.
    pub agents: Option<Vec<String>>,
}

/// A verdict on an event.
#[derive(Debug, ToSchema)]
pub struct ShadowVerdict {
    /// `allowed` or `denied`.
    pub verdict: String,
    /// Why it is denied.
    pub reason: Option<String>,
    /// Whether the candidate changes the request otherwise than the live hooks.
    pub other_patch: Option<bool>,
    /// Whether it answers another value.
    pub other_value: Option<bool>,
}

/// Which candidate shall decide.
#[derive(Debug, ToSchema)]
pub struct PromoteRequest {
    /// The plugin's name.
    pub plugin: String,
    /// Where it watches.
    pub target: Target,
    /// Also when it failed, was put to rest or saw nothing yet.
    pub force: Option<bool>,
}
