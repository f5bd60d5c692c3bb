//! Every hostile component against the plugin host, as one program: each ends where and with the words that the table says,
//! in bounded time and memory, and the next good calls work.
//!
//! A program of its own, because it is its own compiling child, and because its memory is measured.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod suite;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use quarterdeck_plugin::hooks::{Event, Verdict};
use quarterdeck_plugin::idling::{Access, Tick};
use quarterdeck_plugin::scheduling::{Accounts, Agents, ClusterMode, Kernels, Outcome, Proposal, Sessions, Snapshot};
use quarterdeck_plugin::types::{SessionKind, Slot, SlotKind};
use quarterdeck_plugin::{
    COMPILE_CHILD_ARG, Call, CompileLimits, Compiler, Failure, Limits, LoadError, Plugin, Runtime, RuntimeOptions,
    builtin, compile_child_main,
};
use suite::{Case, Ends, World};

/// How long an honest call may take here: a hundredfold of what it needs.
const WALL: Duration = Duration::from_millis(500);

/// How long a case may take that isn't for the compiler: several calls of [`WALL`], on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// How much this process may grow while it deals with a component, in MiB: its memory, its answer, itself, and some more.
const GROWTH_MIB: u64 = 256;

/// Processor time, wall time and address space of the compiling child.
const COMPILE: CompileLimits = CompileLimits {
    wall: Duration::from_secs(40),
    cpu: Duration::from_secs(5),
    address_space: 640 << 20,
    output: 64 << 20,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == COMPILE_CHILD_ARG) {
        return compile_child_main();
    }
    if args.iter().any(|arg| arg == "--list") {
        // What test runners ask first.
        if !args.iter().any(|arg| arg == "--ignored") {
            println!("hostile_components: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-')).map(String::as_str).unwrap_or_default();
    let cases = suite::all();
    let names: HashSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
    let mut bench = Bench::new();
    let mut failed = Vec::new();
    for case in cases.iter().filter(|case| filter == "hostile_components" || case.name.contains(filter)) {
        if let Err(problem) = bench.run(case) {
            println!("{:<28} FAILED: {problem}", case.name);
            failed.push(case.name);
        }
    }
    let children = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() / 1024;
    println!("the largest compiling child took {children} MiB, this process {} MiB", status("VmHWM:") / 1024);
    assert!(children <= 640, "a compiling child took {children} MiB");
    if failed.is_empty() {
        println!("test hostile_components ... ok");
        ExitCode::SUCCESS
    } else {
        println!("test hostile_components ... FAILED: {}", failed.join(", "));
        ExitCode::FAILURE
    }
}

/// The host under attack, and honest plugins beside.
struct Bench {
    runtime: Runtime,
    fifo: Arc<Plugin>,
    lifetime: Arc<Plugin>,
    admission: Arc<Plugin>,
    kinds: HashSet<World>,
}

/// Where a component ended, and why.
struct End {
    at: Ends,
    kind: String,
    reason: String,
}

impl Bench {
    fn new() -> Bench {
        let compiler = Compiler::Child {
            program: std::env::current_exe().unwrap(),
            args: vec![COMPILE_CHILD_ARG.to_owned().into()],
        };
        let limits = Limits { round: WALL, tick: WALL, hook: WALL, describe: WALL, ..Limits::default() };
        let options = RuntimeOptions { compiler, compile_limits: COMPILE, limits, ..RuntimeOptions::default() };
        let runtime = Runtime::new(options).unwrap();
        let load = |name: &str| runtime.load_blocking(builtin::get(name).unwrap().wasm).unwrap();
        let (fifo, lifetime, admission) = (load("fifo"), load("session_lifetime"), load("admission-limits"));
        Bench { runtime, fifo, lifetime, admission, kinds: HashSet::new() }
    }

    fn run(&mut self, case: &Case) -> Result<(), String> {
        let wasm = case.wasm();
        forget_the_peak();
        let (before, started) = (status("VmRSS:"), Instant::now());
        let end = self.end_of(case, &wasm);
        let (took, growth) = (started.elapsed(), status("VmHWM:").saturating_sub(before) / 1024);
        println!(
            "{:<28} {:<28} {:>6} ms {growth:>4} MiB  {}",
            case.name,
            format!("{:?} {}", end.at, end.kind),
            took.as_millis(),
            end.reason
        );
        let expected = (case.ends, case.kind);
        if (end.at, end.kind.as_str()) != expected {
            return Err(format!("it was to end {expected:?}, not {:?} {}: {}", end.at, end.kind, end.reason));
        }
        if !end.reason.contains(case.reason) {
            return Err(format!("{:?} doesn't say {:?}", end.reason, case.reason));
        }
        if end.reason.len() > 5000 || end.reason.chars().any(char::is_control) {
            return Err(format!("a reason of {} bytes, or with control characters", end.reason.len()));
        }
        let bound = if case.ends == Ends::Compiled { COMPILE.wall + SOON } else { SOON };
        if took > bound {
            return Err(format!("it took {took:?}"));
        }
        if growth > GROWTH_MIB {
            return Err(format!("it cost {growth} MiB"));
        }
        self.the_host_goes_on();
        self.kinds.insert(case.world);
        Ok(())
    }

    fn end_of(&self, case: &Case, wasm: &[u8]) -> End {
        match self.runtime.load_blocking(wasm) {
            Ok(plugin) => {
                assert_eq!(plugin.info.name, case.name, "it calls itself as the table does");
                let end = self.serve(case.world, &plugin);
                self.runtime.forget(&plugin.digest);
                end
            }
            Err(error) => {
                let at = match &error {
                    LoadError::SelfTest(_) | LoadError::Description(_) => Ends::SelfTested,
                    LoadError::Compile(_) => Ends::Compiled,
                    _ => Ends::Verified,
                };
                End { at, kind: error.label().to_owned(), reason: error.to_string() }
            }
        }
    }

    /// All that a revision is called for, until something fails.
    fn serve(&self, world: World, plugin: &Plugin) -> End {
        if let Err(objection) = plugin.check_config("{}") {
            return End { at: Ends::CheckConfig, kind: "config".to_owned(), reason: objection.to_string() };
        }
        // As large as a configuration may be.
        let call = Call::new(format!(r#"{{"fill":"{}"}}"#, "x".repeat(200_000)));
        let called = match world {
            World::Scheduler => {
                let snapshot = snapshot();
                let mut accept = |proposals: &[Proposal]| vec![Outcome::Accepted; proposals.len()];
                plugin.schedule(&call, &snapshot, &mut accept).map(drop).and_then(|()| {
                    let explanation = plugin.explain(&call, &snapshot, &mut accept, 0, 5)?;
                    assert!(explanation.candidates.iter().all(|candidate| candidate.score.is_finite()));
                    Ok(())
                })
            }
            World::IdleChecker => plugin.traits(&call).and_then(|_| {
                let findings = plugin.check(&call, &tick())?;
                assert!(findings.iter().filter_map(|finding| finding.as_ref().err()).all(|error| error.len() <= 1000));
                Ok(())
            }),
            World::Hook => plugin.handle(&call, &event("{}")).map(drop),
        };
        match called {
            Ok(()) => End { at: Ends::Nowhere, kind: String::new(), reason: String::new() },
            Err(failure) => End {
                at: Ends::Called(failure.export().unwrap_or("instantiate")),
                kind: failure.label().to_owned(),
                reason: failure.to_string(),
            },
        }
    }

    /// After an attack, honest plugins of all kinds do what they did before.
    fn the_host_goes_on(&self) {
        let mut accept = |proposals: &[Proposal]| vec![Outcome::Accepted; proposals.len()];
        let mut served = || -> Result<bool, Failure> {
            let trace = self.fifo.schedule(&Call::default(), &snapshot(), &mut accept)?;
            let findings = self.lifetime.check(&Call::default(), &tick())?;
            let body = serde_json::json!({"session": {"kernels": []}, "owner": {}}).to_string();
            let verdict = self.admission.handle(&Call::default(), &event(&body))?;
            Ok(trace.proposals.len() == 2 && findings.len() == 2 && verdict == Verdict::Allow)
        };
        assert!(served().unwrap(), "an honest plugin answers otherwise than before");
    }
}

/// A line of `/proc/self/status`, in KiB.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Lets `VmHWM` begin anew.
fn forget_the_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Two sessions and an agent with room for them.
fn snapshot() -> Snapshot {
    let accounts = || Accounts {
        count: 1,
        occupied: vec![0],
        limit: vec![u64::MAX],
        sessions: vec![0],
        session_limit: vec![u32::MAX],
        private_sessions: vec![0],
        private_session_limit: vec![u32::MAX],
        more: Vec::new(),
    };
    let sessions = |count: usize| Sessions {
        count: count as u32,
        owner: vec![0; count],
        project: vec![0; count],
        domain: vec![0; count],
        kind: vec![SessionKind::Interactive; count],
        mode: vec![ClusterMode::SingleNode; count],
        private: vec![false; count],
        priority: vec![0; count],
        retries: vec![0; count],
        waiting_ms: vec![0; count],
        requested: vec![1000; count],
        held: vec![0; count],
        first_kernel: if count == 0 { vec![2] } else { (0..=count as u32).collect() },
        more: Vec::new(),
    };
    Snapshot {
        round: 1,
        now_ms: 1_700_000_000_000,
        seed: 42,
        slots: vec![Slot { name: "cpu".to_owned(), kind: SlotKind::Count }],
        architectures: vec!["x86_64".to_owned()],
        pending: sessions(2),
        running: sessions(0),
        kernels: Kernels {
            count: 2,
            architecture: vec![0; 2],
            requested: vec![1000; 2],
            held: vec![0; 2],
            agent: vec![None; 2],
            more: Vec::new(),
        },
        agents: Agents {
            count: 1,
            architecture: vec![0],
            schedulable: vec![true],
            capacity: vec![4000],
            occupied: vec![0],
            containers: vec![0],
            more: Vec::new(),
        },
        owners: accounts(),
        projects: accounts(),
        domains: accounts(),
    }
}

fn tick() -> Tick {
    Tick {
        now_ms: 1_000_000,
        count: 2,
        kind: vec![SessionKind::Interactive; 2],
        private: vec![false; 2],
        created_ms: vec![1, 2],
        started_ms: vec![1, 2],
        grace_until_ms: vec![None; 2],
        access: vec![Access::Unknown; 2],
        connections: vec![0; 2],
        idle_limit_ms: vec![None; 2],
        lifetime_limit_ms: vec![None; 2],
        slots: Vec::new(),
        held: Vec::new(),
        metrics: Vec::new(),
        more: Vec::new(),
    }
}

fn event(body: &str) -> Event {
    Event { name: "PRE_ENQUEUE_SESSION".to_owned(), at_ms: 0, utc_offset_s: 0, actor: None, body: body.to_owned() }
}
