//! `best-fit`: packs every session onto the agent that it leaves the least room on, so that large sessions find whole
//! agents free later and idle agents can be switched off.

use quarterdeck_sdk::explain::Survey;
use quarterdeck_sdk::scheduler::{Agent, Explanation, Outcome, Proposal, Round, Scheduler, Session};
use quarterdeck_sdk::schemars::{self, JsonSchema};
use quarterdeck_sdk::{Policy, host, schema_of};
use serde::Deserialize;

#[cfg(test)]
mod tests;

/// Options of best-fit.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Use agents on which nothing runs only when no other has room.
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

    type Config = Config;

    fn config_schema() -> String {
        schema_of::<Config>()
    }
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
        let session = self.round.pending_session(self.next);
        let proposal = match self.survey(session).place() {
            Ok(placement) => Proposal::Place(placement),
            // Sessions without room don't keep others from theirs.
            Err(lack) => session.defer(lack, ""),
        };
        self.next += 1;
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
        self.survey(session).explain_with(limit, |agent| {
            format!("{:.0} % of it would be left free", left_after(agent, session.requested()) * 100.0)
        })
    }
}

impl BestFit {
    /// The agents as places for a session: the less is left, the better. Places and explains.
    fn survey<'a>(&'a self, session: Session<'a>) -> Survey<'a, impl Fn(Agent<'a>, &[u64]) -> f64> {
        session.survey(|agent, requested| {
            let empty = self.config.keep_empty_agents_free && agent.occupied().iter().all(|amount| *amount == 0);
            // Less than everything is left on any agent, so an empty one comes after all others.
            -left_after(agent, requested) - if empty { 1.0 } else { 0.0 }
        })
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
