//! What the built-in policies do beyond the vectors.

use quarterdeck_plugin::hooks::{Event, Verdict};
use quarterdeck_plugin::scheduling::{ClusterMode, Outcome, Proposal, Refusal};
use quarterdeck_plugin::{Call, Kind, subject};
use serde_json::json;

use crate::common::{Books, Builder, Pending, RUNTIME, builtin, map};

#[test]
fn they_describe_themselves_by_their_names() {
    for builtin in quarterdeck_plugin::builtin::all() {
        let plugin = RUNTIME.load_blocking(builtin.wasm).unwrap();
        assert_eq!(plugin.info.name, builtin.name);
        assert_eq!(plugin.outline.contract, "0.1.0");
        plugin.check_config("{}").unwrap();
    }
    assert_eq!(builtin("fifo").kind, Kind::Scheduler);
    assert_eq!(builtin("session_lifetime").kind, Kind::IdleChecker);
    let hook = builtin("admission-limits");
    assert!(hook.listens_to("PRE_ENQUEUE_SESSION") && !hook.listens_to("AUTHORIZE"));
}

#[test]
fn configurations_are_checked_by_schema_and_guest() {
    let fifo = builtin("fifo");
    for wrong in ["", "[]", "{", r#"{"hold_after_s": -1}"#, r#"{"skip_blocked": "yes"}"#] {
        assert!(fifo.check_config(wrong).is_err(), "{wrong}");
    }
    let problems = builtin("session_lifetime").check_config(r#"{"count_from": "birth"}"#).unwrap_err();
    assert_eq!(problems.problems()[0].pointer, "/count_from");
    let problems = builtin("admission-limits")
        .check_config(r#"{"projects": {"a/b": {"max_per_session": {"mem": "much"}}}}"#)
        .unwrap_err();
    assert_eq!(problems.problems()[0].pointer, "/projects/a~1b/max_per_session/mem");
    assert!(builtin("admission-limits").check_config(r#"{"max_clustersize": 3}"#).is_err());
}

#[test]
fn refused_options_are_pointed_at() {
    for (plugin, config, pointer) in [
        ("fifo", r#"{"skip_blocked": "yes"}"#, "/skip_blocked"),
        ("fifo", r#"{"hold_after_s": -1}"#, "/hold_after_s"),
        ("session_lifetime", r#"{"count_from": "birth"}"#, "/count_from"),
        ("admission-limits", r#"{"max_clustersize": 3}"#, "/max_clustersize"),
        ("admission-limits", r#"{"max_cluster_size": "3"}"#, "/max_cluster_size"),
    ] {
        let objection = builtin(plugin).check_config(config).unwrap_err();
        let problems = objection.problems();
        assert_eq!(problems.iter().map(|p| p.pointer.as_str()).collect::<Vec<_>>(), [pointer], "{plugin} {config}");
        assert!(!problems[0].message.is_empty());
    }
}

/// Two sessions that fit and a large one in front that doesn't now, but would.
fn blocked(waiting_ms: u64) -> Builder {
    Builder::new(&["cpu"])
        .agent(&[("cpu", 8000)], &[("cpu", 4000)])
        .session(&[("cpu", 6000)], waiting_ms)
        .session(&[("cpu", 1000)], 1)
        .session(&[("cpu", 1000)], 0)
}

fn placed(config: &str, builder: &Builder) -> Vec<u32> {
    let snapshot = builder.build();
    let trace = builtin("fifo").schedule(&Call::new(config), &snapshot, &mut Books::of(&snapshot)).unwrap();
    trace
        .proposals
        .iter()
        .filter(|(proposal, outcome)| matches!(proposal, Proposal::Place(_)) && *outcome == Outcome::Accepted)
        .map(|(proposal, _)| subject(proposal))
        .collect()
}

#[test]
fn fifo_blocks_unless_told_otherwise() {
    let none: Vec<u32> = Vec::new();
    assert_eq!(placed("{}", &blocked(0)), none);
    assert_eq!(placed(r#"{"skip_blocked": true}"#, &blocked(0)), [1, 2]);
}

#[test]
fn a_session_that_waited_long_holds_the_line() {
    let config = r#"{"skip_blocked": true, "hold_after_s": 60}"#;
    assert_eq!(placed(config, &blocked(59_999)), [1, 2]);
    assert!(placed(config, &blocked(60_000)).is_empty());
}

#[test]
fn a_session_that_can_never_fit_does_not_hold_the_line() {
    let mut builder = blocked(10_000_000);
    builder.pending[0].kernels[0].0 = map(&[("cpu", 9000)]);
    assert_eq!(placed(r#"{"skip_blocked": true, "hold_after_s": 60}"#, &builder), [1, 2]);
}

#[test]
fn a_refused_predicate_lets_the_next_session_have_its_turn() {
    let snapshot = blocked(0).build();
    let mut judge = |proposals: &[Proposal]| {
        proposals
            .iter()
            .map(|proposal| match proposal {
                Proposal::Place(_) => Outcome::Accepted,
                Proposal::Defer(_) => Outcome::Refused(Refusal::Concurrency),
            })
            .collect::<Vec<_>>()
    };
    let trace = builtin("fifo").schedule(&Call::default(), &snapshot, &mut judge).unwrap();
    let order: Vec<u32> = trace.proposals.iter().map(|(proposal, _)| subject(proposal)).collect();
    assert_eq!(order, [0, 1, 2]);
}

#[test]
fn kernels_of_a_multi_node_session_share_what_is_left() {
    let kernel = |cpu| (map(&[("cpu", cpu)]), "x86_64".to_owned(), None);
    let mut builder = Builder::new(&["cpu"]).agent(&[("cpu", 3000)], &[]).agent(&[("cpu", 2000)], &[]);
    builder.pending.push(Pending {
        kernels: vec![kernel(2000), kernel(2000)],
        mode: ClusterMode::MultiNode,
        retries: 0,
        waiting_ms: 0,
        owner: 0,
    });
    let snapshot = builder.build();
    let trace = builtin("fifo").schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    match &trace.proposals[..] {
        [(Proposal::Place(placement), Outcome::Accepted)] => assert_eq!(placement.agents, [0, 1]),
        other => panic!("{other:?}"),
    }
    // A third one finds nothing, and then none of them takes anything.
    builder.pending[0].kernels.push(kernel(2000));
    let snapshot = builder.build();
    let trace = builtin("fifo").schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
    assert!(matches!(&trace.proposals[..], [(Proposal::Defer(_), _)]));
}

#[test]
fn fifo_explains_itself() {
    let snapshot = blocked(0).build();
    let explanation = builtin("fifo").explain(&Call::default(), &snapshot, &mut Books::of(&snapshot), 0, 10).unwrap();
    assert_eq!(explanation.candidates.len(), 1);
    assert!(!explanation.candidates[0].feasible);
    assert!(explanation.candidates[0].why.contains("cpu"), "{explanation:?}");
}

fn ask(config: &serde_json::Value, body: &serde_json::Value) -> Verdict {
    let hook = builtin("admission-limits");
    let config = config.to_string();
    hook.check_config(&config).unwrap();
    let event = Event {
        name: "PRE_ENQUEUE_SESSION".to_owned(),
        at_ms: 0,
        utc_offset_s: 0,
        actor: None,
        body: body.to_string(),
    };
    hook.handle(&Call::new(config), &event).unwrap()
}

fn session(image: &str, kernels: usize, cpu: &str, project: &str) -> serde_json::Value {
    let kernel = json!({"role": "main", "image": image, "slots": {"cpu": cpu, "mem": "1073741824"}});
    json!({
        "session": {"cluster_size": kernels, "kernels": vec![kernel; kernels]},
        "owner": {"domain": "default", "project": project},
    })
}

#[test]
fn admission_is_limited_by_image_size_and_slots() {
    let config = json!({
        "allowed_images": ["cr.backend.ai/stable/*"],
        "denied_images": ["*:2?.08*"],
        "max_cluster_size": 2,
        "max_per_session": {"cpu": 8, "mem": "1.5g"},
        "projects": {
            "lab": {"max_cluster_size": 4, "max_per_session": {"cpu": "16"}},
            "default/free": {"allowed_images": ["*"]}
        },
    });
    let fine = "cr.backend.ai/stable/python:3.11";
    let rule = |verdict: Verdict| match verdict {
        Verdict::Deny(denial) => denial.fields.into_iter().find(|(name, _)| name == "rule").unwrap().1,
        other => format!("{other:?}"),
    };
    assert_eq!(ask(&config, &session(fine, 1, "8", "default")), Verdict::Allow);
    assert_eq!(rule(ask(&config, &session("other/python:3.11", 1, "1", "default"))), "allowed_images");
    assert_eq!(ask(&config, &session("other/python:3.11", 1, "1", "free")), Verdict::Allow);
    assert_eq!(rule(ask(&config, &session("cr.backend.ai/stable/x:22.08-a", 1, "1", "free"))), "denied_images");
    assert_eq!(rule(ask(&config, &session(fine, 3, "0.1", "default"))), "max_cluster_size");
    assert_eq!(ask(&config, &session(fine, 4, "4", "lab")), Verdict::Allow);
    match ask(&config, &session(fine, 2, "1", "default")) {
        Verdict::Deny(denial) => {
            assert_eq!(denial.reason, "A session may ask for at most 1536m of mem here; this one asks for 2g.");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rule(ask(&config, &session(fine, 1, "8.001", "default"))), "max_per_session");
    assert_eq!(ask(&json!({}), &session(fine, 9, "999", "default")), Verdict::Allow);
}

/// The rule for choosing an agent, word for word.
fn chosen(builder: &Builder, occupied: &[u64], requested: &[u64]) -> Option<usize> {
    let slots = builder.slots.len();
    let mut best: Option<(usize, usize)> = None;
    let capacity = |agent: usize| {
        builder.slots.iter().map(|slot| builder.agents[agent].0.get(slot).copied().unwrap_or(0)).collect::<Vec<u64>>()
    };
    for agent in 0..builder.agents.len() {
        let (mine, taken) = (capacity(agent), &occupied[agent * slots..][..slots]);
        if !(0..slots).all(|slot| mine[slot] >= taken[slot] && mine[slot] - taken[slot] >= requested[slot]) {
            continue;
        }
        let extras = (0..slots).filter(|slot| mine[*slot] > 0 && requested[*slot] == 0).count();
        let better = best.is_none_or(|(other, fewest)| {
            let theirs = capacity(other);
            extras < fewest || (extras == fewest && (0..slots).all(|slot| mine[slot] >= theirs[slot]) && mine != theirs)
        });
        if better {
            best = Some((agent, extras));
        }
    }
    best.map(|(agent, _)| agent)
}

#[test]
fn the_short_cuts_of_fifo_change_no_answer() {
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..40 {
        let mut builder = Builder::new(&["cpu", "mem", "cuda.device"]);
        for _ in 0..random(12) {
            let capacity = [("cpu", 2000 * random(4)), ("mem", 4 * random(4)), ("cuda.device", 1000 * random(3))];
            builder = builder.agent(&capacity, &[("cpu", 500 * random(3))]);
        }
        for _ in 0..random(30) {
            let requested = [("cpu", 500 * random(4)), ("mem", random(4)), ("cuda.device", 1000 * random(2))];
            builder = builder.session(&requested, 0);
        }
        let snapshot = builder.build();
        let mut books = Books::of(&snapshot);
        let mut expected = Vec::new();
        for session in 0..snapshot.pending.count as usize {
            let requested = &snapshot.pending.requested[session * 3..][..3];
            let agent = chosen(&builder, &books.occupied, requested);
            if let Some(agent) = agent {
                (0..3).for_each(|slot| books.occupied[agent * 3 + slot] += requested[slot]);
            }
            expected.push(agent.map(|agent| agent as u32));
        }
        let call = Call::new(r#"{"skip_blocked": true, "hold_after_s": 1000}"#);
        let trace = builtin("fifo").schedule(&call, &snapshot, &mut Books::of(&snapshot)).unwrap();
        let got: Vec<Option<u32>> = trace
            .proposals
            .iter()
            .map(|(proposal, _)| match proposal {
                Proposal::Place(placement) => Some(placement.agents[0]),
                Proposal::Defer(_) => None,
            })
            .collect();
        assert_eq!(got, expected);
    }
}
