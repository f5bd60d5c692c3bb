//! The `round`, `report`, `remaining`, `session_lifetime`, `utilization`, `config_utilization` and
//! `config_user_grace_period` vectors of idle checks.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, OnceLock};

use quarterdeck_plugin::idling::{Access, Finding, RemainingType, State, Tick};
use quarterdeck_plugin::{Call, Plugin, types};
use serde_json::{Value as Json, json};

use super::report::document;
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

fn builtin(name: &'static str) -> Arc<Plugin> {
    static RUNTIME: OnceLock<quarterdeck_plugin::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let options = quarterdeck_plugin::RuntimeOptions {
            compiler: quarterdeck_plugin::Compiler::InProcess,
            ..Default::default()
        };
        quarterdeck_plugin::Runtime::new(options).unwrap()
    });
    runtime.load_blocking(quarterdeck_plugin::builtin::get(name).unwrap().wasm).unwrap()
}

fn session_lifetime() -> Arc<Plugin> {
    builtin("session_lifetime")
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

/// The checker with a configuration, as the host holds it.
fn utilization(config: &Json) -> Checker {
    let plugin = builtin("utilization");
    let config = config.to_string();
    plugin.check_config(&config).unwrap_or_else(|problems| panic!("{config}: {problems:?}"));
    let traits = Arc::new(plugin.traits(&Call::new(config.clone())).unwrap());
    let target = quarterdeck_model::policy::Target::everywhere();
    Checker { bound: Bound { plugin, config, binding_id: None, target, fail_open: false }, traits }
}

const T: Timestamp = Timestamp(1_700_000_000_000_000);

fn at(offset_s: &Json) -> Timestamp {
    T.plus_millis((offset_s.as_f64().unwrap_or(0.0) * 1000.0) as i64)
}

/// A session that was created `created` seconds from now, holding `held`.
fn candidate(created: &Json, idle_timeout: i64, held: &Json) -> Candidate {
    let units = held.as_object().unwrap().iter().map(|(slot, amount)| {
        let scale = if slot == "mem" { 1.0 } else { 1000.0 };
        (slot.clone(), json!((amount.as_str().unwrap().parse::<f64>().unwrap() * scale) as i64))
    });
    Candidate {
        session_id: SessionId::new(),
        session_type: quarterdeck_model::SessionType::Interactive,
        is_private: false,
        domain_name: "default".to_owned(),
        created_at: at(created),
        started_at: Some(at(created)),
        user_created_at: T,
        idle_timeout,
        max_session_lifetime: 0,
        held: Json::Object(units.collect()).to_string(),
        connections: 0,
        last_access: None,
    }
}

/// One round of a checker over one session: what it found, and what is known of the session afterwards.
fn judged(
    checker: Checker,
    candidate: &Candidate,
    grace_end: Option<Timestamp>,
    samples: &mut Samples,
    stats: Vec<(Option<Json>, u64)>,
    now: Timestamp,
) -> (Finding, Measured) {
    let checkers = [checker];
    let mut candidate = candidate.clone();
    candidate.user_created_at = grace_end.unwrap_or(T);
    let slots = held(&candidate).into_keys().map(|name| {
        let kind = quarterdeck_model::slots::SlotKind::guess(&name);
        (name, kind)
    });
    let mut facts =
        Facts { slots: slots.collect(), user_grace: grace_end.map(|_| 0), access_lifetime_ms: 0, measured: Vec::new() };
    let statistics = Statistics::from([(candidate.session_id, stats)]);
    let candidates = [candidate];
    let tentative = sample(samples, &checkers, &candidates, &statistics, &mut facts, now);
    let batch = batches(&checkers[0].traits, vec![0], &facts.measured).remove(0);
    let tick = columns(&checkers[0].traits, &batch, &candidates, &facts, now);
    let call = Call::new(checkers[0].bound.config.clone());
    let finding = checkers[0].bound.plugin.check(&call, &tick).unwrap().remove(0).unwrap();
    keep_samples(samples, &checkers, &candidates, &[vec![Some(Ok(finding.clone()))]], &tentative, now);
    (finding, samples.measured(candidates[0].session_id))
}

/// What a vector expects, where the reference is defective what is to be done instead.
fn wanted(vector: &Json) -> Json {
    let mut out = vector["out"].clone();
    let idle = json!({"keep": false, "remaining": -1, "collected": true,
                      "extra": {"thresholds_check_operator": "and", "resources": {"cpu_util": [1.0, 30.0], "mem": [0, 10]}}});
    match vector["id"].as_str().unwrap() {
        // Used together of what is held together: 0.75 of 2 GiB.
        "utilization-030" => {
            out["extra"]["resources"]["mem"] = json!([10, 10]);
            out["series_last"]["mem"] = json!(37.5);
        }
        // Slots of unknown families are ignored.
        "utilization-033" => out = idle,
        // A series of other metrics is started anew.
        "utilization-035" | "utilization-036" => {
            out = idle;
            out["keep"] = json!(true);
            out["series_len"] = json!({"cpu_util": 1, "mem": 1});
        }
        _ => {}
    }
    out
}

#[test]
fn utilization_vectors() {
    let vectors = vectors("utilization");
    assert!(vectors.len() >= 37);
    for vector in vectors {
        let (id, input, want) = (&vector["id"], &vector["in"], wanted(&vector));
        let checker = utilization(&input["config"]);
        assert_eq!(
            (checker.traits.reason.as_str(), checker.traits.remaining),
            ("idle-utilization", RemainingType::GracePeriod)
        );
        let policy = input["policy_idle_timeout"].as_i64().unwrap();
        let subject = candidate(&input["created_at"], policy, &input["occupied_slots"]);
        let now = at(&input["now"]);

        // What was measured before, 15 seconds apart.
        let mut samples = Samples::default();
        let own: Vec<String> = checker.traits.metrics.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let (metrics, rows) = match (&input["series_fill"], &input["series"]) {
            (Json::Object(fill), _) => {
                let row = own.iter().map(|metric| fill["values"][metric].as_f64().unwrap_or(0.0)).collect::<Vec<f64>>();
                (own.clone(), vec![row; fill["samples"].as_u64().unwrap() as usize])
            }
            (_, Json::Object(series)) => {
                let row = |i: usize| series.values().map(|values| values[i].as_f64().unwrap()).collect::<Vec<f64>>();
                let count = series.values().next().unwrap().as_array().unwrap().len();
                (series.keys().cloned().collect(), (0..count).map(row).collect())
            }
            _ => (own.clone(), Vec::new()),
        };
        samples.open(&metrics, &HashSet::from([subject.session_id]));
        let last =
            if input["last_collected"].is_null() { now.plus_millis(-15_000) } else { at(&input["last_collected"]) };
        for (i, row) in rows.iter().enumerate() {
            let then = last.plus_millis(-15_000 * (rows.len() - 1 - i) as i64).millis();
            assert!(samples.take(subject.session_id, then, 60_000, |_| Some(row.clone())), "{id}");
        }

        let mem = input["occupied_slots"]["mem"].as_str().unwrap().parse().unwrap();
        let stats = input["live_stats"].as_array().unwrap().iter();
        let stats = stats.map(|stat| ((!stat.is_null()).then(|| stat.clone()), mem)).collect();
        let grace = (!input["grace_period_end"].is_null()).then(|| at(&input["grace_period_end"]));
        let (found, measured) = judged(checker, &subject, grace, &mut samples, stats, now);

        assert_eq!(json!(found.state != State::Idle), want["keep"], "{id}");
        assert_eq!(found.remaining_ms.map(shown), want["remaining"].as_f64(), "{id}");
        let extra: Json = serde_json::from_str(&found.report).unwrap_or(Json::Null);
        assert_eq!(extra, want["extra"], "{id}");
        let collected = measured.at_ms.last() == Some(&now.millis());
        assert_eq!(json!(collected), want["collected"], "{id}");
        if !collected {
            continue;
        }
        let window = if policy >= 0 {
            policy
        } else {
            Span::parse(&input["config"]["time-window"]).map_or(600, |s| s.millis() / 1000)
        };
        for (metric, values) in &measured.series {
            assert!(own.contains(metric), "{id}");
            if let Some(length) = want["series_len"][metric].as_u64() {
                // The configuration may ask for more history than the owner's policy needs.
                assert_eq!(values.len().min(window as usize / 15) as u64, length, "{id} {metric}");
            }
            if let Some(newest) = want["series_last"][metric].as_f64() {
                assert!((values.last().unwrap() - newest).abs() < 1e-9, "{id} {metric}");
            }
        }
    }
}

#[test]
fn config_utilization_vectors() {
    let vectors = vectors("config_utilization");
    assert!(vectors.len() >= 12);
    for vector in vectors {
        let (id, config, out) = (&vector["id"], &vector["in"], &vector["out"]);
        if !out["error"].is_null() {
            assert!(builtin("utilization").check_config(&config.to_string()).is_err(), "{id}");
            continue;
        }
        // A session that begins now holds something of everything, and its grace is over.
        let (window, grace) = (out["time_window"].as_f64().unwrap(), out["initial_grace_period"].as_f64().unwrap());
        let checker = utilization(config);
        assert_eq!(checker.traits.history_ms, (window * 1000.0) as u64, "{id}");
        let everything = json!({"cpu": "1", "mem": "1024", "cuda.device": "1", "atom.device": "1"});
        let subject = candidate(&json!(0), -1, &everything);
        let mut samples = Samples::default();
        let now = T.plus_millis((grace * 1000.0) as i64 + 1000);
        let (found, _) = judged(checker, &subject, None, &mut samples, vec![(Some(json!({})), 1024)], now);
        assert_eq!(found.remaining_ms, Some((window * 1000.0) as i64 - 1000), "{id}");
        let report: Json = serde_json::from_str(&found.report).unwrap();
        assert_eq!(report["thresholds_check_operator"], out["operator"], "{id}");
        for (metric, threshold) in out["thresholds"].as_object().unwrap() {
            let number = |v: &Json| v.as_f64().or_else(|| v.as_str()?.parse().ok());
            assert_eq!(number(&report["resources"][metric][1]), number(threshold), "{id} {metric}");
        }
    }
}

#[test]
fn config_user_grace_period_vectors() {
    let vectors = vectors("config_user_grace_period");
    assert!(vectors.len() >= 4);
    for vector in vectors {
        let text = vector["in"]["user_initial_grace_period"].as_str().map(str::to_owned);
        let grace = span_ms("user_initial_grace_period", text);
        // What makes no sense is told in the log; the host serves on without.
        assert_eq!(grace.map(|ms| ms as f64 / 1000.0), vector["out"]["seconds"].as_f64(), "{}", vector["id"]);
    }
}

/// A session measured every 15 seconds, with these percentages, judged by a window of a minute.
fn played(percentages: &[f64], created: i64) -> Vec<State> {
    let config = json!({"time-window": "60s", "initial-grace-period": "30s", "resource-thresholds": {"cpu_util": {"average": 10}}});
    let subject = candidate(&json!(created), -1, &json!({"cpu": "1"}));
    let mut samples = Samples::default();
    let checker = utilization(&config);
    percentages
        .iter()
        .enumerate()
        .map(|(i, pct)| {
            let stat = json!({"cpu_util": {"pct": pct.to_string()}});
            let now = T.plus_millis(15_000 * i as i64);
            judged(checker.clone(), &subject, None, &mut samples, vec![(Some(stat), 0)], now).0.state
        })
        .collect()
}

#[test]
fn a_session_is_judged_once_its_window_is_full() {
    use State::{Active, Grace, Idle};
    // The grace ends with the third tick; four more fill the window, and one more decides.
    let states = played(&[0.0; 9], 0);
    assert_eq!(states, [Grace, Grace, Grace, Active, Active, Active, Active, Idle, Idle]);
}

#[test]
fn a_spike_before_the_window_saves_nobody_and_one_within_it_does() {
    use State::{Active, Idle};
    // The first measurement of a process may show anything: it only counts while it is in the window.
    let states = played(&[3200.0, 0.0, 0.0, 0.0, 0.0], -1000);
    assert_eq!(states, [Active, Active, Active, Active, Idle]);
    let states = played(&[0.0, 100.0, 0.0, 0.0, 0.0, 0.0], -1000);
    assert_eq!(states, [Active, Active, Active, Active, Active, Idle]);
}
