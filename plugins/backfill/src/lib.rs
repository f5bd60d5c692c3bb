//! `backfill`: the line moves in order, and small sessions use the gaps while a large one waits for room.
//!
//! Sessions start by priority, then age, as long as they fit. The first that doesn't is the head of the line: from when
//! running sessions are expected to end it is worked out when and where it will fit, and that place is reserved. Others
//! may start before it only where they don't get in its way: because they are expected to end before its time comes, or
//! because there will be room for both. A session that doesn't say how long it will run counts as endless.
//!
//! Where the head's time can't be told, because of what it waits for nobody said how long it will run, the agents that
//! are closest to having room for it take nothing new, so that its time comes.
//!
//! Options: those of [`Config`].

mod plan;

use quarterdeck_sdk::host;
use quarterdeck_sdk::placing::walk;
use quarterdeck_sdk::scheduler::{
    Candidate, ClusterMode, ColumnData, Explanation, Lack, Outcome, Placement, Proposal, Round, Scheduler,
};
use quarterdeck_sdk::{Policy, export_scheduler};
use serde::Deserialize;

use plan::{Decision, Fleet, Job, Need, Plan, Release, Why};

/// Options.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    /// Whether more important sessions come before older ones.
    priorities: bool,
    /// Seconds that sessions are expected to run which don't say; 0 = nothing is expected of them.
    assume_s: f64,
    /// Seconds that a session is expected to run on when it has run longer than expected.
    overrun_s: f64,
    /// How many sessions behind the head are looked at.
    depth: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config { priorities: true, assume_s: 0.0, overrun_s: 60.0, depth: 1000 }
    }
}

struct Backfill {
    round: Round,
    plan: Plan,
    last: Option<Proposal>,
}

impl Policy for Backfill {
    const NAME: &'static str = "backfill";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str =
        "In order, with a reservation for the first session without room; others use the gaps without delaying it.";
    const CONFIG_SCHEMA: &'static str = r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "backfill",
        "type": "object",
        "properties": {
            "priorities": {
                "description": "Whether sessions of higher priority come before older ones.",
                "type": "boolean", "default": true
            },
            "assume_s": {
                "description": "Seconds that sessions are taken to run which don't say; 0 = they count as endless.",
                "type": "number", "minimum": 0, "maximum": 31536000, "default": 0
            },
            "overrun_s": {
                "description": "Seconds that a session is taken to run on when it has run longer than expected.",
                "type": "number", "minimum": 0, "maximum": 31536000, "default": 60
            },
            "depth": {
                "description": "How many sessions behind the head of the line are looked at.",
                "type": "integer", "minimum": 0, "maximum": 1000000, "default": 1000
            }
        }
    }"#;
    const COLUMNS: &'static [(&'static str, &'static str)] =
        &[("pending", "expected-ms"), ("running", "expected-ms"), ("running", "ran-ms")];

    type Config = Config;
}

/// An integer column of a table.
fn integers<'a>(more: &'a [quarterdeck_sdk::scheduler::Column], name: &str) -> &'a [u64] {
    match more.iter().find(|column| column.name == name).map(|column| &column.data) {
        Some(ColumnData::Integers(values)) => values,
        _ => &[],
    }
}

impl Config {
    /// Milliseconds that a session is expected to run; none: nobody knows.
    fn expected(&self, told_ms: u64) -> Option<u64> {
        let assumed = (self.assume_s * 1000.0) as u64;
        [told_ms, assumed].into_iter().find(|ms| *ms > 0)
    }

    fn job(&self, round: &Round, row: usize) -> Job {
        let session = round.pending_session(row);
        let told = integers(&round.snapshot.pending.more, "expected-ms").get(row).copied().unwrap_or(0);
        let need =
            |architecture, requested: &[u64], pinned| Need { architecture, requested: requested.to_vec(), pinned };
        let mut impossible = false;
        let needs = match session.mode() {
            ClusterMode::MultiNode => session
                .kernels()
                .map(|kernel| need(kernel.architecture(), kernel.requested(), kernel.agent()))
                .collect(),
            // One agent for all: one need.
            ClusterMode::SingleNode => {
                let mut kernels = session.kernels();
                let main = kernels.next();
                let architecture = main.map_or(0, |main| main.architecture());
                impossible = kernels.any(|kernel| kernel.architecture() != architecture);
                vec![need(architecture, session.requested(), main.and_then(|main| main.agent()))]
            }
        };
        let priority = if self.priorities { session.priority() } else { 0 };
        Job { needs, impossible, expected_ms: self.expected(told), priority }
    }

    /// When what runs will be free again, in milliseconds from now.
    fn releases(&self, round: &Round) -> Vec<Release> {
        let running = &round.snapshot.running;
        let (expected, ran) = (integers(&running.more, "expected-ms"), integers(&running.more, "ran-ms"));
        let slots = round.slots();
        let mut releases = Vec::new();
        for row in 0..running.count as usize {
            let told = expected.get(row).copied().unwrap_or(0);
            let ran = ran.get(row).copied().unwrap_or(0);
            let overrun = (self.overrun_s * 1000.0) as u64;
            let end_ms = self.expected(told).map(|expected| match expected.checked_sub(ran) {
                Some(left) if left > 0 => left,
                _ => overrun,
            });
            for kernel in running.first_kernel[row] as usize..running.first_kernel[row + 1] as usize {
                if let Some(agent) = round.kernel(kernel).agent() {
                    let amounts = round.snapshot.kernels.held[kernel * slots..][..slots].to_vec();
                    releases.push(Release { end_ms, agent, amounts });
                }
            }
        }
        releases
    }
}

impl Backfill {
    fn placement(&self, row: usize, agents: Vec<usize>) -> Placement {
        let session = self.round.pending_session(row);
        match (session.mode(), agents.first()) {
            (ClusterMode::SingleNode, Some(agent)) => session.on(*agent),
            _ => session.across(agents),
        }
    }
}

impl Scheduler for Backfill {
    fn open(config: Config, round: Round) -> Result<Self, String> {
        let agents = &round.snapshot.agents;
        let fleet = Fleet {
            slots: round.slots(),
            architecture: agents.architecture.clone(),
            schedulable: agents.schedulable.clone(),
            capacity: agents.capacity.clone(),
            occupied: agents.occupied.clone(),
        };
        let jobs = (0..round.pending().len()).map(|row| config.job(&round, row)).collect();
        let plan = Plan::new(fleet, config.releases(&round), jobs, config.depth as usize);
        Ok(Backfill { round, plan, last: None })
    }

    fn propose(&mut self, _limit: usize) -> Vec<Proposal> {
        let Some(decision) = self.plan.next() else { return Vec::new() };
        let proposal = match decision {
            Decision::Place { job, agents } => Proposal::Place(self.placement(job, agents)),
            Decision::Defer { job, why } => {
                let session = self.round.pending_session(job);
                match why {
                    Why::NoCompatibleAgent => session.defer(Lack::NoCompatibleAgent, ""),
                    Why::NoRoom => session.defer(Lack::NoRoom, ""),
                    Why::ExceedsCapacity => session.defer(Lack::ExceedsCapacity, ""),
                    Why::InTheWay => session.defer(Lack::HeldBack, "its place is kept for a session before it"),
                }
            }
        };
        self.last = Some(proposal.clone());
        vec![proposal]
    }

    fn settle(&mut self, outcomes: &[Outcome]) {
        let accepted = matches!(outcomes.first(), Some(Outcome::Accepted));
        match self.last.take() {
            Some(Proposal::Place(placement)) if accepted => {
                self.round.occupy(&placement);
                host::count("placed_total", 1);
                if self.plan.has_reservation() {
                    host::count("backfilled_total", 1);
                }
            }
            Some(Proposal::Defer(_)) if accepted => host::count("blocked_total", 1),
            _ => {}
        }
        self.plan.settle(accepted);
    }

    fn explain(&self, session: usize, limit: usize) -> Explanation {
        let session = self.round.pending_session(session);
        let architecture = session.kernels().next().map(|kernel| kernel.architecture()).unwrap_or_default();
        let mut candidates: Vec<Candidate> = self
            .round
            .agents()
            .map(|agent| {
                let fits = agent.is_compatible(architecture) && agent.fits(session.requested());
                let kept = self.plan.is_reserved(agent.index);
                Candidate {
                    agent: agent.index as u32,
                    feasible: fits && !kept,
                    score: -(walk::extras(agent.capacity(), session.requested()) as f64),
                    why: match (fits, kept) {
                        (true, true) => "has room, but is kept for the session at the head of the line".to_owned(),
                        (false, _) => "has not enough left, or can't run it".to_owned(),
                        (true, false) => String::new(),
                    },
                }
            })
            .collect();
        candidates.sort_by(|a, b| b.feasible.cmp(&a.feasible).then(b.score.total_cmp(&a.score)));
        candidates.truncate(limit);
        let summary = match self.plan.reservation() {
            Some((head, _)) if head != session.index => {
                "An older or more important session waits for room; this one may \
                                                         use what is left if it doesn't delay that."
                    .to_owned()
            }
            Some((_, Some(ms))) => format!("It is at the head of the line; there should be room in {} s.", ms / 1000),
            Some((_, None)) => {
                "It is at the head of the line; when there will be room can't be told, because sessions run \
                                that don't say for how long."
                    .to_owned()
            }
            None => "It has not been its turn yet.".to_owned(),
        };
        Explanation { summary, candidates }
    }
}

export_scheduler!(Backfill);
