//! The host's books of a round: every proposal of a policy is judged here.
//!
//! The books start as the snapshot and take in what was accepted. Predicates are evaluated when a
//! session is proposed or deferred, never before, and always all of them: what failed and what
//! passed is told to the user.

use quarterdeck_model::predicates;
use quarterdeck_model::slots::{Quantity, SlotKind};
use quarterdeck_plugin::Judge;
use quarterdeck_plugin::scheduling::{Deferral, Lack, Outcome, Placement, Proposal, Refusal};
use quarterdeck_store::occupancy::Scope;

use super::frame::Frame;
use super::view::{Pin, Purse, Subject, View};

/// What was decided about a session.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// Row of the pending sessions.
    pub session: usize,
    /// The predicates at that time.
    pub checks: Checks,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of a session in a round.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It gets these agents (their rows), one per kernel.
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

/// The books of one round, on the live frame or on a recording of one.
#[derive(Debug)]
pub(crate) struct Books<'f, V = Frame> {
    view: &'f V,
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

impl<'f, V: View> Books<'f, V> {
    /// The books as the snapshot is.
    pub(crate) fn new(view: &'f V) -> Self {
        let held = |scope| (0..view.accounts(scope)).map(|row| view.account(scope, row).occupied.to_vec()).collect();
        let owners = 0..view.accounts(Scope::Keypair);
        Self {
            view,
            agents: (0..view.agents()).map(|agent| view.site(agent as u32).occupied.to_vec()).collect(),
            owners: held(Scope::Keypair),
            projects: held(Scope::Project),
            domains: held(Scope::Domain),
            concurrent: owners.map(|row| view.account(Scope::Keypair, row).sessions).collect(),
            decided: vec![false; view.pending()],
            decisions: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// What was decided, in order, and what was said to the policy.
    pub(crate) fn close(self) -> (Vec<Decision>, Vec<Exchange>) {
        (self.decisions, self.steps)
    }

    /// Occupied amounts: agents × slots.
    pub(crate) fn occupied(&self) -> &[Vec<u64>] {
        &self.agents
    }

    /// Sessions placed so far.
    pub(crate) fn placed(&self) -> usize {
        self.decisions.iter().filter(|d| matches!(d.verdict, Verdict::Placed(_))).count()
    }

    /// What owners, projects and domains hold, and the owners' sessions.
    #[allow(clippy::type_complexity, reason = "four tables of the same books, each in its own place")]
    pub(crate) fn accounts(&self) -> ([&[Vec<u64>]; 3], &[(u64, u64)]) {
        ([&self.owners, &self.projects, &self.domains], &self.concurrent)
    }

    /// All predicates of a pending session on the books as they are now.
    pub(crate) fn predicates(&self, session: usize) -> Checks {
        let s = self.view.subject(session);
        let mut checks = Checks::default();
        let mut note = |name: &'static str, failure: Option<String>, refusal| match failure {
            None => checks.passed.push(name),
            Some(msg) => checks.failed.push((name, msg, refusal)),
        };
        note(predicates::RESERVED_TIME, s.too_early.then(predicates::before_start_time), Refusal::ReservedTime);

        let waiting = self.view.waits_for(session);
        let failure = (!waiting.is_empty()).then(|| predicates::waiting_dependencies(&waiting));
        note(predicates::DEPENDENCIES, failure, Refusal::Dependency);

        let (counted, limits) = (self.concurrent[s.owner], self.view.account(Scope::Keypair, s.owner).session_limit);
        let (count, limit) = if s.private { (counted.1, limits.1) } else { (counted.0, limits.0) };
        let failure = (count >= limit).then(|| predicates::too_many_sessions(limit));
        note(predicates::CONCURRENCY, failure, Refusal::Concurrency);

        if !s.private {
            let quota = |scope: Scope, row: usize, held: &[u64], message: fn(&str) -> String| {
                let Purse { limit, .. } = self.view.account(scope, row);
                let limit = match limit {
                    Ok(limit) => limit,
                    Err(problem) => return Some(format!("The limit makes no sense: {problem}")),
                };
                let within = held
                    .iter()
                    .zip(s.requested)
                    .zip(limit)
                    .all(|((held, more), limit)| *limit == u64::MAX || held.saturating_add(*more) <= *limit);
                (!within).then(|| message(&self.view.limit_text(scope, row)))
            };
            note(
                predicates::KEYPAIR_RESOURCE_LIMIT,
                quota(Scope::Keypair, s.owner, &self.owners[s.owner], predicates::keypair_quota_exceeded),
                Refusal::OwnerQuota,
            );
            note(
                predicates::USER_GROUP_RESOURCE_LIMIT,
                quota(Scope::Project, s.project, &self.projects[s.project], predicates::group_quota_exceeded),
                Refusal::ProjectQuota,
            );
            note(
                predicates::DOMAIN_RESOURCE_LIMIT,
                quota(Scope::Domain, s.domain, &self.domains[s.domain], predicates::domain_quota_exceeded),
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
        let view = self.view;
        let s = view.subject(session);
        if let Some(no_room) = self.impossible_pin(session, &s) {
            return no_room;
        }
        let refused = |refusal, why: String| Verdict::Refused { refusal, why };
        let agents = &placement.agents;
        if agents.len() != s.kernels || agents.iter().any(|a| *a as usize >= view.agents()) {
            return refused(Refusal::Malformed, "The scheduler proposed a malformed placement.".to_owned());
        }
        if !s.multi_node && agents.iter().any(|a| *a != agents[0]) {
            return refused(Refusal::Malformed, "The scheduler split a single-node session.".to_owned());
        }
        for (kernel, &agent) in agents.iter().enumerate() {
            let (task, site) = (view.task(session, kernel), view.site(agent));
            match task.pin {
                Pin::At(pin) if pin != agent => {
                    return refused(
                        Refusal::Pinned,
                        format!("The scheduler ignored the designated agent ({}).", view.site(pin).id),
                    );
                }
                Pin::Free if !site.schedulable => {
                    return refused(
                        Refusal::Architecture,
                        format!("The scheduler chose an agent that takes no sessions ({}).", site.id),
                    );
                }
                _ => {}
            }
            if task.architecture != site.architecture {
                return refused(
                    Refusal::Architecture,
                    format!(
                        "The scheduler chose an agent of another architecture ({}, {}).",
                        site.id,
                        view.architecture(site.architecture)
                    ),
                );
            }
        }
        // Book kernel by kernel; take back when one doesn't fit.
        for (i, &agent) in agents.iter().enumerate() {
            let requested = view.task(session, i).requested;
            if self.fits(agent, requested).is_some() {
                for (kernel, &agent) in agents[..i].iter().enumerate() {
                    subtract(&mut self.agents[agent as usize], view.task(session, kernel).requested);
                }
                return refused(
                    Refusal::Capacity,
                    format!("The scheduler chose an agent without enough capacity ({}).", view.site(agent).id),
                );
            }
            add(&mut self.agents[agent as usize], requested);
        }
        let concurrent = &mut self.concurrent[s.owner];
        if s.private {
            concurrent.1 += 1;
        } else {
            concurrent.0 += 1;
            add(&mut self.owners[s.owner], s.requested);
            add(&mut self.projects[s.project], s.requested);
            add(&mut self.domains[s.domain], s.requested);
        }
        Verdict::Placed(agents.clone())
    }

    /// The first slot of which an agent has too little left for `requested`.
    fn fits(&self, agent: u32, requested: &[u64]) -> Option<usize> {
        self.fits_with(agent, requested, &[])
    }

    /// As [`Books::fits`], with what is tentatively taken: (agent, amounts).
    fn fits_with(&self, agent: u32, requested: &[u64], taken: &[(u32, &[u64])]) -> Option<usize> {
        let (capacity, occupied) = (self.view.site(agent).capacity, &self.agents[agent as usize]);
        (0..capacity.len()).find(|&slot| {
            let tentative =
                taken.iter().filter(|(a, _)| *a == agent).fold(0_u64, |sum, (_, t)| sum.saturating_add(t[slot]));
            occupied[slot].saturating_add(tentative).saturating_add(requested[slot]) > capacity[slot]
        })
    }

    /// A pin that no placement can satisfy.
    fn impossible_pin(&self, session: usize, s: &Subject) -> Option<Verdict> {
        (0..s.kernels).find_map(|i| {
            let task = self.view.task(session, i);
            let id = match task.pin {
                Pin::Free => return None,
                Pin::Missing(id) => id,
                Pin::At(agent) => match self.view.site(agent) {
                    site if !site.alive => site.id,
                    site if site.architecture != task.architecture => {
                        return Some(no_room(s, i, self.incompatible(session, s, i)));
                    }
                    _ => return None,
                },
            };
            Some(no_room(s, i, format!("The designated agent ({id}) is not available.")))
        })
    }

    /// What a user is told about a session that a policy found no place for. The policy says what
    /// kind of lack it is; the facts are looked up here.
    pub(crate) fn no_room(&self, session: usize, deferral: &Deferral) -> Verdict {
        let s = self.view.subject(session);
        let mut verdict = if deferral.lack == Lack::HeldBack {
            no_room(&s, 0, "The scheduler holds the session back.".to_owned())
        } else {
            self.diagnose(session, &s)
        };
        let detail: String = deferral.detail.chars().filter(|c| !c.is_control()).take(512).collect();
        if let (Verdict::NoRoom { msg, .. }, false) = (&mut verdict, detail.is_empty()) {
            msg.push_str(&format!(" ({detail})"));
        }
        verdict
    }

    fn diagnose(&self, session: usize, s: &Subject) -> Verdict {
        match self.impossible_pin(session, s) {
            Some(verdict) => verdict,
            None if s.multi_node => self.diagnose_multi(session, s),
            None => self.diagnose_single(session, s),
        }
    }

    fn diagnose_single(&self, session: usize, s: &Subject) -> Verdict {
        let first = self.view.task(session, 0);
        let architectures = || (0..s.kernels).map(|kernel| self.view.task(session, kernel).architecture);
        if architectures().any(|a| a != first.architecture) {
            let mut names: Vec<&str> = architectures().map(|a| self.view.architecture(a)).collect();
            names.sort_unstable();
            names.dedup();
            return no_room(
                s,
                0,
                format!("Kernels of different architectures ({}) can't share a single node.", names.join(", ")),
            );
        }
        if let Pin::At(agent) = first.pin {
            return match self.fits(agent, s.requested) {
                Some(slot) => no_room(s, 0, self.too_small(agent, slot, s.requested[slot], &[])),
                None => no_room(s, 0, self.nowhere(session, s)),
            };
        }
        let compatible = self.compatible(first.architecture).next().is_some();
        no_room(s, 0, if compatible { self.nowhere(session, s) } else { self.incompatible(session, s, 0) })
    }

    /// Agents that take sessions of an architecture.
    fn compatible(&self, architecture: u32) -> impl Iterator<Item = u32> {
        (0..self.view.agents() as u32).filter(move |agent| {
            let site = self.view.site(*agent);
            site.schedulable && site.architecture == architecture
        })
    }

    /// Walks the kernels, giving each the first agent with room, until one finds none.
    fn diagnose_multi(&self, session: usize, s: &Subject) -> Verdict {
        let mut taken: Vec<(u32, &[u64])> = Vec::new();
        for i in 0..s.kernels {
            let task = self.view.task(session, i);
            if let Pin::At(agent) = task.pin {
                if let Some(slot) = self.fits_with(agent, task.requested, &taken) {
                    return no_room(s, i, self.too_small(agent, slot, task.requested[slot], &taken));
                }
                taken.push((agent, task.requested));
                continue;
            }
            let mut compatible = self.compatible(task.architecture).peekable();
            if compatible.peek().is_none() {
                return no_room(s, i, self.incompatible(session, s, i));
            }
            match compatible.find(|a| self.fits_with(*a, task.requested, &taken).is_none()) {
                Some(agent) => taken.push((agent, task.requested)),
                None => return no_room(s, i, self.nowhere(session, s)),
            }
        }
        // It might fit after all; the policy knows better why not.
        no_room(s, s.kernels - 1, self.nowhere(session, s))
    }

    fn nowhere(&self, session: usize, s: &Subject) -> String {
        let id = self.view.session_id(session);
        let words = if s.multi_node { predicates::no_room_for_kernel } else { predicates::no_room_for_session };
        words(&id, self.view.group())
    }

    fn incompatible(&self, session: usize, s: &Subject, kernel: usize) -> String {
        let architecture = self.view.architecture(self.view.task(session, kernel).architecture);
        let words = if s.multi_node {
            predicates::no_compatible_agent_for_kernel
        } else {
            predicates::no_compatible_agent_for_session
        };
        words(self.view.image(session, kernel), architecture)
    }

    fn too_small(&self, agent: u32, slot: usize, requested: u64, taken: &[(u32, &[u64])]) -> String {
        let (name, kind) = self.view.slot(slot);
        let site = self.view.site(agent);
        let tentative =
            taken.iter().filter(|(a, _)| *a == agent).fold(0_u64, |sum, (_, t)| sum.saturating_add(t[slot]));
        let left = site.capacity[slot].saturating_sub(self.agents[agent as usize][slot].saturating_add(tentative));
        predicates::designated_agent_too_small(site.id, name, &decimal(kind, requested), &decimal(kind, left))
    }
}

impl<V: View> Judge for Books<'_, V> {
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

fn no_room(s: &Subject, kernel: usize, msg: String) -> Verdict {
    Verdict::NoRoom { msg, kernel: s.multi_node.then_some(kernel) }
}
