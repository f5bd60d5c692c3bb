//! Whatever a component does, the call ends with the failure that fits, in bounded time, and the host goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quarterdeck_plugin::hooks::{Event, Verdict};
use quarterdeck_plugin::idling::{Access, Tick};
use quarterdeck_plugin::scheduling::{Outcome, Proposal};
use quarterdeck_plugin::types::SessionKind;
use quarterdeck_plugin::{Call, Failure, Kind, Limits, LoadError, Meter, Plugin};

use crate::common::{Books, Builder, RUNTIME, builtin};
use crate::hostile_wat::component;

/// Limits that make the tests quick, and still leave an honest call a hundredfold of what it needs.
fn limits() -> Limits {
    Limits {
        round: Duration::from_millis(300),
        tick: Duration::from_millis(300),
        hook: Duration::from_millis(300),
        describe: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn call() -> Call {
    Call { limits: Some(limits()), ..Call::default() }
}

fn load(name: &str) -> Arc<Plugin> {
    RUNTIME.load_blocking(&component(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// After an attack, the host still schedules.
fn the_host_goes_on() {
    let snapshot = Builder::new(&["cpu"]).agent(&[("cpu", 4000)], &[]).session(&[("cpu", 1000)], 0).build();
    let trace = builtin("fifo").schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    assert!(matches!(trace.proposals[0], (Proposal::Place(_), Outcome::Accepted)));
}

fn round(name: &str, call: &Call) -> Failure {
    let plugin = load(name);
    let snapshot = Builder::new(&["cpu"])
        .agent(&[("cpu", 4000)], &[])
        .session(&[("cpu", 1000)], 0)
        .session(&[("cpu", 1000)], 0)
        .build();
    let started = Instant::now();
    let failure = plugin.schedule(call, &snapshot, &mut Books::of(&snapshot)).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{name} took {:?}", started.elapsed());
    the_host_goes_on();
    failure
}

fn tick(created_ms: Vec<i64>) -> Tick {
    let count = created_ms.len();
    Tick {
        now_ms: 1_000_000,
        count: count as u32,
        kind: vec![SessionKind::Interactive; count],
        private: vec![false; count],
        started_ms: created_ms.clone(),
        created_ms,
        grace_until_ms: vec![None; count],
        access: vec![Access::Unknown; count],
        connections: vec![0; count],
        idle_limit_ms: vec![None; count],
        lifetime_limit_ms: vec![None; count],
        slots: Vec::new(),
        held: Vec::new(),
        metrics: Vec::new(),
        more: Vec::new(),
    }
}

fn event() -> Event {
    Event { name: "PRE_ENQUEUE_SESSION".to_owned(), at_ms: 0, utc_offset_s: 0, actor: None, body: "{}".to_owned() }
}

#[test]
fn the_harness_itself_is_sound() {
    let plugin = load("well-behaved");
    assert_eq!((plugin.kind, plugin.info.name.as_str()), (Kind::Scheduler, "well-behaved"));
    let snapshot = Builder::new(&["cpu"]).session(&[("cpu", 1)], 0).build();
    let trace = plugin.schedule(&call(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    assert_eq!((trace.calls, trace.proposals.len()), (1, 0));
}

#[test]
fn endless_loops_time_out() {
    for name in ["loops-in-open", "loops-in-propose", "loops-in-settle"] {
        let failure = round(name, &call());
        assert_eq!(failure.label(), "timeout", "{name}: {failure}");
        assert!(failure.to_string().contains("300 ms"), "{failure}");
    }
    let plugin = load("loops-in-explain");
    let snapshot = Builder::new(&["cpu"]).session(&[("cpu", 1)], 0).build();
    let failure = plugin.explain(&call(), &snapshot, &mut Books::of(&snapshot), 0, 5).unwrap_err();
    assert_eq!(failure.label(), "timeout");
    assert_eq!(load("loops-in-check").check(&call(), &tick(vec![1])).unwrap_err().label(), "timeout");
    assert_eq!(load("loops-in-handle").handle(&call(), &event()).unwrap_err().label(), "timeout");
}

#[test]
fn endless_loops_run_out_of_fuel_when_metered() {
    let metered = Call { meter: Meter::Fuel(1_000_000), ..Call::default() };
    let failure = round("loops-in-propose", &metered);
    assert_eq!(failure, Failure::Fuel { export: "propose", limit: 1_000_000 });
}

#[test]
fn loops_at_load_are_refused() {
    for name in ["loops-at-start", "loops-in-describe"] {
        let started = Instant::now();
        let error = RUNTIME.load_blocking(&component(name)).unwrap_err();
        assert!(matches!(error, LoadError::SelfTest(Failure::Timeout { .. })), "{name}: {error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    the_host_goes_on();
}

#[test]
fn traps_are_traps() {
    for name in ["traps-in-open", "traps-in-propose", "recurses"] {
        let failure = round(name, &call());
        assert_eq!(failure.label(), "trap", "{name}: {failure}");
    }
    assert!(matches!(
        RUNTIME.load_blocking(&component("traps-in-describe")),
        Err(LoadError::SelfTest(Failure::Trap { .. }))
    ));
    assert_eq!(load("traps-in-handle").handle(&call(), &event()).unwrap_err().label(), "trap");
}

#[test]
fn memory_is_limited() {
    let failure = round("allocates-4-gib", &call());
    assert!(matches!(failure, Failure::Memory { limit: 67_108_864, .. }), "{failure}");
    let error = RUNTIME.load_blocking(&component("starts-with-2-gib")).unwrap_err();
    assert!(error.is_the_components_fault() && error.to_string().contains("memory"), "{error}");
}

#[test]
fn nonsense_is_an_output_failure() {
    for (name, words) in [
        ("huge-list", ""),
        ("amplifies", ""),
        ("bad-pointer", ""),
        ("bad-variant", ""),
        ("nonsense-session", "pending session 99999 of 2"),
        ("nonsense-agent", "agent 99999 of 1"),
        ("too-few-agents", "has 1 kernels and was given 0 agents"),
        ("repeats-itself", "proposed twice"),
        ("too-many-proposals", "1000 proposals where at most 64"),
    ] {
        let failure = round(name, &call());
        assert_eq!(failure.label(), "output", "{name}: {failure}");
        assert!(failure.to_string().contains(words), "{name}: {failure}");
    }
    let failure = load("too-few-findings").check(&call(), &tick(vec![1, 2])).unwrap_err();
    assert!(failure.to_string().contains("0 answers for 2 sessions"), "{failure}");
    let failure = load("nonsense-patch").handle(&call(), &event()).unwrap_err();
    assert!(failure.to_string().contains("patch is not JSON"), "{failure}");
}

#[test]
fn a_flooded_log_is_cut_and_the_call_succeeds() {
    let plugin = load("floods-the-log");
    let snapshot = Builder::new(&["cpu"]).build();
    let trace = plugin.schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    assert_eq!(trace.journal.lines.len(), 200);
    assert_eq!(trace.journal.dropped, 19_800);
    assert_eq!(trace.journal.lines[0].message, "hostile");
}

#[test]
fn one_poisoned_session_does_not_keep_the_others_from_being_judged() {
    let plugin = load("poisoned");
    let mut created: Vec<i64> = (1000..1100).collect();
    created[37] = 666;
    created[80] = 666;
    let isolated = plugin.check_isolated(&call(), &tick(created));
    assert_eq!(isolated.failure.as_ref().map(Failure::label), Some("trap"));
    let failed: Vec<usize> = (0..100).filter(|row| isolated.findings[*row].is_err()).collect();
    assert_eq!((isolated.findings.len(), failed), (100, vec![37, 80]));
    let sound = plugin.check_isolated(&call(), &tick(vec![1, 2, 3]));
    assert!(sound.failure.is_none() && sound.findings.len() == 3);
}

#[test]
fn isolating_is_bounded_in_time() {
    let plugin = load("loops-in-check");
    let limits = Limits { tick: Duration::from_millis(100), isolate: Duration::from_millis(500), ..limits() };
    let call = Call { limits: Some(limits), ..Call::default() };
    let started = Instant::now();
    let isolated = plugin.check_isolated(&call, &tick((0..500).collect()));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(isolated.findings.len(), 500);
    assert!(isolated.findings.iter().all(Result::is_err));
}

#[test]
fn the_wrong_kind_of_call_is_refused() {
    let failure = builtin("fifo").handle(&call(), &event()).unwrap_err();
    assert_eq!(failure, Failure::Kind { is: Kind::Scheduler, wanted: Kind::Hook });
    assert_eq!(load("well-behaved").check(&call(), &tick(vec![1])).unwrap_err().label(), "kind");
}

#[test]
fn bad_names_are_refused() {
    let error = RUNTIME.load_blocking(&component("Not-A-Name")).unwrap_err();
    assert!(error.to_string().contains("`Not-A-Name`"), "{error}");
}

#[test]
fn what_is_not_a_policy_is_refused() {
    let module = wat::parse_str("(module)").unwrap();
    assert_eq!(RUNTIME.load_blocking(&module).unwrap_err().label(), "not-a-component");
    let empty = wat::parse_str("(component)").unwrap();
    assert_eq!(RUNTIME.load_blocking(&empty).unwrap_err().label(), "contract");
    let reaching_out = wat::parse_str(r#"(component (import "wasi:http/types@0.2.0" (instance)))"#).unwrap();
    let error = RUNTIME.load_blocking(&reaching_out).unwrap_err();
    assert!(error.to_string().contains("wasi:http/types@0.2.0"), "{error}");
    // Names alone don't make a policy: the exports are typed.
    let pretender = wat::parse_str(
        r#"(component
            (instance $empty)
            (export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
            (export "quarterdeck:policy/hooks@0.1.0" (instance $empty)))"#,
    )
    .unwrap();
    assert_eq!(RUNTIME.load_blocking(&pretender).unwrap_err().label(), "contract");
}

#[test]
fn truncated_and_flipped_components_never_get_through() {
    let whole = component("well-behaved");
    for length in (0..whole.len()).step_by(41) {
        assert!(RUNTIME.load_blocking(&whole[..length]).is_err(), "the first {length} bytes were loaded");
    }
    // A flipped bit may hit a name or a constant; whatever loads must still be callable without harm.
    let snapshot = Builder::new(&["cpu"]).agent(&[("cpu", 1)], &[]).session(&[("cpu", 1)], 0).build();
    for position in (8..whole.len()).step_by(173) {
        let mut flipped = whole.clone();
        flipped[position] ^= 0x10;
        if let Ok(plugin) = RUNTIME.load_blocking(&flipped) {
            let _ = plugin.schedule(&call(), &snapshot, &mut Books::of(&snapshot));
            RUNTIME.forget(&plugin.digest);
        }
    }
    the_host_goes_on();
}

#[test]
fn many_hostile_calls_at_once_leave_room_for_others() {
    let plugin = load("loops-in-propose");
    let limits = Limits { round: Duration::from_millis(100), ..Limits::default() };
    std::thread::scope(|scope| {
        for _ in 0..40 {
            let (plugin, limits) = (plugin.clone(), limits.clone());
            scope.spawn(move || {
                let call = Call { limits: Some(limits), ..Call::default() };
                let snapshot = Builder::new(&["cpu"]).session(&[("cpu", 1)], 0).build();
                let failure = plugin.schedule(&call, &snapshot, &mut Books::of(&snapshot)).unwrap_err();
                assert_eq!(failure.label(), "timeout");
            });
        }
    });
    the_host_goes_on();
}

#[test]
fn calls_work_from_asynchronous_code_too() {
    // A guest that writes to standard error must not make the host wait for its executor.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let hook = RUNTIME.load(quarterdeck_plugin::builtin::get("admission-limits").unwrap().wasm).await.unwrap();
        let body = serde_json::json!({"session": {"kernels": []}, "owner": {}}).to_string();
        let verdict = hook.handle(&Call::default(), &Event { body, ..event() }).unwrap();
        assert_eq!(verdict, Verdict::Allow);
    });
}
