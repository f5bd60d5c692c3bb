//! What schedulers share that serve one session after the other: [`Line`] runs a round, [`Turns`] says whose turn it
//! is, [`Choice`] which agent a request gets.
//!
//! A session that finds no room blocks those behind it, unless `skip_blocked` is on. Then others pass until the session
//! has waited `hold_after_s`; from there on it holds the line, so that a stream of small sessions can't starve it. A
//! session that no agent could take even if it were empty never holds the line then: nothing would ever free it. One that
//! the choice holds back of its own accord ([`Lack::HeldBack`]) never does.

pub mod walk;

use serde::Deserialize;

use crate::host;
use crate::scheduler::{Agent, ClusterMode, Explanation, Lack, Outcome, Placement, Proposal, Round, Session};
use walk::{Nothing, Preference, Walk};

/// The options about sessions without room. Flatten it into a policy's own; [`blocking_options!`](crate::blocking_options)
/// is their part of its schema.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Blocking {
    /// Whether sessions without room let others pass.
    pub skip_blocked: bool,
    /// Age in seconds after which they no longer do.
    pub hold_after_s: f64,
    /// How many sessions are proposed at a time, as far as order and choice can take back what the host refuses. Those
    /// behind a refused session in the same lot were chosen as if it had been placed.
    pub lot: u32,
}

impl Default for Blocking {
    fn default() -> Self {
        Blocking { skip_blocked: false, hold_after_s: 600.0, lot: 1 }
    }
}

/// The properties of [`Blocking`] for a JSON schema, to be `concat!`ed into it.
#[macro_export]
macro_rules! blocking_options {
    () => {
        r#"
            "skip_blocked": {
                "description": "Whether a session without room lets those behind it pass.",
                "type": "boolean",
                "default": false
            },
            "hold_after_s": {
                "description": "With skip_blocked: seconds of waiting after which a session lets nobody pass.",
                "type": "number",
                "minimum": 0,
                "maximum": 31536000,
                "default": 600
            },
            "lot": {
                "description": "How many sessions are proposed at a time. More are quicker; those behind a session that the host refuses were then chosen as if it had been placed.",
                "type": "integer",
                "minimum": 1,
                "maximum": 64,
                "default": 1
            }"#
    };
}

/// Whose turn it is. An iterator of rows does where the order is known from the start.
pub trait Turns {
    /// The row of the next session. Each comes once.
    fn next_turn(&mut self) -> Option<usize>;

    /// The session whose turn it was has been placed.
    fn placed(&mut self, session: Session<'_>) {
        let _ = session;
    }

    /// Whether [`Turns::mark`] and [`Turns::take_back`] do what they say, so that several sessions may be proposed at once.
    fn can_take_back(&self) -> bool {
        false
    }

    /// What is told to be placed from here on may have to be taken back.
    fn mark(&mut self) {}

    /// Nothing was placed since the mark. Whose turns have been since then stays.
    fn take_back(&mut self) {}
}

impl<I: Iterator<Item = usize>> Turns for I {
    fn next_turn(&mut self) -> Option<usize> {
        self.next()
    }

    fn can_take_back(&self) -> bool {
        true
    }
}

/// Which agent a request gets.
pub trait Choice {
    /// From here on agents are looked for on behalf of this pending session.
    fn turn(&mut self, round: &Round, session: usize) {
        let _ = (round, session);
    }

    /// A placement was accepted, and the books have it; in lots it may still be taken back.
    fn placed(&mut self, round: &Round, placement: &Placement) {
        let _ = (round, placement);
    }

    /// One of the agents with that architecture that take sessions and have room. `lasting` says that agents will only
    /// fill up from here on; for a plan that may be taken back it is false.
    ///
    /// # Errors
    /// What is lacking.
    fn agent_for(&mut self, round: &Round, architecture: u32, requested: &[u64], lasting: bool) -> Result<usize, Lack>;

    /// What an agent has left has changed, for good or for a plan.
    fn changed(&mut self, round: &Round, agent: usize) {
        let _ = (round, agent);
    }

    /// Whether [`Choice::taken_back`] does what it says, so that several sessions may be placed at once.
    fn can_take_back(&self) -> bool {
        false
    }

    /// Agents have room again that was given away for good.
    fn taken_back(&mut self) {}

    /// How good an agent is, for explanations. Larger is better.
    fn score(&self, agent: Agent<'_>, requested: &[u64]) -> f64;
}

impl Walk {
    /// The agents of a round that take sessions.
    pub fn over(round: &Round, preference: Preference) -> Self {
        let agents = &round.snapshot.agents;
        Walk::new(preference, round.slots(), &agents.architecture, &agents.schedulable, &agents.capacity)
    }
}

impl Choice for Walk {
    fn agent_for(&mut self, round: &Round, architecture: u32, requested: &[u64], lasting: bool) -> Result<usize, Lack> {
        self.choose(&round.snapshot.agents.occupied, architecture, requested, lasting).map_err(
            |nothing| match nothing {
                Nothing::Compatible => Lack::NoCompatibleAgent,
                Nothing::Room => Lack::NoRoom,
            },
        )
    }

    fn can_take_back(&self) -> bool {
        true
    }

    fn taken_back(&mut self) {
        self.forget();
    }

    fn score(&self, agent: Agent<'_>, requested: &[u64]) -> f64 {
        match self.preference() {
            Preference::LeastWaste => -(walk::extras(agent.capacity(), requested) as f64),
            Preference::Largest => agent.capacity().iter().map(|amount| *amount as f64).sum(),
        }
    }
}

/// What is remembered of a proposal until the verdict on it comes. Proposals themselves are given away: a copy of each
/// would cost as much as the decision.
#[derive(Debug, Clone, Copy)]
struct Proposed {
    session: u32,
    /// How many of the agents are this placement's.
    agents: usize,
    /// Why it was no placement.
    lack: Option<Lack>,
}

/// A round that serves one session after the other.
#[derive(Debug)]
pub struct Line<T, C> {
    round: Round,
    turns: T,
    choice: C,
    skip_blocked: bool,
    hold_after_ms: u64,
    /// How many sessions are proposed at a time.
    lot: usize,
    /// What was proposed last. In lots of more than one, the books have its placements already.
    last: Vec<Proposed>,
    /// The agents of the placements among them, one placement after the other.
    agents: Vec<u32>,
    placed: u64,
    blocked: u64,
    ended: bool,
}

impl<T: Turns, C: Choice> Line<T, C> {
    /// Opens a round.
    pub fn new(round: Round, turns: T, choice: C, blocking: &Blocking) -> Self {
        let lot = if turns.can_take_back() && choice.can_take_back() { blocking.lot.max(1) as usize } else { 1 };
        Line {
            round,
            turns,
            choice,
            skip_blocked: blocking.skip_blocked,
            hold_after_ms: (blocking.hold_after_s * 1000.0) as u64,
            lot,
            last: Vec::new(),
            agents: Vec::new(),
            placed: 0,
            blocked: 0,
            ended: false,
        }
    }

    /// What becomes of the next sessions: one, because the next choice depends on the verdict on it, or as many as a lot
    /// and `limit` allow.
    pub fn propose(&mut self, limit: usize) -> Vec<Proposal> {
        self.last.clear();
        self.agents.clear();
        if self.lot > 1 {
            self.turns.mark();
        }
        let most = self.lot.min(limit);
        let mut proposals = Vec::new();
        while !self.ended && proposals.len() < most {
            let Some(row) = self.turns.next_turn() else { break };
            if proposals.is_empty() {
                proposals.reserve_exact(most);
            }
            match self.place(row) {
                Ok(placement) => {
                    if self.lot > 1 {
                        self.book(&placement);
                    }
                    // One by one: they are few, and copying them as a whole is a call out of the sandbox.
                    placement.agents.iter().for_each(|agent| self.agents.push(*agent));
                    self.last.push(Proposed { session: row as u32, agents: placement.agents.len(), lack: None });
                    proposals.push(Proposal::Place(placement));
                }
                Err(lack) => {
                    // Whether it blocks those behind it depends on the verdict.
                    self.last.push(Proposed { session: row as u32, agents: 0, lack: Some(lack) });
                    proposals.push(self.round.pending_session(row).defer(lack, ""));
                    break;
                }
            }
        }
        if proposals.is_empty() {
            self.report();
        }
        proposals
    }

    /// Takes a placement into the books.
    fn book(&mut self, placement: &Placement) {
        self.round.occupy(placement);
        placement.agents.iter().for_each(|agent| self.choice.changed(&self.round, *agent as usize));
        self.choice.placed(&self.round, placement);
        self.turns.placed(self.round.pending_session(placement.session as usize));
    }

    /// Counts what the round did: once, since each call of the host costs as much as a decision.
    fn report(&mut self) {
        for (metric, count) in [("placed_total", &mut self.placed), ("blocked_total", &mut self.blocked)] {
            if *count > 0 {
                host::count(metric, std::mem::take(count));
            }
        }
    }

    /// Takes the host's verdicts on them.
    pub fn settle(&mut self, outcomes: &[Outcome]) {
        let (last, agents) = (std::mem::take(&mut self.last), std::mem::take(&mut self.agents));
        let accepted = |at: usize| matches!(outcomes.get(at), Some(Outcome::Accepted));
        let refused = |(at, proposed): (usize, &Proposed)| proposed.lack.is_none() && !accepted(at);
        let all_stand = self.lot > 1 && !last.iter().enumerate().any(refused);
        if self.lot > 1 && !all_stand {
            placements(&last, &agents).for_each(|(_, placement)| self.round.vacate(&placement));
            self.turns.take_back();
            self.choice.taken_back();
        }
        if !all_stand {
            placements(&last, &agents).filter(|(at, _)| accepted(*at)).for_each(|(_, placement)| self.book(&placement));
        }
        for (_, proposed) in last.iter().enumerate().filter(|(at, _)| accepted(*at)) {
            let Some(lack) = proposed.lack else {
                self.placed += 1;
                continue;
            };
            self.blocked += 1;
            let session = self.round.pending_session(proposed.session as usize);
            self.ended = lack != Lack::HeldBack
                && (!self.skip_blocked
                    || (session.waiting_ms() >= self.hold_after_ms && could_ever_be_placed(&self.round, session)));
        }
        // What was refused fails a predicate: nothing should wait for it. The lists are kept for what they have room for.
        (self.last, self.agents) = (last, agents);
    }

    /// The agents, best first, and what keeps a session off them.
    pub fn explain(&self, session: usize, limit: usize) -> Explanation {
        let survey = self.round.pending_session(session).survey(|agent, requested| self.choice.score(agent, requested));
        survey.explain(limit)
    }

    /// Where a session goes, or what is lacking. Leaves the books as they were.
    fn place(&mut self, row: usize) -> Result<Placement, Lack> {
        self.choice.turn(&self.round, row);
        let session = self.round.pending_session(row);
        match session.mode() {
            ClusterMode::SingleNode => {
                let mut kernels = session.kernels();
                let Some(main) = kernels.next() else { return Ok(session.across(Vec::new())) };
                if kernels.any(|kernel| kernel.architecture() != main.architecture()) {
                    return Err(Lack::NoCompatibleAgent);
                }
                let (architecture, pinned) = (main.architecture(), main.agent());
                let agent = choose(&self.round, &mut self.choice, architecture, session.requested(), pinned, true)?;
                Ok(session.on(agent))
            }
            ClusterMode::MultiNode => self.place_across(row),
        }
    }

    /// As [`Line::place`], for a session whose kernels may go to different agents. Apart, since it is rare and long.
    #[inline(never)]
    fn place_across(&mut self, row: usize) -> Result<Placement, Lack> {
        let session = self.round.pending_session(row);
        // The kernels share what is left, so each is booked before the next one is placed; all of it is undone
        // afterwards, because only the host's verdict makes it true.
        let rows = session.kernel_rows();
        let mut agents = Vec::with_capacity(rows.len());
        let mut lack = None;
        for row in rows.clone() {
            let kernel = self.round.kernel(row);
            let (architecture, pinned) = (kernel.architecture(), kernel.agent());
            match choose(&self.round, &mut self.choice, architecture, kernel.requested(), pinned, false) {
                Ok(agent) => {
                    self.round.occupy_kernel(row, agent);
                    self.choice.changed(&self.round, agent);
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
            self.choice.changed(&self.round, *agent);
        }
        match lack {
            Some(lack) => Err(lack),
            None => Ok(self.round.pending_session(row).across(agents)),
        }
    }
}

/// The placements among proposals, with their positions.
fn placements(last: &[Proposed], agents: &[u32]) -> impl Iterator<Item = (usize, Placement)> {
    let mut rest = agents;
    last.iter().enumerate().filter(|(_, proposed)| proposed.lack.is_none()).map(move |(at, proposed)| {
        let (own, others) = rest.split_at(proposed.agents);
        rest = others;
        (at, Placement { session: proposed.session, agents: own.to_vec() })
    })
}

/// The agent for one request.
fn choose(
    round: &Round,
    choice: &mut impl Choice,
    architecture: u32,
    requested: &[u64],
    pinned: Option<usize>,
    lasting: bool,
) -> Result<usize, Lack> {
    match pinned {
        // A pin comes first: it may point to an agent that takes no other sessions.
        Some(pinned) if round.agent(pinned).fits(requested) => Ok(pinned),
        Some(_) => Err(Lack::ExceedsCapacity),
        None => choice.agent_for(round, architecture, requested, lasting),
    }
}

/// Whether an empty cluster would have room for it.
fn could_ever_be_placed(round: &Round, session: Session<'_>) -> bool {
    let possible = |architecture: u32, requested: &[u64], pinned: Option<usize>| match pinned {
        Some(pinned) => round.agent(pinned).could_ever_fit(requested),
        None => round.agents().any(|agent| agent.is_compatible(architecture) && agent.could_ever_fit(requested)),
    };
    match session.mode() {
        ClusterMode::SingleNode => {
            session.kernels().next().is_none_or(|main| possible(main.architecture(), session.requested(), main.agent()))
        }
        ClusterMode::MultiNode => {
            session.kernels().all(|kernel| possible(kernel.architecture(), kernel.requested(), kernel.agent()))
        }
    }
}

/// Exports a policy whose rounds are a [`Line`](crate::placing::Line): a tuple struct around it, and a function that opens
/// it with a configuration and a round.
#[macro_export]
macro_rules! serve_in_line {
    ($policy:ty, $open:expr) => {
        impl $crate::scheduler::Scheduler for $policy {
            fn open(config: Self::Config, round: $crate::scheduler::Round) -> Result<Self, String> {
                $open(config, round)
            }

            fn propose(&mut self, limit: usize) -> Vec<$crate::scheduler::Proposal> {
                self.0.propose(limit)
            }

            fn settle(&mut self, outcomes: &[$crate::scheduler::Outcome]) {
                self.0.settle(outcomes);
            }

            fn explain(&self, session: usize, limit: usize) -> $crate::scheduler::Explanation {
                self.0.explain(session, limit)
            }
        }

        $crate::export_scheduler!($policy);
    };
}
