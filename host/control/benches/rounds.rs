//! Rounds with the host's own books: what a policy in Wasm costs beside the same sources as native code behind the same
//! interface, when all the rest of a round is as the host does it, with the same checks of what either proposes.
//!
//! Prints one JSON object a line.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../plugin/benches/common/workload.rs"]
#[allow(dead_code)]
mod workload;

use std::time::{Duration, Instant};

use quarterdeck_control::schedule::{RECORDING_FORMAT, RecordedBooks, Recording, Timings};
use quarterdeck_model::Timestamp;
use quarterdeck_native::Drf;
use quarterdeck_plugin::{Call, ExchangeTimes, Limits, Runtime, RuntimeOptions, builtin, play};
use serde_json::{Value, json};

/// As in the server's binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Sessions and agents.
const SIZE: (u32, u32) = (10_000, 1_000);
const REPEATS: usize = 60;
/// Sessions that are proposed at a time.
const LOT: usize = 64;
/// What is to be reached: Wasm at most this many times what native code takes.
const RATIO: f64 = 1.3;

/// A round of the workload as the host records one, with a name for each row.
fn recording() -> Recording {
    let snapshot = workload::snapshot(SIZE.0, SIZE.1);
    let names = |what: &str, count: u32| -> Vec<Value> {
        (0..count).map(|row| json!({"id": format!("{what}-{row}")})).collect()
    };
    let facts = json!({
        "sessions": names("session", SIZE.0),
        "kernels": vec![json!({"image": "cr.example/stable/python:3.9"}); SIZE.0 as usize],
        "agents": names("agent", SIZE.1),
        "owners": names("owner", snapshot.owners.count),
        "projects": names("project", snapshot.projects.count),
        "domains": names("domain", snapshot.domains.count),
    });
    Recording {
        format: RECORDING_FORMAT,
        id: None,
        scaling_group: "default".to_owned(),
        at: Timestamp(1_700_000_000_000_000),
        plugin: Default::default(),
        call: Default::default(),
        snapshot,
        facts: serde_json::from_value(facts).unwrap(),
        steps: Vec::new(),
        outcome: "ok".to_owned(),
        journal: Default::default(),
        fallback: None,
        stale: Vec::new(),
        timings: Timings::default(),
    }
}

fn main() {
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    let limits = Limits { round: Duration::from_secs(60), ..Limits::default() };
    let runtime = Runtime::new(RuntimeOptions { limits: limits.clone(), ..RuntimeOptions::default() }).unwrap();
    let drf = runtime.load_blocking(builtin::get("drf").unwrap().wasm).unwrap();
    let recording = recording();
    let config = json!({"lot": LOT}).to_string();
    // What a round took, and its parts: `open`, `propose`, the books, `settle`.
    let played = |wasm: bool| -> [f64; 5] {
        let started = Instant::now();
        let mut books = RecordedBooks::new(&recording);
        let mut opened = Duration::ZERO;
        let trace = if wasm {
            drf.schedule(&Call::new(config.clone()), &recording.snapshot, &mut books).unwrap()
        } else {
            let opening = Instant::now();
            let mut drf = Drf::open(&config, &recording.snapshot).unwrap();
            opened = opening.elapsed();
            play(&mut drf, &recording.snapshot, &limits, &mut books).unwrap()
        };
        assert_eq!(trace.proposals.len() as u32, SIZE.0);
        let whole = started.elapsed();
        let sum = |part: fn(&ExchangeTimes) -> Duration| trace.exchanges.iter().map(part).sum::<Duration>();
        let open = if wasm { trace.open } else { opened };
        [whole, open, sum(|e| e.propose), sum(|e| e.judge), sum(|e| e.settle)].map(|time| time.as_secs_f64() * 1e3)
    };
    // In turns, so that what else the machine does hits both.
    let (here, there): (Vec<_>, Vec<_>) = (0..REPEATS).map(|_| (played(false), played(true))).unzip();
    let median = |rounds: &[[f64; 5]], part: usize| {
        let mut times: Vec<f64> = rounds.iter().map(|round| round[part]).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (native, wasm) = (median(&here, 0), median(&there, 0));
    let name = format!("drf {} x {} on the host's books, lots of {LOT}", SIZE.0, SIZE.1);
    let figure = |what: &str, value: f64, unit: &str, target: Option<f64>| {
        println!("{}", json!({"figure": format!("{name}: {what}"), "value": value, "unit": unit, "target": target}));
    };
    figure("native, median", native, "ms", None);
    figure("Wasm, median", wasm, "ms", None);
    for (part, what) in ["open", "propose", "the host's books", "settle"].into_iter().enumerate() {
        figure(&format!("of it {what}, native"), median(&here, part + 1), "ms", None);
        figure(&format!("of it {what}, Wasm"), median(&there, part + 1), "ms", None);
    }
    figure("Wasm / native", wasm / native, "", Some(RATIO));
}
