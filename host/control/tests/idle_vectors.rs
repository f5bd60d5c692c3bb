//! The `enabled` and `last_access_events` vectors of idle checks, and whole rounds on a database.
#![allow(clippy::unwrap_used, missing_docs)]

mod dispatch;

use dispatch::Scenario;
use quarterdeck_control::agents::HostService;
use quarterdeck_control::idle::{self, AccessEvent};
use quarterdeck_model::duration::Duration;
use quarterdeck_model::{SessionId, Timestamp};
use quarterdeck_rpc::pb::host_server::Host as _;
use quarterdeck_rpc::{credentials, metadata, pb};
use quarterdeck_store::{Sql, Stmt};
use serde_json::{Value as Json, json};

fn vectors(kind: &str) -> Vec<Json> {
    let all: Json = serde_json::from_str(include_str!("../../../tests/vectors/idle-vectors.json")).unwrap();
    all["vectors"].as_array().unwrap().iter().filter(|v| v["kind"] == kind).cloned().collect()
}

#[test]
fn enabled_vectors() {
    let vectors = vectors("enabled");
    assert!(vectors.len() >= 9);
    for vector in vectors {
        let text = vector["in"]["value"].as_str().unwrap_or_default();
        let known = |name: &&str| ["network_timeout", "utilization"].contains(name);
        let mut checkers = vec!["session_lifetime"];
        checkers.extend(quarterdeck_control::policies::enabled_idle_checkers(text).filter(known));
        let want = match vector["id"].as_str().unwrap() {
            // The name that the comments of the configuration show means the same checker.
            "enabled-006" => json!(["session_lifetime", "network_timeout", "utilization"]),
            _ => vector["out"]["checkers"].clone(),
        };
        assert_eq!(json!(checkers), want, "{}", vector["id"]);
    }
}

async fn running(count: usize) -> Scenario {
    let sessions: Vec<Json> = (0..count)
        .map(|i| json!({"id": format!("s{i}"), "requested_slots": {"cpu": "1"}, "status": "RUNNING", "age": 100 * (i + 1)}))
        .collect();
    let input = json!({"agents": [{"id": "i-1", "available": {"cpu": "8"}}], "sessions": sessions});
    let scenario = Scenario::build(quarterdeck_store::testing::sqlite().await, &input).await;
    change(&scenario, "UPDATE kernels SET agent_id = 'i-1', agent_addr = 'a'").await;
    scenario
}

async fn change(scenario: &Scenario, sql: &'static str) {
    let mut tx = scenario.control().store().begin().await.unwrap();
    tx.execute(Stmt::new(sql)).await.unwrap();
    tx.commit().await.unwrap();
}

async fn configure(scenario: &Scenario, key: &str, value: &str) {
    scenario.control().config_tree().set(&[(key.to_owned(), value.to_owned())]).await.unwrap();
}

async fn id_of(scenario: &Scenario, name: &str) -> SessionId {
    let stmt = Stmt::new("SELECT id FROM sessions WHERE name = $1").bind(name);
    scenario.control().store().reader().fetch_one(stmt).await.unwrap().parse("id").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_access_event_vectors() {
    let vectors = vectors("last_access_events");
    assert!(vectors.len() >= 8);
    for vector in vectors {
        let scenario = running(1).await;
        let session = id_of(&scenario, "s0").await;
        let threshold = vector["in"]["threshold"].as_str().unwrap_or("10m");
        let lifetime = idle::access_lifetime_ms(Duration::parse_text(threshold).unwrap().millis()) / 1000;
        let events = vector["in"]["events"].as_array().unwrap();
        for (i, (event, want)) in events.iter().zip(vector["out"].as_array().unwrap()).enumerate() {
            let event = match event.as_str().unwrap() {
                "session_started" => AccessEvent::Started,
                "execution_started" => AccessEvent::ExecutionStarted,
                "execution_finished" => AccessEvent::ExecutionEnded,
                "HAS_ACTIVE_CONNECTIONS" => AccessEvent::Connected,
                "NO_ACTIVE_CONNECTIONS" => AccessEvent::Disconnected,
                other => panic!("{other}"),
            };
            let mut tx = scenario.control().store().begin().await.unwrap();
            idle::note(&mut tx, &[session], event, Timestamp(i as i64 * 1_000_000)).await.unwrap();
            let access = quarterdeck_store::idle::access(&mut tx, session).await.unwrap();
            tx.commit().await.unwrap();
            let got = match access {
                None => json!({"last_access": null, "ttl": null}),
                Some(None) => json!({"last_access": "0", "ttl": -1}),
                Some(Some(at)) => json!({"last_access": format!("T+{}", at.0 / 1_000_000), "ttl": lifetime}),
            };
            assert_eq!(&got, want, "{} after event {i}", vector["id"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_its_lifetime_is_over_and_others_show_what_is_left() {
    let scenario = running(3).await;
    let control = scenario.control();
    // Ages are 100, 200 and 300 seconds.
    change(&scenario, "UPDATE keypair_resource_policies SET max_session_lifetime = 250").await;
    let ended = idle::tick(control).await.unwrap();
    assert_eq!(ended, [(id_of(&scenario, "s2").await, "idle-session-lifetime".to_owned())]);
    let stmt = Stmt::new("SELECT status, status_info FROM sessions WHERE name = 's2'");
    let row = control.store().reader().fetch_one(stmt).await.unwrap();
    assert_eq!(row.get::<String>("status").unwrap(), "TERMINATING");
    assert_eq!(row.get::<String>("status_info").unwrap(), "idle-session-lifetime");

    let ids = [id_of(&scenario, "s0").await, id_of(&scenario, "s1").await, id_of(&scenario, "s2").await];
    let report = idle::report(control, &ids).await.unwrap();
    let remaining = |i: usize| report[&ids[i]]["session_lifetime"]["remaining"].as_f64().unwrap();
    assert_eq!((remaining(0), remaining(1), remaining(2)), (150.0, 50.0, -1.0));
    assert_eq!(report[&ids[0]]["session_lifetime"]["remaining_time_type"], "expire_after");
    assert_eq!(report[&ids[0]]["session_lifetime"]["extra"], Json::Null);

    // A session that is being ended is not judged again.
    assert!(idle::tick(control).await.unwrap().is_empty());
    // Without a limit nothing is reported, and old reports fade.
    change(&scenario, "UPDATE keypair_resource_policies SET max_session_lifetime = 0").await;
    change(&scenario, "UPDATE idle_reports SET at = at - 150000001").await;
    assert!(idle::tick(control).await.unwrap().is_empty());
    let report = idle::report(control, &ids).await.unwrap();
    assert_eq!(report[&ids[0]]["session_lifetime"]["remaining"], Json::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_session_ends_and_one_in_use_is_left_alone() {
    let scenario = running(4).await;
    let control = scenario.control();
    let ids = [
        id_of(&scenario, "s0").await,
        id_of(&scenario, "s1").await,
        id_of(&scenario, "s2").await,
        id_of(&scenario, "s3").await,
    ];
    let now = control.clock().now();
    let mut tx = control.store().begin().await.unwrap();
    idle::note(&mut tx, &[ids[0]], AccessEvent::Started, now.plus_millis(-100_000)).await.unwrap();
    idle::note(&mut tx, &[ids[1]], AccessEvent::Started, now.plus_millis(-700_000)).await.unwrap();
    idle::note(&mut tx, &[ids[2]], AccessEvent::Started, now.plus_millis(-700_000)).await.unwrap();
    // Nothing is known of the last one.
    idle::note(&mut tx, &[ids[2]], AccessEvent::ExecutionStarted, now).await.unwrap();
    tx.commit().await.unwrap();
    change(&scenario, "UPDATE keypair_resource_policies SET idle_timeout = -1").await;

    // The checker is not enabled yet.
    assert!(idle::tick(control).await.unwrap().is_empty());
    configure(&scenario, "config/idle/enabled", "timeout").await;
    let report = |left: Json| json!({"remaining": left, "remaining_time_type": "expire_after", "extra": null});
    assert_eq!(idle::tick(control).await.unwrap(), [(ids[1], "idle-timeout".to_owned())]);
    let reports = idle::report(control, &ids).await.unwrap();
    let reported = ids.map(|id| reports[&id]["network_timeout"].clone());
    assert_eq!(reported, [report(json!(500.0)), report(json!(-1)), report(Json::Null), report(Json::Null)]);

    // A threshold of the configuration, then the owner's policy over it.
    configure(&scenario, "config/idle/checkers/network_timeout/threshold", "3m").await;
    assert!(idle::tick(control).await.unwrap().is_empty());
    let reports = idle::report(control, &ids).await.unwrap();
    assert_eq!(reports[&ids[0]]["network_timeout"], report(json!(80.0)));
    change(&scenario, "UPDATE keypair_resource_policies SET idle_timeout = 60").await;
    assert_eq!(idle::tick(control).await.unwrap(), [(ids[0], "idle-timeout".to_owned())]);
}

/// A heartbeat of the agent tells what the kernels of these sessions use of a processor, in percent.
async fn report_statistics(scenario: &Scenario, percentages: &[(&str, f64)]) {
    let control = scenario.control();
    let mut tx = control.store().begin().await.unwrap();
    let stmt = Stmt::new("UPDATE agents SET credential = $1, boot_id = 'boot'").bind(credentials::hash("secret"));
    tx.execute(stmt).await.unwrap();
    tx.commit().await.unwrap();
    let mut beat = pb::HeartbeatRequest { boot_id: "boot".to_owned(), ..pb::HeartbeatRequest::default() };
    let kernels = Stmt::new("SELECT k.id, k.session_id, s.name FROM kernels k JOIN sessions s ON s.id = k.session_id");
    for row in control.store().reader().fetch_all(kernels).await.unwrap() {
        let text = |column: &str| row.get::<String>(column).unwrap();
        beat.kernels.push(pb::KernelState {
            kernel_id: text("id"),
            session_id: text("session_id"),
            state: "running".to_owned(),
        });
        if let Some((_, percent)) = percentages.iter().find(|(name, _)| *name == text("name")) {
            let stat = json!({"cpu_util": {"current": percent.to_string(), "pct": percent.to_string()}}).to_string();
            beat.kernel_stats.push(pb::KernelStat { kernel_id: text("id"), stat });
        }
    }
    let request = metadata::request(beat, "i-1", "secret").unwrap();
    let answer = HostService::new(control.clone()).heartbeat(request).await.unwrap();
    assert!(!answer.into_inner().register_again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_uses_nothing_ends_and_a_busy_one_does_not() {
    let scenario = running(3).await;
    let control = scenario.control();
    change(&scenario, "UPDATE keypair_resource_policies SET idle_timeout = -1").await;
    change(&scenario, "UPDATE kernels SET created_at = created_at - 1000000000").await;
    configure(&scenario, "config/idle/enabled", "utilization").await;
    configure(&scenario, "config/idle/checkers/utilization/time-window", "45s").await;
    configure(&scenario, "config/idle/checkers/utilization/resource-thresholds/cpu_util/average", "30").await;

    // Nothing is known of the last session: it is left alone however long that lasts.
    report_statistics(&scenario, &[("s0", 3.0), ("s1", 97.0)]).await;
    for _ in 0..3 {
        assert_eq!(idle::tick(control).await.unwrap(), []);
        // A tick in between measures nothing.
        scenario.advance(5);
        assert_eq!(idle::tick(control).await.unwrap(), []);
        scenario.advance(10);
    }
    let idle_one = id_of(&scenario, "s0").await;
    assert_eq!(idle::tick(control).await.unwrap(), [(idle_one, "idle-utilization".to_owned())]);

    let ids = [idle_one, id_of(&scenario, "s1").await, id_of(&scenario, "s2").await];
    let reports = idle::report(control, &ids).await.unwrap();
    let report = &reports[&ids[0]]["utilization"];
    assert_eq!((&report["remaining"], &report["remaining_time_type"]), (&json!(-1), &json!("grace_period")));
    assert_eq!(report["extra"]["resources"], json!({"cpu_util": [3.0, 30.0]}));
    assert_eq!(reports[&ids[1]]["utilization"]["extra"]["resources"], json!({"cpu_util": [97.0, 30.0]}));
    assert_eq!(reports[&ids[2]]["utilization"]["extra"], Json::Null);

    // The busy one falls idle: its window has to fill with that first.
    report_statistics(&scenario, &[("s1", 0.0)]).await;
    let mut ended = Vec::new();
    for tick in 1..=5 {
        scenario.advance(15);
        ended.extend(idle::tick(control).await.unwrap().into_iter().map(|(id, _)| (tick, id)));
    }
    assert_eq!(ended, [(3, ids[1])]);
}
