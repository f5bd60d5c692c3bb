//! `mof`: the oldest pending session first, on the fitting agent of which least is occupied.
//!
//! One agent is less occupied than another when no slot of it is more and some slot is less. Where several have nothing
//! below them, or as much occupied as each other, the first listed one is taken; in groups of many agents the one of which
//! the smallest part of the group's resources is occupied, which can be found without looking at all of them. So sessions
//! spread over the agents.
//!
//! Options: those of [`quarterdeck_sdk::placing`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use quarterdeck_sdk::placing::{Blocking, Choice, Line};
use quarterdeck_sdk::scheduler::{Agent, Lack, Round};
use quarterdeck_sdk::{Policy, blocking_options};
use serde::Deserialize;

/// Options.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    blocking: Blocking,
}

struct Mof(Line<std::ops::Range<usize>, LeastOccupied>);

impl Policy for Mof {
    const NAME: &'static str = "mof";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Oldest session first, on the agent of which least is occupied.";
    const CONFIG_SCHEMA: &'static str = concat!(
        r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mof",
        "type": "object",
        "properties": {"#,
        blocking_options!(),
        "}}"
    );

    type Config = Config;
}

/// Up to so many agents all pairs of them may be compared.
const FEW: usize = 64;

/// Beyond so many requests without room new ones are looked for again and again: memory is limited.
const MAX_HOPELESS: usize = 1 << 14;

/// The agents that take sessions.
struct LeastOccupied {
    /// What they have together.
    total: Vec<u64>,
    /// By architecture.
    agents: BTreeMap<u32, Ranking>,
    /// Requests, with the architecture, for which no agent has room. Agents only fill up during a round.
    hopeless: BTreeSet<(u32, Vec<u64>)>,
}

/// Agents of one architecture.
struct Ranking {
    /// In listing order.
    listed: Vec<usize>,
    /// By what is occupied. Whoever is below another one comes before it.
    ranked: BTreeSet<Rank>,
    /// Where each stands in it.
    ranks: BTreeMap<usize, Rank>,
}

/// How much of an agent is occupied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    load: Load,
    /// Decides where the difference is too small for a floating-point number.
    occupied: Vec<u64>,
    agent: usize,
}

/// The parts of the group's resources that are occupied there, summed up. Never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Load(f64);

impl Eq for Load {}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl LeastOccupied {
    fn over(round: &Round) -> Self {
        let mut total = vec![0_u64; round.slots()];
        for agent in round.agents().filter(Agent::schedulable) {
            total.iter_mut().zip(agent.capacity()).for_each(|(sum, amount)| *sum = sum.saturating_add(*amount));
        }
        let mut agents: BTreeMap<u32, Ranking> = BTreeMap::new();
        for agent in round.agents().filter(Agent::schedulable) {
            let new = || Ranking { listed: Vec::new(), ranked: BTreeSet::new(), ranks: BTreeMap::new() };
            let ranking = agents.entry(agent.architecture()).or_insert_with(new);
            ranking.listed.push(agent.index);
            ranking.put(rank(agent, &total));
        }
        LeastOccupied { total, agents, hopeless: BTreeSet::new() }
    }
}

impl Ranking {
    fn put(&mut self, rank: Rank) {
        if let Some(former) = self.ranks.insert(rank.agent, rank.clone()) {
            self.ranked.remove(&former);
        }
        self.ranked.insert(rank);
    }

    fn choose(&self, round: &Round, requested: &[u64]) -> Option<usize> {
        let fits = |agent: usize| round.agent(agent).fits(requested);
        if self.listed.len() > FEW {
            return self.ranked.iter().map(|rank| rank.agent).find(|agent| fits(*agent));
        }
        let fitting: Vec<usize> = self.listed.iter().copied().filter(|agent| fits(*agent)).collect();
        let occupied = |agent: usize| round.agent(agent).occupied();
        let minimal = |agent: &usize| !fitting.iter().any(|other| is_less(occupied(*other), occupied(*agent)));
        fitting.iter().copied().find(minimal)
    }
}

fn rank(agent: Agent<'_>, total: &[u64]) -> Rank {
    let parts = agent.occupied().iter().zip(total).filter(|(_, total)| **total > 0);
    let load = Load(parts.map(|(occupied, total)| *occupied as f64 / *total as f64).sum());
    Rank { load, occupied: agent.occupied().to_vec(), agent: agent.index }
}

impl Choice for LeastOccupied {
    fn agent_for(&mut self, round: &Round, architecture: u32, requested: &[u64], lasting: bool) -> Result<usize, Lack> {
        let ranking = self.agents.get(&architecture).ok_or(Lack::NoCompatibleAgent)?;
        let request = (architecture, requested.to_vec());
        if self.hopeless.contains(&request) {
            return Err(Lack::NoRoom);
        }
        let found = ranking.choose(round, requested);
        if found.is_none() && lasting && self.hopeless.len() < MAX_HOPELESS {
            self.hopeless.insert(request);
        }
        found.ok_or(Lack::NoRoom)
    }

    fn changed(&mut self, round: &Round, agent: usize) {
        let agent = round.agent(agent);
        // A pin may lead to an agent that takes no sessions; that one is not ranked.
        if agent.schedulable()
            && let Some(ranking) = self.agents.get_mut(&agent.architecture())
        {
            ranking.put(rank(agent, &self.total));
        }
    }

    fn score(&self, agent: Agent<'_>, _requested: &[u64]) -> f64 {
        -rank(agent, &self.total).load.0
    }
}

/// Whether nothing of one is more than of another, and something is less.
fn is_less(one: &[u64], other: &[u64]) -> bool {
    one.iter().zip(other).all(|(one, other)| one <= other) && one != other
}

fn open(config: Config, round: Round) -> Result<Mof, String> {
    let order = 0..round.pending().len();
    let choice = LeastOccupied::over(&round);
    Ok(Mof(Line::new(round, order, choice, &config.blocking)))
}

quarterdeck_sdk::serve_in_line!(Mof, open);
