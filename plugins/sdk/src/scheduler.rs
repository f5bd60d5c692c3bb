//! Schedulers: [`Scheduler`], and [`Round`] to see a snapshot through.

use std::cell::RefCell;
use std::ops::Range;

use crate::bindings::scheduling::exports::quarterdeck::policy::scheduling as contract;
use crate::explain::Survey;
use crate::{Component, Policy};

pub use crate::bindings::base::quarterdeck::policy::types::{Column, ColumnData, SessionKind, Slot, SlotKind};
pub use contract::{
    Accounts, Agents, Candidate, ClusterMode, Deferral, Explanation, Kernels, Lack, Outcome, Placement, Proposal,
    Refusal, Sessions, Snapshot,
};

/// A scheduling policy; the implementing type is the state of one round.
pub trait Scheduler: Policy {
    /// Starts a round.
    fn open(config: Self::Config, round: Round) -> Result<Self, String>;

    /// At most `limit` further proposals; none ends the round. A policy whose next choice depends on the verdict on the
    /// last one returns one at a time.
    fn propose(&mut self, limit: usize) -> Vec<Proposal>;

    /// The host's verdict on the last proposals, in order.
    fn settle(&mut self, outcomes: &[Outcome]);

    /// Why a session is pending, on demand: the agents, best first, and what keeps it off them. [`Session::survey`] makes
    /// it from the very walk that places.
    fn explain(&self, session: usize, limit: usize) -> Explanation;
}

/// A snapshot with comfortable access, and books that follow what the host accepts.
#[derive(Debug, Clone)]
pub struct Round {
    /// The snapshot as it was received, except that [`Round::occupy`] changes `agents.occupied`.
    pub snapshot: Snapshot,
}

impl Round {
    /// Wraps a snapshot.
    pub fn new(snapshot: Snapshot) -> Self {
        Round { snapshot }
    }

    /// Number of slots: the length of every vector of amounts.
    pub fn slots(&self) -> usize {
        self.snapshot.slots.len()
    }

    /// The pending sessions, oldest first.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = Session<'_>> + Clone {
        (0..self.snapshot.pending.count as usize).map(|index| self.pending_session(index))
    }

    /// A pending session by its row.
    pub fn pending_session(&self, index: usize) -> Session<'_> {
        Session { round: self, index }
    }

    /// All agents, by id.
    pub fn agents(&self) -> impl ExactSizeIterator<Item = Agent<'_>> + Clone {
        (0..self.snapshot.agents.count as usize).map(|index| self.agent(index))
    }

    /// An agent by its row.
    pub fn agent(&self, index: usize) -> Agent<'_> {
        Agent { round: self, index }
    }

    /// A kernel by its row.
    pub fn kernel(&self, index: usize) -> Kernel<'_> {
        Kernel { round: self, index }
    }

    /// Takes an accepted placement into the books: the agents' free amounts shrink.
    pub fn occupy(&mut self, placement: &Placement) {
        let kernels = self.pending_session(placement.session as usize).kernel_rows();
        for (kernel, agent) in kernels.zip(&placement.agents) {
            self.occupy_kernel(kernel, *agent as usize);
        }
    }

    /// Takes a placement out of the books again, after the host refused it.
    pub fn vacate(&mut self, placement: &Placement) {
        let kernels = self.pending_session(placement.session as usize).kernel_rows();
        for (kernel, agent) in kernels.zip(&placement.agents) {
            self.release_kernel(kernel, *agent as usize);
        }
    }

    /// Books the request of one kernel on an agent.
    pub fn occupy_kernel(&mut self, kernel: usize, agent: usize) {
        let slots = self.slots();
        let requested = &self.snapshot.kernels.requested[kernel * slots..][..slots];
        let occupied = &mut self.snapshot.agents.occupied[agent * slots..][..slots];
        for (occupied, requested) in occupied.iter_mut().zip(requested) {
            *occupied = occupied.saturating_add(*requested);
        }
    }

    /// Takes the request of one kernel off an agent again, after a plan came to nothing.
    pub fn release_kernel(&mut self, kernel: usize, agent: usize) {
        let slots = self.slots();
        let requested = &self.snapshot.kernels.requested[kernel * slots..][..slots];
        let occupied = &mut self.snapshot.agents.occupied[agent * slots..][..slots];
        for (occupied, requested) in occupied.iter_mut().zip(requested) {
            *occupied = occupied.saturating_sub(*requested);
        }
    }

    /// The indices of integers in an optional column of `pending`.
    pub fn pending_integers(&self, name: &str) -> Option<&[u64]> {
        self.snapshot.pending.more.iter().find(|column| column.name == name).and_then(|column| match &column.data {
            ColumnData::Integers(values) => Some(values.as_slice()),
            _ => None,
        })
    }
}

/// A pending session.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    pub(crate) round: &'a Round,
    /// Its row.
    pub index: usize,
}

impl<'a> Session<'a> {
    /// Row of its owner in `snapshot.owners`.
    pub fn owner(&self) -> usize {
        self.round.snapshot.pending.owner[self.index] as usize
    }

    /// What it is for.
    pub fn kind(&self) -> SessionKind {
        self.round.snapshot.pending.kind[self.index]
    }

    /// Whether all its kernels go to one agent.
    pub fn mode(&self) -> ClusterMode {
        self.round.snapshot.pending.mode[self.index]
    }

    /// Larger is more important.
    pub fn priority(&self) -> i32 {
        self.round.snapshot.pending.priority[self.index]
    }

    /// How often scheduling it has failed.
    pub fn retries(&self) -> u32 {
        self.round.snapshot.pending.retries[self.index]
    }

    /// Milliseconds since it was enqueued.
    pub fn waiting_ms(&self) -> u64 {
        self.round.snapshot.pending.waiting_ms[self.index]
    }

    /// What was asked for, summed over its kernels.
    pub fn requested(&self) -> &'a [u64] {
        let slots = self.round.slots();
        &self.round.snapshot.pending.requested[self.index * slots..][..slots]
    }

    /// Rows of its kernels, the main one first.
    pub fn kernel_rows(&self) -> Range<usize> {
        let offsets = &self.round.snapshot.pending.first_kernel;
        offsets[self.index] as usize..offsets[self.index + 1] as usize
    }

    /// Its kernels, the main one first.
    pub fn kernels(&self) -> impl ExactSizeIterator<Item = Kernel<'a>> + Clone {
        let round = self.round;
        self.kernel_rows().map(move |index| Kernel { round, index })
    }

    /// The agents as places for all of it, by a score; see [`Survey`].
    pub fn survey<F: Fn(Agent<'a>, &[u64]) -> f64>(&self, score: F) -> Survey<'a, F> {
        Survey::of(self.round, *self, score)
    }

    /// All its kernels on one agent.
    pub fn on(&self, agent: usize) -> Placement {
        Placement { session: self.index as u32, agents: vec![agent as u32; self.kernel_rows().len()] }
    }

    /// Its kernels on these agents.
    pub fn across(&self, agents: Vec<usize>) -> Placement {
        Placement { session: self.index as u32, agents: agents.into_iter().map(|agent| agent as u32).collect() }
    }

    /// Not now.
    pub fn defer(&self, lack: Lack, detail: impl Into<String>) -> Proposal {
        Proposal::Defer(Deferral { session: self.index as u32, lack, detail: detail.into() })
    }
}

/// A kernel.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    round: &'a Round,
    /// Its row.
    pub index: usize,
}

impl<'a> Kernel<'a> {
    /// Index into `snapshot.architectures`.
    pub fn architecture(&self) -> u32 {
        self.round.snapshot.kernels.architecture[self.index]
    }

    /// What was asked for.
    pub fn requested(&self) -> &'a [u64] {
        let slots = self.round.slots();
        &self.round.snapshot.kernels.requested[self.index * slots..][..slots]
    }

    /// The agents as places for it alone, by a score; see [`Survey`].
    pub fn survey<F: Fn(Agent<'a>, &[u64]) -> f64>(&self, score: F) -> Survey<'a, F> {
        Survey::of_kernel(self.round, *self, score)
    }

    /// Row of the agent that it is pinned to or runs on.
    pub fn agent(&self) -> Option<usize> {
        self.round.snapshot.kernels.agent[self.index].map(|agent| agent as usize)
    }
}

/// An agent.
#[derive(Debug, Clone, Copy)]
pub struct Agent<'a> {
    round: &'a Round,
    /// Its row.
    pub index: usize,
}

impl<'a> Agent<'a> {
    /// Index into `snapshot.architectures`.
    pub fn architecture(&self) -> u32 {
        self.round.snapshot.agents.architecture[self.index]
    }

    /// Whether it takes sessions.
    pub fn schedulable(&self) -> bool {
        self.round.snapshot.agents.schedulable[self.index]
    }

    /// Whether it takes kernels of an architecture.
    pub fn is_compatible(&self, architecture: u32) -> bool {
        self.schedulable() && self.architecture() == architecture
    }

    /// What it has in total.
    pub fn capacity(&self) -> &'a [u64] {
        let slots = self.round.slots();
        &self.round.snapshot.agents.capacity[self.index * slots..][..slots]
    }

    /// What is taken, with what was accepted in this round.
    pub fn occupied(&self) -> &'a [u64] {
        let slots = self.round.slots();
        &self.round.snapshot.agents.occupied[self.index * slots..][..slots]
    }

    /// What is left; none for a slot that is over-occupied.
    pub fn free(&self) -> impl ExactSizeIterator<Item = Option<u64>> + Clone + 'a {
        self.capacity().iter().zip(self.occupied()).map(|(capacity, occupied)| capacity.checked_sub(*occupied))
    }

    /// Whether a request fits into what is left. An over-occupied slot has no room even for nothing.
    pub fn fits(&self, requested: &[u64]) -> bool {
        self.free().zip(requested).all(|(free, requested)| free.is_some_and(|free| free >= *requested))
    }

    /// Whether a request would fit if the agent were empty.
    pub fn could_ever_fit(&self, requested: &[u64]) -> bool {
        self.capacity().iter().zip(requested).all(|(capacity, requested)| capacity >= requested)
    }

    /// Number of kernels on it at the snapshot.
    pub fn containers(&self) -> u32 {
        self.round.snapshot.agents.containers[self.index]
    }
}

#[doc(hidden)]
pub struct Resource<P>(RefCell<P>);

#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub use contract::Round as Opened;

/// What the contract's `open` does.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub fn open<P: Scheduler>(snapshot: Snapshot) -> Result<Opened, String> {
    <Resource<P> as contract::GuestRound>::open(snapshot)
}

impl<P: Scheduler> contract::Guest for Component<P> {
    type Round = Resource<P>;
}

impl<P: Scheduler> contract::GuestRound for Resource<P> {
    fn open(snapshot: Snapshot) -> Result<contract::Round, String> {
        let config = crate::host::config::<P>()?;
        let policy = P::open(config, Round::new(snapshot))?;
        Ok(contract::Round::new(Resource(RefCell::new(policy))))
    }

    fn propose(&self, limit: u32) -> Vec<Proposal> {
        self.0.borrow_mut().propose(limit as usize)
    }

    fn settle(&self, outcomes: Vec<Outcome>) {
        self.0.borrow_mut().settle(&outcomes);
    }

    fn explain(&self, session: u32, limit: u32) -> Explanation {
        self.0.borrow().explain(session as usize, limit as usize)
    }
}

/// Exports a [`Scheduler`] from the component.
#[macro_export]
macro_rules! export_scheduler {
    ($policy:ty) => {
        #[cfg(target_family = "wasm")]
        type __QuarterdeckComponent = $crate::Component<$policy>;
        #[cfg(target_family = "wasm")]
        $crate::bindings::base::export!(__QuarterdeckComponent with_types_in $crate::bindings::base);
        #[cfg(target_family = "wasm")]
        $crate::bindings::scheduling::export!(__QuarterdeckComponent with_types_in $crate::bindings::scheduling);
        // On the machine that it is written on there is nobody to export it to. Whoever compiles its sources into a
        // program, to compare, finds it under this name.
        #[cfg(not(target_family = "wasm"))]
        #[doc(hidden)]
        pub fn __quarterdeck_open(
            snapshot: $crate::scheduler::Snapshot,
        ) -> Result<$crate::scheduler::Opened, String> {
            $crate::scheduler::open::<$policy>(snapshot)
        }
    };
}
