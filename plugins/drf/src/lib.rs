//! `drf`: dominant resource fairness. The turn goes to the owner with the smallest dominant share, and there to the
//! oldest session; equal shares go by the oldest session that is pending. The agent is the largest fitting one.
//!
//! An owner's dominant share is the largest part that one user holds of any resource: for each slot what the running
//! sessions hold together, divided by what the agents of the scaling group have together; the largest of these quotients
//! counts. Slots of which the group has nothing don't.
//!
//! Options: `accumulate`, and those of [`quarterdeck_sdk::placing`]. Without `accumulate` a placement in this round raises
//! its owner's share to the share of the placed session at least; so it was always done in Backend.AI. With it the
//! placement is added to what the owner holds, as if the session were running already, which is fairer in rounds that
//! place many sessions at once.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use quarterdeck_sdk::placing::walk::{Preference, Walk};
use quarterdeck_sdk::placing::{Blocking, Line, Turns};
use quarterdeck_sdk::scheduler::{Agent, Round, Session};
use quarterdeck_sdk::{Policy, blocking_options};
use serde::Deserialize;

/// Options.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    /// Whether placements of this round add up.
    #[serde(default)]
    accumulate: bool,
    #[serde(flatten)]
    blocking: Blocking,
}

struct Drf(Line<ByShare, Walk>);

impl Policy for Drf {
    const NAME: &'static str = "drf";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str =
        "Dominant resource fairness: whoever holds least of what they hold most of is next; larger agents first.";
    const CONFIG_SCHEMA: &'static str = concat!(
        r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "drf",
        "type": "object",
        "properties": {
            "accumulate": {
                "description": "Whether placements of one round add up in their owner's share. Otherwise the largest counts.",
                "type": "boolean",
                "default": false
            },"#,
        blocking_options!(),
        "}}"
    );

    type Config = Config;
}

/// A dominant share. Never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share(f64);

impl Eq for Share {}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// An owner with pending sessions.
struct Owner {
    share: Share,
    /// What its sessions hold; kept up to date only where placements add up.
    held: Vec<u64>,
    /// Its pending sessions, oldest first.
    pending: VecDeque<usize>,
}

struct ByShare {
    total: Vec<u64>,
    accumulate: bool,
    owners: BTreeMap<usize, Owner>,
    /// For each owner with pending sessions, except the current one: share, oldest session, owner.
    heap: BinaryHeap<Reverse<(Share, usize, usize)>>,
    /// Whose turn it is. It goes back into the heap when its session has been settled.
    current: Option<usize>,
}

impl ByShare {
    fn new(round: &Round, accumulate: bool) -> Self {
        let slots = round.slots();
        let mut total = vec![0; slots];
        round.agents().filter(Agent::schedulable).for_each(|agent| add(&mut total, agent.capacity()));
        let mut owners: BTreeMap<usize, Owner> = BTreeMap::new();
        for session in round.pending() {
            let new = || Owner { share: Share(0.0), held: vec![0; slots], pending: VecDeque::new() };
            owners.entry(session.owner()).or_insert_with(new).pending.push_back(session.index);
        }
        let running = &round.snapshot.running;
        for (row, owner) in running.owner.iter().enumerate() {
            if let Some(owner) = owners.get_mut(&(*owner as usize)) {
                add(&mut owner.held, &running.held[row * slots..][..slots]);
            }
        }
        let mut heap = BinaryHeap::with_capacity(owners.len());
        for (index, owner) in &mut owners {
            owner.share = dominant_share(&owner.held, &total);
            if let Some(oldest) = owner.pending.front() {
                heap.push(Reverse((owner.share, *oldest, *index)));
            }
        }
        ByShare { total, accumulate, owners, heap, current: None }
    }
}

impl Turns for ByShare {
    fn next_turn(&mut self) -> Option<usize> {
        if let Some(index) = self.current.take()
            && let Some(owner) = self.owners.get(&index)
            && let Some(oldest) = owner.pending.front()
        {
            self.heap.push(Reverse((owner.share, *oldest, index)));
        }
        let Reverse((_, session, index)) = self.heap.pop()?;
        self.owners.get_mut(&index)?.pending.pop_front();
        self.current = Some(index);
        Some(session)
    }

    fn placed(&mut self, session: Session<'_>) {
        let Some(owner) = self.owners.get_mut(&session.owner()) else { return };
        let share = if self.accumulate {
            add(&mut owner.held, session.requested());
            dominant_share(&owner.held, &self.total)
        } else {
            dominant_share(session.requested(), &self.total)
        };
        owner.share = owner.share.max(share);
    }
}

fn add(sum: &mut [u64], amounts: &[u64]) {
    for (sum, amount) in sum.iter_mut().zip(amounts) {
        *sum = sum.saturating_add(*amount);
    }
}

fn dominant_share(amounts: &[u64], total: &[u64]) -> Share {
    let parts = amounts.iter().zip(total).filter(|(_, total)| **total > 0);
    Share(parts.map(|(amount, total)| *amount as f64 / *total as f64).fold(0.0, f64::max))
}

fn open(config: Config, round: Round) -> Result<Drf, String> {
    let turns = ByShare::new(&round, config.accumulate);
    let walk = Walk::over(&round, Preference::Largest);
    Ok(Drf(Line::new(round, turns, walk, &config.blocking)))
}

#[cfg(test)]
mod tests;

quarterdeck_sdk::serve_in_line!(Drf, open);
