//! One walk over the agents that places and explains: [`Survey`].
//!
//! A policy says how good an agent is for a request, and gets from it both the placement and the explanation of it, so
//! the two never disagree:
//!
//! ```ignore
//! let survey = session.survey(|agent, requested| -left_after(agent, requested));
//! let proposal = match survey.place() {
//!     Ok(placement) => Proposal::Place(placement),
//!     Err(lack) => session.defer(lack, ""),
//! };
//! // And in `explain`, with the same score:
//! survey.explain(limit)
//! ```

use crate::scheduler::{Agent, Candidate, ClusterMode, Explanation, Kernel, Lack, Placement, Round, Session};

/// The agents as places for a session (or one of its kernels), by a score: larger is better, and the first of equals
/// wins. The score is asked for agents that have room, and for all of them in an explanation.
#[derive(Debug, Clone)]
pub struct Survey<'a, F> {
    round: &'a Round,
    session: Option<Session<'a>>,
    /// What needs an agent: one request for a single-node session or a kernel, else one per kernel.
    requests: Vec<Request<'a>>,
    score: F,
}

#[derive(Debug, Clone, Copy)]
struct Request<'a> {
    /// None when kernels of different architectures would have to share an agent.
    architecture: Option<u32>,
    amounts: &'a [u64],
    pinned: Option<usize>,
}

impl<'a> Request<'a> {
    fn of_kernel(kernel: Kernel<'a>) -> Self {
        Request { architecture: Some(kernel.architecture()), amounts: kernel.requested(), pinned: kernel.agent() }
    }
}

impl<'a, F: Fn(Agent<'a>, &[u64]) -> f64> Survey<'a, F> {
    pub(crate) fn of(round: &'a Round, session: Session<'a>, score: F) -> Self {
        let requests = match session.mode() {
            ClusterMode::SingleNode => {
                let mut kernels = session.kernels();
                let main = kernels.next();
                let architecture = main.map(|kernel| kernel.architecture()).unwrap_or_default();
                vec![Request {
                    architecture: kernels.all(|kernel| kernel.architecture() == architecture).then_some(architecture),
                    amounts: session.requested(),
                    pinned: main.and_then(|kernel| kernel.agent()),
                }]
            }
            ClusterMode::MultiNode => session.kernels().map(Request::of_kernel).collect(),
        };
        Survey { round, session: Some(session), requests, score }
    }

    pub(crate) fn of_kernel(round: &'a Round, kernel: Kernel<'a>, score: F) -> Self {
        Survey { round, session: None, requests: vec![Request::of_kernel(kernel)], score }
    }

    /// The best agent for what needs one first.
    ///
    /// # Errors
    /// What is lacking.
    pub fn best(&self) -> Result<usize, Lack> {
        self.requests.first().map_or(Err(Lack::NoRoom), |request| self.choose(request, &[]))
    }

    /// Where the session goes: its kernels share what is left.
    ///
    /// # Errors
    /// What is lacking for the first kernel that finds no place.
    pub fn place(&self) -> Result<Placement, Lack> {
        let session = self.session.ok_or(Lack::NoRoom)?;
        if session.mode() == ClusterMode::SingleNode {
            return Ok(session.on(self.best()?));
        }
        let mut taken: Vec<(usize, &[u64])> = Vec::with_capacity(self.requests.len());
        for request in &self.requests {
            let agent = self.choose(request, &taken)?;
            taken.push((agent, request.amounts));
        }
        Ok(session.across(taken.into_iter().map(|(agent, _)| agent).collect()))
    }

    fn choose(&self, request: &Request<'a>, taken: &[(usize, &[u64])]) -> Result<usize, Lack> {
        if let Some(pinned) = request.pinned {
            // A pin comes first: it may point to an agent that takes no other sessions.
            let fits = fits(self.round.agent(pinned), request.amounts, taken);
            return if fits { Ok(pinned) } else { Err(Lack::ExceedsCapacity) };
        }
        let mut compatible = false;
        let mut best: Option<(f64, usize)> = None;
        for agent in self.round.agents() {
            if !request.architecture.is_some_and(|architecture| agent.is_compatible(architecture)) {
                continue;
            }
            compatible = true;
            if !fits(agent, request.amounts, taken) {
                continue;
            }
            let score = (self.score)(agent, request.amounts);
            if best.is_none_or(|(highest, _)| score.total_cmp(&highest).is_gt()) {
                best = Some((score, agent.index));
            }
        }
        match best {
            Some((_, agent)) => Ok(agent),
            None if compatible => Err(Lack::NoRoom),
            None => Err(Lack::NoCompatibleAgent),
        }
    }

    /// The agents, best first, and what keeps the session off them.
    pub fn explain(&self, limit: usize) -> Explanation {
        self.explain_with(limit, |_| String::new())
    }

    /// As [`Survey::explain`], with a word of the policy on each agent that has room.
    pub fn explain_with(&self, limit: usize, because: impl Fn(Agent<'a>) -> String) -> Explanation {
        let mut candidates: Vec<Candidate> = self.round.agents().map(|agent| self.candidate(agent, &because)).collect();
        candidates.sort_by(|a, b| b.feasible.cmp(&a.feasible).then(b.score.total_cmp(&a.score)));
        let feasible = candidates.iter().filter(|candidate| candidate.feasible).count();
        candidates.truncate(limit);
        let scope = if self.requests.len() > 1 { "a kernel of it" } else { "all of it" };
        let all = self.round.agents().len();
        let summary = match feasible {
            0 => format!("None of {all} agents has room for {scope}."),
            1 => format!("1 of {all} agents has room for {scope}."),
            _ => format!("{feasible} of {all} agents have room for {scope}."),
        };
        Explanation { summary, candidates }
    }

    fn candidate(&self, agent: Agent<'a>, because: &impl Fn(Agent<'a>) -> String) -> Candidate {
        let obstacles: Vec<Option<String>> =
            self.requests.iter().map(|request| self.obstacle(agent, request)).collect();
        let fitting = obstacles.iter().filter(|obstacle| obstacle.is_none()).count();
        let mut why = match obstacles.iter().flatten().next() {
            Some(obstacle) if fitting == 0 => obstacle.clone(),
            Some(_) => format!("has room for {fitting} of its {} kernels, each by itself", obstacles.len()),
            None => String::new(),
        };
        if fitting > 0 {
            let word = because(agent);
            let between = if why.is_empty() || word.is_empty() { "" } else { "; " };
            why = format!("{why}{between}{word}");
        }
        let amounts = self.requests.first().map_or(&[][..], |request| request.amounts);
        Candidate { agent: agent.index as u32, feasible: fitting > 0, score: (self.score)(agent, amounts), why }
    }

    fn obstacle(&self, agent: Agent<'a>, request: &Request<'a>) -> Option<String> {
        match (request.pinned, request.architecture) {
            (Some(pinned), _) if pinned != agent.index => Some("is not the agent that was asked for".to_owned()),
            (Some(_), _) => shortage(self.round, agent, request.amounts),
            (None, None) => Some("can't run kernels of different architectures".to_owned()),
            (None, Some(architecture)) => obstacle(self.round, agent, architecture, request.amounts),
        }
    }
}

/// What keeps a request off an agent, for people; none when it has room.
pub fn obstacle(round: &Round, agent: Agent<'_>, architecture: u32, requested: &[u64]) -> Option<String> {
    if !agent.schedulable() {
        return Some("takes no sessions".to_owned());
    }
    if agent.architecture() != architecture {
        return Some("has another architecture".to_owned());
    }
    shortage(round, agent, requested)
}

/// Of which slots an agent has not enough left.
fn shortage(round: &Round, agent: Agent<'_>, requested: &[u64]) -> Option<String> {
    let lacking: Vec<&str> = agent
        .free()
        .zip(requested)
        .zip(&round.snapshot.slots)
        .filter(|((free, requested), _)| free.is_none_or(|free| free < **requested))
        .map(|(_, slot)| slot.name.as_str())
        .collect();
    (!lacking.is_empty()).then(|| format!("has not enough left of {}", lacking.join(", ")))
}

/// Whether a request fits besides what was tentatively taken.
fn fits(agent: Agent<'_>, requested: &[u64], taken: &[(usize, &[u64])]) -> bool {
    agent.free().zip(requested).enumerate().all(|(slot, (free, requested))| {
        let taken = taken.iter().filter(|(other, _)| *other == agent.index).map(|(_, amounts)| amounts[slot]);
        let wanted = taken.fold(*requested, u64::saturating_add);
        free.is_some_and(|free| free >= wanted)
    })
}
