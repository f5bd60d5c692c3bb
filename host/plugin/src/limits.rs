//! What a call may cost, and how it is asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits on one call of a plugin. Every breach ends the call with a [`Failure`](crate::Failure) that names the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Wall time of a scheduling round (all its `open`, `propose` and `settle` together, without the host's verdicts).
    pub round: Duration,
    /// Wall time of an idle checker's tick.
    pub tick: Duration,
    /// Wall time of a hook's call.
    pub hook: Duration,
    /// Wall time of `describe`, `check-config` and `traits`.
    pub describe: Duration,
    /// Wall time of all repetitions with halved batches together, see [`Plugin::check_isolated`](crate::Plugin::check_isolated).
    pub isolate: Duration,
    /// Wall time of a call that is metered by fuel, whatever is left of its fuel: what host functions cost is not fuel. A
    /// generous one, because where it cuts depends on the machine.
    pub metered: Duration,
    /// Bytes of all linear memories together. At most [`Limits::MAX_MEMORY`].
    pub memory_bytes: usize,
    /// Number of linear memories.
    pub memories: usize,
    /// Elements of each table.
    pub table_elements: usize,
    /// Number of tables.
    pub tables: usize,
    /// Number of core instances.
    pub instances: usize,
    /// What `host.budget` tells the guest.
    pub budget: u64,
    /// The `limit` passed to `propose`.
    pub proposals_per_call: u32,
    /// Bytes that one answer (or one call of a host function) may make the host allocate.
    pub answer_bytes: usize,
    /// Bytes of a single text in an answer.
    pub text_bytes: usize,
    /// Log lines kept of one call.
    pub log_lines: usize,
    /// Bytes of log kept of one call.
    pub log_bytes: usize,
    /// Counters that one call may use.
    pub counters: usize,
    /// Handles that the guest may hold on the host's resources, and on its own.
    pub handles: usize,
}

impl Limits {
    /// The largest linear memory that can be configured.
    pub const MAX_MEMORY: usize = 1 << 30;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            round: Duration::from_secs(1),
            tick: Duration::from_secs(1),
            hook: Duration::from_millis(250),
            describe: Duration::from_secs(1),
            isolate: Duration::from_secs(10),
            metered: Duration::from_secs(60),
            memory_bytes: 64 << 20,
            memories: 8,
            table_elements: 60_000,
            tables: 40,
            instances: 40,
            budget: 1_000_000_000,
            proposals_per_call: 64,
            answer_bytes: 8 << 20,
            text_bytes: 4096,
            log_lines: 200,
            log_bytes: 64 << 10,
            counters: 64,
            handles: 256,
        }
    }
}

/// How a call is kept from running for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Meter {
    /// By wall time: cheap, for production. Where the call is cut off depends on the machine.
    #[default]
    Epoch,
    /// By so many units of fuel: deterministic, for replay and comparison. The first metered call of a plugin compiles
    /// it a second time. [`Limits::metered`] stands behind it.
    Fuel(u64),
}

/// The circumstances of a call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The binding's configuration, a JSON document.
    pub config: String,
    /// Limits other than the runtime's.
    pub limits: Option<Limits>,
    /// How time is metered.
    pub meter: Meter,
    /// Seed of the guest's WASI randomness. Recorded calls keep theirs.
    pub seed: u64,
    /// Tags the log lines: a round's number, a session's id.
    pub tag: String,
}

impl Call {
    /// A call with this configuration and everything else at its default.
    pub fn new(config: impl Into<String>) -> Self {
        Call { config: config.into(), ..Call::default() }
    }
}

impl Default for Call {
    fn default() -> Self {
        Call { config: "{}".to_owned(), limits: None, meter: Meter::Epoch, seed: 0, tag: String::new() }
    }
}
