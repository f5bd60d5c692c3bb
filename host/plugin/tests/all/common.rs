//! Runtimes, plugins and snapshots for the tests.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use quarterdeck_plugin::scheduling::{
    Accounts, Agents, ClusterMode, Kernels, Outcome, Placement, Proposal, Refusal, Sessions, Snapshot,
};
use quarterdeck_plugin::types::{SessionKind, Slot, SlotKind};
use quarterdeck_plugin::{Judge, Plugin, Runtime, RuntimeOptions, builtin};

/// One runtime for all tests, as in a server.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new(RuntimeOptions::default()).unwrap());

pub fn builtin(name: &str) -> Arc<Plugin> {
    RUNTIME.load_blocking(builtin::get(name).unwrap().wasm).unwrap()
}

/// An agent or a session of a test: `name=amount` pairs in the units of the contract.
pub type Amounts<'a> = &'a [(&'a str, u64)];

/// Builds snapshots row by row.
#[derive(Default)]
pub struct Builder {
    pub slots: Vec<String>,
    /// Capacity, what is occupied, architecture.
    pub agents: Vec<(Row, Row, String)>,
    pub pending: Vec<Pending>,
    /// Running sessions: the owner's row and what is held.
    pub running: Vec<(u32, Row)>,
}

/// Amounts by slot.
pub type Row = HashMap<String, u64>;

#[derive(Clone)]
pub struct Pending {
    /// Request, architecture, pinned agent.
    pub kernels: Vec<(Row, String, Option<u32>)>,
    pub mode: ClusterMode,
    pub retries: u32,
    pub waiting_ms: u64,
    /// The owner's row.
    pub owner: u32,
}

pub fn map(amounts: Amounts<'_>) -> Row {
    amounts.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
}

impl Builder {
    pub fn new(slots: &[&str]) -> Self {
        Builder { slots: slots.iter().map(|slot| (*slot).to_owned()).collect(), ..Builder::default() }
    }

    pub fn agent(mut self, capacity: Amounts<'_>, occupied: Amounts<'_>) -> Self {
        self.agents.push((map(capacity), map(occupied), "x86_64".to_owned()));
        self
    }

    pub fn session(mut self, requested: Amounts<'_>, waiting_ms: u64) -> Self {
        self.pending.push(Pending {
            kernels: vec![(map(requested), "x86_64".to_owned(), None)],
            mode: ClusterMode::SingleNode,
            retries: 0,
            waiting_ms,
            owner: 0,
        });
        self
    }

    pub fn build(&self) -> Snapshot {
        let mut architectures: Vec<String> = Vec::new();
        let mut intern = |name: &String| {
            architectures.iter().position(|known| known == name).unwrap_or_else(|| {
                architectures.push(name.clone());
                architectures.len() - 1
            }) as u32
        };
        let row =
            |amounts: &Row| self.slots.iter().map(|slot| amounts.get(slot).copied().unwrap_or(0)).collect::<Vec<u64>>();
        let agents = Agents {
            count: self.agents.len() as u32,
            architecture: self.agents.iter().map(|agent| intern(&agent.2)).collect(),
            schedulable: vec![true; self.agents.len()],
            capacity: self.agents.iter().flat_map(|agent| row(&agent.0)).collect(),
            occupied: self.agents.iter().flat_map(|agent| row(&agent.1)).collect(),
            containers: vec![0; self.agents.len()],
            more: Vec::new(),
        };
        let count = self.pending.len();
        let kernels: Vec<_> = self.pending.iter().flat_map(|session| session.kernels.iter()).collect();
        let mut first_kernel = vec![0];
        for session in &self.pending {
            first_kernel.push(first_kernel.last().unwrap() + session.kernels.len() as u32);
        }
        let kernels = Kernels {
            count: kernels.len() as u32,
            architecture: kernels.iter().map(|kernel| intern(&kernel.1)).collect(),
            requested: kernels.iter().flat_map(|kernel| row(&kernel.0)).collect(),
            held: vec![0; kernels.len() * self.slots.len()],
            agent: kernels.iter().map(|kernel| kernel.2).collect(),
            more: Vec::new(),
        };
        let sum = |session: &Pending| {
            session.kernels.iter().fold(vec![0; self.slots.len()], |sum, kernel| {
                sum.iter().zip(row(&kernel.0)).map(|(a, b)| a + b).collect()
            })
        };
        let accounts = |count: usize| Accounts {
            count: count as u32,
            occupied: vec![0; count * self.slots.len()],
            limit: vec![u64::MAX; count * self.slots.len()],
            sessions: vec![0; count],
            session_limit: vec![u32::MAX; count],
            private_sessions: vec![0; count],
            private_session_limit: vec![u32::MAX; count],
            more: Vec::new(),
        };
        let pending = Sessions {
            count: count as u32,
            owner: self.pending.iter().map(|session| session.owner).collect(),
            project: vec![0; count],
            domain: vec![0; count],
            kind: vec![SessionKind::Interactive; count],
            mode: self.pending.iter().map(|session| session.mode).collect(),
            private: vec![false; count],
            priority: vec![0; count],
            retries: self.pending.iter().map(|session| session.retries).collect(),
            waiting_ms: self.pending.iter().map(|session| session.waiting_ms).collect(),
            requested: self.pending.iter().flat_map(sum).collect(),
            held: vec![0; count * self.slots.len()],
            first_kernel,
            more: Vec::new(),
        };
        let busy = self.running.len();
        let held: Vec<u64> = self.running.iter().flat_map(|session| row(&session.1)).collect();
        // Where they run doesn't matter to any policy here, so they have no kernels.
        let running = Sessions {
            count: busy as u32,
            owner: self.running.iter().map(|session| session.0).collect(),
            project: vec![0; busy],
            domain: vec![0; busy],
            kind: vec![SessionKind::Interactive; busy],
            mode: vec![ClusterMode::SingleNode; busy],
            private: vec![false; busy],
            priority: vec![0; busy],
            retries: vec![0; busy],
            waiting_ms: vec![0; busy],
            requested: held.clone(),
            held,
            first_kernel: vec![kernels.count; busy + 1],
            more: vec![],
        };
        let owners = pending.owner.iter().chain(&running.owner).max().map_or(1, |last| *last as usize + 1);
        let slots = self
            .slots
            .iter()
            .map(|name| Slot {
                name: name.clone(),
                kind: if name == "mem" { SlotKind::Bytes } else { SlotKind::Count },
            })
            .collect();
        Snapshot {
            round: 1,
            now_ms: 1_700_000_000_000,
            seed: 42,
            slots,
            architectures,
            pending,
            running,
            kernels,
            agents,
            owners: accounts(owners),
            projects: accounts(1),
            domains: accounts(1),
        }
    }
}

/// Books like the host's, for capacity alone.
pub struct Books {
    pub slots: usize,
    pub capacity: Vec<u64>,
    pub occupied: Vec<u64>,
    requested: Vec<u64>,
    first_kernel: Vec<u32>,
}

impl Books {
    pub fn of(snapshot: &Snapshot) -> Self {
        Books {
            slots: snapshot.slots.len(),
            capacity: snapshot.agents.capacity.clone(),
            occupied: snapshot.agents.occupied.clone(),
            requested: snapshot.kernels.requested.clone(),
            first_kernel: snapshot.pending.first_kernel.clone(),
        }
    }

    fn place(&mut self, placement: &Placement) -> Outcome {
        let before = self.occupied.clone();
        let first = self.first_kernel[placement.session as usize] as usize;
        for (offset, agent) in placement.agents.iter().enumerate() {
            for slot in 0..self.slots {
                let at = *agent as usize * self.slots + slot;
                self.occupied[at] += self.requested[(first + offset) * self.slots + slot];
                if self.occupied[at] > self.capacity[at] {
                    self.occupied = before;
                    return Outcome::Refused(Refusal::Capacity);
                }
            }
        }
        Outcome::Accepted
    }
}

impl Judge for Books {
    fn judge(&mut self, proposals: &[Proposal]) -> Vec<Outcome> {
        proposals
            .iter()
            .map(|proposal| match proposal {
                Proposal::Place(placement) => self.place(placement),
                Proposal::Defer(_) => Outcome::Accepted,
            })
            .collect()
    }
}
