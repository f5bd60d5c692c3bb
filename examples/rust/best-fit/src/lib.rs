//! `best-fit`: packs every session onto the agent that it leaves the least room on, so that large sessions find whole
//! agents free later and idle agents can be switched off.

use quarterdeck_sdk::scheduler::{
    Agent, Candidate, ClusterMode, Explanation, Lack, Outcome, Placement, Proposal, Round, Scheduler,
};
use quarterdeck_sdk::{Policy, host};
use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Config {
    /// Whether agents on which nothing runs are used only when no other has room.
    keep_empty_agents_free: bool,
}

struct BestFit {
    config: Config,
    round: Round,
    next: usize,
    last: Option<Proposal>,
}

impl Policy for BestFit {
    const NAME: &'static str = "best-fit";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Packs sessions onto the agents that they fill up best.";
    const CONFIG_SCHEMA: &'static str = r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "keep_empty_agents_free": {
                "description": "Use agents on which nothing runs only when no other has room.",
                "type": "boolean",
                "default": false
            }
        },
        "additionalProperties": false
    }"#;

    type Config = Config;
}

impl Scheduler for BestFit {
    fn open(config: Config, round: Round) -> Result<Self, String> {
        Ok(BestFit { config, round, next: 0, last: None })
    }

    // One session at a time: where the next one fits best depends on whether this one is accepted.
    fn propose(&mut self, _limit: usize) -> Vec<Proposal> {
        if self.next == self.round.pending().len() {
            return Vec::new();
        }
        let row = self.next;
        self.next += 1;
        let proposal = match self.place(row) {
            Ok(placement) => Proposal::Place(placement),
            // Sessions without room don't keep others from theirs.
            Err(lack) => self.round.pending_session(row).defer(lack, ""),
        };
        self.last = Some(proposal.clone());
        vec![proposal]
    }

    fn settle(&mut self, outcomes: &[Outcome]) {
        if let (Some(Proposal::Place(placement)), Some(Outcome::Accepted)) = (self.last.take(), outcomes.first()) {
            self.round.occupy(&placement);
            host::count("packed_total", 1);
        }
    }

    fn explain(&self, session: usize, limit: usize) -> Explanation {
        let session = self.round.pending_session(session);
        let architecture = session.kernels().next().map(|kernel| kernel.architecture()).unwrap_or_default();
        let mut candidates: Vec<Candidate> = self
            .round
            .agents()
            .map(|agent| {
                let feasible = agent.is_compatible(architecture) && agent.fits(session.requested());
                let left = left_after(agent, session.requested());
                let why = if feasible {
                    format!("{:.0} % of it would be left free", left * 100.0)
                } else {
                    "has no room for all of it".to_owned()
                };
                Candidate { agent: agent.index as u32, feasible, score: if feasible { 1.0 - left } else { 0.0 }, why }
            })
            .collect();
        candidates.sort_by(|a, b| b.feasible.cmp(&a.feasible).then(b.score.total_cmp(&a.score)));
        let feasible = candidates.iter().filter(|candidate| candidate.feasible).count();
        candidates.truncate(limit);
        Explanation { summary: format!("{feasible} agents have room for it."), candidates }
    }
}

impl BestFit {
    fn place(&mut self, row: usize) -> Result<Placement, Lack> {
        let session = self.round.pending_session(row);
        match session.mode() {
            ClusterMode::SingleNode => {
                let Some(main) = session.kernels().next() else { return Ok(session.across(Vec::new())) };
                let agent = self.choose(main.architecture(), session.requested(), main.agent())?;
                Ok(session.on(agent))
            }
            ClusterMode::MultiNode => {
                // The kernels share what is left, so each is booked before the next one is placed; all of it is undone
                // afterwards, because only the host's verdict makes it true.
                let rows = session.kernel_rows();
                let mut agents = Vec::new();
                let mut lack = None;
                for row in rows.clone() {
                    let kernel = self.round.kernel(row);
                    match self.choose(kernel.architecture(), kernel.requested(), kernel.agent()) {
                        Ok(agent) => {
                            self.round.occupy_kernel(row, agent);
                            agents.push(agent);
                        }
                        Err(found) => {
                            lack = Some(found);
                            break;
                        }
                    }
                }
                for (row, agent) in rows.zip(&agents) {
                    self.round.release_kernel(row, *agent);
                }
                lack.map_or_else(|| Ok(self.round.pending_session(row).across(agents)), Err)
            }
        }
    }

    fn choose(&self, architecture: u32, requested: &[u64], pinned: Option<usize>) -> Result<usize, Lack> {
        if let Some(pinned) = pinned {
            return if self.round.agent(pinned).fits(requested) { Ok(pinned) } else { Err(Lack::ExceedsCapacity) };
        }
        let mut compatible = self.round.agents().filter(|agent| agent.is_compatible(architecture)).peekable();
        if compatible.peek().is_none() {
            return Err(Lack::NoCompatibleAgent);
        }
        compatible
            .filter(|agent| agent.fits(requested))
            .map(|agent| {
                let empty = self.config.keep_empty_agents_free && agent.occupied().iter().all(|amount| *amount == 0);
                (empty, left_after(agent, requested), agent.index)
            })
            .min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)))
            .map(|(_, _, index)| index)
            .ok_or(Lack::NoRoom)
    }
}

/// The share of an agent that a request would leave free, over the slots that the request uses.
fn left_after(agent: Agent<'_>, requested: &[u64]) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for ((free, requested), capacity) in agent.free().zip(requested).zip(agent.capacity()) {
        if *requested > 0 && *capacity > 0 {
            sum += free.unwrap_or(0).saturating_sub(*requested) as f64 / *capacity as f64;
            count += 1;
        }
    }
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

quarterdeck_sdk::export_scheduler!(BestFit);
