//! Decisions of rounds side by side: what two policies made of the same snapshot, and how good it was.

use quarterdeck_plugin::scheduling::{ClusterMode, Lack, Outcome, Proposal, Refusal, Snapshot};
use quarterdeck_plugin::subject;
use serde::{Deserialize, Serialize};

use super::record::Step;

/// What became of the pending sessions of a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decisions {
    /// One per row of `snapshot.pending`.
    pub fates: Vec<Fate>,
    /// Rows in the order of their turns; untouched sessions have none.
    pub order: Vec<u32>,
}

/// What became of a session in a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It had no turn.
    #[default]
    Untouched,
    /// It got these agents (rows of `snapshot.agents`), one per kernel.
    Placed(Vec<u32>),
    /// The policy found no place for it.
    Deferred(Lack),
    /// The host turned its proposal down.
    Refused(Refusal),
}

impl Fate {
    /// One word for it: `untouched`, `placed`, `deferred`, `refused`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Placed(_) => "placed",
            Self::Deferred(_) => "deferred",
            Self::Refused(_) => "refused",
        }
    }
}

impl Decisions {
    /// From what was proposed and answered, in order, about `pending` sessions.
    pub fn of<'a>(pending: u32, settled: impl IntoIterator<Item = (&'a Proposal, &'a Outcome)>) -> Self {
        let mut out = Self { fates: vec![Fate::Untouched; pending as usize], order: Vec::new() };
        for (proposal, outcome) in settled {
            let row = subject(proposal);
            let Some(fate) = out.fates.get_mut(row as usize) else { continue };
            *fate = match (outcome, proposal) {
                (Outcome::Accepted, Proposal::Place(placement)) => Fate::Placed(placement.agents.clone()),
                (Outcome::Accepted, Proposal::Defer(deferral)) => Fate::Deferred(deferral.lack),
                (Outcome::Refused(refusal), _) => Fate::Refused(*refusal),
            };
            out.order.push(row);
        }
        out
    }

    /// From the steps of a recording or a replay.
    pub fn of_steps(pending: u32, steps: &[Step]) -> Self {
        Self::of(pending, steps.iter().flat_map(|step| step.proposals.iter().zip(&step.outcomes)))
    }

    /// Rows of the sessions that were placed, and their agents.
    fn placed(&self) -> impl Iterator<Item = (usize, &[u32])> {
        self.fates.iter().enumerate().filter_map(|(row, fate)| match fate {
            Fate::Placed(agents) => Some((row, agents.as_slice())),
            _ => None,
        })
    }
}

/// How two policies differ on one snapshot: `left` is usually what was decided, `right` what would have been.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Sessions that fare differently, by row.
    pub sessions: Vec<Change>,
    /// The first turn at which another session had it, where both had one.
    pub order_parts_at: Option<u32>,
    /// What `left` comes to.
    pub left: RoundMetrics,
    /// What `right` comes to.
    pub right: RoundMetrics,
}

/// A session that fares differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Row of `snapshot.pending`.
    pub session: u32,
    /// What became of it on the left.
    pub left: Fate,
    /// What became of it on the right.
    pub right: Fate,
}

/// How many sessions fare differently, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Placed on the left only.
    pub only_left: u32,
    /// Placed on the right only.
    pub only_right: u32,
    /// Placed by both, on other agents.
    pub moved: u32,
    /// Placed by neither, for other reasons.
    pub reasons: u32,
}

impl Difference {
    /// Compares decisions about the same snapshot.
    pub fn between(left: &Decisions, right: &Decisions, snapshot: &Snapshot) -> Self {
        let none = Fate::Untouched;
        let rows = left.fates.len().max(right.fates.len());
        let sessions = (0..rows)
            .filter_map(|row| {
                let (left, right) = (left.fates.get(row).unwrap_or(&none), right.fates.get(row).unwrap_or(&none));
                let change = || Change { session: row as u32, left: left.clone(), right: right.clone() };
                (left != right).then(change)
            })
            .collect();
        let parts = left.order.iter().zip(&right.order).position(|(left, right)| left != right);
        Self {
            sessions,
            order_parts_at: parts.map(|turn| turn as u32),
            left: RoundMetrics::of(left, snapshot),
            right: RoundMetrics::of(right, snapshot),
        }
    }

    /// Whether both decided the same about every session, in the same order.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.order_parts_at.is_none()
    }

    /// The changes by kind.
    pub fn changes(&self) -> Changes {
        let mut out = Changes::default();
        for change in &self.sessions {
            *match (&change.left, &change.right) {
                (Fate::Placed(_), Fate::Placed(_)) => &mut out.moved,
                (Fate::Placed(_), _) => &mut out.only_left,
                (_, Fate::Placed(_)) => &mut out.only_right,
                _ => &mut out.reasons,
            } += 1;
        }
        out
    }
}

/// What decisions come to, in numbers. Equal decisions on equal snapshots give equal numbers, bit for bit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundMetrics {
    /// Sessions that were to be placed.
    pub pending: u32,
    /// Of those: placed.
    pub placed: u32,
    /// Of those: found no place.
    pub deferred: u32,
    /// Of those: turned down by the host.
    pub refused: u32,
    /// Of those: had no turn.
    pub untouched: u32,
    /// How long the placed ones had waited, summed, in milliseconds.
    pub placed_waited_ms: u64,
    /// How long the others have waited, summed, in milliseconds.
    pub left_waited_ms: u64,
    /// Agents that got a kernel.
    pub agents_touched: u32,
    /// Share of each slot that is taken afterwards, over the agents that take sessions; slots that nobody offers are
    /// left out.
    pub used: Vec<SlotShare>,
    /// How many requests of the largest pending shape fit afterwards.
    pub fits: u64,
    /// How many would fit if all free amounts were on one agent.
    pub fits_pooled: u64,
    /// `1 - fits / fits_pooled`: the part of the room that is in pieces too small; 0 without any room.
    pub fragmentation: f64,
    /// Jain's index over the owners' dominant shares of the group: 1 = all alike, 1/n = one has everything.
    pub fairness: f64,
}

/// A slot and how much of it is taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotShare {
    /// The slot's name.
    pub slot: String,
    /// From 0 to 1, or more on agents that shrank.
    pub share: f64,
}

impl RoundMetrics {
    /// What `decisions` make of `snapshot`.
    pub fn of(decisions: &Decisions, snapshot: &Snapshot) -> Self {
        let slots = snapshot.slots.len();
        let pending = &snapshot.pending;
        let mut out = Self { pending: pending.count, ..Self::default() };
        for (row, fate) in decisions.fates.iter().enumerate() {
            let waited = pending.waiting_ms.get(row).copied().unwrap_or(0);
            let count = match fate {
                Fate::Placed(_) => &mut out.placed,
                Fate::Deferred(_) => &mut out.deferred,
                Fate::Refused(_) => &mut out.refused,
                Fate::Untouched => &mut out.untouched,
            };
            *count += 1;
            let sum = if matches!(fate, Fate::Placed(_)) { &mut out.placed_waited_ms } else { &mut out.left_waited_ms };
            *sum = sum.saturating_add(waited);
        }

        let agents = &snapshot.agents;
        let mut occupied = agents.occupied.clone();
        let mut touched = vec![false; agents.count as usize];
        for (row, places) in decisions.placed() {
            let first = pending.first_kernel[row] as usize;
            for (kernel, &agent) in (first..).zip(places) {
                let (agent, kernel) = (agent as usize * slots, kernel * slots);
                touched[agent / slots.max(1)] = true;
                add(&mut occupied[agent..agent + slots], &snapshot.kernels.requested[kernel..kernel + slots]);
            }
        }
        out.agents_touched = touched.iter().filter(|t| **t).count() as u32;

        let open: Vec<usize> = (0..agents.count as usize).filter(|agent| agents.schedulable[*agent]).collect();
        let mut capacity = vec![0_u64; slots];
        let mut taken = vec![0_u64; slots];
        for agent in &open {
            add(&mut capacity, &agents.capacity[agent * slots..(agent + 1) * slots]);
            add(&mut taken, &occupied[agent * slots..(agent + 1) * slots]);
        }
        out.used = (0..slots)
            .filter(|slot| capacity[*slot] > 0)
            .map(|slot| SlotShare {
                slot: snapshot.slots[slot].name.clone(),
                share: ratio(taken[slot], capacity[slot]),
            })
            .collect();
        out.measure_room(snapshot, &open, &occupied, &capacity);
        out.fairness = fairness(decisions, snapshot, &capacity);
        out
    }

    /// Sees how much of the free room is of use for the largest shape that was pending.
    fn measure_room(&mut self, snapshot: &Snapshot, open: &[usize], occupied: &[u64], capacity: &[u64]) {
        let slots = snapshot.slots.len();
        let Some((architecture, shape)) = largest_shape(snapshot, capacity) else { return };
        let fit = |free: &mut dyn Iterator<Item = u64>| -> u64 {
            let counts = free.zip(shape).filter(|(_, wanted)| **wanted > 0).map(|(free, wanted)| free / wanted);
            counts.min().unwrap_or(0)
        };
        let agents = &snapshot.agents;
        let mut pooled = vec![0_u64; slots];
        for &agent in open.iter().filter(|agent| agents.architecture[**agent] == architecture) {
            let row = agent * slots..(agent + 1) * slots;
            let free: Vec<u64> =
                agents.capacity[row.clone()].iter().zip(&occupied[row]).map(|(c, o)| c.saturating_sub(*o)).collect();
            self.fits = self.fits.saturating_add(fit(&mut free.iter().copied()));
            add(&mut pooled, &free);
        }
        self.fits_pooled = fit(&mut pooled.iter().copied());
        if self.fits_pooled > 0 {
            self.fragmentation = 1.0 - ratio(self.fits.min(self.fits_pooled), self.fits_pooled);
        }
    }
}

/// Architecture and amounts of the largest thing that must fit onto one agent: a single-node session or a kernel of
/// another. By its dominant share; the older of equal ones.
fn largest_shape<'s>(snapshot: &'s Snapshot, capacity: &[u64]) -> Option<(u32, &'s [u64])> {
    let slots = snapshot.slots.len();
    let pending = &snapshot.pending;
    let mut best: Option<(f64, u32, &[u64])> = None;
    for row in 0..pending.count as usize {
        let kernels = pending.first_kernel[row] as usize..pending.first_kernel[row + 1] as usize;
        let architectures = &snapshot.kernels.architecture;
        let mut offer = |architecture: u32, shape: &'s [u64]| {
            let share = dominant(shape, capacity);
            if share > 0.0 && best.is_none_or(|(largest, ..)| share > largest) {
                best = Some((share, architecture, shape));
            }
        };
        if pending.mode[row] == ClusterMode::SingleNode {
            offer(architectures[kernels.start], &pending.requested[row * slots..(row + 1) * slots]);
        } else {
            for kernel in kernels {
                offer(architectures[kernel], &snapshot.kernels.requested[kernel * slots..(kernel + 1) * slots]);
            }
        }
    }
    best.map(|(_, architecture, shape)| (architecture, shape))
}

/// The largest share of `amounts` in `capacity`.
fn dominant(amounts: &[u64], capacity: &[u64]) -> f64 {
    let shares = amounts.iter().zip(capacity).filter(|(_, c)| **c > 0).map(|(a, c)| ratio(*a, *c));
    shares.fold(0.0, f64::max)
}

/// Jain's index over what the owners hold of the group once the decisions are carried out.
fn fairness(decisions: &Decisions, snapshot: &Snapshot, capacity: &[u64]) -> f64 {
    let slots = snapshot.slots.len();
    let mut holds = vec![vec![0_u64; slots]; snapshot.owners.count as usize];
    let (pending, running) = (&snapshot.pending, &snapshot.running);
    for row in 0..running.count as usize {
        add(&mut holds[running.owner[row] as usize], &running.held[row * slots..(row + 1) * slots]);
    }
    for (row, _) in decisions.placed() {
        add(&mut holds[pending.owner[row] as usize], &pending.requested[row * slots..(row + 1) * slots]);
    }
    let shares: Vec<f64> = holds.iter().map(|amounts| dominant(amounts, capacity)).collect();
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

fn add(held: &mut [u64], more: &[u64]) {
    for (cell, amount) in held.iter_mut().zip(more) {
        *cell = cell.saturating_add(*amount);
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
