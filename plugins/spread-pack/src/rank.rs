//! How good a fitting agent is for a request.

use std::cmp::Ordering;

use serde::Deserialize;

/// Where sessions go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// To the emptiest agent that fits.
    #[default]
    Spread,
    /// To the fullest.
    Pack,
}

/// The better agent has the smaller rank.
#[derive(Debug, Clone, Copy)]
pub struct Rank {
    /// Slots that the agent has and the request doesn't need.
    extras: usize,
    /// Kernels there that the session avoids, of other sessions and of its own.
    avoided: u32,
    /// The load with the session on it, the other way round when packing.
    load: f64,
}

impl Rank {
    /// The rank of an agent that has room.
    pub fn of(
        strategy: Strategy,
        capacity: &[u64],
        occupied: &[u64],
        requested: &[u64],
        others: u32,
        siblings: u32,
    ) -> Self {
        let load = load(capacity, occupied, requested);
        Rank {
            extras: capacity
                .iter()
                .zip(requested)
                .filter(|(capacity, requested)| **capacity > 0 && **requested == 0)
                .count(),
            avoided: others.saturating_add(siblings),
            load: if strategy == Strategy::Pack { -load } else { load },
        }
    }

    /// Larger is better, for people.
    pub fn score(&self) -> f64 {
        -(self.extras as f64 * 1000.0 + f64::from(self.avoided) * 10.0 + self.load)
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let order = self.extras.cmp(&other.extras).then(self.avoided.cmp(&other.avoided));
        Some(order.then(self.load.total_cmp(&other.load)))
    }
}

/// How full an agent is with a request on it: the fullest of the slots that are asked for, then their sum.
fn load(capacity: &[u64], occupied: &[u64], requested: &[u64]) -> f64 {
    let mut most: f64 = 0.0;
    let mut sum = 0.0;
    for ((capacity, occupied), requested) in capacity.iter().zip(occupied).zip(requested) {
        if *capacity == 0 || *requested == 0 {
            continue;
        }
        let part = (*occupied as f64 + *requested as f64) / *capacity as f64;
        most = most.max(part);
        sum += part;
    }
    // The sum decides between agents that are equally full.
    most + sum / 1e6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Rank, Strategy};

    fn best(strategy: Strategy, agents: &[([u64; 2], [u64; 2])], requested: [u64; 2]) -> Option<usize> {
        let fits = |(capacity, occupied): &&([u64; 2], [u64; 2])| {
            (0..2).all(|slot| occupied[slot] + requested[slot] <= capacity[slot])
        };
        let rank = |agent: &([u64; 2], [u64; 2])| Rank::of(strategy, &agent.0, &agent.1, &requested, 0, 0);
        let fitting = agents.iter().enumerate().filter(|(_, agent)| fits(agent));
        fitting.min_by(|a, b| rank(a.1).partial_cmp(&rank(b.1)).unwrap()).map(|(position, _)| position)
    }

    #[test]
    fn spreading_and_packing_are_opposites() {
        let agents = [([8, 8], [2, 2]), ([8, 8], [6, 0]), ([8, 8], [0, 0]), ([8, 8], [7, 0])];
        assert_eq!(best(Strategy::Spread, &agents, [2, 1]), Some(2));
        assert_eq!(best(Strategy::Pack, &agents, [2, 1]), Some(1));
        assert_eq!(best(Strategy::Pack, &agents, [9, 1]), None);
    }

    #[test]
    fn accelerators_are_spared_before_anything_else() {
        let needless = Rank::of(Strategy::Spread, &[8, 4], &[0, 0], &[1, 0], 0, 0);
        let crowded = Rank::of(Strategy::Spread, &[8, 0], &[6, 0], &[1, 0], 3, 1);
        assert!(crowded < needless && crowded.score() > needless.score());
        let alone = Rank::of(Strategy::Spread, &[8, 0], &[7, 0], &[1, 0], 0, 0);
        assert!(alone < crowded);
    }

    proptest! {
        /// Of agents that differ in what is occupied alone, spreading takes the emptiest and packing the fullest.
        #[test]
        fn the_load_decides_between_equals(occupied in prop::collection::vec(0..=6_u64, 1..20)) {
            let agents: Vec<([u64; 2], [u64; 2])> = occupied.iter().map(|cpu| ([8, 8], [*cpu, 0])).collect();
            let emptiest = occupied.iter().min().unwrap();
            let fullest = occupied.iter().max().unwrap();
            prop_assert_eq!(&occupied[best(Strategy::Spread, &agents, [2, 1]).unwrap()], emptiest);
            prop_assert_eq!(&occupied[best(Strategy::Pack, &agents, [2, 1]).unwrap()], fullest);
        }
    }
}
