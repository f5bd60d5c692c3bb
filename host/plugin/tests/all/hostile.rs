//! What hostile components can't do beyond failing their own calls. That each of them fails as it should is the table's
//! business, in `tests/hostile`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quarterdeck_plugin::hooks::{Event, Verdict};
use quarterdeck_plugin::idling::{Access, Tick};
use quarterdeck_plugin::scheduling::{Outcome, Proposal};
use quarterdeck_plugin::types::SessionKind;
use quarterdeck_plugin::{Call, Failure, Kind, Limits, Meter, Plugin};

use crate::common::{Books, Builder, RUNTIME, builtin};

#[path = "../hostile/suite/mod.rs"]
pub(crate) mod suite;

use suite::{Body, case};

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
    RUNTIME.load_blocking(&case(name).wasm()).unwrap_or_else(|error| panic!("{name}: {error}"))
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
fn endless_loops_run_out_of_fuel_when_metered() {
    let metered = Call { meter: Meter::Fuel(1_000_000), ..Call::default() };
    let failure = round("loops-in-propose", &metered);
    assert_eq!(failure, Failure::Fuel { export: "propose", limit: 1_000_000 });
}

/// What the host does for a guest costs no fuel: there the clock ends it.
#[test]
fn metered_calls_end_by_the_clock_too() {
    let limits = Limits { metered: Duration::from_millis(300), ..Limits::default() };
    let metered = Call { meter: Meter::Fuel(u64::MAX / 2), limits: Some(limits), ..Call::default() };
    for name in ["loops-in-propose", "logs-megabytes"] {
        let failure = round(name, &metered);
        assert_eq!(failure, Failure::Timeout { export: "propose", limit: Duration::from_millis(300) }, "{name}");
    }
    let hook = load("throws-dice-for-ever");
    assert_eq!(hook.handle(&metered, &event()).unwrap_err().label(), "timeout");
}

/// One plugin with ever new names for its counters leaves room for those of others.
#[test]
fn counters_of_one_plugin_do_not_crowd_out_others() {
    let flood = load("floods-the-counters");
    let snapshot = Builder::new(&["cpu"]).session(&[("cpu", 1)], 0).build();
    flood.schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    the_host_goes_on();
    let counters = RUNTIME.counters();
    let of = |plugin: &str| counters.iter().filter(|(name, ..)| name == plugin).count();
    assert_eq!(of("floods-the-counters"), 64);
    assert!(of("fifo") > 0, "{counters:?}");
}

#[test]
fn a_flooded_log_is_cut_and_the_call_succeeds() {
    let plugin = load("logs-a-little-too-much");
    let snapshot = Builder::new(&["cpu"]).build();
    let trace = plugin.schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    assert_eq!(trace.journal.lines.len(), 200);
    assert_eq!(trace.journal.dropped, 19_800);
    assert_eq!(trace.journal.lines[0].message, "hostile");
}

#[test]
fn one_poisoned_session_does_not_keep_the_others_from_being_judged() {
    // Traps when any session was enqueued at 666.
    let check = "
        (local $at i32) (local $left i32)
        (local.set $at (i32.load offset=28 (local.get 0)))
        (local.set $left (i32.load offset=32 (local.get 0)))
        (block $done
            (loop $next
                (br_if $done (i32.eqz (local.get $left)))
                (if (i64.eq (i64.load (local.get $at)) (i64.const 666)) (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br $next)))
        (i32.store8 (i32.const 600) (i32.const 0))
        (i32.store (i32.const 604) (call $zeroes (i32.mul (i32.load offset=8 (local.get 0)) (i32.const 40))))
        (i32.store (i32.const 608) (i32.load offset=8 (local.get 0))) (i32.const 600)";
    let plugin = RUNTIME.load_blocking(&suite::component("poisoned", &Body { check, ..suite::IDLE })).unwrap();
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
fn truncated_and_flipped_components_never_get_through() {
    let whole = case("well-behaved").wasm();
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

/// What tests of whole servers rely on: a component in disguise passes an inspection, and does harm in service.
#[test]
fn disguised_components_do_harm_only_when_they_are_configured() {
    let all = suite::all();
    let disguised: Vec<_> = all.iter().filter_map(|case| Some((case, case.in_disguise()?))).collect();
    assert!(disguised.len() > 40);
    let armed = Call { limits: Some(limits()), ..Call::new(r#"{"armed":true}"#) };
    for (case, wasm) in disguised.into_iter().filter(|(case, _)| case.kind != "timeout") {
        let plugin = RUNTIME.load_blocking(&wasm).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let served = |call: &Call| match plugin.kind {
            Kind::Scheduler => {
                let mut builder = Builder::new(&["cpu"]).agent(&[("cpu", 4000)], &[]);
                builder = builder.session(&[("cpu", 1000)], 0).session(&[("cpu", 1000)], 0);
                let snapshot = builder.build();
                let round = plugin.schedule(call, &snapshot, &mut Books::of(&snapshot)).map(drop);
                round.and_then(|()| plugin.explain(call, &snapshot, &mut Books::of(&snapshot), 0, 5).map(drop))
            }
            Kind::IdleChecker => plugin.traits(call).and_then(|_| plugin.check(call, &tick(vec![1, 2])).map(drop)),
            Kind::Hook => plugin.handle(call, &event()).map(drop),
        };
        assert_eq!(served(&call()), Ok(()), "{} behaves while it is looked at", case.name);
        assert_eq!(served(&armed).unwrap_err().label(), case.kind, "{}", case.name);
        RUNTIME.forget(&plugin.digest);
    }
}
