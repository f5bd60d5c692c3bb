//! The vectors of the specification that are about policies, through the compiled components.

use std::collections::HashMap;

use quarterdeck_plugin::idling::{Access, State, Tick};
use quarterdeck_plugin::scheduling::{ClusterMode, Lack, Outcome, Proposal};
use quarterdeck_plugin::types::SessionKind;
use quarterdeck_plugin::{Call, Plugin, subject};
use serde_json::{Value, json};

use crate::common::{Books, Builder, Pending, builtin};

fn vectors(file: &str) -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str::<Value>(&text).unwrap()["vectors"].as_array().unwrap().clone()
}

/// Decimal text to the contract's unit; a thousandth of whatever the slot counts is exact enough for every vector.
fn units(value: &Value) -> u64 {
    let text = value.as_str().unwrap();
    match text {
        "Infinity" => u64::MAX,
        _ => (text.parse::<f64>().unwrap() * 1000.0).round() as u64,
    }
}

fn amounts(value: &Value) -> HashMap<String, u64> {
    value.as_object().into_iter().flatten().map(|(name, amount)| (name.clone(), units(amount))).collect()
}

fn text(value: &Value, key: &str, default: &str) -> String {
    value[key].as_str().unwrap_or(default).to_owned()
}

/// Agents and pending sessions of a vector, with the names of both.
fn snapshot(input: &Value) -> (Builder, Vec<String>, Vec<String>) {
    let none = Vec::new();
    let agents = input["agents"].as_array().unwrap_or(&none);
    let sessions = match &input["requested_slots"] {
        Value::Null => input["pending"].as_array().unwrap_or(&none).clone(),
        requested => vec![json!({"id": "only", "requested_slots": requested, "for": input["for"]})],
    };
    let ids = |list: &[Value]| list.iter().map(|item| text(item, "id", "")).collect::<Vec<_>>();
    let agent_ids = ids(agents);
    let mut builder = Builder::default();
    // Where only the sum of what agents have is given, one agent has it all.
    if agents.is_empty() && input["total_capacity"].is_object() {
        builder.agents.push((amounts(&input["total_capacity"]), HashMap::new(), "x86_64".to_owned()));
    }
    for agent in agents {
        let rows = (amounts(&agent["available"]), amounts(&agent["occupied"]), text(agent, "arch", "x86_64"));
        builder.agents.push(rows);
    }
    let mut keys: Vec<String> = Vec::new();
    let mut owner = |session: &Value| {
        let key = text(session, "access_key", "");
        keys.iter().position(|known| *known == key).unwrap_or_else(|| {
            keys.push(key);
            keys.len() - 1
        }) as u32
    };
    for session in input["existing"].as_array().unwrap_or(&none) {
        builder.running.push((owner(session), amounts(&session["occupying_slots"])));
    }
    for session in &sessions {
        let pinned = session["designated_agent"].as_str();
        let pinned = pinned.map(|id| agent_ids.iter().position(|known| known == id).unwrap() as u32);
        builder.pending.push(Pending {
            kernels: vec![(amounts(&session["requested_slots"]), text(session, "arch", "x86_64"), pinned)],
            mode: if session["for"] == "kernel" { ClusterMode::MultiNode } else { ClusterMode::SingleNode },
            retries: session["status_data"]["scheduler"]["retries"].as_u64().unwrap_or(0) as u32,
            waiting_ms: 0,
            owner: owner(session),
        });
    }
    let mut slots: Vec<String> = builder
        .agents
        .iter()
        .flat_map(|agent| agent.0.keys().chain(agent.1.keys()))
        .chain(builder.pending.iter().flat_map(|session| session.kernels[0].0.keys()))
        .chain(builder.running.iter().flat_map(|session| session.1.keys()))
        .cloned()
        .collect();
    slots.sort();
    slots.dedup();
    builder.slots = slots;
    (builder, ids(&sessions), agent_ids)
}

const SCHEDULERS: [&str; 4] = ["fifo", "lifo", "mof", "drf"];

/// The vectors of a kind for a scheduler.
fn of(scheduler: &str, kind: &str) -> Vec<Value> {
    let vectors: Vec<Value> = vectors("scheduler-vectors.json")
        .into_iter()
        .filter(|vector| vector["kind"] == kind && vector["scheduler"] == scheduler)
        .collect();
    assert!(!vectors.is_empty());
    vectors
}

fn expected(vector: &Value) -> &Value {
    if vector["expect"].is_null() { &vector["out"] } else { &vector["expect"] }
}

#[test]
fn the_schedulers_pick() {
    for (scheduler, vector) in
        SCHEDULERS.into_iter().flat_map(|name| of(name, "pick").into_iter().map(move |v| (name, v)))
    {
        let policy = builtin(scheduler);
        let (id, input, out) = (&vector["id"], &vector["in"], expected(&vector));
        let config = input["config"].to_string();
        let verdict = policy.check_config(&config);
        if !out["error"].is_null() {
            assert!(verdict.is_err(), "{id}: {config} should be refused");
            continue;
        }
        verdict.unwrap_or_else(|problems| panic!("{id}: {problems:?}"));
        let (builder, sessions, _) = snapshot(input);
        let mut first = None;
        policy
            .schedule(&Call::new(config), &builder.build(), &mut |proposals: &[Proposal]| {
                first.get_or_insert_with(|| subject(&proposals[0]) as usize);
                vec![Outcome::Accepted; proposals.len()]
            })
            .unwrap();
        assert_eq!(first.map(|row| sessions[row].as_str()), out["picked"].as_str(), "{id}");
    }
}

#[test]
fn the_schedulers_assign() {
    for (scheduler, vector) in
        SCHEDULERS.into_iter().flat_map(|name| of(name, "assign").into_iter().map(move |v| (name, v)))
    {
        let policy = builtin(scheduler);
        let (id, input, out) = (&vector["id"], &vector["in"], expected(&vector));
        let (mut builder, _, agents) = snapshot(input);
        // The agents of these vectors are those found compatible: their architecture plays no part.
        for agent in &mut builder.agents {
            agent.2 = "x86_64".to_owned();
        }
        let snapshot = builder.build();
        let trace = policy.schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
        let agent = match &trace.proposals[0] {
            (Proposal::Place(placement), outcome) => {
                assert_eq!(*outcome, Outcome::Accepted, "{id}");
                Some(agents[placement.agents[0] as usize].as_str())
            }
            (Proposal::Defer(_), _) => None,
        };
        assert_eq!(agent, out["agent"].as_str(), "{id}");
    }
}

#[test]
fn the_schedulers_tick() {
    for (scheduler, vector) in
        SCHEDULERS.into_iter().flat_map(|name| of(name, "tick").into_iter().map(move |v| (name, v)))
    {
        let policy = builtin(scheduler);
        let (id, input, out) = (&vector["id"], &vector["in"], expected(&vector));
        let (builder, sessions, agents) = snapshot(input);
        let snapshot = builder.build();
        let mut books = Books::of(&snapshot);
        let trace = policy.schedule(&Call::new(input["config"].to_string()), &snapshot, &mut books).unwrap();
        let attempts: Vec<Value> = trace
            .proposals
            .iter()
            .map(|(proposal, _)| {
                let session = &sessions[subject(proposal) as usize];
                match proposal {
                    Proposal::Place(placement) => {
                        json!({"session": session, "agent": agents[placement.agents[0] as usize]})
                    }
                    Proposal::Defer(deferral) => json!({"session": session, "agent": null, "why": why(deferral.lack)}),
                }
            })
            .collect();
        assert_eq!(Value::Array(attempts), out["attempts"], "{id}");
        let tried: Vec<u32> = trace.proposals.iter().map(|(proposal, _)| subject(proposal)).collect();
        let not_tried: Vec<&str> = (0..snapshot.pending.count)
            .filter(|row| !tried.contains(row))
            .map(|row| sessions[row as usize].as_str())
            .collect();
        assert_eq!(json!(not_tried), out["not_tried"], "{id}");
        let stopped = matches!(trace.proposals.last(), Some((Proposal::Defer(_), _)));
        assert_eq!(json!(stopped), out["stopped"], "{id}");
        for (row, agent) in agents.iter().enumerate() {
            for (column, slot) in builder.slots.iter().enumerate() {
                let occupied = books.occupied[row * books.slots + column];
                let wanted = &out["occupied"][agent][slot];
                assert_eq!(occupied, if wanted.is_null() { 0 } else { units(wanted) }, "{id} {agent} {slot}");
            }
        }
    }
}

fn why(lack: Lack) -> &'static str {
    match lack {
        Lack::NoCompatibleAgent => "no-compatible-agent",
        Lack::NoRoom => "no-room",
        Lack::ExceedsCapacity => "exceeds-capacity",
        Lack::HeldBack => "held-back",
    }
}

/// Time of the ticks.
const NOW: i64 = 1_700_000_000_000;

/// Seconds from now.
fn at(value: &Value) -> i64 {
    NOW + (value.as_f64().unwrap() * 1000.0) as i64
}

/// A tick with sessions that nothing is known of except the end of the grace.
fn quiet_tick(inputs: &[&Value]) -> Tick {
    let count = inputs.len();
    assert!(inputs.iter().all(|input| input["now"] == 0));
    Tick {
        now_ms: NOW,
        count: count as u32,
        kind: vec![SessionKind::Interactive; count],
        private: vec![false; count],
        created_ms: vec![NOW; count],
        started_ms: vec![NOW; count],
        grace_until_ms: inputs
            .iter()
            .map(|input| (!input["grace_period_end"].is_null()).then(|| at(&input["grace_period_end"])))
            .collect(),
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

/// A limit of seconds in a policy; negative ones are not set.
fn limit(seconds: &Value) -> Option<u64> {
    u64::try_from(seconds.as_i64().unwrap()).ok().map(|seconds| seconds * 1000)
}

/// Checks the sessions of the vectors in one batch: one answer per session, in order.
fn judged(checker: &Plugin, config: &str, tick: &Tick, vectors: &[Value]) {
    let findings = checker.check(&Call::new(config), tick).unwrap();
    assert_eq!(findings.len(), vectors.len());
    for (vector, finding) in vectors.iter().zip(findings) {
        let (id, out, finding) = (&vector["id"], expected(vector), finding.unwrap());
        assert_eq!(json!(finding.state != State::Idle), out["keep"], "{id}");
        let remaining = match finding.remaining_ms {
            None => Value::Null,
            Some(left) if left > 0 => json!(left as f64 / 1000.0),
            Some(_) => json!(-1),
        };
        assert_eq!(remaining, out["remaining"], "{id}");
    }
}

fn of_idle(kind: &str) -> Vec<Value> {
    let vectors: Vec<Value> =
        vectors("idle-vectors.json").into_iter().filter(|vector| vector["kind"] == kind).collect();
    assert!(!vectors.is_empty());
    vectors
}

#[test]
fn session_lifetime() {
    let checker = builtin("session_lifetime");
    let vectors = of_idle("session_lifetime");
    let inputs: Vec<&Value> = vectors.iter().map(|vector| &vector["in"]).collect();
    let mut tick = quiet_tick(&inputs);
    tick.created_ms = inputs.iter().map(|input| at(&input["created_at"])).collect();
    // A policy without a positive limit sets none, or "for ever".
    tick.lifetime_limit_ms = inputs.iter().map(|input| limit(&input["max_session_lifetime"])).collect();
    judged(&checker, "{}", &tick, &vectors);
    let from_start = checker.check(&Call::new(r#"{"count_from":"start"}"#), &tick).unwrap();
    assert!(from_start.into_iter().all(|finding| finding.unwrap().state != State::Idle));
    let traits = checker.traits(&Call::default()).unwrap();
    assert_eq!(traits.reason, "idle-session-lifetime");
}

#[test]
fn network_timeout() {
    let checker = builtin("network_timeout");
    for vector in of_idle("network_timeout") {
        let input = &vector["in"];
        let mut tick = quiet_tick(&[input]);
        tick.kind = vec![match input["session_type"].as_str().unwrap() {
            "interactive" => SessionKind::Interactive,
            "batch" => SessionKind::Batch,
            "inference" => SessionKind::Inference,
            other => panic!("{other}"),
        }];
        tick.access = vec![match &input["last_access"] {
            Value::Null => Access::Unknown,
            Value::String(_) => Access::Busy,
            seconds => Access::AtMs(at(seconds)),
        }];
        tick.connections = vec![input["active_connections"].as_u64().unwrap() as u32];
        tick.idle_limit_ms = vec![limit(&input["policy_idle_timeout"])];
        judged(&checker, &json!({"threshold": input["threshold"]}).to_string(), &tick, &[vector]);
    }
    assert_eq!(checker.traits(&Call::default()).unwrap().reason, "idle-timeout");
}

#[test]
fn thresholds_of_network_timeout() {
    let checker = builtin("network_timeout");
    // What is left of a session that was used just now.
    let effective = |config: &str| {
        let mut tick = quiet_tick(&[&json!({"now": 0})]);
        tick.access = vec![Access::AtMs(NOW)];
        checker.check(&Call::new(config), &tick).unwrap().remove(0).unwrap().remaining_ms.map_or(0, |left| left)
    };
    for vector in of_idle("config_network_timeout") {
        let (id, config, out) = (&vector["id"], vector["in"].to_string(), expected(&vector));
        match (id.as_str().unwrap(), out["threshold"].as_f64()) {
            // Calendar amounts are converted.
            ("config_network_timeout-005", _) => assert_eq!(effective(&config), 365 * 86_400_000, "{id}"),
            (_, Some(seconds)) => {
                checker.check_config(&config).unwrap_or_else(|problems| panic!("{id}: {problems:?}"));
                assert_eq!(effective(&config), (seconds * 1000.0) as i64, "{id}");
            }
            (_, None) => assert!(checker.check_config(&config).is_err(), "{id}"),
        }
    }
    for vector in of_idle("duration") {
        let config = json!({"threshold": vector["in"]["value"]}).to_string();
        let out = expected(&vector);
        let days = out["calendar"]["months"].as_i64().map(|months| 30 * months);
        let days = days.or_else(|| out["calendar"]["years"].as_i64().map(|years| 365 * years));
        let wanted =
            days.map(|days| days * 86_400_000).or_else(|| out["seconds"].as_f64().map(|s| (s * 1000.0) as i64));
        match wanted {
            // A truth value is no span, whatever other languages make of it.
            Some(wanted) if !vector["in"]["value"].is_boolean() => assert_eq!(effective(&config), wanted, "{config}"),
            _ => assert!(checker.check_config(&config).is_err(), "{config}"),
        }
    }
}
