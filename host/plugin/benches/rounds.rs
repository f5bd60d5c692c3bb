//! Scheduling rounds through the real host, beside the same algorithm in native code.
//!
//! Everything fits, so every session is placed: the most work that a round can be. The native one does what the guest
//! and the host's books do together, without a boundary between them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use quarterdeck_plugin::scheduling::{
    Accounts, Agents, ClusterMode, Kernels, Outcome, Proposal, Refusal, Sessions, Snapshot,
};
use quarterdeck_plugin::types::{SessionKind, Slot, SlotKind};
use quarterdeck_plugin::{Call, Judge, Limits, Meter, Runtime, RuntimeOptions, builtin};

#[path = "../../../plugins/sdk/src/placing/walk.rs"]
#[allow(dead_code)]
mod walk;

use walk::{Preference, Walk};

const SLOTS: usize = 4;

fn snapshot(pending: u32, agents: u32) -> Snapshot {
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
struct Books<'a> {
    snapshot: &'a Snapshot,
    occupied: Vec<u64>,
    placed: u32,
}

impl<'a> Books<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        Books { snapshot, occupied: snapshot.agents.occupied.clone(), placed: 0 }
    }

    fn place(&mut self, session: usize, agent: usize) -> bool {
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

/// `fifo` without a boundary: the same code on the same columns.
fn native(snapshot: &Snapshot) -> u32 {
    let mut books = Books::of(snapshot);
    // The policy keeps its own books beside the host's, as it does in the sandbox.
    let mut occupied = snapshot.agents.occupied.clone();
    let agents = &snapshot.agents;
    let (architecture, schedulable) = (&agents.architecture, &agents.schedulable);
    let mut walk = Walk::new(Preference::LeastWaste, SLOTS, architecture, schedulable, &agents.capacity);
    for session in 0..snapshot.pending.count as usize {
        let requested = &snapshot.pending.requested[session * SLOTS..][..SLOTS];
        match walk.choose(&occupied, 0, requested, true) {
            Ok(agent) if books.place(session, agent) => {
                occupied[agent * SLOTS..][..SLOTS].iter_mut().zip(requested).for_each(|(o, r)| *o += r);
            }
            _ => break,
        }
    }
    books.placed
}

fn rounds(criterion: &mut Criterion) {
    let runtime = Runtime::new(RuntimeOptions::default()).unwrap();
    let load = |name: &str| runtime.load_blocking(builtin::get(name).unwrap().wasm).unwrap();
    let fifo = load("fifo");
    let limits = Limits { round: Duration::from_secs(60), ..Limits::default() };
    let call = Call { limits: Some(limits), ..Call::default() };

    let mut group = criterion.benchmark_group("round");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    for (pending, agents) in [(1_000, 200), (10_000, 1_000)] {
        let size = format!("{pending}x{agents}");
        let snapshot = snapshot(pending, agents);
        assert_eq!(native(&snapshot), pending);
        group.bench_function(BenchmarkId::new("native", &size), |bencher| {
            bencher.iter(|| black_box(native(black_box(&snapshot))));
        });
        group.bench_function(BenchmarkId::new("wasm", &size), |bencher| {
            bencher.iter(|| {
                let mut books = Books::of(&snapshot);
                fifo.schedule(&call, &snapshot, &mut books).unwrap();
                assert_eq!(books.placed, pending);
            });
        });
        for name in ["lifo", "mof", "drf"] {
            let plugin = load(name);
            group.bench_function(BenchmarkId::new(name, &size), |bencher| {
                bencher.iter(|| {
                    let mut books = Books::of(&snapshot);
                    plugin.schedule(&call, &snapshot, &mut books).unwrap();
                    assert_eq!(books.placed, pending);
                });
            });
        }
    }
    let empty = snapshot(0, 0);
    group.bench_function("wasm/empty", |bencher| {
        bencher.iter(|| fifo.schedule(&call, &empty, &mut Books::of(&empty)).unwrap());
    });
    let metered = Call { meter: Meter::Fuel(100_000_000_000), ..call.clone() };
    let small = snapshot(1_000, 200);
    group.bench_function("wasm with fuel/1000x200", |bencher| {
        bencher.iter(|| fifo.schedule(&metered, &small, &mut Books::of(&small)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, rounds);
criterion_main!(benches);
