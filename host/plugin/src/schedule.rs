//! Scheduling rounds.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wasmtime::component::ResourceAny;

use crate::bindings::exports::quarterdeck::policy::scheduling as wit;
use crate::journal::{Journal, presentable};
use crate::limits::{Call, Limits};
use crate::plugin::{Plugin, Visit};
use crate::{Failure, Kind};
use wit::{Explanation, Outcome, Proposal, Refusal, Snapshot};

/// Gives the host's verdict on proposals, from its books.
///
/// Every proposal that arrives here names an existing pending session that was not proposed before in the round; a
/// placement has one existing agent per kernel of the session. Everything else (one agent for single-node sessions,
/// pins, architectures, schedulability, capacity, predicates) is for the judge to check, who refuses what breaks a
/// rule of its session as [`Refusal::Malformed`] or more precisely.
pub trait Judge {
    /// One outcome per proposal, in order.
    fn judge(&mut self, proposals: &[Proposal]) -> Vec<Outcome>;
}

impl<F: FnMut(&[Proposal]) -> Vec<Outcome>> Judge for F {
    fn judge(&mut self, proposals: &[Proposal]) -> Vec<Outcome> {
        self(proposals)
    }
}

/// The course of a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RoundTrace {
    /// What was proposed and how it was judged, in order.
    pub proposals: Vec<(Proposal, Outcome)>,
    /// How often `propose` was called.
    pub calls: u32,
    /// Wall time of the round, the host's verdicts included.
    pub duration: Duration,
    /// Wall time of `open`, the instance's making included.
    pub open: Duration,
    /// Where the time of each exchange went. The last `propose`, which ends the round, has an entry too.
    pub exchanges: Vec<ExchangeTimes>,
    /// Fuel that was used, in metered calls.
    pub fuel_used: Option<u64>,
    /// What `host.budget` said.
    pub budget: u64,
    /// The largest linear memory in bytes.
    pub peak_memory: usize,
    /// Log and counters.
    pub journal: Journal,
}

/// Where the time of one `propose`, its verdicts and their `settle` went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeTimes {
    /// In `propose`.
    pub propose: Duration,
    /// In the host's books.
    pub judge: Duration,
    /// In `settle`.
    pub settle: Duration,
}

impl PartialEq for RoundTrace {
    /// Equal decisions at equal cost: time, which no two rounds share, doesn't count.
    fn eq(&self, other: &Self) -> bool {
        let key = |t: &Self| (t.calls, t.fuel_used, t.budget, t.peak_memory);
        key(self) == key(other) && self.proposals == other.proposals && self.journal == other.journal
    }
}

impl Plugin {
    /// Runs a round. On failure none of its accepted proposals may be used: start again with fresh books.
    pub fn schedule(&self, call: &Call, snapshot: &Snapshot, judge: &mut dyn Judge) -> Result<RoundTrace, Failure> {
        let (trace, result) = self.schedule_traced(call, snapshot, judge);
        result.map(|()| trace)
    }

    /// As [`Plugin::schedule`], with the course of a round that failed, too: what it did until then.
    pub fn schedule_traced(
        &self,
        call: &Call,
        snapshot: &Snapshot,
        judge: &mut dyn Judge,
    ) -> (RoundTrace, Result<(), Failure>) {
        let mut out = RoundTrace::default();
        if let Err(failure) = self.must_be(Kind::Scheduler) {
            return (out, Err(failure));
        }
        let now_ms = i64::try_from(snapshot.now_ms).unwrap_or(i64::MAX);
        let started = Instant::now();
        let called = self.call_traced(call, wall, now_ms, |visit| {
            out.budget = visit.limits().budget;
            let bounds = Bounds::of(visit.limits());
            let mut guest = Guest::open(visit, snapshot)?;
            out.open = started.elapsed();
            Round::new(snapshot, bounds).play(&mut guest, judge, &mut out)
        });
        match called {
            Ok((result, trace)) => {
                out.duration = trace.duration;
                out.fuel_used = trace.fuel_used;
                out.peak_memory = trace.peak_memory;
                out.journal = trace.journal;
                (out, result)
            }
            Err(failure) => (out, Err(failure)),
        }
    }

    /// "Why is it pending": plays the round until the session's turn has come (or the round has ended without), then
    /// asks. Nothing may be committed from it.
    pub fn explain(
        &self,
        call: &Call,
        snapshot: &Snapshot,
        judge: &mut dyn Judge,
        session: u32,
        limit: u32,
    ) -> Result<Explanation, Failure> {
        self.must_be(Kind::Scheduler)?;
        if session >= snapshot.pending.count {
            return Ok(Explanation { summary: "The session is not pending.".to_owned(), candidates: Vec::new() });
        }
        let now_ms = i64::try_from(snapshot.now_ms).unwrap_or(i64::MAX);
        let (explanation, _) = self.call(call, wall, now_ms, |visit| {
            let mut round = Round::new(snapshot, Bounds::of(visit.limits()));
            let mut guest = Guest::open(visit, snapshot)?;
            while let Some(settled) = round.step(&mut guest, judge)? {
                if settled.iter().any(|(proposal, _)| subject(proposal) == session) {
                    break;
                }
            }
            let explanation = guest.explain(session, limit)?;
            checked_explanation(explanation, snapshot, limit, visit.limits())
        })?;
        Ok(explanation)
    }
}

fn wall(limits: &Limits) -> Duration {
    limits.round
}

/// The pending session that a proposal is about.
pub fn subject(proposal: &Proposal) -> u32 {
    match proposal {
        Proposal::Place(placement) => placement.session,
        Proposal::Defer(deferral) => deferral.session,
    }
}

/// Who decides a round that was opened: a component in its sandbox, or code that was compiled with this program, which
/// components are compared with.
pub trait Party {
    /// At most `limit` further proposals.
    ///
    /// # Errors
    /// What ends the round.
    fn propose(&mut self, limit: u32) -> Result<Vec<Proposal>, Failure>;

    /// Takes the verdicts on the last proposals.
    ///
    /// # Errors
    /// What ends the round.
    fn settle(&mut self, outcomes: &[Outcome]) -> Result<(), Failure>;

    /// The host took that long, which doesn't count against the party's time.
    fn lend(&mut self, spent: Duration) {
        let _ = spent;
    }
}

/// Plays a round with whoever opened it, as [`Plugin::schedule`] does with a component: with the same checks of what is
/// proposed, and the same trace, as far as it isn't about a sandbox.
///
/// # Errors
/// What ended the round.
pub fn play(
    party: &mut impl Party,
    snapshot: &Snapshot,
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Result<RoundTrace, Failure> {
    let mut out = RoundTrace::default();
    Round::new(snapshot, Bounds::of(limits)).play(party, judge, &mut out)?;
    Ok(out)
}

/// What an answer may amount to.
#[derive(Clone, Copy)]
struct Bounds {
    proposals: u32,
    text_bytes: usize,
}

impl Bounds {
    fn of(limits: &Limits) -> Self {
        Bounds { proposals: limits.proposals_per_call, text_bytes: limits.text_bytes }
    }
}

/// The round as its component sees it.
struct Guest<'v> {
    visit: &'v mut Visit,
    guest: wit::Guest,
    handle: ResourceAny,
}

impl<'v> Guest<'v> {
    fn open(visit: &'v mut Visit, snapshot: &Snapshot) -> Result<Self, Failure> {
        let guest = visit.scheduling()?;
        let handle = visit
            .run("open", |store| guest.round().call_open(store, snapshot))?
            .map_err(|message| Failure::Guest { export: "open", message: presentable(&message, 1000) })?;
        Ok(Guest { visit, guest, handle })
    }

    fn explain(&mut self, session: u32, limit: u32) -> Result<Explanation, Failure> {
        let (round, handle) = (self.guest.round(), self.handle);
        self.visit.run("explain", |store| round.call_explain(store, handle, session, limit))
    }
}

impl Party for Guest<'_> {
    fn propose(&mut self, limit: u32) -> Result<Vec<Proposal>, Failure> {
        let (round, handle) = (self.guest.round(), self.handle);
        self.visit.run("propose", |store| round.call_propose(store, handle, limit))
    }

    fn settle(&mut self, outcomes: &[Outcome]) -> Result<(), Failure> {
        let (round, handle) = (self.guest.round(), self.handle);
        self.visit.run("settle", |store| round.call_settle(store, handle, outcomes))
    }

    fn lend(&mut self, spent: Duration) {
        self.visit.lend(spent);
    }
}

/// The host's side of the exchange.
struct Round<'s> {
    snapshot: &'s Snapshot,
    bounds: Bounds,
    proposed: Vec<bool>,
    calls: u32,
    /// Times of the exchange under way or just ended.
    last: ExchangeTimes,
}

impl<'s> Round<'s> {
    fn new(snapshot: &'s Snapshot, bounds: Bounds) -> Self {
        let proposed = vec![false; snapshot.pending.count as usize];
        Round { snapshot, bounds, proposed, calls: 0, last: ExchangeTimes::default() }
    }

    /// All exchanges until the party proposes nothing.
    fn play(&mut self, party: &mut impl Party, judge: &mut dyn Judge, out: &mut RoundTrace) -> Result<(), Failure> {
        loop {
            let settled = self.step(party, judge);
            out.exchanges.push(self.last);
            out.calls = self.calls;
            match settled? {
                Some(settled) => out.proposals.extend(settled),
                None => return Ok(()),
            }
        }
    }

    /// One exchange; none when the round has ended.
    fn step(
        &mut self,
        party: &mut impl Party,
        judge: &mut dyn Judge,
    ) -> Result<Option<Vec<(Proposal, Outcome)>>, Failure> {
        let Bounds { proposals: limit, text_bytes } = self.bounds;
        self.calls += 1;
        self.last = ExchangeTimes::default();
        let started = Instant::now();
        let proposals = party.propose(limit);
        self.last.propose = started.elapsed();
        let proposals = proposals?;
        if proposals.is_empty() {
            return Ok(None);
        }
        check_proposals(&proposals, self.snapshot, &mut self.proposed, limit, text_bytes)
            .map_err(|reason| Failure::Output { export: "propose", reason })?;
        let started = Instant::now();
        let mut outcomes = judge.judge(&proposals);
        let judged = Instant::now();
        self.last.judge = judged - started;
        party.lend(self.last.judge);
        debug_assert_eq!(outcomes.len(), proposals.len(), "the judge owes a verdict on each proposal");
        outcomes.resize(proposals.len(), Outcome::Refused(Refusal::Stale));
        let settled = party.settle(&outcomes);
        self.last.settle = judged.elapsed();
        settled?;
        Ok(Some(proposals.into_iter().zip(outcomes).collect()))
    }
}

fn check_proposals(
    proposals: &[Proposal],
    snapshot: &Snapshot,
    proposed: &mut [bool],
    limit: u32,
    text_bytes: usize,
) -> Result<(), String> {
    if proposals.len() > limit as usize {
        return Err(format!("{} proposals where at most {limit} were asked for", proposals.len()));
    }
    for (position, proposal) in proposals.iter().enumerate() {
        let session = subject(proposal);
        match proposed.get_mut(session as usize) {
            None => {
                return Err(format!(
                    "proposal {position} is about pending session {session} of {}",
                    snapshot.pending.count
                ));
            }
            Some(true) => return Err(format!("pending session {session} was proposed twice in the round")),
            Some(proposed) => *proposed = true,
        }
        match proposal {
            Proposal::Place(placement) => {
                let kernels = kernels_of(snapshot, session);
                if placement.agents.len() != kernels {
                    return Err(format!(
                        "pending session {session} has {kernels} kernels and was given {} agents",
                        placement.agents.len()
                    ));
                }
                if let Some(agent) = placement.agents.iter().find(|agent| **agent >= snapshot.agents.count) {
                    return Err(format!(
                        "pending session {session} was placed on agent {agent} of {}",
                        snapshot.agents.count
                    ));
                }
            }
            Proposal::Defer(deferral) if deferral.detail.len() > text_bytes => {
                return Err(format!(
                    "the detail on pending session {session} has {} bytes; {text_bytes} are allowed",
                    deferral.detail.len()
                ));
            }
            Proposal::Defer(_) => {}
        }
    }
    Ok(())
}

fn kernels_of(snapshot: &Snapshot, session: u32) -> usize {
    let offsets = &snapshot.pending.first_kernel;
    let at = |index: usize| offsets.get(index).copied().unwrap_or_default();
    at(session as usize + 1).saturating_sub(at(session as usize)) as usize
}

fn checked_explanation(
    mut explanation: Explanation,
    snapshot: &Snapshot,
    limit: u32,
    limits: &Limits,
) -> Result<Explanation, Failure> {
    let wrong = |reason: String| Failure::Output { export: "explain", reason };
    if explanation.candidates.len() > limit as usize {
        return Err(wrong(format!("{} candidates where at most {limit} were asked for", explanation.candidates.len())));
    }
    if explanation.summary.len() > limits.text_bytes {
        return Err(wrong(format!("the summary has {} bytes", explanation.summary.len())));
    }
    for candidate in &mut explanation.candidates {
        if candidate.agent >= snapshot.agents.count {
            return Err(wrong(format!("candidate agent {} of {}", candidate.agent, snapshot.agents.count)));
        }
        if candidate.why.len() > limits.text_bytes {
            return Err(wrong(format!("the reason for agent {} has {} bytes", candidate.agent, candidate.why.len())));
        }
        if !candidate.score.is_finite() {
            candidate.score = 0.0;
        }
    }
    Ok(explanation)
}
