//! Simple books of a round: capacity, pins, architectures and quotas.

use crate::scheduler::{Accounts, ClusterMode, Deferral, Outcome, Placement, Proposal, Refusal, Round, Snapshot};

/// Judges proposals as a host does.
pub(super) struct Books {
    round: Round,
    seen: Vec<bool>,
}

impl Books {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let seen = vec![false; snapshot.pending.count as usize];
        Books { round: Round::new(snapshot), seen }
    }

    /// The verdict on one proposal.
    ///
    /// # Errors
    /// How it breaks the contract: the host would fail the round.
    pub(super) fn judge(&mut self, proposal: &Proposal) -> Result<Outcome, String> {
        let session = match proposal {
            Proposal::Place(Placement { session, .. }) | Proposal::Defer(Deferral { session, .. }) => *session as usize,
        };
        match self.seen.get_mut(session) {
            None => return Err(format!("session {session} of {} was proposed", self.seen.len())),
            Some(true) => return Err(format!("session {session} was proposed twice in the round")),
            Some(seen) => *seen = true,
        }
        if let Some(refusal) = self.quota(session) {
            return Ok(Outcome::Refused(refusal));
        }
        let Proposal::Place(placement) = proposal else { return Ok(Outcome::Accepted) };
        Ok(match self.place(placement)? {
            Some(refusal) => Outcome::Refused(refusal),
            None => {
                self.account(session);
                Outcome::Accepted
            }
        })
    }

    fn quota(&self, session: usize) -> Option<Refusal> {
        let snapshot = &self.round.snapshot;
        let pending = &snapshot.pending;
        let (owners, owner) = (&snapshot.owners, pending.owner[session] as usize);
        if pending.private[session] {
            let full = owners.private_sessions[owner] >= owners.private_session_limit[owner];
            return full.then_some(Refusal::Concurrency);
        }
        if owners.sessions[owner] >= owners.session_limit[owner] {
            return Some(Refusal::Concurrency);
        }
        let requested = self.round.pending_session(session).requested();
        let exceeds = |accounts: &Accounts, row: u32| {
            let row = row as usize * requested.len();
            requested.iter().enumerate().any(|(slot, amount)| {
                accounts.occupied[row + slot].saturating_add(*amount) > accounts.limit[row + slot]
            })
        };
        if exceeds(owners, pending.owner[session]) {
            return Some(Refusal::OwnerQuota);
        }
        if exceeds(&snapshot.projects, pending.project[session]) {
            return Some(Refusal::ProjectQuota);
        }
        exceeds(&snapshot.domains, pending.domain[session]).then_some(Refusal::DomainQuota)
    }

    fn place(&mut self, placement: &Placement) -> Result<Option<Refusal>, String> {
        let session = self.round.pending_session(placement.session as usize);
        let rows = session.kernel_rows();
        if placement.agents.len() != rows.len() {
            return Err(format!(
                "session {} has {} kernels and was given {} agents",
                placement.session,
                rows.len(),
                placement.agents.len()
            ));
        }
        let agents = self.round.agents().len();
        if let Some(agent) = placement.agents.iter().find(|agent| **agent as usize >= agents) {
            return Err(format!("session {} was placed on agent {agent} of {agents}", placement.session));
        }
        if session.mode() == ClusterMode::SingleNode && placement.agents.windows(2).any(|pair| pair[0] != pair[1]) {
            return Ok(Some(Refusal::Malformed));
        }
        for (kernel, agent) in session.kernels().zip(&placement.agents) {
            let row = self.round.agent(*agent as usize);
            match kernel.agent() {
                Some(pinned) if pinned != row.index => return Ok(Some(Refusal::Pinned)),
                None if !row.schedulable() => return Ok(Some(Refusal::Architecture)),
                _ => {}
            }
            if kernel.architecture() != row.architecture() {
                return Ok(Some(Refusal::Architecture));
            }
        }
        for (done, (kernel, agent)) in rows.clone().zip(&placement.agents).enumerate() {
            let fits = self.round.agent(*agent as usize).fits(self.round.kernel(kernel).requested());
            if !fits {
                for (kernel, agent) in rows.clone().zip(&placement.agents).take(done) {
                    self.round.release_kernel(kernel, *agent as usize);
                }
                return Ok(Some(Refusal::Capacity));
            }
            self.round.occupy_kernel(kernel, *agent as usize);
        }
        Ok(None)
    }

    fn account(&mut self, session: usize) {
        let slots = self.round.slots();
        let snapshot = &mut self.round.snapshot;
        let pending = &snapshot.pending;
        let owner = pending.owner[session] as usize;
        if pending.private[session] {
            snapshot.owners.private_sessions[owner] += 1;
            return;
        }
        snapshot.owners.sessions[owner] += 1;
        let requested = &pending.requested[session * slots..][..slots];
        for (accounts, row) in [
            (&mut snapshot.owners, pending.owner[session]),
            (&mut snapshot.projects, pending.project[session]),
            (&mut snapshot.domains, pending.domain[session]),
        ] {
            for (held, amount) in accounts.occupied[row as usize * slots..][..slots].iter_mut().zip(requested) {
                *held = held.saturating_add(*amount);
            }
        }
    }
}
