//! EASY backfilling on bare numbers: one reservation, for the head of the line.
//!
//! What runs is known by its [`Release`]s. At the time T at which the head fits, what will be free beside it is `spare`.
//! A session that is expected to end by T may take whatever is free now; one that may run longer takes only what is spare
//! at T as well. So at T the head fits whatever has been started in between.

use std::collections::BTreeSet;

/// Beyond so many requests without room new ones are looked for again and again: memory is limited.
const MAX_HOPELESS: usize = 1 << 14;

/// The agents. Matrices are row-major with one cell per slot.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Number of slots.
    pub slots: usize,
    /// By agent.
    pub architecture: Vec<u32>,
    /// Whether it takes sessions.
    pub schedulable: Vec<bool>,
    /// What it has.
    pub capacity: Vec<u64>,
    /// What is taken.
    pub occupied: Vec<u64>,
}

/// What becomes free when a session ends.
#[derive(Debug, Clone)]
pub struct Release {
    /// Milliseconds from now; none: nobody knows.
    pub end_ms: Option<u64>,
    /// Where.
    pub agent: usize,
    /// How much, by slot.
    pub amounts: Vec<u64>,
}

/// A part of a session that needs an agent.
#[derive(Debug, Clone)]
pub struct Need {
    /// Of the agent.
    pub architecture: u32,
    /// By slot.
    pub requested: Vec<u64>,
    /// The agent that it must go to.
    pub pinned: Option<usize>,
}

/// A session that waits. Sessions are listed oldest first.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it needs, all at once.
    pub needs: Vec<Need>,
    /// It contradicts itself: no agent will ever do.
    pub impossible: bool,
    /// How long it is expected to run; none: nobody knows.
    pub expected_ms: Option<u64>,
    /// Larger comes first.
    pub priority: i32,
}

/// Why a session isn't placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No agent of its architecture takes sessions.
    NoCompatibleAgent,
    /// There is not enough left.
    NoRoom,
    /// The agent that it must go to has not enough left.
    ExceedsCapacity,
    /// There is room, but the head of the line will need it.
    InTheWay,
}

/// What becomes of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// One agent per need.
    Place { job: usize, agents: Vec<usize> },
    /// Not now.
    Defer { job: usize, why: Why },
}

/// What is kept for the head of the line.
#[derive(Debug)]
struct Reservation {
    job: usize,
    /// Milliseconds from now; none: can't be told.
    at_ms: Option<u64>,
    agents: BTreeSet<usize>,
    /// What sessions that run past that time may take: agents × slots.
    spare: Vec<u64>,
}

/// One round.
#[derive(Debug)]
pub struct Plan {
    fleet: Fleet,
    releases: Vec<Release>,
    jobs: Vec<Job>,
    order: std::vec::IntoIter<usize>,
    /// Sessions behind the head that may still be looked at.
    depth: usize,
    reservation: Option<Reservation>,
    last: Option<Decision>,
    /// Requests without room: architecture, whether they run past the head's time, amounts. Agents only fill up.
    hopeless: BTreeSet<(u32, bool, Vec<u64>)>,
}

impl Fleet {
    /// What an agent has left of each slot; none where a slot is over-occupied.
    fn free(&self, agent: usize) -> impl Iterator<Item = Option<u64>> + '_ {
        let cells = agent * self.slots..(agent + 1) * self.slots;
        self.capacity[cells.clone()].iter().zip(&self.occupied[cells]).map(|(has, taken)| has.checked_sub(*taken))
    }

    fn fits(&self, agent: usize, requested: &[u64]) -> bool {
        self.free(agent).zip(requested).all(|(free, requested)| free.is_some_and(|free| free >= *requested))
    }

    fn capacity(&self, agent: usize) -> &[u64] {
        &self.capacity[agent * self.slots..][..self.slots]
    }

    fn is_compatible(&self, agent: usize, need: &Need) -> bool {
        match need.pinned {
            // A pin may point to an agent that takes no other sessions.
            Some(pinned) => pinned == agent,
            None => self.schedulable[agent] && self.architecture[agent] == need.architecture,
        }
    }

    fn agents(&self) -> std::ops::Range<usize> {
        0..self.architecture.len()
    }

    fn change(&mut self, agent: usize, amounts: &[u64], change: impl Fn(u64, u64) -> u64) {
        let taken = &mut self.occupied[agent * self.slots..][..self.slots];
        taken.iter_mut().zip(amounts).for_each(|(taken, amount)| *taken = change(*taken, *amount));
    }

    fn take(&mut self, agent: usize, amounts: &[u64]) {
        self.change(agent, amounts, u64::saturating_add);
    }

    fn give_back(&mut self, agent: usize, amounts: &[u64]) {
        self.change(agent, amounts, u64::saturating_sub);
    }

    /// The agent for a request: the one with fewest needless slots, of those the one that it fills most.
    fn best(&self, need: &Need, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(usize, f64, usize)> = None;
        for agent in self.agents().filter(|agent| self.is_compatible(*agent, need)) {
            if !self.fits(agent, &need.requested) || !allowed(agent) {
                continue;
            }
            let has = self.capacity(agent).iter().zip(&need.requested);
            let extras = has.clone().filter(|(has, wanted)| **has > 0 && **wanted == 0).count();
            let left = self.free(agent).zip(has).filter(|(_, (has, wanted))| **has > 0 && **wanted > 0);
            let left: f64 = left.map(|(free, (has, _))| free.unwrap_or(0) as f64 / *has as f64).sum();
            if best.is_none_or(|(fewest, least, _)| extras < fewest || (extras == fewest && left < least)) {
                best = Some((extras, left, agent));
            }
        }
        best.map(|(_, _, agent)| agent)
    }

    /// Agents for all needs of a job. The books are as before afterwards.
    fn place(
        &mut self,
        job: &Job,
        allowed: impl Fn(usize, &Need, &[(usize, usize)]) -> bool,
    ) -> Result<Vec<usize>, usize> {
        let mut taken: Vec<(usize, usize)> = Vec::with_capacity(job.needs.len());
        let mut failed = None;
        for (position, need) in job.needs.iter().enumerate() {
            match self.best(need, |agent| allowed(agent, need, &taken)) {
                Some(agent) => {
                    self.take(agent, &need.requested);
                    taken.push((agent, position));
                }
                None => {
                    failed = Some(position);
                    break;
                }
            }
        }
        for (agent, position) in &taken {
            self.give_back(*agent, &job.needs[*position].requested);
        }
        match failed {
            None => Ok(taken.into_iter().map(|(agent, _)| agent).collect()),
            Some(position) => Err(position),
        }
    }
}

impl Plan {
    /// Opens a round. `depth` is how many sessions behind the head are looked at.
    pub fn new(fleet: Fleet, releases: Vec<Release>, jobs: Vec<Job>, depth: usize) -> Self {
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        // Stable: the oldest of equals stays first.
        order.sort_by_key(|job| std::cmp::Reverse(jobs[*job].priority));
        let order = order.into_iter();
        Plan { fleet, releases, jobs, order, depth, reservation: None, last: None, hopeless: BTreeSet::new() }
    }

    /// What becomes of the next session. [`Plan::settle`] must be told the verdict before the next call.
    pub fn next(&mut self) -> Option<Decision> {
        if self.reservation.is_some() {
            self.depth = self.depth.checked_sub(1)?;
        }
        let job = self.order.next()?;
        let decision = match self.find(job) {
            Ok(agents) => Decision::Place { job, agents },
            Err(why) => Decision::Defer { job, why },
        };
        self.last = Some(decision.clone());
        Some(decision)
    }

    /// Whether the last decision became true.
    pub fn settle(&mut self, accepted: bool) {
        match self.last.take() {
            Some(Decision::Place { job, agents }) if accepted => self.start(job, &agents),
            // A deferral that isn't accepted: the session fails a predicate, and nothing should wait for it.
            Some(Decision::Defer { job, .. }) if accepted && self.reservation.is_none() => {
                self.reservation = self.reserve(job);
            }
            _ => {}
        }
    }

    /// Whether somebody is at the head of the line.
    pub fn has_reservation(&self) -> bool {
        self.reservation.is_some()
    }

    /// The head of the line, and in how many milliseconds it will fit, if that can be told.
    pub fn reservation(&self) -> Option<(usize, Option<u64>)> {
        self.reservation.as_ref().map(|reservation| (reservation.job, reservation.at_ms))
    }

    /// Whether an agent is kept for the head.
    pub fn is_reserved(&self, agent: usize) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| reservation.agents.contains(&agent))
    }

    /// Whether a job may still run when the head's time has come.
    fn runs_past(&self, job: &Job) -> bool {
        match (self.reservation.as_ref().and_then(|reservation| reservation.at_ms), job.expected_ms) {
            (Some(at), Some(expected)) => expected > at,
            // Endless, or the head's time can't be told.
            _ => true,
        }
    }

    fn find(&mut self, index: usize) -> Result<Vec<usize>, Why> {
        let job = &self.jobs[index];
        let Some(first) = job.needs.first() else { return Ok(Vec::new()) };
        let compatible = |need: &Need| self.fleet.agents().any(|agent| self.fleet.is_compatible(agent, need));
        if job.impossible || !job.needs.iter().all(compatible) {
            return Err(Why::NoCompatibleAgent);
        }
        let past = self.runs_past(job);
        let key = (job.needs.len() == 1 && first.pinned.is_none())
            .then(|| (first.architecture, past, first.requested.clone()));
        if key.as_ref().is_some_and(|key| self.hopeless.contains(key)) {
            // Which of both it is would have to be found out; for the user it comes to the same.
            return Err(Why::NoRoom);
        }
        let guarded = self.reservation.as_ref().filter(|_| past);
        let slots = self.fleet.slots;
        let found = match guarded {
            None => self.fleet.place(job, |_, _, _| true),
            Some(reservation) => self.fleet.place(job, |agent, need, taken| {
                (0..slots).all(|slot| {
                    let own = taken.iter().filter(|(other, _)| *other == agent);
                    let own = own.map(|(_, position)| job.needs[*position].requested[slot]).sum::<u64>();
                    own.saturating_add(need.requested[slot]) <= reservation.spare[agent * slots + slot]
                })
            }),
        };
        match found {
            Ok(agents) => Ok(agents),
            Err(position) => {
                let in_the_way = guarded.is_some() && self.fleet.place(job, |_, _, _| true).is_ok();
                if let Some(key) = key
                    && !in_the_way
                    && self.hopeless.len() < MAX_HOPELESS
                {
                    self.hopeless.insert(key);
                }
                Err(match (in_the_way, job.needs[position].pinned) {
                    (true, _) => Why::InTheWay,
                    (false, Some(_)) => Why::ExceedsCapacity,
                    (false, None) => Why::NoRoom,
                })
            }
        }
    }

    fn start(&mut self, index: usize, agents: &[usize]) {
        let past = self.runs_past(&self.jobs[index]);
        let slots = self.fleet.slots;
        let job = &self.jobs[index];
        for (need, agent) in job.needs.iter().zip(agents) {
            self.fleet.take(*agent, &need.requested);
            let end_ms = job.expected_ms;
            self.releases.push(Release { end_ms, agent: *agent, amounts: need.requested.clone() });
            if let Some(reservation) = self.reservation.as_mut().filter(|_| past) {
                let spare = &mut reservation.spare[*agent * slots..][..slots];
                spare.iter_mut().zip(&need.requested).for_each(|(spare, taken)| *spare = spare.saturating_sub(*taken));
            }
        }
    }

    /// Keeps a place for a job. None when no agent will ever do: nothing should wait for it.
    fn reserve(&self, index: usize) -> Option<Reservation> {
        let job = &self.jobs[index];
        let mut empty = self.fleet.clone();
        empty.occupied.fill(0);
        if job.impossible || empty.place(job, |_, _, _| true).is_err() {
            return None;
        }
        let mut ends: Vec<u64> = self.releases.iter().filter_map(|release| release.end_ms).collect();
        ends.sort_unstable();
        ends.dedup();
        // With time there is more room: the first end after which the job fits is found by halving.
        let at = ends.partition_point(|end| self.at(*end).place(job, |_, _, _| true).is_err());
        match ends.get(at) {
            Some(end) => {
                let mut then = self.at(*end);
                let agents = then.place(job, |_, _, _| true).ok()?;
                job.needs.iter().zip(&agents).for_each(|(need, agent)| then.take(*agent, &need.requested));
                let spare =
                    then.agents().flat_map(|agent| then.free(agent).map(|free| free.unwrap_or(0)).collect::<Vec<_>>());
                let spare = spare.collect();
                Some(Reservation { job: index, at_ms: Some(*end), agents: agents.into_iter().collect(), spare })
            }
            None => {
                let agents: BTreeSet<usize> = self.closest(job, empty).into_iter().collect();
                let slots = self.fleet.slots;
                let spare = (0..self.fleet.capacity.len())
                    .map(|cell| if agents.contains(&(cell / slots.max(1))) { 0 } else { u64::MAX })
                    .collect();
                Some(Reservation { job: index, at_ms: None, agents, spare })
            }
        }
    }

    /// The fleet when everything that is expected to end by then has ended.
    fn at(&self, end_ms: u64) -> Fleet {
        let mut fleet = self.fleet.clone();
        for release in self.releases.iter().filter(|release| release.end_ms.is_some_and(|end| end <= end_ms)) {
            fleet.give_back(release.agent, &release.amounts);
        }
        fleet
    }

    /// The agents that lack least of what a job needs, though some would have to become free.
    fn closest(&self, job: &Job, mut empty: Fleet) -> Vec<usize> {
        let mut agents = Vec::with_capacity(job.needs.len());
        for need in &job.needs {
            // The part of the request that is there now, of the slot that lacks most.
            let there = |agent: usize| {
                let wanted = self.fleet.free(agent).zip(&need.requested).filter(|(_, wanted)| **wanted > 0);
                wanted.map(|(free, wanted)| free.unwrap_or(0) as f64 / *wanted as f64).fold(f64::MAX, f64::min)
            };
            let possible =
                empty.agents().filter(|agent| empty.is_compatible(*agent, need) && empty.fits(*agent, &need.requested));
            let Some(agent) = possible.reduce(|best, agent| if there(agent) > there(best) { agent } else { best })
            else {
                break;
            };
            empty.take(agent, &need.requested);
            agents.push(agent);
        }
        agents
    }
}

#[cfg(test)]
mod tests;
