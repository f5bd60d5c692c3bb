//! Recordings of rounds: what a policy was shown, what it proposed, what it was told, and what it takes to do all of it
//! again.

use std::time::Duration;

use quarterdeck_model::Timestamp;
use quarterdeck_plugin::scheduling::{Outcome, Proposal, Snapshot};
use quarterdeck_plugin::{Call, ColumnRequest, ExchangeTimes, Journal, Limits, Plugin, RoundTrace};
use serde::{Deserialize, Serialize};

use super::books::Exchange;
use super::compare::Decisions;
use super::facts::{Facts, TableColumn};
use super::frame::Frame;
use super::recorded;
use crate::error::{Error, Result};

/// Version of the form of recordings.
pub const FORMAT: u32 = 2;

/// Bytes that a recording may have once decompressed.
pub(crate) const MAX_JSON_BYTES: usize = 256 << 20;

/// Everything needed to run a round again and compare.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// The form: [`FORMAT`].
    pub format: u32,
    /// The round's id in the ring that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The scaling group.
    pub scaling_group: String,
    /// When the round began.
    pub at: Timestamp,
    /// The policy that was asked.
    pub plugin: RecordedPlugin,
    /// How it was asked.
    pub call: RecordedCall,
    /// What it was shown, apart from the optional columns: those stand in `facts`.
    pub snapshot: Snapshot,
    /// What the host knew beside.
    pub facts: Facts,
    /// What it proposed and was told, chunk by chunk. When it failed: until then.
    pub steps: Vec<Step>,
    /// `ok`, or how the policy failed.
    pub outcome: String,
    /// Its log and counters.
    #[serde(default)]
    pub journal: Journal,
    /// Who decided instead, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Placed sessions (rows of `snapshot.pending`) for which that no longer held when it was written.
    #[serde(default)]
    pub stale: Vec<u32>,
    /// Where the time went.
    #[serde(default)]
    pub timings: Timings,
}

/// The policy of a [`Recording`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// Its configuration, JSON.
    pub config: String,
}

/// Everything about a call that can influence its guest, apart from configuration and snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedCall {
    /// Seed of the guest's WASI randomness.
    pub seed: u64,
    /// Its limits.
    pub limits: Limits,
    /// Fuel that it used, when it was metered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel_used: Option<u64>,
    /// Its largest linear memory in bytes.
    #[serde(default)]
    pub peak_memory: usize,
}

/// One chunk of proposals and the verdicts on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What the policy proposed.
    pub proposals: Vec<Proposal>,
    /// What it was told.
    pub outcomes: Vec<Outcome>,
}

/// The policy that took over, and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fallback {
    /// The policy.
    pub plugin: RecordedPlugin,
    /// What it proposed and was told.
    pub steps: Vec<Step>,
}

/// Where the time of a round went, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Turning rows into columns.
    pub snapshot_us: u64,
    /// Making the instance and handing it the snapshot.
    pub open_us: u64,
    /// Each `propose`, the last and empty one too.
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

impl Timings {
    pub(crate) fn of(trace: &RoundTrace, snapshot: Duration) -> Self {
        let each = |part: fn(&ExchangeTimes) -> Duration| trace.exchanges.iter().map(|e| micros(part(e))).collect();
        Self {
            snapshot_us: micros(snapshot),
            open_us: micros(trace.open),
            propose_us: each(|e| e.propose),
            judge_us: each(|e| e.judge),
            settle_us: each(|e| e.settle),
            call_us: micros(trace.duration),
            commit_us: 0,
            total_us: 0,
        }
    }
}

/// What a recording of a live round is made of, beside its frame, kept until there is time to make it.
pub(crate) struct Exposure {
    /// The policy that was asked first.
    pub plugin: RecordedPlugin,
    /// Its limits and seed.
    pub call: RecordedCall,
    /// What it was shown.
    pub snapshot: Snapshot,
    /// How long it took to make that.
    pub snapshot_time: Duration,
    /// What it proposed and was told.
    pub steps: Vec<Exchange>,
    /// Its course.
    pub trace: RoundTrace,
    /// `ok`, or how it failed.
    pub outcome: String,
    /// Who decided instead.
    pub fallback: Option<Fallback>,
}

impl Exposure {
    /// Makes the recording.
    pub(crate) fn develop(mut self, frame: &Frame) -> Recording {
        // The policy's own optional columns are among those of the facts.
        take_columns(&mut self.snapshot);
        Recording {
            format: FORMAT,
            id: None,
            scaling_group: frame.group.clone(),
            at: frame.now,
            plugin: self.plugin,
            call: RecordedCall { fuel_used: self.trace.fuel_used, peak_memory: self.trace.peak_memory, ..self.call },
            snapshot: self.snapshot,
            facts: Facts::of(frame),
            steps: steps(self.steps),
            outcome: self.outcome,
            timings: Timings::of(&self.trace, self.snapshot_time),
            journal: self.trace.journal,
            fallback: self.fallback,
            stale: Vec::new(),
        }
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl RecordedPlugin {
    pub(crate) fn of(plugin: &Plugin, config: &str) -> Self {
        Self {
            name: plugin.info.name.clone(),
            version: plugin.info.version.clone(),
            digest: plugin.digest.clone(),
            config: config.to_owned(),
        }
    }
}

pub(crate) fn steps(exchanges: Vec<Exchange>) -> Vec<Step> {
    exchanges.into_iter().map(|(proposals, outcomes)| Step { proposals, outcomes }).collect()
}

impl Recording {
    /// A recording of a round that never was: for the scenarios of tests. No policy has been asked yet; optional columns
    /// of `snapshot` become those that policies may ask for.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] when tables and facts don't fit together.
    pub fn from_scenario(scaling_group: &str, mut snapshot: Snapshot, mut facts: Facts) -> Result<Self> {
        facts.columns.extend(take_columns(&mut snapshot));
        let mut recording = Self {
            format: FORMAT,
            id: None,
            scaling_group: scaling_group.to_owned(),
            at: Timestamp(i64::try_from(snapshot.now_ms).unwrap_or(i64::MAX).saturating_mul(1000)),
            plugin: RecordedPlugin::default(),
            call: RecordedCall { seed: snapshot.seed, ..RecordedCall::default() },
            snapshot,
            facts,
            steps: Vec::new(),
            outcome: "ok".to_owned(),
            journal: Journal::default(),
            fallback: None,
            stale: Vec::new(),
            timings: Timings::default(),
        };
        recording.check()?;
        if !recording.facts.columns.iter().any(|c| c.table == "pending" && c.column.name == "eligible") {
            let column = recorded::eligible(&recording);
            recording.facts.columns.insert(0, column);
        }
        Ok(recording)
    }

    /// What a policy that asks for these columns was, or would have been, shown.
    pub fn snapshot_for(&self, wanted: &[ColumnRequest]) -> Snapshot {
        let mut snapshot = self.snapshot.clone();
        for TableColumn { table, column } in &self.facts.columns {
            if wanted.iter().any(|w| w.table == *table && w.name == column.name)
                && let Some(more) = table_columns(&mut snapshot, table)
            {
                more.push(column.clone());
            }
        }
        snapshot
    }

    /// The call that asks a policy as this round's was, with another configuration and meter if need be.
    pub fn call(&self, config: &str) -> Call {
        let mut call = Call::new(config);
        call.seed = self.call.seed;
        call.limits = Some(self.call.limits.clone());
        call.tag = format!("replay of {} {}", self.scaling_group, self.snapshot.round);
        call
    }

    /// What the host went by in the end: the policy's decisions, or those of the one that took over.
    pub fn decisions(&self) -> Decisions {
        let steps = self.fallback.as_ref().map_or(&self.steps, |fallback| &fallback.steps);
        Decisions::of_steps(self.snapshot.pending.count, steps)
    }

    /// As stored: compressed JSON.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("a round can't be recorded: {e}"));
        let json = serde_json::to_vec(self).map_err(|e| broken(&e))?;
        zstd::bulk::compress(&json, 3).map_err(|e| broken(&e))
    }

    /// Reads what [`Recording::to_bytes`] wrote.
    ///
    /// # Errors
    /// As [`Recording::from_json`], and for what isn't compressed or would be too large.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        use std::io::Read as _;
        let broken = |e: &dyn std::fmt::Display| Error::invalid(format!("a recording can't be read: {e}"));
        let decoder = zstd::stream::Decoder::new(bytes).map_err(|e| broken(&e))?;
        let mut json = Vec::new();
        decoder.take(MAX_JSON_BYTES as u64 + 1).read_to_end(&mut json).map_err(|e| broken(&e))?;
        if json.len() > MAX_JSON_BYTES {
            return Err(broken(&"it is larger than any recording"));
        }
        Self::from_json(&json)
    }

    /// Reads one recording, as exports have it: a JSON document.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for another format, and for tables that don't fit together.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let broken = |e: &dyn std::fmt::Display| Error::invalid(format!("a recording can't be read: {e}"));
        let Form { format } = serde_json::from_slice(json).map_err(|e| broken(&e))?;
        if format != FORMAT {
            return Err(Error::invalid(format!(
                "the recording has format {format}; this release replays format {FORMAT} only, so record the round anew"
            )));
        }
        let recording: Self = serde_json::from_slice(json).map_err(|e| broken(&e))?;
        recording.check()?;
        Ok(recording)
    }

    fn check(&self) -> Result<()> {
        recorded::check(self).map_err(|e| Error::invalid(format!("the recording makes no sense: {e}")))
    }
}

/// The optional columns of a table.
fn table_columns<'s>(
    snapshot: &'s mut Snapshot,
    table: &str,
) -> Option<&'s mut Vec<quarterdeck_plugin::types::Column>> {
    Some(match table {
        "pending" => &mut snapshot.pending.more,
        "running" => &mut snapshot.running.more,
        "kernels" => &mut snapshot.kernels.more,
        "agents" => &mut snapshot.agents.more,
        "owners" => &mut snapshot.owners.more,
        "projects" => &mut snapshot.projects.more,
        "domains" => &mut snapshot.domains.more,
        _ => return None,
    })
}

/// Takes the optional columns out of a snapshot.
pub(crate) fn take_columns(snapshot: &mut Snapshot) -> Vec<TableColumn> {
    let mut out = Vec::new();
    for table in ["pending", "running", "kernels", "agents", "owners", "projects", "domains"] {
        let columns = table_columns(snapshot, table).map(std::mem::take).unwrap_or_default();
        out.extend(columns.into_iter().map(|column| TableColumn { table: table.to_owned(), column }));
    }
    out
}
