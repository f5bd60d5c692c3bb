//! Faults that schedulers of this kind have had: each is a test of ours, here or where the feature lives.
//!
//! | fault | test |
//! |---|---|
//! | one session that fits nowhere stops all behind it | `plugin`: `fifo_blocks_unless_told_otherwise` |
//! | the configured way to choose agents is ignored | `columns`: `sessions_with_one_tag_are_kept_apart`; `plugin`: `spread_pack_does_as_the_kind_of_session_says` |
//! | enqueue hooks aren't called | `tests`: `admission_is_limited_while_the_hook_is_bound` |
//! | failures don't count, so limits on retries never apply | `sessions_that_failed_often_yield` |
//! | less important sessions overtake a blocked more important one for ever | `backfill`: `more_important_sessions_come_first`, `the_head_of_the_line_is_never_delayed`; `plugin`: `a_session_that_waited_long_holds_the_line` |
//! | less important sessions drop out of a round | `fair-share`: `everybody_has_one_turn`; `backfill`: `rounds_respect_capacity` |
//! | the queue comes in no order | `the_queue_is_ordered_by_age_whatever_the_rows_are` |
//! | ghost usage of ended kernels; amounts differ between APIs | `store`: `counters_equal_recomputation_after_anything`; `lifecycle`: `a_session_runs_works_and_ends` |
//! | batch sessions without a timeout die at once | `lifecycle`: `batch_sessions_end_with_their_command` |
//! | lifetime counts from the request instead of the start | `plugin`: `session_lifetime` (`count_from`) |
//! | utilisation: wrong sums, spikes of first samples, judged too early | `idle`: `statistics_are_taken_together`, `a_spike_before_the_window_saves_nobody_and_one_within_it_does`, `a_session_is_judged_once_its_window_is_full` |
//! | utilisation: sessions whose agents report to another host are never judged | `utilization_sees_agents_that_report_to_another_host` |
//! | one key pair keeps idle checks from everybody else | `a_key_pair_that_is_gone_for_good_keeps_nobody_from_being_judged` |
//! | one hung checker blocks all others | `tests`: `sessions_count_as_active_where_an_idle_checker_fails`; `plugin`: `one_poisoned_session_does_not_keep_the_others_from_being_judged` |
//! | negative amounts are let in | `amounts_are_not_negative` |
//! | unexpected faults leave no status info | `a_senseless_session_is_told_so_and_stops_nobody` |
//! | a heartbeat overwrites the agent's group | `an_agent_stays_in_the_group_that_it_was_moved_to` |
//! | ending sessions calls for kernels that never were | `lifecycle`: `pending_sessions_end_at_once_and_dependents_with_them` |
#![allow(clippy::unwrap_used, missing_docs)]

mod dispatch;
mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dispatch::Scenario;
use lab::{Lab, USER, eventually, request};
use quarterdeck_control::agents::statistics;
use quarterdeck_control::enqueue::{self, CreateSession};
use quarterdeck_control::{Settings, idle, seed};
use quarterdeck_model::{AgentId, Clock, SessionStatus, Timestamp};
use quarterdeck_rpc::pb;
use quarterdeck_store::testing::{self, databases};
use quarterdeck_store::{Sql, Stmt, agents};
use serde_json::{Value as Json, json};

/// The table above names tests that there are, so that nobody takes one away unseen.
#[test]
fn every_test_of_the_table_exists() {
    let table = include_str!("regressions.rs").lines().take_while(|line| line.starts_with("//!"));
    // Words with an underscore between ticks: tests, and names of options that stand in brackets.
    let named = table.flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|word| word.contains('_'));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = String::new();
    let mut folders: Vec<_> = ["host", "plugins", "tests"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != "node_modules" {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                sources.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let missing: Vec<_> =
        named.filter(|name| *name != "count_from" && !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

async fn change(scenario: &Scenario, sql: &'static str) {
    let mut tx = scenario.control().store().begin().await.unwrap();
    tx.execute(Stmt::new(sql)).await.unwrap();
    tx.commit().await.unwrap();
}

fn retries(state: &Json, session: &str) -> u64 {
    state["sessions"][session]["status_data"]["scheduler"]["retries"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_failed_often_yield() {
    let input = json!({
        "scaling_groups": {"sg": {"scheduler_opts": {"config": {"num_retries_to_skip": 2}}}},
        "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}}],
        "sessions": [
            {"id": "large", "requested_slots": {"cpu": "100", "mem": "1"}},
            {"id": "small", "requested_slots": {"cpu": "1", "mem": "1"}},
        ],
    });
    for db in databases().await {
        let mut scenario = Scenario::build(db, &input).await;
        for round in 1..=2 {
            let got = scenario.tick().await;
            assert_eq!((retries(&got, "large"), got["sessions"]["small"]["status"].as_str()), (round, Some("PENDING")));
        }
        let got = scenario.tick().await;
        assert_eq!((retries(&got, "large"), got["sessions"]["small"]["status"].as_str()), (3, Some("SCHEDULED")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_ordered_by_age_whatever_the_rows_are() {
    let ages = [30, 500, 20, 900, 10];
    let sessions = ages
        .iter()
        .map(|age| json!({"id": format!("s{age}"), "requested_slots": {"cpu": "4", "mem": "1"}, "age": age}));
    let input = json!({
        "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}}],
        "sessions": sessions.collect::<Vec<_>>(),
    });
    for db in databases().await {
        let mut scenario = Scenario::build(db, &input).await;
        // What was touched last tends to come last out of a table.
        change(&scenario, "UPDATE sessions SET tag = 'touched' WHERE name = 's900'").await;
        let got = scenario.tick().await;
        let placed: Vec<&String> = got["sessions"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, s)| s["status"] == "SCHEDULED")
            .map(|(n, _)| n)
            .collect();
        assert_eq!(placed, ["s500", "s900"], "{got}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_pair_that_is_gone_for_good_keeps_nobody_from_being_judged() {
    let session = |id: &str, key: &str| json!({"id": id, "requested_slots": {"cpu": "1"}, "status": "RUNNING", "access_key": key, "age": 1000});
    let input = json!({
        "agents": [{"id": "i-1", "available": {"cpu": "8"}}],
        "sessions": [session("s1", "A"), session("s2", "B"), session("s3", "C")],
    });
    for db in databases().await {
        let scenario = Scenario::build(db, &input).await;
        change(&scenario, "UPDATE kernels SET agent_id = 'i-1', agent_addr = 'a'").await;
        change(&scenario, "UPDATE keypair_resource_policies SET max_session_lifetime = 60").await;
        change(&scenario, "UPDATE keypairs SET is_active = FALSE WHERE access_key = 'B'").await;
        // One that still has sessions can't be deleted at all.
        let mut tx = scenario.control().store().begin().await.unwrap();
        assert!(tx.execute(Stmt::new("DELETE FROM keypairs WHERE access_key = 'B'")).await.is_err());
        tx.rollback().await.unwrap();
        let ended = idle::tick(scenario.control()).await.unwrap();
        assert_eq!(ended.len(), 3, "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn utilization_sees_agents_that_report_to_another_host() {
    let Some(db) = testing::postgres().await else { return };
    let users: Json = serde_json::from_str(include_str!("../../../tests/conformance/seed.json")).unwrap();
    seed::load(&db.store, &users).await.unwrap();
    let micros = Arc::new(AtomicI64::new(Timestamp::now().0));
    let settings = || Settings {
        idle_interval: Duration::from_secs(3_600),
        share_interval: Duration::from_millis(20),
        heartbeat_timeout_ms: i64::from(i32::MAX),
        ..lab::settings()
    };
    // The one that judges, and the one that the agent talks to.
    let first = Lab::at(&db.store, settings(), Clock::Manual(Arc::clone(&micros))).await;
    eventually("the first host to lead", async || first.control.leadership().leads("idle")).await;
    let second = Lab::at(&db.store, settings(), Clock::Manual(Arc::clone(&micros))).await;
    let agent = second.agent("i-1", 4).await;
    let checker = |key: &str, value: &str| (format!("config/idle/{key}"), value.to_owned());
    let thresholds = "checkers/utilization/resource-thresholds/cpu_util/average";
    let tree = [
        checker("enabled", "utilization"),
        checker("checkers/utilization/time-window", "30"),
        checker("checkers/utilization/initial-grace-period", "0"),
        checker(thresholds, "10"),
    ];
    first.control.config_tree().set(&tree).await.unwrap();
    let mut tx = db.store.begin().await.unwrap();
    tx.execute(Stmt::new("UPDATE keypair_resource_policies SET idle_timeout = -1, max_session_lifetime = 0"))
        .await
        .unwrap();
    tx.commit().await.unwrap();

    let session = first.create(CreateSession { enqueue_only: true, ..request("lazy") }).await.session_id;
    first.reaches(session, SessionStatus::Running).await;
    let kernel = agent.kernels().remove(0);
    let mut ended = Vec::new();
    for sample in 0..10 {
        micros.fetch_add(15_000_000, Ordering::SeqCst);
        let stat = json!({"cpu_util": {"current": "1", "pct": "1"}, "sample": sample}).to_string();
        agent.heartbeat_with(vec![pb::KernelStat { kernel_id: kernel.clone(), stat }]).await;
        let id = kernel.parse().unwrap();
        eventually("the first host to know what the second was told", async || {
            let known = statistics::of_kernels(&first.control, &[id]).await.unwrap();
            known.get(&id).is_some_and(|stat| stat["sample"] == sample)
        })
        .await;
        assert_eq!(first.control.live().kernel_stat(id), None, "the agent doesn't talk to the first host");
        ended = idle::tick(&first.control).await.unwrap();
        if !ended.is_empty() {
            assert!(sample >= 2, "judged after {sample} samples");
            break;
        }
    }
    assert_eq!(ended, [(session, "idle-utilization".to_owned())]);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_senseless_session_is_told_so_and_stops_nobody() {
    let session = |id: &str| json!({"id": id, "requested_slots": {"cpu": "1", "mem": "1"}});
    let input = json!({
        "agents": [{"id": "i-1", "available": {"cpu": "8", "mem": "16"}}],
        "sessions": [session("broken"), session("sound")],
    });
    for db in databases().await {
        let mut scenario = Scenario::build(db, &input).await;
        change(
            &scenario,
            "UPDATE kernels SET requested_slots = '{\"cpu\": \"much\"}'
             WHERE session_id IN (SELECT id FROM sessions WHERE name = 'broken')",
        )
        .await;
        let got = scenario.tick().await;
        assert_eq!(got["sessions"]["sound"]["status"], "SCHEDULED", "{got}");
        let broken = &got["sessions"]["broken"];
        assert_eq!(
            (&broken["status"], &broken["status_info"]),
            (&json!("PENDING"), &json!("scheduler-error")),
            "{got}"
        );
        assert!(broken["status_data"]["error"]["repr"].as_str().is_some_and(|repr| !repr.is_empty()), "{got}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amounts_are_not_negative() {
    let db = quarterdeck_store::testing::sqlite().await;
    let lab = Lab::new(&db).await;
    let user = lab.who(USER).await;
    for amount in [json!(-1), json!("-0.5"), json!("-1g"), json!("NaN"), json!("Infinity")] {
        let mut wanted = CreateSession { enqueue_only: true, ..request("negative") };
        wanted.config.resources = Some(json!({"cpu": 1, "mem": amount}));
        let refused = enqueue::create(&lab.control, &user, wanted).await;
        assert!(refused.is_err(), "{amount}: {refused:?}");
    }
    assert!(lab.books().await.is_empty());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_stays_in_the_group_that_it_was_moved_to() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 4).await;
        let id = AgentId::from("i-1");
        let mut tx = lab.control.store().begin().await.unwrap();
        let group = "INSERT INTO scaling_groups (name, created_at, driver, scheduler) VALUES ('elsewhere', 0, 'static', 'fifo')";
        tx.execute(Stmt::new(group)).await.unwrap();
        agents::modify(&mut tx, &id, None, Some("elsewhere")).await.unwrap();
        tx.commit().await.unwrap();
        agent.heartbeat().await;
        let row = Stmt::new("SELECT scaling_group FROM agents WHERE id = 'i-1'");
        let row = lab.control.store().reader().fetch_one(row).await.unwrap();
        assert_eq!(row.get::<String>("scaling_group").unwrap(), "elsewhere");
        lab.stop().await;
    }
}
