//! `{{name}}`: the most important session first, then the oldest, on the agent that it fills up most (`prefer: packed`)
//! or least (`prefer: spread`). A session without room lets the others pass.

use quarterdeck_sdk::explain::Survey;
use quarterdeck_sdk::schemars::{self, JsonSchema};
use quarterdeck_sdk::scheduler::{Agent, Explanation, Outcome, Proposal, Round, Scheduler, Session};
use quarterdeck_sdk::{Policy, host, schema_of};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Options.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Whether sessions are packed onto few agents or spread over all.
    prefer: Preference,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Preference {
    #[default]
    Packed,
    Spread,
}

struct {{type}} {
    config: Config,
    round: Round,
    turns: std::vec::IntoIter<usize>,
    last: Option<Proposal>,
}

impl Policy for {{type}} {
    const NAME: &'static str = "{{name}}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "The most important session first, packed onto few agents or spread over all.";

    type Config = Config;

    fn config_schema() -> String {
        schema_of::<Config>()
    }
}

impl Scheduler for {{type}} {
    fn open(config: Config, round: Round) -> Result<Self, String> {
        // They come oldest first, and the sort keeps that among equals.
        let mut turns: Vec<usize> = (0..round.pending().len()).collect();
        turns.sort_by_key(|row| std::cmp::Reverse(round.pending_session(*row).priority()));
        Ok({{type}} { config, round, turns: turns.into_iter(), last: None })
    }

    // One at a time: where the next session fits depends on the verdict on this one.
    fn propose(&mut self, _limit: usize) -> Vec<Proposal> {
        let Some(row) = self.turns.next() else { return Vec::new() };
        let session = self.round.pending_session(row);
        let proposal = match self.survey(session).place() {
            Ok(placement) => Proposal::Place(placement),
            Err(lack) => session.defer(lack, ""),
        };
        self.last = Some(proposal.clone());
        vec![proposal]
    }

    fn settle(&mut self, outcomes: &[Outcome]) {
        if let (Some(Proposal::Place(placement)), Some(Outcome::Accepted)) = (self.last.take(), outcomes.first()) {
            self.round.occupy(&placement);
            host::count("placed_total", 1);
        }
    }

    fn explain(&self, session: usize, limit: usize) -> Explanation {
        let session = self.round.pending_session(session);
        self.survey(session).explain_with(limit, |agent| {
            format!("{:.0} % of it would be left free", left_free(agent, session.requested()) * 100.0)
        })
    }
}

impl {{type}} {
    /// The agents as places for a session. The same walk places and explains.
    fn survey<'a>(&'a self, session: Session<'a>) -> Survey<'a, impl Fn(Agent<'a>, &[u64]) -> f64> {
        session.survey(|agent, requested| match self.config.prefer {
            Preference::Packed => -left_free(agent, requested),
            Preference::Spread => left_free(agent, requested),
        })
    }
}

/// The share of an agent that a request would leave free, over the slots that the request uses.
fn left_free(agent: Agent<'_>, requested: &[u64]) -> f64 {
    let shares: Vec<f64> = agent
        .free()
        .zip(requested)
        .zip(agent.capacity())
        .filter(|((_, requested), capacity)| **requested > 0 && **capacity > 0)
        .map(|((free, requested), capacity)| {
            free.unwrap_or(0).saturating_sub(*requested) as f64 / *capacity as f64
        })
        .collect();
    if shares.is_empty() { 0.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 }
}

quarterdeck_sdk::export_scheduler!({{type}});
