//! Frames and books against the `pick`, `assign` and `tick` vectors, with the real compiled policy,
//! and against whatever a policy might propose.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proptest::prelude::*;
use quarterdeck_model::slots::{SlotKind, SlotTypes};
use quarterdeck_model::{
    AccessKey, AgentId, AgentStatus, ClusterMode, KernelId, KernelStatus, ProjectId, SessionId, SessionResult,
    SessionStatus, SessionType, Timestamp,
};
use quarterdeck_plugin::scheduling::{Deferral, Lack, Outcome, Placement, Proposal, Refusal};
use quarterdeck_plugin::{Call, Judge, Plugin};
use quarterdeck_store::schedule::{
    AgentRow, Dependency, HolderRow, KernelRow, OccupancyRow, OwnerRow, Queue, SessionRow,
};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::books::{Books, Verdict};
use super::frame::Frame;
use super::record::Exposure;
use super::{RecordedBooks, RecordedCall, RecordedPlugin, Recording, snapshot};

mod replay;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);
const PROJECT: ProjectId = ProjectId(Uuid::nil());

fn types() -> Arc<SlotTypes> {
    let kinds = [("cpu", SlotKind::Count), ("mem", SlotKind::Bytes), ("cuda.device", SlotKind::Count)];
    Arc::new(kinds.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect())
}

fn fifo() -> Arc<Plugin> {
    static PLUGIN: OnceLock<Arc<Plugin>> = OnceLock::new();
    let load = || {
        let runtime = quarterdeck_plugin::Runtime::new(quarterdeck_plugin::RuntimeOptions {
            compiler: quarterdeck_plugin::Compiler::InProcess,
            ..Default::default()
        });
        runtime.unwrap().load_blocking(quarterdeck_plugin::builtin::get("fifo").unwrap().wasm).unwrap()
    };
    Arc::clone(PLUGIN.get_or_init(load))
}

fn vectors(kind: &str) -> Vec<Json> {
    let all: Json = serde_json::from_str(include_str!("../../../../tests/vectors/scheduler-vectors.json")).unwrap();
    let vectors = all["vectors"].as_array().unwrap().iter();
    vectors.filter(|v| v["kind"] == kind && v["scheduler"] == "fifo").cloned().collect()
}

/// Contract units of a slot map of decimal texts.
fn units(map: &Json) -> BTreeMap<String, i64> {
    let scale = |name: &str| if name == "mem" { 1.0 } else { 1000.0 };
    let map = map.as_object().into_iter().flatten();
    map.map(|(k, v)| (k.clone(), (v.as_str().unwrap().parse::<f64>().unwrap() * scale(k)).round() as i64)).collect()
}

fn session(index: usize, status: SessionStatus, kernels: Vec<KernelRow>) -> SessionRow {
    SessionRow {
        id: SessionId(Uuid::from_u128(index as u128 + 1)),
        creation_id: String::new(),
        name: format!("s{index}"),
        session_type: SessionType::Interactive,
        priority: 0,
        expected_ms: None,
        cluster_mode: ClusterMode::SingleNode,
        is_private: false,
        domain_name: "default".to_owned(),
        project_id: PROJECT,
        access_key: AccessKey::from("A"),
        status,
        created_at: NOW.plus_millis(index as i64 - 100_000),
        starts_at: None,
        status_data: None,
        kernels,
        dependencies: Vec::new(),
    }
}

fn kernel(requested: &Json, held: &Json) -> KernelRow {
    KernelRow {
        id: KernelId::new(),
        image: "reg.x/stable/python:3.9".to_owned(),
        architecture: "x86_64".to_owned(),
        status: KernelStatus::Pending,
        requested_slots: requested.to_string(),
        held: json!(units(held)).to_string(),
        designated_agent: None,
        agent_id: None,
        status_data: None,
    }
}

fn agent(id: &str, architecture: &str, available: &Json, occupied: &Json) -> AgentRow {
    let occupied = units(occupied);
    AgentRow {
        id: AgentId::from(id),
        status: AgentStatus::Alive,
        schedulable: true,
        cooldown_until: None,
        scaling_group: "sg".to_owned(),
        architecture: architecture.to_owned(),
        addr: format!("tcp://{id}:6001"),
        containers: 0,
        slots: units(available)
            .into_iter()
            .map(|(k, n)| (k.clone(), n, occupied.get(&k).copied().unwrap_or(0)))
            .collect(),
    }
}

fn owner(key: &str) -> OwnerRow {
    OwnerRow {
        access_key: AccessKey::from(key),
        total_resource_slots: "{}".to_owned(),
        default_for_unspecified: "UNLIMITED".to_owned(),
        max_concurrent_sessions: 0,
        max_concurrent_sftp_sessions: 0,
        counted: (0, 0),
    }
}

fn queue(sessions: Vec<SessionRow>, agents: Vec<AgentRow>) -> Queue {
    let mut keys: Vec<String> = sessions.iter().map(|s| s.access_key.0.clone()).collect();
    keys.sort();
    keys.dedup();
    let holder = |name: String| HolderRow { holder: name, total_resource_slots: "{}".to_owned() };
    Queue {
        sessions,
        agents,
        owners: keys.iter().map(|k| owner(k)).collect(),
        projects: vec![holder(PROJECT.to_string())],
        domains: vec![holder("default".to_owned())],
        usage: Vec::new(),
        occupancy: Vec::new(),
    }
}

/// Sessions of a `pick` or `tick` vector: the pending ones first, then the existing ones.
fn sessions(input: &Json) -> Vec<SessionRow> {
    let list = |key: &str| input[key].as_array().cloned().unwrap_or_default();
    let pending = list("pending").into_iter().map(|s| (s, SessionStatus::Pending));
    let existing = list("existing").into_iter().map(|s| (s, SessionStatus::Running));
    pending
        .chain(existing)
        .enumerate()
        .map(|(i, (s, status))| {
            let mut k = kernel(&s.get("requested_slots").cloned().unwrap_or_else(|| json!({})), &s["occupying_slots"]);
            k.architecture = s["arch"].as_str().unwrap_or("x86_64").to_owned();
            k.designated_agent = s["designated_agent"].as_str().map(AgentId::from);
            let mut row = session(i, status, vec![k]);
            row.access_key = AccessKey::from(s["access_key"].as_str().unwrap());
            row.status_data = s.get("status_data").filter(|d| !d.is_null()).cloned();
            row
        })
        .collect()
}

fn agents(input: &Json) -> Vec<AgentRow> {
    let list = input["agents"].as_array().unwrap().iter();
    list.map(|a| agent(a["id"].as_str().unwrap(), a["arch"].as_str().unwrap(), &a["available"], &a["occupied"]))
        .collect()
}

fn frame(queue: Queue) -> Frame {
    Frame::build("sg", NOW, types(), queue)
}

/// A recording of a frame that no policy has seen yet, after a journey through its stored form.
fn recorded(frame: &Frame) -> Recording {
    let exposure = Exposure {
        plugin: RecordedPlugin::default(),
        call: RecordedCall::default(),
        snapshot: snapshot::columns(frame, 1, 1, &[]),
        snapshot_time: Duration::ZERO,
        steps: Vec::new(),
        trace: quarterdeck_plugin::RoundTrace::default(),
        outcome: "ok".to_owned(),
        fallback: None,
    };
    let recording = exposure.develop(frame);
    Recording::from_bytes(&recording.to_bytes().unwrap()).unwrap()
}

#[test]
fn pick_vectors() {
    let mut ran = 0;
    for vector in vectors("pick") {
        let (input, out) = (&vector["in"], &vector["out"]);
        let config = input["config"].to_string();
        if out["phase"] == "config" {
            assert!(fifo().check_config(&config).is_err(), "{vector}");
            ran += 1;
            continue;
        }
        fifo().check_config(&config).unwrap_or_else(|e| panic!("{vector}: {e:?}"));
        let agents = vec![agent("i-1", "x86_64", &input["total_capacity"], &json!({}))];
        let frame = frame(queue(sessions(input), agents));
        assert!(frame.broken.is_empty(), "{:?}", frame.broken);
        let mut first = None;
        let mut judge = |proposals: &[Proposal]| {
            let subject = quarterdeck_plugin::subject(&proposals[0]) as usize;
            first = first.or(Some(subject));
            vec![Outcome::Refused(Refusal::Stale); proposals.len()]
        };
        fifo().schedule(&Call::new(config), &snapshot::columns(&frame, 1, 1, &[]), &mut judge).unwrap();
        let picked = first.map_or(Json::Null, |row| input["pending"][row]["id"].clone());
        assert_eq!(picked, out["picked"], "{vector}");
        ran += 1;
    }
    assert!(ran > 20);
}

#[test]
fn assign_vectors() {
    let mut ran = 0;
    for vector in vectors("assign") {
        let (input, out) = (&vector["in"], &vector["out"]);
        let mut row = session(0, SessionStatus::Pending, vec![kernel(&input["requested_slots"], &json!({}))]);
        if input["for"] == "kernel" {
            row.cluster_mode = ClusterMode::MultiNode;
        }
        let mut rows = agents(input);
        // Without an agent there is nobody of the architecture, which is the same answer.
        if rows.is_empty() {
            rows.push(agent("none", "aarch64", &json!({}), &json!({})));
        }
        let frame = frame(queue(vec![row], rows));
        let mut books = Books::new(&frame);
        fifo().schedule(&Call::new("{}"), &snapshot::columns(&frame, 1, 1, &[]), &mut books).unwrap();
        let (decisions, _) = books.close();
        let chosen = match &decisions[0].verdict {
            Verdict::Placed(agents) => json!(frame.agents[agents[0] as usize].id),
            Verdict::NoRoom { .. } => Json::Null,
            other => panic!("{vector}: {other:?}"),
        };
        assert_eq!(chosen, out["agent"], "{vector}");
        ran += 1;
    }
    assert!(ran > 30);
}

#[test]
fn tick_vectors() {
    let mut ran = 0;
    for vector in vectors("tick") {
        let input = &vector["in"];
        let out = vector.get("expect").unwrap_or_else(|| &vector["out"]);
        let frame = frame(queue(sessions(input), agents(input)));
        let mut books = Books::new(&frame);
        let call = Call::new(input["config"].to_string());
        fifo().schedule(&call, &snapshot::columns(&frame, 1, 1, &[]), &mut books).unwrap();
        let occupied = books.occupied().to_vec();
        let (decisions, steps) = books.close();

        let lacks = steps.iter().flat_map(|(proposals, _)| proposals).map(|proposal| match proposal {
            Proposal::Defer(d) => Some(match d.lack {
                Lack::NoCompatibleAgent => "no-compatible-agent",
                Lack::NoRoom => "no-room",
                Lack::ExceedsCapacity => "exceeds-capacity",
                Lack::HeldBack => "held-back",
            }),
            Proposal::Place(_) => None,
        });
        let attempts: Vec<Json> = decisions
            .iter()
            .zip(lacks)
            .map(|(decision, lack)| {
                let mut attempt = json!({"session": input["pending"][decision.session]["id"], "agent": null});
                match (&decision.verdict, lack) {
                    (Verdict::Placed(agents), None) => attempt["agent"] = json!(frame.agents[agents[0] as usize].id),
                    (Verdict::NoRoom { .. }, Some(lack)) => attempt["why"] = json!(lack),
                    other => panic!("{}: {other:?}", vector["id"]),
                }
                attempt
            })
            .collect();
        assert_eq!(json!(attempts), out["attempts"], "{}", vector["id"]);
        let stopped = matches!(decisions.last().unwrap().verdict, Verdict::NoRoom { .. });
        assert_eq!(json!(stopped), out["stopped"], "{}", vector["id"]);
        let tried: Vec<usize> = decisions.iter().map(|d| d.session).collect();
        let untried: Vec<&Json> = input["pending"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .filter(|(i, _)| !tried.contains(i))
            .map(|(_, s)| &s["id"])
            .collect();
        assert_eq!(json!(untried), out["not_tried"], "{}", vector["id"]);
        for (agent, row) in frame.agents.iter().zip(&occupied) {
            let want = units(&out["occupied"][agent.id.as_str()]);
            for ((name, _), got) in frame.slots.iter().zip(row) {
                assert_eq!(want.get(name).copied().unwrap_or(0) as u64, *got, "{} {} {name}", vector["id"], agent.id);
            }
        }
        ran += 1;
    }
    assert!(ran >= 12);
}

#[test]
fn every_column_is_documented() {
    let page = include_str!("../../../../docs/src/columns.md");
    let contract = include_str!("../../../../wit/policy.wit");
    assert!(snapshot::catalogue().count() > 10);
    for (table, name) in snapshot::catalogue() {
        assert!(
            page.contains(&format!("| `{table}` | `{name}` |")),
            "{table}.{name} is missing in docs/src/columns.md"
        );
        assert!(contract.contains(&format!("`{name}`")), "{table}.{name} is missing in wit/policy.wit");
    }
}

#[test]
fn eligibility_and_expected_time_are_sent_on_request_only() {
    let mut early = session(0, SessionStatus::Pending, vec![kernel(&json!({"cpu": "1"}), &json!({}))]);
    early.session_type = SessionType::Batch;
    early.starts_at = Some(NOW.plus_millis(1));
    early.expected_ms = Some(5000);
    let ready = session(1, SessionStatus::Pending, vec![kernel(&json!({"cpu": "1"}), &json!({}))]);
    let frame = frame(queue(vec![early, ready], vec![agent("i-1", "x86_64", &json!({"cpu": "4"}), &json!({}))]));
    assert!(snapshot::columns(&frame, 1, 1, &[]).pending.more.is_empty());
    let wanted = ["eligible", "expected-ms", "unheard-of"]
        .map(|name| quarterdeck_plugin::ColumnRequest { table: "pending".to_owned(), name: name.to_owned() });
    let columns = snapshot::columns(&frame, 1, 1, &wanted).pending.more;
    let values: Vec<_> = columns.into_iter().map(|c| (c.name, c.data)).collect();
    use quarterdeck_plugin::types::ColumnData::Integers;
    let expected = [("eligible", vec![0, 1]), ("expected-ms", vec![5000, 0])];
    assert_eq!(values, expected.map(|(name, data)| (name.to_owned(), Integers(data))));
}

/// What a hostile policy may say about a world of three slots.
#[derive(Clone, Debug)]
struct World {
    queue: Queue,
    proposals: Vec<Vec<Proposal>>,
}

fn slots(max: u32) -> impl Strategy<Value = Json> {
    (0..max, 0..max, 0..max).prop_map(
        |(cpu, mem, gpu)| json!({"cpu": cpu.to_string(), "mem": mem.to_string(), "cuda.device": gpu.to_string()}),
    )
}

fn limit() -> impl Strategy<Value = Json> {
    prop_oneof![Just(json!({})), slots(20), Just(json!({"cpu": "NaN"})), Just(json!({"mem": "Infinity"}))]
}

fn pending() -> impl Strategy<Value = SessionRow> {
    let arch = prop_oneof![4 => Just("x86_64"), 1 => Just("aarch64")];
    let pin = prop_oneof![4 => Just(None), 1 => (0..5_u32).prop_map(Some)];
    let kernels = prop::collection::vec((slots(6), arch, pin), 1..4);
    (kernels, any::<bool>(), prop::bool::weighted(0.2), 0..2_u32, any::<bool>(), any::<bool>()).prop_map(
        |(kernels, multi, private, owner, batch, blocked)| {
            let kernels = kernels
                .into_iter()
                .map(|(request, arch, pin)| {
                    let mut row = kernel(&request, &json!({}));
                    row.architecture = arch.to_owned();
                    row.designated_agent = pin.map(|n| AgentId(format!("i-{n}")));
                    row
                })
                .collect();
            let mut row = session(0, SessionStatus::Pending, kernels);
            row.cluster_mode = if multi { ClusterMode::MultiNode } else { ClusterMode::SingleNode };
            row.is_private = private;
            row.access_key = AccessKey(format!("K{owner}"));
            if batch {
                row.session_type = SessionType::Batch;
                row.starts_at = Some(NOW.plus_millis(if blocked { 1 } else { -1 }));
            } else if blocked {
                row.dependencies =
                    vec![Dependency { id: SessionId::new(), name: "d".to_owned(), result: SessionResult::Undefined }];
            }
            row
        },
    )
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let place = (0..14_u32, prop::collection::vec(0..6_u32, 0..4), 0..6_u32, any::<bool>()).prop_map(
        |(session, mut agents, one, same)| {
            if same {
                agents.iter_mut().for_each(|a| *a = one);
            }
            Proposal::Place(Placement { session, agents })
        },
    );
    let lack = prop_oneof![
        Just(Lack::NoCompatibleAgent),
        Just(Lack::NoRoom),
        Just(Lack::ExceedsCapacity),
        Just(Lack::HeldBack)
    ];
    let defer = (0..14_u32, lack, ".{0,40}")
        .prop_map(|(session, lack, detail)| Proposal::Defer(Deferral { session, lack, detail }));
    prop_oneof![4 => place, 1 => defer]
}

fn world() -> impl Strategy<Value = World> {
    let agents = prop::collection::vec((slots(12), slots(14), 0..4_u32, any::<bool>()), 1..5);
    let owners = prop::collection::vec((limit(), 0..4_i64, 0..3_i64, 0..3_i64, 0..3_i64), 2);
    let sessions = prop::collection::vec(pending(), 1..12);
    let proposals = prop::collection::vec(prop::collection::vec(proposal(), 0..6), 0..8);
    (agents, owners, limit(), slots(5), sessions, proposals).prop_map(
        |(agents, owners, domain, held, sessions, proposals)| {
            let sessions = sessions
                .into_iter()
                .enumerate()
                .map(|(i, mut row)| {
                    row.id = SessionId(Uuid::from_u128(i as u128 + 1));
                    row.created_at = NOW.plus_millis(i as i64 - 1000);
                    row
                })
                .collect();
            let agents = agents
                .into_iter()
                .enumerate()
                .map(|(i, (available, occupied, kind, schedulable))| {
                    let arch = if kind == 0 { "aarch64" } else { "x86_64" };
                    let mut row = agent(&format!("i-{i}"), arch, &available, &occupied);
                    row.schedulable = schedulable || kind > 1;
                    row.status = if kind == 3 && !schedulable { AgentStatus::Lost } else { AgentStatus::Alive };
                    row
                })
                .collect();
            let mut queue = queue(sessions, agents);
            queue.owners = owners
                .into_iter()
                .enumerate()
                .map(|(i, (limit, n, private, used, used_private))| OwnerRow {
                    access_key: AccessKey(format!("K{i}")),
                    total_resource_slots: limit.to_string(),
                    default_for_unspecified: "UNLIMITED".to_owned(),
                    max_concurrent_sessions: n,
                    max_concurrent_sftp_sessions: private,
                    counted: (used, used_private),
                })
                .collect();
            queue.domains[0].total_resource_slots = domain.to_string();
            queue.occupancy = units(&held)
                .into_iter()
                .map(|(slot, amount)| OccupancyRow {
                    scope: "domain".to_owned(),
                    holder: "default".to_owned(),
                    slot,
                    amount,
                })
                .collect();
            World { queue, proposals }
        },
    )
}

fn add(to: &mut [u64], amounts: &[u64]) {
    for (cell, amount) in to.iter_mut().zip(amounts) {
        *cell += amount;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_proposal_breaks_the_books(world in world()) {
        let frame = frame(world.queue);
        let mut books = Books::new(&frame);
        for chunk in &world.proposals {
            let outcomes = books.judge(chunk);
            prop_assert_eq!(outcomes.len(), chunk.len());
        }
        let agents = books.occupied().to_vec();
        let (accounts, concurrent) = books.accounts();
        let (accounts, concurrent) = (accounts.map(<[Vec<u64>]>::to_vec), concurrent.to_vec());
        let (decisions, _) = books.close();

        // Recomputation from the decisions.
        let slots = frame.slots.len();
        let mut added = vec![vec![0_u64; slots]; frame.agents.len()];
        let lists = [&frame.owners, &frame.projects, &frame.domains];
        let mut held = lists.map(|list| vec![vec![0_u64; slots]; list.len()]);
        let mut started = vec![(0_u64, 0_u64); frame.owners.len()];
        let mut seen = std::collections::HashSet::new();
        for decision in &decisions {
            prop_assert!(seen.insert(decision.session), "a session was decided on twice");
            let Verdict::Placed(places) = &decision.verdict else { continue };
            prop_assert!(decision.checks.failed.is_empty());
            let session = &frame.pending[decision.session];
            prop_assert_eq!(places.len(), session.kernels.len());
            if session.row.cluster_mode == ClusterMode::SingleNode {
                prop_assert!(places.iter().all(|p| *p == places[0]));
            }
            for (kernel, &place) in session.kernels.iter().zip(places) {
                let agent = &frame.agents[place as usize];
                prop_assert!(agent.alive);
                prop_assert_eq!(agent.architecture, kernel.architecture);
                prop_assert!(agent.schedulable || kernel.agent == super::frame::Place::At(place));
                add(&mut added[place as usize], &kernel.requested);
            }
            let started = &mut started[session.owner];
            if session.row.is_private { started.1 += 1 } else { started.0 += 1 }
            if !session.row.is_private {
                let rows = [session.owner, session.project, session.domain];
                for (table, row) in held.iter_mut().zip(rows) {
                    add(&mut table[row], &session.requested);
                }
            }
        }
        for ((agent, added), booked) in frame.agents.iter().zip(&added).zip(&agents) {
            for slot in 0..slots {
                prop_assert_eq!(agent.occupied[slot] + added[slot], booked[slot]);
                prop_assert!(added[slot] == 0 || booked[slot] <= agent.capacity[slot], "oversubscribed");
            }
        }
        for ((list, added), booked) in lists.iter().zip(&held).zip(&accounts) {
            for ((account, added), booked) in list.iter().zip(added).zip(booked) {
                for slot in 0..slots {
                    prop_assert_eq!(account.occupied[slot] + added[slot], booked[slot]);
                    if added[slot] > 0 {
                        prop_assert!(booked[slot] <= account.limit.as_ref().unwrap()[slot], "quota exceeded");
                    }
                }
            }
        }
        for ((owner, started), booked) in frame.owners.iter().zip(&started).zip(&concurrent) {
            prop_assert_eq!((owner.sessions.0 + started.0, owner.sessions.1 + started.1), *booked);
            prop_assert!(started.0 == 0 || booked.0 <= owner.session_limit.0);
            prop_assert!(started.1 == 0 || booked.1 <= owner.session_limit.1);
        }
        // A recording, written down and read again, answers the same, to the word.
        let (mut books, recording) = (Books::new(&frame), recorded(&frame));
        let mut again = RecordedBooks::new(&recording).into_inner();
        for (row, _) in frame.pending.iter().enumerate() {
            prop_assert_eq!(books.predicates(row), again.predicates(row));
        }
        for chunk in &world.proposals {
            prop_assert_eq!(books.judge(chunk), again.judge(chunk));
        }
        prop_assert_eq!(books.occupied(), again.occupied());
        prop_assert_eq!(format!("{:?}", books.close()), format!("{:?}", again.close()));
        // What is written follows from it, whatever it was.
        let commit = super::commit::prepare(&frame, &[], &decisions);
        let noted = commit.placed.len() + commit.records.len() + commit.cancelled.len();
        prop_assert_eq!(noted, decisions.len() + frame.broken.len());
    }
}
