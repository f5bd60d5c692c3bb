//! The work of the benchmarks: a snapshot in which everything fits, so that every session is placed, the most that a round
//! can be; and books like the host's.

use quarterdeck_plugin::Judge;
use quarterdeck_plugin::scheduling::{
    Accounts, Agents, ClusterMode, Kernels, Outcome, Proposal, Refusal, Sessions, Snapshot,
};
use quarterdeck_plugin::types::{SessionKind, Slot, SlotKind};

/// Resource slots.
pub const SLOTS: usize = 4;

/// So many sessions of fifty owners, and agents with room for all of them.
pub fn snapshot(pending: u32, agents: u32) -> Snapshot {
    let (sessions, hosts) = (pending as usize, agents as usize);
    let owners = 50;
    let accounts = |count: usize| Accounts {
        count: count as u32,
        occupied: vec![0; count * SLOTS],
        limit: vec![u64::MAX; count * SLOTS],
        sessions: vec![0; count],
        session_limit: vec![u32::MAX; count],
        private_sessions: vec![0; count],
        private_session_limit: vec![u32::MAX; count],
        more: Vec::new(),
    };
    let requested: Vec<u64> =
        (0..pending).flat_map(|row| [1000 * u64::from(1 + row % 2), u64::from(1 + row % 4) << 30, 0, 0]).collect();
    let table = |count: usize, requested: Vec<u64>, first: u32| Sessions {
        count: count as u32,
        owner: (0..count).map(|row| (row % owners) as u32).collect(),
        project: vec![0; count],
        domain: vec![0; count],
        kind: vec![SessionKind::Interactive; count],
        mode: vec![ClusterMode::SingleNode; count],
        private: vec![false; count],
        priority: vec![0; count],
        retries: vec![0; count],
        waiting_ms: (0..count).map(|row| (count - row) as u64 * 1000).collect(),
        held: vec![0; requested.len()],
        requested,
        first_kernel: (first..=first + count as u32).collect(),
        more: Vec::new(),
    };
    let slot = |name: &str, kind| Slot { name: name.to_owned(), kind };
    Snapshot {
        round: 1,
        now_ms: 1_700_000_000_000,
        seed: 1,
        slots: vec![
            slot("cpu", SlotKind::Count),
            slot("mem", SlotKind::Bytes),
            slot("cuda.device", SlotKind::Unique),
            slot("cuda.shares", SlotKind::Count),
        ],
        architectures: vec!["x86_64".to_owned()],
        kernels: Kernels {
            count: pending,
            architecture: vec![0; sessions],
            requested: requested.clone(),
            held: vec![0; requested.len()],
            agent: vec![None; sessions],
            more: Vec::new(),
        },
        pending: table(sessions, requested, 0),
        running: table(0, Vec::new(), pending),
        agents: Agents {
            count: agents,
            architecture: vec![0; hosts],
            schedulable: vec![true; hosts],
            capacity: (0..agents).flat_map(|row| [64_000, 256 << 30, 2000 * u64::from(row % 4 == 0), 0]).collect(),
            occupied: vec![0; hosts * SLOTS],
            containers: vec![0; hosts],
            more: Vec::new(),
        },
        owners: accounts(owners),
        projects: accounts(1),
        domains: accounts(1),
    }
}

/// The host's side: capacity is checked and booked for each proposal.
pub struct Books<'a> {
    snapshot: &'a Snapshot,
    occupied: Vec<u64>,
    pub placed: u32,
}

impl<'a> Books<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Books { snapshot, occupied: snapshot.agents.occupied.clone(), placed: 0 }
    }

    pub fn place(&mut self, session: usize, agent: usize) -> bool {
        let requested = &self.snapshot.pending.requested[session * SLOTS..][..SLOTS];
        let capacity = &self.snapshot.agents.capacity[agent * SLOTS..][..SLOTS];
        let occupied = &mut self.occupied[agent * SLOTS..][..SLOTS];
        let fits = occupied.iter().zip(requested).zip(capacity).all(|((o, r), c)| o + r <= *c);
        if fits {
            occupied.iter_mut().zip(requested).for_each(|(o, r)| *o += r);
            self.placed += 1;
        }
        fits
    }
}

impl Judge for Books<'_> {
    fn judge(&mut self, proposals: &[Proposal]) -> Vec<Outcome> {
        proposals
            .iter()
            .map(|proposal| match proposal {
                Proposal::Place(p) if self.place(p.session as usize, p.agents[0] as usize) => Outcome::Accepted,
                Proposal::Place(_) => Outcome::Refused(Refusal::Capacity),
                Proposal::Defer(_) => Outcome::Accepted,
            })
            .collect()
    }
}
