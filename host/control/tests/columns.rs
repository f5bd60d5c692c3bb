//! Facts that only some policies ask for, from the rows to the decisions that rest on them.
#![allow(clippy::unwrap_used, missing_docs)]

mod dispatch;

use dispatch::Scenario;
use quarterdeck_control::usage;
use quarterdeck_model::AccessKey;
use quarterdeck_store::occupancy::{self, Counts};
use quarterdeck_store::testing::databases;
use quarterdeck_store::{Sql, Stmt};
use serde_json::{Value as Json, json};

async fn change(scenario: &Scenario, sql: &'static str) {
    let mut tx = scenario.control().store().begin().await.unwrap();
    tx.execute(Stmt::new(sql)).await.unwrap();
    tx.commit().await.unwrap();
}

/// What a key pair has held of processors on average of late, in cores.
async fn mean(scenario: &Scenario, key: &str) -> f64 {
    let control = scenario.control();
    let means =
        quarterdeck_store::usage::means(&mut control.store().reader(), "sg", control.clock().now()).await.unwrap();
    let slots = means.get(&("keypair".to_owned(), key.to_owned())).cloned().unwrap_or_default();
    slots.into_iter().find(|(slot, _)| slot == "cpu").map_or(0.0, |(_, mean)| mean / 1000.0)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

/// A runs on 4 cores and B on one; both have more to run.
fn two_owners(config: &Json) -> Json {
    json!({
        "scaling_groups": {"sg": {"scheduler": "fair-share", "scheduler_opts": {"config": config}}},
        "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}, "occupied": {"cpu": "5", "mem": "2"}}],
        "sessions": [
            {"id": "r1", "requested_slots": {"cpu": "4", "mem": "1"}, "access_key": "A", "status": "RUNNING"},
            {"id": "r2", "requested_slots": {"cpu": "1", "mem": "1"}, "access_key": "B", "status": "RUNNING"},
            {"id": "s1", "requested_slots": {"cpu": "2", "mem": "1"}, "access_key": "A"},
            {"id": "s2", "requested_slots": {"cpu": "2", "mem": "1"}, "access_key": "B"},
        ],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_fades_by_half_lives() {
    for db in databases().await {
        let scenario = Scenario::build(db, &two_owners(&json!({}))).await;
        let control = scenario.control();
        control.config_tree().set(&[(usage::HALF_LIFE_KEY.to_owned(), "1h".to_owned())]).await.unwrap();
        usage::accrue(control).await.unwrap();
        assert_eq!(mean(&scenario, "A").await, 0.0);
        // Half an hour, in two parts: how often it is brought up to date makes no difference.
        for _ in 0..2 {
            scenario.advance(900);
            usage::accrue(control).await.unwrap();
        }
        let part = 1.0 - 0.5_f64.sqrt();
        assert!(close(mean(&scenario, "A").await, 4.0 * part), "{}", mean(&scenario, "A").await);
        assert!(close(mean(&scenario, "B").await, part));
        // The same moment doesn't count twice.
        usage::accrue(control).await.unwrap();
        assert!(close(mean(&scenario, "B").await, part));

        // An hour without holding anything halves it, whether anybody looks or not.
        change(&scenario, "UPDATE occupancy SET amount = 0 WHERE holder = 'A'").await;
        scenario.advance(3600);
        assert!(close(mean(&scenario, "A").await, 2.0 * part));
        usage::accrue(control).await.unwrap();
        assert!(close(mean(&scenario, "A").await, 2.0 * part));
        assert!(close(mean(&scenario, "B").await, 0.5 * part + 0.5));

        // Of a day without the host an hour counts; the sums are scaled down on the way, and what is nothing is forgotten.
        for _ in 0..4 {
            scenario.advance(24 * 3600);
            usage::accrue(control).await.unwrap();
        }
        assert!(close(mean(&scenario, "B").await, 0.5), "{}", mean(&scenario, "B").await);
        let rows = Stmt::new("SELECT COUNT(*) AS n FROM usage_history WHERE holder = 'A'");
        let row = control.store().reader().fetch_one(rows).await.unwrap();
        assert_eq!(row.get::<i64>("n").unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fair_share_serves_who_had_less() {
    for db in databases().await {
        // There is room for one of both; A is older, and has had more.
        let options = json!({"by": "owner", "history_weight": 1, "owner_weights": {"B": 1}});
        let mut scenario = Scenario::build(db, &two_owners(&options)).await;
        usage::accrue(scenario.control()).await.unwrap();
        scenario.advance(600);
        usage::accrue(scenario.control()).await.unwrap();
        let got = scenario.tick().await;
        assert_eq!(got["sessions"]["s1"]["status"], "PENDING", "{got}");
        assert_eq!(got["sessions"]["s2"]["status"], "SCHEDULED", "{got}");
    }
    for db in databases().await {
        // By its key the first owner is owed ten times as much.
        let options = json!({"by": "owner", "history_weight": 1, "owner_weights": {"A": 10}});
        let mut scenario = Scenario::build(db, &two_owners(&options)).await;
        usage::accrue(scenario.control()).await.unwrap();
        scenario.advance(600);
        usage::accrue(scenario.control()).await.unwrap();
        let got = scenario.tick().await;
        assert_eq!(got["sessions"]["s1"]["status"], "SCHEDULED", "{got}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backfill_knows_how_long_sessions_run() {
    let input = json!({
        "scaling_groups": {"sg": {"scheduler": "backfill"}},
        "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}, "occupied": {"cpu": "6", "mem": "1"}}],
        "sessions": [
            {"id": "r1", "requested_slots": {"cpu": "6", "mem": "1"}, "status": "RUNNING"},
            {"id": "large", "requested_slots": {"cpu": "8", "mem": "1"}},
            {"id": "long", "requested_slots": {"cpu": "1", "mem": "1"}},
            {"id": "silent", "requested_slots": {"cpu": "1", "mem": "1"}},
            {"id": "short", "requested_slots": {"cpu": "1", "mem": "1"}},
        ],
    });
    for db in databases().await {
        let mut scenario = Scenario::build(db, &input).await;
        // It has run for 100 of the 400 seconds that it said: the large one can start in 300.
        change(&scenario, "UPDATE sessions SET expected_ms = 400000 WHERE name = 'r1'").await;
        change(&scenario, "UPDATE sessions SET expected_ms = 310000 WHERE name = 'long'").await;
        change(&scenario, "UPDATE sessions SET expected_ms = 290000 WHERE name = 'short'").await;
        change(&scenario, "UPDATE kernels SET agent_id = 'i-1', started_at = created_at WHERE status = 'RUNNING'")
            .await;
        let got = scenario.tick().await;
        let placed: Vec<&String> = got["sessions"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, s)| s["status"] == "SCHEDULED")
            .map(|(n, _)| n)
            .collect();
        assert_eq!(placed, ["short"], "{got}");
        let message = got["sessions"]["silent"]["status_data"]["scheduler"]["msg"].as_str().unwrap();
        assert!(message.contains("kept for a session before it"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_one_tag_are_kept_apart() {
    let config = json!({"strategy": "pack", "keep_apart": "tag", "strictness": "require"});
    let input = json!({
        "scaling_groups": {"sg": {"scheduler": "spread-pack", "scheduler_opts": {"config": config}}},
        "agents": [
            {"id": "i-1", "available": {"cpu": "8", "mem": "16"}, "occupied": {"cpu": "1", "mem": "1"}},
            {"id": "i-2", "available": {"cpu": "8", "mem": "16"}},
        ],
        "sessions": [
            {"id": "r1", "requested_slots": {"cpu": "1", "mem": "1"}, "status": "RUNNING"},
            {"id": "s1", "requested_slots": {"cpu": "1", "mem": "1"}},
            {"id": "s2", "requested_slots": {"cpu": "1", "mem": "1"}},
            {"id": "s3", "requested_slots": {"cpu": "1", "mem": "1"}},
        ],
    });
    for db in databases().await {
        let mut scenario = Scenario::build(db, &input).await;
        change(&scenario, "UPDATE kernels SET agent_id = 'i-1' WHERE status = 'RUNNING'").await;
        change(&scenario, "UPDATE sessions SET tag = 'web' WHERE name <> 's3'").await;
        let got = scenario.tick().await;
        let agent = |name: &str| got["sessions"][name]["kernels"][0]["agent"].clone();
        assert_eq!((agent("s1"), agent("s2"), agent("s3")), (json!("i-2"), Json::Null, json!("i-1")), "{got}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_are_told_how_many_sessions_there_are() {
    let mut input = two_owners(&json!({}));
    let session = |id: &str, key: &str, status: &str| json!({"id": id, "requested_slots": {"cpu": "1", "mem": "1"}, "access_key": key, "status": status});
    let sessions = input["sessions"].as_array_mut().unwrap();
    sessions.extend([
        session("t1", "A", "TERMINATING"),
        session("t2", "A", "CANCELLED"),
        session("s3", "A", "PENDING"),
    ]);
    for db in databases().await {
        let scenario = Scenario::build(db, &input).await;
        let mut reader = scenario.control().store().reader();
        let project =
            reader.fetch_one(Stmt::new("SELECT id FROM projects")).await.unwrap().get::<String>("id").unwrap();
        let counts = occupancy::counts(&mut reader, &AccessKey::from("A"), &project, "default").await.unwrap();
        // What the owner holds is a counter, which the scenario's ready-made sessions didn't pass.
        let want = Counts { owner: (0, 2), project: (2, 3), owner_in_project: (1, 2), domain: (2, 3) };
        assert_eq!(counts, want);
        let counts = occupancy::counts(&mut reader, &AccessKey::from("A"), "another", "default").await.unwrap();
        assert_eq!(counts, Counts { project: (0, 0), owner_in_project: (0, 0), ..want });
    }
}
