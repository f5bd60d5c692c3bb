//! The `dispatch` and `load` vectors of the scheduler: each builds a database, runs real passes with
//! the real compiled policy, and compares rows, counters and events.
#![allow(clippy::unwrap_used, missing_docs)]

mod dispatch;

use dispatch::{Scenario, expected};
use quarterdeck_control::schedule;
use serde_json::Value as Json;

fn vectors() -> Vec<Json> {
    let all: Json = serde_json::from_str(include_str!("../../../tests/vectors/scheduler-vectors.json")).unwrap();
    all["vectors"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatch_vectors() {
    let mut problems = Vec::new();
    let mut ran = 0;
    for vector in vectors().iter().filter(|v| v["kind"] == "dispatch") {
        let id = vector["id"].as_str().unwrap();
        for db in quarterdeck_store::testing::databases().await {
            let dialect = db.dialect();
            let mut scenario = Scenario::build(db, &vector["in"]).await;
            for (tick, want) in expected(vector).iter().enumerate() {
                let got = scenario.tick().await;
                for difference in dispatch::differences(want, &got) {
                    problems.push(format!("{id} ({dialect:?}) tick {}: {difference}", tick + 1));
                }
            }
            scenario.check_books().await;
            ran += 1;
        }
    }
    assert!(ran >= 45, "only {ran} vectors ran");
    assert!(problems.is_empty(), "{} differences:\n{}", problems.len(), problems.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_vectors() {
    let mut ran = 0;
    for vector in vectors().iter().filter(|v| v["kind"] == "load") {
        let name = vector["in"]["name"].as_str().unwrap();
        let loads = vector["out"].get("class").is_some();
        let input = serde_json::json!({
            "scaling_groups": {"sg": {"scheduler": name}},
            "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}}],
            "sessions": [{"id": "s1", "requested_slots": {"cpu": "1", "mem": "1"}}],
        });
        let scenario = Scenario::build(quarterdeck_store::testing::sqlite().await, &input).await;
        let pass = schedule::pass(scenario.control(), "sg").await.unwrap();
        if loads {
            assert_eq!(pass.placed.len(), 1, "{name}");
        } else {
            let reason = pass.skipped.unwrap();
            for part in vector["out"]["args"].as_array().unwrap() {
                assert!(reason.contains(part.as_str().unwrap()), "{name}: {reason}");
            }
            // Visible, and told once, however often it happens.
            schedule::pass(scenario.control(), "sg").await.unwrap();
            let state = scenario.control().schedule_state().groups();
            assert!(state["sg"].outcome.contains("Cannot load the scheduler plugin"), "{state:?}");
            let all = quarterdeck_store::rounds::Filter::default();
            let mut sql = scenario.control().store().reader();
            let rounds = quarterdeck_store::rounds::list(&mut sql, &all, 10).await.unwrap();
            assert_eq!(rounds.len(), 1);
        }
        ran += 1;
    }
    assert!(ran >= 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_the_scheduler_refuses_skip_the_group() {
    for options in [
        serde_json::json!({"config": {"num_retries_to_skip": "x"}}),
        serde_json::json!({"config": {"num_retries_to_skip": 1.5}}),
        serde_json::json!({"config": {"num_retries_to_skip": -1}}),
        serde_json::json!({"nonsense": 1}),
    ] {
        let input = serde_json::json!({
            "scaling_groups": {"sg": {"scheduler_opts": options}, "ok": {}},
            "agents": [
                {"id": "i-1", "available": {"cpu": "8", "mem": "16"}},
                {"id": "i-2", "available": {"cpu": "8", "mem": "16"}, "scaling_group": "ok"},
            ],
            "sessions": [
                {"id": "s1", "requested_slots": {"cpu": "1", "mem": "1"}},
                {"id": "s2", "requested_slots": {"cpu": "1", "mem": "1"}, "scaling_group": "ok"},
            ],
        });
        let mut scenario = Scenario::build(quarterdeck_store::testing::sqlite().await, &input).await;
        let got = scenario.tick().await;
        assert_eq!(got["sessions"]["s1"]["status"], "PENDING", "{options}");
        assert_eq!(got["sessions"]["s1"]["status_data"], Json::Null, "{options}");
        assert_eq!(got["sessions"]["s2"]["status"], "SCHEDULED", "{options}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_pinned_to_an_agent_that_takes_no_others_runs_there() {
    for (agent, placed) in [
        (serde_json::json!({"schedulable": false}), true),
        (serde_json::json!({"scaling_group": "other"}), true),
        (serde_json::json!({"arch": "aarch64"}), false),
        (serde_json::json!({"status": "LOST"}), false),
    ] {
        let mut pinned = serde_json::json!({"id": "i-2", "available": {"cpu": "8", "mem": "16"}});
        pinned.as_object_mut().unwrap().extend(agent.as_object().unwrap().clone());
        let input = serde_json::json!({
            "scaling_groups": {"sg": {}, "other": {}},
            "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}}, pinned],
            "sessions": [{"id": "s1", "requested_slots": {"cpu": "1", "mem": "1"}, "agent": "i-2"}],
        });
        let mut scenario = Scenario::build(quarterdeck_store::testing::sqlite().await, &input).await;
        let got = scenario.tick().await;
        let session = &got["sessions"]["s1"];
        assert_eq!(session["status"], if placed { "SCHEDULED" } else { "PENDING" }, "{agent}: {got}");
        assert_eq!(session["kernels"][0]["agent"], "i-2", "{agent}");
        if !placed {
            assert_eq!(session["status_info"], "no-available-instances", "{agent}: {got}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_reaches_an_agent_even_where_no_other_takes_sessions() {
    let input = serde_json::json!({
        "agents": [
            {"id": "i-1", "available": {"cpu": "8", "mem": "16"}, "schedulable": false},
            {"id": "i-2", "available": {"cpu": "8", "mem": "16"}, "schedulable": false},
        ],
        "sessions": [
            {"id": "s1", "requested_slots": {"cpu": "1", "mem": "1"}, "agent": "i-2"},
            {"id": "s2", "requested_slots": {"cpu": "1", "mem": "1"}},
        ],
    });
    let mut scenario = Scenario::build(quarterdeck_store::testing::sqlite().await, &input).await;
    let got = scenario.tick().await;
    assert_eq!(got["sessions"]["s1"]["status"], "SCHEDULED", "{got}");
    assert_eq!(got["sessions"]["s2"]["status_info"], "no-available-instances", "{got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_are_recorded_in_a_bounded_ring() {
    let input = serde_json::json!({
        "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}}],
        "sessions": [
            {"id": "s1", "requested_slots": {"cpu": "1", "mem": "1"}},
            {"id": "s2", "requested_slots": {"cpu": "100", "mem": "1"}},
        ],
    });
    for db in quarterdeck_store::testing::databases().await {
        let mut scenario = Scenario::build(db, &input).await;
        let control = scenario.control().clone();
        let list = async || {
            control.recorder().flush().await;
            let all = quarterdeck_store::rounds::Filter::default();
            quarterdeck_store::rounds::list(&mut control.store().reader(), &all, 10_000).await.unwrap()
        };
        let set = async |key: &str, value: &str| {
            control.config_tree().set(&[(format!("config/rounds/{key}"), value.to_owned())]).await.unwrap();
        };
        // The first round places one; the second finds that the other still has no room; the third says it again.
        for kept in [1, 2, 2, 2] {
            scenario.tick().await;
            assert_eq!(list().await.len(), kept);
        }
        set("mode", "all").await;
        set("keep", "5").await;
        for _ in 0..8 {
            scenario.tick().await;
        }
        let rounds = list().await;
        assert_eq!(rounds.len(), 5);
        let newest = &rounds[0];
        assert_eq!((newest.outcome.as_str(), newest.pending, newest.placed, newest.deferred), ("ok", 1, 0, 1));
        let bytes =
            quarterdeck_store::rounds::recording(&mut control.store().reader(), newest.id).await.unwrap().unwrap();
        assert_eq!(newest.bytes, Some(bytes.len() as i64));
        let recording = schedule::Recording::from_bytes(&bytes).unwrap();
        assert_eq!(recording.plugin.name, "fifo");
        assert_eq!((&recording.plugin.digest, &recording.plugin.version), (&newest.digest, &newest.version));
        assert_eq!(recording.snapshot.pending.count, 1);
        assert_eq!(recording.facts.owners[0].id, "A");
        assert_eq!(recording.steps.len(), 1);
        assert!(recording.timings.commit_us > 0 && recording.timings.total_us > recording.timings.call_us);
        // The last exchange is the empty one that ends the round.
        let timings = &recording.timings;
        assert_eq!([&timings.propose_us, &timings.judge_us, &timings.settle_us].map(Vec::len), [2; 3]);

        // Two recordings have room, then none; summaries stay.
        let size = newest.bytes.unwrap();
        set("max-bytes", &(size * 5 / 2).to_string()).await;
        scenario.tick().await;
        assert_eq!(list().await.iter().filter(|r| r.bytes.is_some()).count(), 2);
        set("max-bytes", "10").await;
        scenario.tick().await;
        let rounds = list().await;
        assert_eq!((rounds.len(), rounds[0].bytes), (5, None), "too large to be kept");
        set("mode", "off").await;
        let before = rounds[0].id;
        scenario.tick().await;
        assert_eq!(list().await[0].id, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drf_sees_what_the_owners_hold_already() {
    // Room for one more: the younger session goes first, because its owner holds nothing.
    let input = serde_json::json!({
        "scaling_groups": {"sg": {"scheduler": "drf"}},
        "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}}],
        "sessions": [
            {"id": "r1", "requested_slots": {"cpu": "3", "mem": "1"}, "access_key": "A"},
            {"id": "r2", "requested_slots": {"cpu": "3", "mem": "1"}, "access_key": "A"},
            {"id": "s1", "requested_slots": {"cpu": "2", "mem": "1"}, "access_key": "A", "type": "batch", "starts_in": 1.5},
            {"id": "s2", "requested_slots": {"cpu": "2", "mem": "1"}, "access_key": "B", "type": "batch", "starts_in": 1.5},
        ],
    });
    for db in quarterdeck_store::testing::databases().await {
        let mut scenario = Scenario::build(db, &input).await;
        let got = scenario.tick().await;
        assert_eq!(got["sessions"]["r2"]["status"], "SCHEDULED", "{got}");
        assert_eq!(got["sessions"]["s2"]["status"], "PENDING", "{got}");
        let got = scenario.tick().await;
        assert_eq!(got["sessions"]["s1"]["status"], "PENDING", "{got}");
        assert_eq!(got["sessions"]["s2"]["status"], "SCHEDULED", "{got}");
    }
}
