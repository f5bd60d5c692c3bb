//! The choice of an agent, on bare columns.
//!
//! The rule: walk over the fitting agents in listing order and keep a best one, which the next one replaces when it is
//! preferred, see [`Preference`]. Done literally that is sessions × agents steps. Three observations save nearly all of
//! them without changing a single answer:
//!
//! - Being preferred is a strict partial order on what agents have in total. So of the agents that have the same, only
//!   the first fitting one can matter: whatever keeps it from being the best keeps its likes as well.
//! - Within a round agents only fill up. So the first fitting agent for a request is never before the first fitting one
//!   for an equal request earlier in the round.
//! - An agent that was never the best one, because it wasn't preferred to the one before it, may fill up without changing
//!   the answer. So as long as all that were the best one for a request on the way still fit, the last of them is the
//!   answer to an equal request, too. Where all agents differ, that saves the walk.

use std::collections::BTreeMap;

/// When the next fitting agent replaces the best one so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// It has fewer needless slots, or as many and is larger in total.
    LeastWaste,
    /// It is larger in total.
    Largest,
}

/// The agents of a round, by what they have.
#[derive(Debug)]
pub struct Walk {
    slots: usize,
    preference: Preference,
    classes: Vec<Class>,
    /// Per architecture the numbers of requests seen.
    shapes: Vec<BTreeMap<Vec<u64>, usize>>,
    /// Some of them, found without a search.
    recent: Recent,
    /// For each shape and class, how many agents at the front of the class have no room for the shape any more.
    cursors: Vec<u32>,
    /// For each shape the agents that were the best one on the last lasting walk, with their classes; empty: unknown.
    paths: Vec<Vec<(u32, usize)>>,
    /// Kept from choice to choice: the first fitting agent of each class, with the class.
    first: Vec<(u32, usize)>,
}

/// Agents of one architecture with the same capacity, in listing order.
#[derive(Debug)]
struct Class {
    architecture: u32,
    capacity: Vec<u64>,
    agents: Vec<u32>,
}

/// A few requests with their numbers, each at the place that follows from it: most rounds know few. What has the same place
/// takes turns there.
#[derive(Debug)]
struct Recent {
    slots: usize,
    /// Architecture and number; none: nothing is there.
    shapes: [Option<(u32, usize)>; RECENT],
    /// Their requests, row-major.
    requested: Vec<u64>,
}

const RECENT: usize = 32;

impl Recent {
    fn new(slots: usize) -> Self {
        Recent { slots, shapes: [None; RECENT], requested: vec![0; RECENT * slots] }
    }

    fn place(architecture: u32, requested: &[u64]) -> usize {
        // Amounts differ in few bits, high or low ones: multiplied by an odd number of many bits, they differ at the top.
        let mix = |hash: u64, amount: &u64| (hash ^ amount).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let hash = requested.iter().fold(u64::from(architecture), mix).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as usize % RECENT
    }

    fn get(&self, place: usize, architecture: u32, requested: &[u64]) -> Option<usize> {
        let (of, shape) = self.shapes[place]?;
        let known = &self.requested[place * self.slots..][..self.slots];
        // Amount by amount: comparing slices is a call, which takes longer for so few.
        (of == architecture && known.iter().zip(requested).all(|(known, amount)| known == amount)).then_some(shape)
    }

    fn put(&mut self, place: usize, architecture: u32, requested: &[u64], shape: usize) {
        self.shapes[place] = Some((architecture, shape));
        self.requested[place * self.slots..][..self.slots].copy_from_slice(requested);
    }
}

/// Why there is no choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// No agent of that architecture takes sessions.
    Compatible,
    /// None of them has room.
    Room,
}

/// Beyond so many cursors requests start from the front: memory is limited.
const MAX_CURSORS: usize = 1 << 20;

impl Walk {
    /// Sorts the agents that take sessions. `capacity` is row-major with `slots` cells per agent.
    pub fn new(
        preference: Preference,
        slots: usize,
        architecture: &[u32],
        schedulable: &[bool],
        capacity: &[u64],
    ) -> Self {
        let mut classes: Vec<Class> = Vec::new();
        let mut known: BTreeMap<(u32, &[u64]), usize> = BTreeMap::new();
        for (agent, (architecture, schedulable)) in architecture.iter().zip(schedulable).enumerate() {
            if !schedulable {
                continue;
            }
            let capacity = &capacity[agent * slots..][..slots];
            let class = *known.entry((*architecture, capacity)).or_insert_with(|| {
                classes.push(Class { architecture: *architecture, capacity: capacity.to_vec(), agents: Vec::new() });
                classes.len() - 1
            });
            classes[class].agents.push(agent as u32);
        }
        Walk {
            slots,
            preference,
            classes,
            shapes: Vec::new(),
            recent: Recent::new(slots),
            cursors: Vec::new(),
            paths: Vec::new(),
            first: Vec::new(),
        }
    }

    /// By what it prefers agents.
    pub fn preference(&self) -> Preference {
        self.preference
    }

    /// The agent for a request, given what is occupied now. `lasting` says that `occupied` will only grow from here on;
    /// for a plan that may be taken back it is false.
    ///
    /// # Errors
    /// What there is none of.
    pub fn choose(
        &mut self,
        occupied: &[u64],
        architecture: u32,
        requested: &[u64],
        lasting: bool,
    ) -> Result<usize, Nothing> {
        let shape = self.shape(architecture, requested);
        if let Some(agent) = shape.and_then(|shape| self.known(&self.paths[shape], occupied, requested)) {
            return Ok(agent);
        }
        self.walk(shape, occupied, architecture, requested, lasting)
    }

    /// What is done literally, for few requests of a round. Apart: with it in one function, compiled code keeps most of
    /// what [`Walk::choose`] works with in memory instead of registers.
    #[inline(never)]
    fn walk(
        &mut self,
        shape: Option<usize>,
        occupied: &[u64],
        architecture: u32,
        requested: &[u64],
        lasting: bool,
    ) -> Result<usize, Nothing> {
        let mut path =
            shape.filter(|_| lasting).map(|shape| std::mem::take(&mut self.paths[shape])).unwrap_or_default();
        path.clear();
        let mut first = std::mem::take(&mut self.first);
        first.clear();
        let mut compatible = false;
        for (index, class) in self.classes.iter().enumerate() {
            if class.architecture != architecture {
                continue;
            }
            compatible = true;
            let cursor = shape.map(|shape| shape * self.classes.len() + index);
            let start = cursor.map_or(0, |cursor| self.cursors[cursor] as usize);
            let found = class.agents[start..].iter().position(|agent| {
                let occupied = &occupied[*agent as usize * self.slots..][..self.slots];
                fits(&class.capacity, occupied, requested)
            });
            let position = found.map_or(class.agents.len(), |found| start + found);
            if let Some(agent) = class.agents.get(position) {
                first.push((*agent, index));
            }
            if let Some(cursor) = cursor
                && lasting
            {
                self.cursors[cursor] = position as u32;
            }
        }
        if !compatible {
            return Err(Nothing::Compatible);
        }
        first.sort_unstable();
        let mut best: Option<(u32, &[u64], usize)> = None;
        for &(agent, class) in &first {
            let capacity = self.classes[class].capacity.as_slice();
            let extras = match self.preference {
                Preference::LeastWaste => extras(capacity, requested),
                Preference::Largest => 0,
            };
            let better = match best {
                None => true,
                Some((_, other, fewest)) => extras < fewest || (extras == fewest && is_larger(capacity, other)),
            };
            if better {
                best = Some((agent, capacity, extras));
                path.push((agent, class));
            }
        }
        let best = best.map(|(agent, ..)| agent as usize).ok_or(Nothing::Room);
        self.first = first;
        if let Some(shape) = shape
            && lasting
        {
            self.paths[shape] = path;
        }
        best
    }

    /// The end of a path that still holds.
    fn known(&self, path: &[(u32, usize)], occupied: &[u64], requested: &[u64]) -> Option<usize> {
        let (last, _) = path.last()?;
        let holds = path.iter().all(|(agent, class)| {
            fits(&self.classes[*class].capacity, &occupied[*agent as usize * self.slots..][..self.slots], requested)
        });
        holds.then_some(*last as usize)
    }

    /// Agents have become emptier: what was known of full ones no longer holds.
    pub fn forget(&mut self) {
        self.cursors.fill(0);
        self.paths.iter_mut().for_each(Vec::clear);
    }

    /// The number of a request, unless there are too many.
    fn shape(&mut self, architecture: u32, requested: &[u64]) -> Option<usize> {
        let at = Recent::place(architecture, requested);
        if let Some(shape) = self.recent.get(at, architecture, requested) {
            return Some(shape);
        }
        let shape = self.searched_shape(architecture, requested)?;
        self.recent.put(at, architecture, requested, shape);
        Some(shape)
    }

    #[inline(never)]
    fn searched_shape(&mut self, architecture: u32, requested: &[u64]) -> Option<usize> {
        if self.shapes.len() <= architecture as usize {
            self.shapes.resize(architecture as usize + 1, BTreeMap::new());
        }
        let next = self.cursors.len().checked_div(self.classes.len())?;
        let shapes = &mut self.shapes[architecture as usize];
        if let Some(shape) = shapes.get(requested) {
            return Some(*shape);
        }
        if self.cursors.len() + self.classes.len() > MAX_CURSORS {
            return None;
        }
        shapes.insert(requested.to_vec(), next);
        self.cursors.resize(self.cursors.len() + self.classes.len(), 0);
        self.paths.push(Vec::new());
        Some(next)
    }
}

/// Whether a request fits into what is left. An over-occupied slot has no room even for nothing.
fn fits(capacity: &[u64], occupied: &[u64], requested: &[u64]) -> bool {
    capacity
        .iter()
        .zip(occupied)
        .zip(requested)
        .all(|((capacity, occupied), requested)| capacity.checked_sub(*occupied).is_some_and(|free| free >= *requested))
}

/// Slots that an agent has and the request doesn't need.
pub fn extras(capacity: &[u64], requested: &[u64]) -> usize {
    capacity.iter().zip(requested).filter(|(capacity, requested)| **capacity > 0 && **requested == 0).count()
}

/// Whether one has at least as much of every slot as another, and more of some.
fn is_larger(capacity: &[u64], other: &[u64]) -> bool {
    capacity.iter().zip(other).all(|(mine, other)| mine >= other) && capacity != other
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    struct Fleet {
        slots: usize,
        architecture: Vec<u32>,
        schedulable: Vec<bool>,
        capacity: Vec<u64>,
        occupied: Vec<u64>,
    }

    impl Fleet {
        fn new(dice: &mut Dice) -> Fleet {
            let (slots, agents) = (3, 1 + dice.below(12) as usize);
            // Of few kinds, or all different.
            let kinds = if dice.below(2) == 0 { 3 } else { 40 };
            Fleet {
                slots,
                architecture: (0..agents).map(|_| dice.below(2) as u32).collect(),
                schedulable: (0..agents).map(|_| dice.below(8) > 0).collect(),
                capacity: (0..agents * slots).map(|_| dice.below(kinds)).collect(),
                occupied: vec![0; agents * slots],
            }
        }

        /// The rule, done literally.
        fn best(&self, preference: Preference, architecture: u32, requested: &[u64]) -> Result<usize, Nothing> {
            let mut compatible = false;
            let mut best: Option<usize> = None;
            let capacity = |agent: usize| &self.capacity[agent * self.slots..][..self.slots];
            for agent in 0..self.architecture.len() {
                if !self.schedulable[agent] || self.architecture[agent] != architecture {
                    continue;
                }
                compatible = true;
                if !fits(capacity(agent), &self.occupied[agent * self.slots..][..self.slots], requested) {
                    continue;
                }
                let waste = |agent: usize| match preference {
                    Preference::LeastWaste => extras(capacity(agent), requested),
                    Preference::Largest => 0,
                };
                let better = best.is_none_or(|best| {
                    waste(agent) < waste(best)
                        || (waste(agent) == waste(best) && is_larger(capacity(agent), capacity(best)))
                });
                if better {
                    best = Some(agent);
                }
            }
            if compatible { best.ok_or(Nothing::Room) } else { Err(Nothing::Compatible) }
        }
    }

    #[test]
    fn what_is_saved_changes_no_answer() {
        for seed in 0..400 {
            let mut dice = Dice(seed);
            let mut fleet = Fleet::new(&mut dice);
            let preference = if seed % 2 == 0 { Preference::Largest } else { Preference::LeastWaste };
            let mut walk = Walk::new(preference, fleet.slots, &fleet.architecture, &fleet.schedulable, &fleet.capacity);
            // Equal requests come again and again.
            let shapes: Vec<Vec<u64>> = (0..3).map(|_| (0..fleet.slots).map(|_| dice.below(5)).collect()).collect();
            for turn in 0..120 {
                let (requested, architecture) = (&shapes[dice.below(3) as usize], dice.below(2) as u32);
                // A plan on top, that is taken back: nothing is learnt from it.
                let kept = fleet.occupied.clone();
                if dice.below(4) == 0 {
                    for _ in 0..3 {
                        let found = walk.choose(&fleet.occupied, architecture, requested, false);
                        assert_eq!(
                            found,
                            fleet.best(preference, architecture, requested),
                            "plan, seed {seed}, turn {turn}"
                        );
                        let Ok(agent) = found else { break };
                        let row = &mut fleet.occupied[agent * fleet.slots..][..fleet.slots];
                        row.iter_mut().zip(requested).for_each(|(o, r)| *o += r);
                    }
                    fleet.occupied = kept;
                }
                let found = walk.choose(&fleet.occupied, architecture, requested, true);
                assert_eq!(found, fleet.best(preference, architecture, requested), "seed {seed}, turn {turn}");
                if let Ok(agent) = found {
                    let row = &mut fleet.occupied[agent * fleet.slots..][..fleet.slots];
                    row.iter_mut().zip(requested).for_each(|(o, r)| *o += r);
                }
                // Once in a while everything becomes emptier.
                if dice.below(30) == 0 {
                    fleet.occupied.iter_mut().for_each(|amount| *amount /= 2);
                    walk.forget();
                }
            }
        }
    }
}
