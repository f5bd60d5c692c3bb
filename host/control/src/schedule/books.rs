//! The host's books of a round: every proposal of a policy is judged here.
//!
//! The books start as the snapshot and take in what was accepted. Predicates are evaluated when a
//! session is proposed or deferred, never before, and always all of them: what failed and what
//! passed is told to the user.

use quarterdeck_model::predicates;
use quarterdeck_model::slots::{Quantity, SlotKind};
use quarterdeck_model::{ClusterMode, SessionResult, SessionType};
use quarterdeck_plugin::Judge;
use quarterdeck_plugin::scheduling::{Deferral, Lack, Outcome, Placement, Proposal, Refusal};

use super::frame::{Account, Frame, Place, Session};

/// What was decided about a session.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// Row of [`Frame::pending`].
    pub session: usize,
    /// The predicates at that time.
    pub checks: Checks,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of a session in a round.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It gets these agents (rows of [`Frame::agents`]), one per kernel.
    Placed(Vec<u32>),
    /// A predicate failed.
    Ineligible,
    /// No place for it.
    NoRoom {
        /// For the user.
        msg: String,
        /// The kernel that found none, in a multi-node session.
        kernel: Option<usize>,
    },
    /// The policy proposed what can't be.
    Refused {
        /// What was answered.
        refusal: Refusal,
        /// For the user.
        why: String,
    },
}

/// The predicates of a session, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Checks {
    /// Names of those that hold.
    pub passed: Vec<&'static str>,
    /// Name, message and the answer to the policy of those that don't.
    pub failed: Vec<(&'static str, String, Refusal)>,
}

/// A chunk of proposals and what was answered.
pub(crate) type Exchange = (Vec<Proposal>, Vec<Outcome>);

/// The books of one round.
#[derive(Debug)]
pub(crate) struct Books<'f> {
    frame: &'f Frame,
    /// Agents × slots.
    agents: Vec<Vec<u64>>,
    owners: Vec<Vec<u64>>,
    projects: Vec<Vec<u64>>,
    domains: Vec<Vec<u64>>,
    /// Sessions and private sessions of the owners.
    concurrent: Vec<(u64, u64)>,
    decided: Vec<bool>,
    decisions: Vec<Decision>,
    steps: Vec<Exchange>,
}

impl<'f> Books<'f> {
    /// The books as the snapshot is.
    pub(crate) fn new(frame: &'f Frame) -> Self {
        let held = |accounts: &[Account]| accounts.iter().map(|a| a.occupied.clone()).collect();
        Self {
            frame,
            agents: frame.agents.iter().map(|a| a.occupied.clone()).collect(),
            owners: held(&frame.owners),
            projects: held(&frame.projects),
            domains: held(&frame.domains),
            concurrent: frame.owners.iter().map(|o| o.sessions).collect(),
            decided: vec![false; frame.pending.len()],
            decisions: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// What was decided, in order, and what was said to the policy.
    pub(crate) fn close(self) -> (Vec<Decision>, Vec<Exchange>) {
        (self.decisions, self.steps)
    }

    /// Occupied amounts: agents × slots. For tests that compare them with a recomputation.
    #[cfg(test)]
    pub(crate) fn occupied(&self) -> &[Vec<u64>] {
        &self.agents
    }

    /// What owners, projects and domains hold, and the owners' sessions. For tests.
    #[cfg(test)]
    #[allow(clippy::type_complexity, reason = "for one test")]
    pub(crate) fn accounts(&self) -> ([&[Vec<u64>]; 3], &[(u64, u64)]) {
        ([&self.owners, &self.projects, &self.domains], &self.concurrent)
    }

    /// All predicates of a pending session on the books as they are now.
    pub(crate) fn predicates(&self, session: usize) -> Checks {
        let frame = self.frame;
        let s = &frame.pending[session];
        let mut checks = Checks::default();
        let mut note = |name: &'static str, failure: Option<String>, refusal| match failure {
            None => checks.passed.push(name),
            Some(msg) => checks.failed.push((name, msg, refusal)),
        };
        let too_early = s.row.session_type == SessionType::Batch && s.row.starts_at.is_some_and(|at| at > frame.now);
        note(predicates::RESERVED_TIME, too_early.then(predicates::before_start_time), Refusal::ReservedTime);

        let waiting: Vec<(String, String)> = s
            .row
            .dependencies
            .iter()
            .filter(|d| d.result != SessionResult::Success)
            .map(|d| (d.name.clone(), d.id.to_string()))
            .collect();
        let failure = (!waiting.is_empty()).then(|| predicates::waiting_dependencies(&waiting));
        note(predicates::DEPENDENCIES, failure, Refusal::Dependency);

        let (counted, limits) = (self.concurrent[s.owner], frame.owners[s.owner].session_limit);
        let (count, limit) = if s.row.is_private { (counted.1, limits.1) } else { (counted.0, limits.0) };
        let failure = (count >= limit).then(|| predicates::too_many_sessions(limit));
        note(predicates::CONCURRENCY, failure, Refusal::Concurrency);

        if !s.row.is_private {
            let quota = |account: &Account, held: &[u64], message: fn(&str) -> String| {
                let limit = match &account.limit {
                    Ok(limit) => limit,
                    Err(problem) => return Some(format!("The limit makes no sense: {problem}")),
                };
                let within = held
                    .iter()
                    .zip(s.requested.iter())
                    .zip(limit)
                    .all(|((held, more), limit)| *limit == u64::MAX || held.saturating_add(*more) <= *limit);
                (!within).then(|| message(&account.limit_map.humanized(&frame.types)))
            };
            note(
                predicates::KEYPAIR_RESOURCE_LIMIT,
                quota(&frame.owners[s.owner], &self.owners[s.owner], predicates::keypair_quota_exceeded),
                Refusal::OwnerQuota,
            );
            note(
                predicates::USER_GROUP_RESOURCE_LIMIT,
                quota(&frame.projects[s.project], &self.projects[s.project], predicates::group_quota_exceeded),
                Refusal::ProjectQuota,
            );
            note(
                predicates::DOMAIN_RESOURCE_LIMIT,
                quota(&frame.domains[s.domain], &self.domains[s.domain], predicates::domain_quota_exceeded),
                Refusal::DomainQuota,
            );
        }
        checks
    }

    fn judge_one(&mut self, proposal: &Proposal) -> Outcome {
        let session = match proposal {
            Proposal::Place(p) => p.session,
            Proposal::Defer(d) => d.session,
        } as usize;
        // A session has one turn in a round.
        if self.decided.get(session) != Some(&false) {
            return Outcome::Refused(Refusal::Malformed);
        }
        let checks = self.predicates(session);
        let verdict = if checks.failed.is_empty() {
            match proposal {
                Proposal::Place(placement) => self.place(session, placement),
                Proposal::Defer(deferral) => self.no_room(session, deferral),
            }
        } else {
            Verdict::Ineligible
        };
        let outcome = match &verdict {
            Verdict::Ineligible => Outcome::Refused(checks.failed[0].2),
            Verdict::Refused { refusal, .. } => Outcome::Refused(*refusal),
            // A deferral for want of room is taken in; a placement that ends there was refused for its pin.
            Verdict::NoRoom { .. } if matches!(proposal, Proposal::Place(_)) => Outcome::Refused(Refusal::Pinned),
            Verdict::Placed(_) | Verdict::NoRoom { .. } => Outcome::Accepted,
        };
        self.decided[session] = true;
        self.decisions.push(Decision { session, checks, verdict });
        outcome
    }

    fn place(&mut self, session: usize, placement: &Placement) -> Verdict {
        let frame = self.frame;
        let s = &frame.pending[session];
        if let Some(no_room) = self.impossible_pin(s) {
            return no_room;
        }
        let refused = |refusal, why: String| Verdict::Refused { refusal, why };
        let agents = &placement.agents;
        if agents.len() != s.kernels.len() || agents.iter().any(|a| *a as usize >= frame.agents.len()) {
            return refused(Refusal::Malformed, "The scheduler proposed a malformed placement.".to_owned());
        }
        if s.row.cluster_mode == ClusterMode::SingleNode && agents.iter().any(|a| *a != agents[0]) {
            return refused(Refusal::Malformed, "The scheduler split a single-node session.".to_owned());
        }
        for (kernel, &agent) in s.kernels.iter().zip(agents) {
            let row = &frame.agents[agent as usize];
            match kernel.agent {
                Place::At(pin) if pin != agent => {
                    return refused(
                        Refusal::Pinned,
                        format!("The scheduler ignored the designated agent ({}).", frame.agents[pin as usize].id),
                    );
                }
                Place::Free if !row.schedulable => {
                    return refused(
                        Refusal::Architecture,
                        format!("The scheduler chose an agent that takes no sessions ({}).", row.id),
                    );
                }
                _ => {}
            }
            if kernel.architecture != row.architecture {
                return refused(
                    Refusal::Architecture,
                    format!(
                        "The scheduler chose an agent of another architecture ({}, {}).",
                        row.id, frame.architectures[row.architecture as usize]
                    ),
                );
            }
        }
        // Book kernel by kernel; take back when one doesn't fit.
        for (i, (kernel, &agent)) in s.kernels.iter().zip(agents).enumerate() {
            if self.fits(agent, &kernel.requested).is_some() {
                for (kernel, &agent) in s.kernels[..i].iter().zip(agents) {
                    subtract(&mut self.agents[agent as usize], &kernel.requested);
                }
                return refused(
                    Refusal::Capacity,
                    format!(
                        "The scheduler chose an agent without enough capacity ({}).",
                        frame.agents[agent as usize].id
                    ),
                );
            }
            add(&mut self.agents[agent as usize], &kernel.requested);
        }
        let concurrent = &mut self.concurrent[s.owner];
        if s.row.is_private {
            concurrent.1 += 1;
        } else {
            concurrent.0 += 1;
            add(&mut self.owners[s.owner], &s.requested);
            add(&mut self.projects[s.project], &s.requested);
            add(&mut self.domains[s.domain], &s.requested);
        }
        Verdict::Placed(agents.clone())
    }

    /// The first slot of which an agent has too little left for `requested`.
    fn fits(&self, agent: u32, requested: &[u64]) -> Option<usize> {
        self.fits_with(agent, requested, &[])
    }

    /// As [`Books::fits`], with what is tentatively taken: (agent, amounts).
    fn fits_with(&self, agent: u32, requested: &[u64], taken: &[(u32, &[u64])]) -> Option<usize> {
        let (capacity, occupied) = (&self.frame.agents[agent as usize].capacity, &self.agents[agent as usize]);
        (0..capacity.len()).find(|&slot| {
            let tentative =
                taken.iter().filter(|(a, _)| *a == agent).fold(0_u64, |sum, (_, t)| sum.saturating_add(t[slot]));
            occupied[slot].saturating_add(tentative).saturating_add(requested[slot]) > capacity[slot]
        })
    }

    /// A pin that no placement can satisfy.
    fn impossible_pin(&self, s: &Session) -> Option<Verdict> {
        s.kernels.iter().enumerate().find_map(|(i, kernel)| {
            let id = match &kernel.agent {
                Place::Missing(id) => id,
                Place::At(a) if !self.frame.agents[*a as usize].alive => &self.frame.agents[*a as usize].id,
                Place::At(a) if self.frame.agents[*a as usize].architecture != kernel.architecture => {
                    return Some(no_room(s, i, incompatible(s, i)));
                }
                _ => return None,
            };
            Some(no_room(s, i, format!("The designated agent ({id}) is not available.")))
        })
    }

    /// What a user is told about a session that a policy found no place for. The policy says what
    /// kind of lack it is; the facts are looked up here.
    fn no_room(&self, session: usize, deferral: &Deferral) -> Verdict {
        let s = &self.frame.pending[session];
        let mut verdict = if deferral.lack == Lack::HeldBack {
            no_room(s, 0, "The scheduler holds the session back.".to_owned())
        } else {
            self.diagnose(s)
        };
        let detail: String = deferral.detail.chars().filter(|c| !c.is_control()).take(512).collect();
        if let (Verdict::NoRoom { msg, .. }, false) = (&mut verdict, detail.is_empty()) {
            msg.push_str(&format!(" ({detail})"));
        }
        verdict
    }

    fn diagnose(&self, s: &Session) -> Verdict {
        if let Some(verdict) = self.impossible_pin(s) {
            return verdict;
        }
        match s.row.cluster_mode {
            ClusterMode::SingleNode => self.diagnose_single(s),
            ClusterMode::MultiNode => self.diagnose_multi(s),
        }
    }

    fn diagnose_single(&self, s: &Session) -> Verdict {
        let first = &s.kernels[0];
        if s.kernels.iter().any(|k| k.architecture != first.architecture) {
            let mut names: Vec<&str> = s.kernels.iter().map(|k| k.row.architecture.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            return no_room(
                s,
                0,
                format!("Kernels of different architectures ({}) can't share a single node.", names.join(", ")),
            );
        }
        if let Place::At(agent) = first.agent {
            return match self.fits(agent, &s.requested) {
                Some(slot) => no_room(s, 0, self.too_small(agent, slot, s.requested[slot], &[])),
                None => no_room(s, 0, nowhere(s, &self.frame.group)),
            };
        }
        let compatible = self.frame.agents.iter().any(|a| a.schedulable && a.architecture == first.architecture);
        no_room(s, 0, if compatible { nowhere(s, &self.frame.group) } else { incompatible(s, 0) })
    }

    /// Walks the kernels, giving each the first agent with room, until one finds none.
    fn diagnose_multi(&self, s: &Session) -> Verdict {
        let mut taken: Vec<(u32, &[u64])> = Vec::new();
        for (i, kernel) in s.kernels.iter().enumerate() {
            if let Place::At(agent) = kernel.agent {
                if let Some(slot) = self.fits_with(agent, &kernel.requested, &taken) {
                    return no_room(s, i, self.too_small(agent, slot, kernel.requested[slot], &taken));
                }
                taken.push((agent, &kernel.requested));
                continue;
            }
            let mut compatible = self
                .frame
                .agents
                .iter()
                .enumerate()
                .filter(|(_, a)| a.schedulable && a.architecture == kernel.architecture)
                .map(|(i, _)| i as u32)
                .peekable();
            if compatible.peek().is_none() {
                return no_room(s, i, incompatible(s, i));
            }
            match compatible.find(|a| self.fits_with(*a, &kernel.requested, &taken).is_none()) {
                Some(agent) => taken.push((agent, &kernel.requested)),
                None => return no_room(s, i, nowhere(s, &self.frame.group)),
            }
        }
        // It might fit after all; the policy knows better why not.
        no_room(s, s.kernels.len() - 1, nowhere(s, &self.frame.group))
    }

    fn too_small(&self, agent: u32, slot: usize, requested: u64, taken: &[(u32, &[u64])]) -> String {
        let (name, kind) = &self.frame.slots[slot];
        let row = &self.frame.agents[agent as usize];
        let tentative =
            taken.iter().filter(|(a, _)| *a == agent).fold(0_u64, |sum, (_, t)| sum.saturating_add(t[slot]));
        let left = row.capacity[slot].saturating_sub(self.agents[agent as usize][slot].saturating_add(tentative));
        predicates::designated_agent_too_small(row.id.as_str(), name, &decimal(*kind, requested), &decimal(*kind, left))
    }
}

impl Judge for Books<'_> {
    fn judge(&mut self, proposals: &[Proposal]) -> Vec<Outcome> {
        let outcomes: Vec<Outcome> = proposals.iter().map(|p| self.judge_one(p)).collect();
        self.steps.push((proposals.to_vec(), outcomes.clone()));
        outcomes
    }
}

fn add(held: &mut [u64], more: &[u64]) {
    for (cell, amount) in held.iter_mut().zip(more) {
        *cell = cell.saturating_add(*amount);
    }
}

fn subtract(held: &mut [u64], less: &[u64]) {
    for (cell, amount) in held.iter_mut().zip(less) {
        *cell = cell.saturating_sub(*amount);
    }
}

/// An amount as a decimal text.
fn decimal(kind: SlotKind, amount: u64) -> String {
    let quantity: Quantity = quarterdeck_model::slots::from_units(kind, amount);
    quantity.to_string()
}

fn no_room(s: &Session, kernel: usize, msg: String) -> Verdict {
    Verdict::NoRoom { msg, kernel: (s.row.cluster_mode == ClusterMode::MultiNode).then_some(kernel) }
}

fn nowhere(s: &Session, group: &str) -> String {
    let id = s.row.id.to_string();
    match s.row.cluster_mode {
        ClusterMode::SingleNode => predicates::no_room_for_session(&id, group),
        ClusterMode::MultiNode => predicates::no_room_for_kernel(&id, group),
    }
}

fn incompatible(s: &Session, kernel: usize) -> String {
    let k = &s.kernels[kernel].row;
    match s.row.cluster_mode {
        ClusterMode::SingleNode => predicates::no_compatible_agent_for_session(&k.image, &k.architecture),
        ClusterMode::MultiNode => predicates::no_compatible_agent_for_kernel(&k.image, &k.architecture),
    }
}
