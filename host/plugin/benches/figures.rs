//! The figures to reach, each with its target, in one run: what a policy costs beside the same algorithm in native code,
//! what hooks add to a request, how long a policy takes to get in and to take effect, what a shadow costs.
//!
//! Prints one JSON object a line. A program of its own, because it is its own compiling child.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "common/workload.rs"]
mod workload;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quarterdeck_native::Drf;
use quarterdeck_plugin::hooks::{Event, Verdict};
use quarterdeck_plugin::scheduling::Snapshot;
use quarterdeck_plugin::{
    COMPILE_CHILD_ARG, Call, Compiler, Kind, Limits, Plugin, Runtime, RuntimeOptions, builtin, compile_child_main, play,
};
use serde_json::json;
use workload::{Books, SLOTS, snapshot};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == COMPILE_CHILD_ARG) {
        return compile_child_main();
    }
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let cache = tempfile::tempdir().unwrap();
    let runtime = runtime(cache.path());
    rounds(&runtime);
    motley(&runtime);
    growth(&runtime);
    hooks(&runtime);
    ways_in(&runtime, cache.path());
    shadow(&runtime);
    ExitCode::SUCCESS
}

fn runtime(cache: &Path) -> Runtime {
    let compiler =
        Compiler::Child { program: std::env::current_exe().unwrap(), args: vec![COMPILE_CHILD_ARG.to_owned().into()] };
    // A slow machine shall show slow figures, not failures.
    let limits = Limits { round: Duration::from_secs(60), ..Limits::default() };
    Runtime::new(RuntimeOptions { cache_dir: Some(cache.to_owned()), compiler, limits, ..RuntimeOptions::default() })
        .unwrap()
}

fn load(runtime: &Runtime, name: &str) -> Arc<Plugin> {
    runtime.load_blocking(builtin::get(name).unwrap().wasm).unwrap()
}

/// A figure, in `unit`, and what it may be at most.
fn figure(name: &str, value: f64, unit: &str, target: Option<f64>) {
    println!("{}", json!({"figure": name, "value": value, "unit": unit, "target": target}));
}

/// Sorted times of one thing.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times(times)
    }

    /// In milliseconds.
    fn percentile(&self, share: f64) -> f64 {
        let index = (self.0.len() as f64 * share) as usize;
        self.0[index.min(self.0.len() - 1)].as_secs_f64() * 1e3
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// A round of the same sources in native code, behind the same interface and with the host's same checks.
fn native(snapshot: &Snapshot, lot: usize) -> u32 {
    let mut books = Books::of(snapshot);
    let mut drf = black_box(Drf::open(&json!({"lot": lot}).to_string(), snapshot).unwrap());
    play(&mut drf, snapshot, &Limits::default(), &mut books).unwrap();
    books.placed
}

fn wasm(plugin: &Plugin, lot: usize, snapshot: &Snapshot) -> u32 {
    let mut books = Books::of(snapshot);
    plugin.schedule(&Call::new(json!({"lot": lot}).to_string()), snapshot, &mut books).unwrap();
    books.placed
}

fn rounds(runtime: &Runtime) {
    let drf = load(runtime, "drf");
    for (pending, agents, repeats) in [(1_000, 200, 100), (10_000, 1_000, 100)] {
        let size = format!("drf {pending} x {agents}");
        let snapshot = snapshot(pending, agents);
        for lot in [64, 1] {
            // In turns, so that what else the machine does hits both.
            let (mut here, mut there) = (Vec::new(), Vec::new());
            for _ in 0..repeats {
                here.push(timed(|| assert_eq!(native(&snapshot, lot), pending)));
                there.push(timed(|| assert_eq!(wasm(&drf, lot, &snapshot), pending)));
            }
            let (here, there) = (Times::of(here), Times::of(there));
            let (fast, large) = (lot > 1, pending > 1_000);
            let target = |value: f64, applies: bool| (applies && fast).then_some(value);
            figure(&format!("{size}, lots of {lot}: native, median"), here.percentile(0.5), "ms", None);
            figure(&format!("{size}, lots of {lot}: Wasm, median"), there.percentile(0.5), "ms", target(3.0, !large));
            figure(&format!("{size}, lots of {lot}: Wasm, p99"), there.percentile(0.99), "ms", target(100.0, large));
            let ratio = there.percentile(0.5) / here.percentile(0.5);
            figure(&format!("{size}, lots of {lot}: Wasm / native, without the host's books"), ratio, "", None);
        }
    }
}

/// A fleet in which no two agents are alike.
fn motley(runtime: &Runtime) {
    let drf = load(runtime, "drf");
    let mut snapshot = snapshot(10_000, 1_000);
    for (agent, capacity) in snapshot.agents.capacity.chunks_mut(SLOTS).enumerate() {
        // In no order: the largest may be anywhere.
        capacity[1] += (agent as u64 * 7_919 % 1_000) << 20;
    }
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        here.push(timed(|| assert_eq!(native(&snapshot, 64), 10_000)));
        there.push(timed(|| assert_eq!(wasm(&drf, 64, &snapshot), 10_000)));
    }
    let (here, there) = (Times::of(here), Times::of(there));
    let name = "drf 10000 x 1000, all agents different, lots of 64";
    figure(&format!("{name}: native, median"), here.percentile(0.5), "ms", None);
    figure(&format!("{name}: Wasm, p99"), there.percentile(0.99), "ms", Some(100.0));
}

/// The cost of a round in sessions: no faster than n log n.
fn growth(runtime: &Runtime) {
    let drf = load(runtime, "drf");
    let mut first: Option<(f64, f64)> = None;
    for pending in [1_000_u32, 3_000, 10_000, 30_000] {
        let snapshot = snapshot(pending, 1_000);
        let times: Vec<Duration> = (0..15).map(|_| timed(|| assert_eq!(wasm(&drf, 64, &snapshot), pending))).collect();
        let took = Times::of(times).percentile(0.5);
        figure(&format!("drf {pending} x 1000, lots of 64: median"), took, "ms", None);
        let ideal = f64::from(pending) * f64::from(pending).log2();
        match first {
            None => first = Some((took, ideal)),
            Some((least, unit)) if pending == 30_000 => {
                figure(
                    "drf, 30 times the sessions: growth / growth of n log n",
                    took / least / (ideal / unit),
                    "",
                    Some(1.0),
                );
            }
            Some(_) => {}
        }
    }
}

fn event() -> Event {
    let kernel = json!({
        "role": "main", "image": "registry.example.org/stable/python:3.12", "architecture": "x86_64",
        "slots": {"cpu": "2", "mem": "4294967296"},
    });
    let body = json!({
        "session": {"name": "a-session", "type": "interactive", "scaling_group": "default", "cluster_mode": "single-node",
            "cluster_size": 1, "environ": {"A": "b"}, "kernels": [kernel]},
        "owner": {"email": "user@example.org", "domain": "default", "project": "default", "access_key": "AKIAEXAMPLE"},
    });
    Event {
        name: "PRE_ENQUEUE_SESSION".to_owned(),
        at_ms: 1_700_000_000_000,
        utc_offset_s: 0,
        actor: None,
        body: body.to_string(),
    }
}

fn hooks(runtime: &Runtime) {
    let event = event();
    let chain = |hooks: &[Arc<Plugin>], config: &str| {
        let call = Call::new(config);
        let asked =
            (0..2_000).map(|_| timed(|| hooks.iter().for_each(|hook| drop(black_box(hook.handle(&call, &event))))));
        Times::of(asked.skip(100).collect())
    };
    let admission = load(runtime, "admission-limits");
    let config = r#"{"max_per_session": {"cpu": 64}, "max_cluster_size": 4, "denied_images": ["*/forbidden/*"]}"#;
    assert_eq!(admission.handle(&Call::new(config), &event).unwrap(), Verdict::Allow);
    let three = vec![admission; 3];
    figure("three Rust hooks in a row, p99", chain(&three, config).percentile(0.99), "ms", Some(1.0));
    for (language, file, target) in [
        ("Python", "target/authors/bench/python-hook/policy.wasm", 3.0),
        ("JavaScript", "target/authors/bench/javascript-hook/dist/policy.wasm", 1.0),
    ] {
        let name = format!("a {language} hook, p99");
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        let Ok(wasm) = std::fs::read(&path) else {
            println!("{}", json!({"figure": name, "skipped": format!("{file} is not built")}));
            continue;
        };
        match runtime.load_blocking(&wasm) {
            Ok(hook) if hook.kind == Kind::Hook => {
                hook.handle(&Call::default(), &event).unwrap();
                figure(&name, chain(&[hook], "{}").percentile(0.99), "ms", Some(target));
            }
            Ok(other) => println!("{}", json!({"figure": name, "skipped": format!("{file} is a {}", other.kind)})),
            Err(error) => println!("{}", json!({"figure": name, "skipped": format!("{file}: {error}")})),
        }
    }
}

/// A component of that many bytes and one more, which nobody has seen: the same code under another digest.
fn unseen(wasm: &[u8], number: u8) -> Vec<u8> {
    // A custom section of a name and a byte.
    [wasm, &[0, 3, 1, b'n', number]].concat()
}

fn ways_in(runtime: &Runtime, cache: &Path) {
    let wasm = builtin::get("session_lifetime").unwrap().wasm;
    let uploads: Vec<Duration> = (0..10)
        .map(|number| {
            let component = unseen(wasm, number);
            timed(|| {
                let plugin = runtime.load_blocking(&component).unwrap();
                plugin.check_config("{}").unwrap();
                plugin.traits(&Call::default()).unwrap();
            })
        })
        .collect();
    let name = format!("upload to first call of {} KB: compiled, checked, called, median", wasm.len() / 1000);
    figure(&name, Times::of(uploads).percentile(0.5), "ms", Some(500.0));

    // Another process that finds it compiled: a server after a restart, a second host.
    let (snapshot, again) = (snapshot(1, 1), self::runtime(cache));
    let swaps: Vec<Duration> = (0..20)
        .map(|_| {
            timed(|| {
                let drf = load(&again, "drf");
                assert_eq!(wasm_once(&drf, &snapshot), 1);
                again.forget(&drf.digest);
            })
        })
        .collect();
    figure(
        "swap to effect: loaded from the compiled cache, first round, p99",
        Times::of(swaps).percentile(0.99),
        "ms",
        Some(10.0),
    );
}

fn wasm_once(plugin: &Plugin, snapshot: &Snapshot) -> u32 {
    wasm(plugin, 1, snapshot)
}

/// What a shadow as costly as the live policy adds to the live one, when rounds come one after the other and the shadow
/// plays each beside the next.
fn shadow(runtime: &Runtime) {
    let drf = load(runtime, "drf");
    let snapshot = Arc::new(snapshot(10_000, 1_000));
    let (to_shadow, rounds) = mpsc::sync_channel::<()>(1);
    let worker = std::thread::spawn({
        let (drf, snapshot) = (drf.clone(), snapshot.clone());
        move || rounds.iter().for_each(|()| assert_eq!(wasm(&drf, 64, &snapshot), 10_000))
    });
    let (mut alone, mut accompanied) = (Vec::new(), Vec::new());
    for block in 0..20 {
        for _ in 0..5 {
            if block % 2 == 0 {
                alone.push(timed(|| assert_eq!(wasm(&drf, 64, &snapshot), 10_000)));
            } else {
                // A shadow that has not kept up is left out, never waited for.
                let _ = to_shadow.try_send(());
                accompanied.push(timed(|| assert_eq!(wasm(&drf, 64, &snapshot), 10_000)));
            }
        }
    }
    drop(to_shadow);
    worker.join().unwrap();
    let (alone, accompanied) = (Times::of(alone), Times::of(accompanied));
    let added = (accompanied.percentile(0.5) / alone.percentile(0.5) - 1.0) * 100.0;
    figure("a shadow adds to the live round, median", added, "%", Some(5.0));
}
