//! Recorded rounds once more, with the same policy or another.

use quarterdeck_plugin::{Failure, Journal, Meter, Plugin};
use serde::Serialize;

use super::books::Books;
use super::compare::{Decisions, Difference};
use super::record::{Recording, Step, micros, steps};

/// Fuel that a replayed round may use unless somebody says otherwise: several times what a live round burns in the second
/// that it may take.
pub const REPLAY_FUEL: u64 = 10_000_000_000;

/// What a policy did in a recorded round.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// What it proposed and was told. When it failed: until then.
    #[serde(skip)]
    pub steps: Vec<Step>,
    /// `ok`, or how it failed.
    pub outcome: String,
    /// Fuel that it used, when it was metered.
    pub fuel_used: Option<u64>,
    /// Its largest linear memory in bytes.
    pub peak_memory: usize,
    /// Its log and counters.
    pub journal: Journal,
    /// How long it took, the host's verdicts included, in microseconds.
    pub duration_us: u64,
    #[serde(skip)]
    pending: u32,
}

impl PartialEq for Replay {
    /// Equal decisions at equal cost: time, which no two runs share, doesn't count.
    fn eq(&self, other: &Self) -> bool {
        let key = |r: &Self| (r.fuel_used, r.peak_memory, r.pending);
        key(self) == key(other)
            && self.steps == other.steps
            && self.outcome == other.outcome
            && self.journal == other.journal
    }
}

impl Replay {
    /// What the policy decided; nothing at all when it failed, as nothing of such a round is carried out.
    pub fn decisions(&self) -> Decisions {
        let steps: &[Step] = if self.is_ok() { &self.steps } else { &[] };
        Decisions::of_steps(self.pending, steps)
    }

    /// Whether the policy came to an end.
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }
}

/// `ok`, or how a policy failed, as rounds are noted.
pub(crate) fn outcome(failure: Option<&Failure>) -> String {
    failure.map_or_else(|| "ok".to_owned(), |failure| format!("{}: {failure}", failure.label()))
}

impl Recording {
    /// Asks a policy what it would have done in this round. Metered by fuel, the answer is the same every time; by
    /// epochs, a slow policy may run out of time on one machine and not on another.
    ///
    /// This takes as long as the policy's limits allow: call it on a thread that may block.
    pub fn replay(&self, plugin: &Plugin, config: &str, meter: Meter) -> Replay {
        let mut call = self.call(config);
        call.meter = meter;
        let snapshot = self.snapshot_for(&plugin.info.columns);
        let mut books = Books::new(self);
        let (trace, result) = plugin.schedule_traced(&call, &snapshot, &mut books);
        let (_, exchanges) = books.close();
        Replay {
            steps: steps(exchanges),
            outcome: outcome(result.err().as_ref()),
            fuel_used: trace.fuel_used,
            peak_memory: trace.peak_memory,
            journal: trace.journal,
            duration_us: micros(trace.duration),
            pending: self.snapshot.pending.count,
        }
    }

    /// How a replay differs from what was decided.
    pub fn difference(&self, replay: &Replay) -> Difference {
        Difference::between(&self.decisions(), &replay.decisions(), &self.snapshot)
    }
}
