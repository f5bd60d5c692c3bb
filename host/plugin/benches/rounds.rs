//! Scheduling rounds through the real host, beside the same algorithm in native code.
//!
//! Everything fits, so every session is placed: the most work that a round can be. The native one does what the guest
//! and the host's books do together, without a boundary between them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use quarterdeck_plugin::scheduling::Snapshot;
use quarterdeck_plugin::{Call, Limits, Meter, Runtime, RuntimeOptions, builtin};

#[path = "../../../plugins/sdk/src/placing/walk.rs"]
#[allow(dead_code)]
mod walk;
#[path = "common/workload.rs"]
mod workload;

use walk::{Preference, Walk};
use workload::{Books, SLOTS, snapshot};

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
