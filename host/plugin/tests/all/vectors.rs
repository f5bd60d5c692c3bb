//! The vectors of the specification that are about policies, through the compiled components.

use std::collections::HashMap;

use quarterdeck_plugin::idling::{Access, State, Tick};
use quarterdeck_plugin::scheduling::{ClusterMode, Lack, Outcome, Proposal};
use quarterdeck_plugin::types::SessionKind;
use quarterdeck_plugin::{Call, subject};
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
    for agent in agents {
        let rows = (amounts(&agent["available"]), amounts(&agent["occupied"]), text(agent, "arch", "x86_64"));
        builder.agents.push(rows);
    }
    for session in &sessions {
        let pinned = session["designated_agent"].as_str();
        let pinned = pinned.map(|id| agent_ids.iter().position(|known| known == id).unwrap() as u32);
        builder.pending.push(Pending {
            kernels: vec![(amounts(&session["requested_slots"]), text(session, "arch", "x86_64"), pinned)],
            mode: if session["for"] == "kernel" { ClusterMode::MultiNode } else { ClusterMode::SingleNode },
            retries: session["status_data"]["scheduler"]["retries"].as_u64().unwrap_or(0) as u32,
            waiting_ms: 0,
        });
    }
    let mut slots: Vec<String> = builder
        .agents
        .iter()
        .flat_map(|agent| agent.0.keys().chain(agent.1.keys()))
        .chain(builder.pending.iter().flat_map(|session| session.kernels[0].0.keys()))
        .cloned()
        .collect();
    slots.sort();
    slots.dedup();
    builder.slots = slots;
    (builder, ids(&sessions), agent_ids)
}

fn of_fifo(kind: &str) -> Vec<Value> {
    let vectors: Vec<Value> = vectors("scheduler-vectors.json")
        .into_iter()
        .filter(|vector| vector["kind"] == kind && vector["scheduler"] == "fifo")
        .collect();
    assert!(!vectors.is_empty());
    vectors
}

fn expected(vector: &Value) -> &Value {
    if vector["expect"].is_null() { &vector["out"] } else { &vector["expect"] }
}

#[test]
fn fifo_picks() {
    let fifo = builtin("fifo");
    for vector in of_fifo("pick") {
        let (id, input, out) = (&vector["id"], &vector["in"], expected(&vector));
        let config = input["config"].to_string();
        let verdict = fifo.check_config(&config);
        if !out["error"].is_null() {
            assert!(verdict.is_err(), "{id}: {config} should be refused");
            continue;
        }
        verdict.unwrap_or_else(|problems| panic!("{id}: {problems:?}"));
        let (builder, sessions, _) = snapshot(input);
        let mut first = None;
        fifo.schedule(&Call::new(config), &builder.build(), &mut |proposals: &[Proposal]| {
            first.get_or_insert_with(|| subject(&proposals[0]) as usize);
            vec![Outcome::Accepted; proposals.len()]
        })
        .unwrap();
        assert_eq!(first.map(|row| sessions[row].as_str()), out["picked"].as_str(), "{id}");
    }
}

#[test]
fn fifo_assigns() {
    let fifo = builtin("fifo");
    for vector in of_fifo("assign") {
        let (id, input, out) = (&vector["id"], &vector["in"], expected(&vector));
        let (mut builder, _, agents) = snapshot(input);
        // The agents of these vectors are those found compatible: their architecture plays no part.
        for agent in &mut builder.agents {
            agent.2 = "x86_64".to_owned();
        }
        let snapshot = builder.build();
        let trace = fifo.schedule(&Call::default(), &snapshot, &mut Books::of(&snapshot)).unwrap();
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
fn fifo_ticks() {
    let fifo = builtin("fifo");
    for vector in of_fifo("tick") {
        let (id, input, out) = (&vector["id"], &vector["in"], expected(&vector));
        let (builder, sessions, agents) = snapshot(input);
        let snapshot = builder.build();
        let mut books = Books::of(&snapshot);
        let trace = fifo.schedule(&Call::new(input["config"].to_string()), &snapshot, &mut books).unwrap();
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

#[test]
fn session_lifetime() {
    let checker = builtin("session_lifetime");
    let now = 1_700_000_000_000;
    let at = |value: &Value| now + (value.as_f64().unwrap() * 1000.0) as i64;
    let vectors: Vec<Value> =
        vectors("idle-vectors.json").into_iter().filter(|vector| vector["kind"] == "session_lifetime").collect();
    assert!(!vectors.is_empty());
    // All of them in one batch: one answer per session, in order.
    let inputs: Vec<&Value> = vectors.iter().map(|vector| &vector["in"]).collect();
    let count = inputs.len();
    assert!(inputs.iter().all(|input| input["now"] == 0));
    let tick = Tick {
        now_ms: now,
        count: count as u32,
        kind: vec![SessionKind::Interactive; count],
        private: vec![false; count],
        created_ms: inputs.iter().map(|input| at(&input["created_at"])).collect(),
        started_ms: vec![now; count],
        grace_until_ms: inputs
            .iter()
            .map(|input| (!input["grace_period_end"].is_null()).then(|| at(&input["grace_period_end"])))
            .collect(),
        access: vec![Access::Unknown; count],
        connections: vec![0; count],
        idle_limit_ms: vec![None; count],
        // A policy without a positive limit sets none, or "for ever".
        lifetime_limit_ms: inputs
            .iter()
            .map(|input| u64::try_from(input["max_session_lifetime"].as_i64().unwrap()).ok().map(|s| s * 1000))
            .collect(),
        slots: Vec::new(),
        held: Vec::new(),
        metrics: Vec::new(),
        more: Vec::new(),
    };
    let findings = checker.check(&Call::default(), &tick).unwrap();
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
    let from_start = checker.check(&Call::new(r#"{"count_from":"start"}"#), &tick).unwrap();
    assert!(from_start.into_iter().all(|finding| finding.unwrap().state != State::Idle));
    let traits = checker.traits(&Call::default()).unwrap();
    assert_eq!(traits.reason, "idle-session-lifetime");
}
