//! Why sessions wait and whether one would: on the live state, with the live policy, and without a trace.
#![allow(clippy::unwrap_used, missing_docs)]

mod lab;

use lab::{ADMIN, Lab, USER, eventually, request, settings};
use quarterdeck_control::enqueue::{self, CreateSession};
use quarterdeck_control::explain::why;
use quarterdeck_control::{Control, Error, Settings, dry_run::dry_run};
use quarterdeck_model::{SessionId, SessionStatus};
use quarterdeck_store::sql::Row;
use quarterdeck_store::testing::databases;
use quarterdeck_store::{Sql, Stmt, Store, sessions};
use serde_json::{Value, json};

fn wants(name: &str, cpus: u32) -> CreateSession {
    let mut request = request(name);
    request.enqueue_only = true;
    request.config.resources = Some(json!({"cpu": cpus, "mem": "512m"}));
    request
}

async fn sql(store: &Store, text: &'static str) {
    let mut tx = store.begin().await.unwrap();
    tx.execute(Stmt::new(text)).await.unwrap();
    tx.commit().await.unwrap();
}

async fn is_noted(lab: &Lab, id: SessionId) {
    eventually("a round to note something at the session", async || {
        let row = sessions::get(&mut lab.control.store().reader(), id).await.unwrap().unwrap();
        row.status_data.is_some_and(|data| data["scheduler"]["last_try"].is_string())
    })
    .await;
}

fn json_of(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn want_of_room_is_told_in_amounts() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agents = [lab.agent("i-1", 4).await, lab.agent("i-2", 2).await];
        let user = lab.who(USER).await;
        lab.create(request("runs-well")).await;
        let found = why(&lab.control, &user, "runs-well", None).await.unwrap();
        assert_eq!((found.status, found.reasons[0].code), (SessionStatus::Running, "status"));
        assert!(found.summary.contains("RUNNING"), "{}", found.summary);

        let big = lab.create(wants("too-big", 7)).await.session_id;
        is_noted(&lab, big).await;
        let found = json_of(why(&lab.control, &user, "too-big", None).await.unwrap());
        assert_eq!((&found["status"], &found["queue"]), (&json!("PENDING"), &json!({"ahead": 0, "pending": 1})));
        assert_eq!(found["reasons"].as_array().unwrap().len(), 1, "{found}");
        assert_eq!(found["reasons"][0]["code"], "no-room");
        let lack = json!([{
            "slot": "cpu", "kind": "count", "limit": "4", "used": "1", "requested": "7", "missing": "4"
        }]);
        assert_eq!(found["reasons"][0]["shortages"], lack, "the nearest agent's");
        assert!(found["summary"].as_str().unwrap().starts_with("Could not find a contiguous resource region"));
        let agents: Vec<_> = found["agents"].as_array().unwrap().iter().map(|a| (&a["id"], &a["obstacle"])).collect();
        assert_eq!(agents, [(&json!("i-1"), &json!("capacity")), (&json!("i-2"), &json!("capacity"))]);
        assert_eq!(found["agents"][1]["lacks"][0]["missing"], "5");
        assert_eq!((&found["scheduler"]["plugin"], &found["scheduler"]["turn"]), (&json!("fifo"), &json!("no-room")));
        assert_eq!(found["last_round"]["outcome"], "ok");
        assert!(found["noted"]["retries"].as_u64().unwrap() >= 1);

        // By id it is known to those who may act for its owner, and to nobody else.
        let admin = lab.who(ADMIN).await;
        assert_eq!(why(&lab.control, &admin, &big.to_string(), None).await.unwrap().session, big);
        let theirs = enqueue::create(&lab.control, &admin, wants("admins-own", 7)).await.unwrap().session_id;
        let refused = why(&lab.control, &user, &theirs.to_string(), None).await;
        assert!(matches!(refused, Err(Error::NotFound { .. })));
        assert!(matches!(why(&lab.control, &user, "no-such", None).await, Err(Error::NotFound { .. })));
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_dependencies_and_idle_agents_are_told() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agent = lab.agent("i-1", 8).await;
        let user = lab.who(USER).await;
        sql(
            lab.control.store(),
            "UPDATE keypair_resource_policies SET total_resource_slots = '{\"cpu\":\"2\",\"mem\":\"1073741824\"}'",
        )
        .await;
        lab.create(wants("over-quota", 3)).await;
        let found = json_of(why(&lab.control, &user, "over-quota", None).await.unwrap());
        assert_eq!(found["reasons"][0]["code"], "keypair_resource_limit", "{found}");
        let lack = json!([{
            "slot": "cpu", "kind": "count", "limit": "2", "used": "0", "requested": "3", "missing": "1"
        }]);
        assert_eq!(found["reasons"][0]["shortages"], lack);
        assert!(found["agents"][0]["fits"].as_bool().unwrap(), "room there is: {found}");

        let mut after = wants("comes-after", 1);
        after.dependencies = vec!["over-quota".to_owned()];
        lab.create(after).await;
        let found = json_of(why(&lab.control, &user, "comes-after", None).await.unwrap());
        assert_eq!(found["reasons"][0]["code"], "dependencies", "{found}");
        assert_eq!(found["reasons"][0]["waits_for"][0]["name"], "over-quota");

        sql(lab.control.store(), "UPDATE agents SET schedulable = FALSE").await;
        let found = json_of(why(&lab.control, &user, "over-quota", None).await.unwrap());
        let codes: Vec<_> = found["reasons"].as_array().unwrap().iter().map(|r| r["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["keypair_resource_limit", "no-schedulable-agent"]);
        assert_eq!(found["agents"][0]["obstacle"], "not-schedulable");

        sql(lab.control.store(), "UPDATE scaling_groups SET scheduler = 'no-such'").await;
        let found = json_of(why(&lab.control, &user, "over-quota", None).await.unwrap());
        assert_eq!(found["reasons"][0]["code"], "not-scheduled");
        assert_eq!(found["reasons"][0]["message"], "Cannot load the scheduler plugin: no-such");
        assert!(found.get("scheduler").is_none());
        lab.stop().await;
    }
}

/// Every row of every table, as text.
async fn dump(store: &Store) -> Vec<String> {
    let mut reader = store.reader();
    let tables = Stmt::dialect(
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name",
        "SELECT CAST(tablename AS TEXT) AS name FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename",
    );
    let mut lines = Vec::new();
    for table in reader.fetch_all(tables).await.unwrap() {
        let table: String = table.get("name").unwrap();
        if table.contains("migrations") {
            continue;
        }
        for row in reader.fetch_all(Stmt::assembled(format!("SELECT * FROM \"{table}\""))).await.unwrap() {
            let cells: Vec<String> = row.columns().iter().map(|c| format!("{c}={}", cell(&row, c))).collect();
            lines.push(format!("{table}: {}", cells.join(" ")));
        }
    }
    lines.sort();
    lines
}

fn cell(row: &Row, column: &str) -> String {
    row.get::<Option<String>>(column)
        .map(|v| format!("{v:?}"))
        .or_else(|_| row.get::<Option<i64>>(column).map(|v| format!("{v:?}")))
        .or_else(|_| row.get::<Option<bool>>(column).map(|v| format!("{v:?}")))
        .or_else(|_| row.get::<Option<f64>>(column).map(|v| format!("{v:?}")))
        .or_else(|_| row.get::<Option<Vec<u8>>>(column).map(|v| format!("{v:?}")))
        .unwrap()
}

/// A host without loops: nobody but the test changes anything.
async fn still(store: &Store, settings: Settings) -> Control {
    Control::new(store.clone(), lab::plugins(), settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_tells_where_and_writes_nothing() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agents = [lab.agent("i-1", 4).await, lab.agent("i-2", 8).await];
        lab.stop().await;
        let control = still(&db.store, settings()).await;
        let credential = async |key: &str| control.identity().credential(key).await.unwrap().unwrap().principal.clone();
        let (user, admin) = (credential(USER).await, credential(ADMIN).await);
        sql(&db.store, "UPDATE keypair_resource_policies SET max_containers_per_session = 4").await;
        let before = dump(&db.store).await;
        assert!(before.iter().any(|line| line.starts_with("agents: ")), "{before:?}");

        // An empty queue: nothing of the user's is there yet.
        let run = json_of(dry_run(&control, &user, &wants("perhaps", 6), false).await.unwrap());
        assert_eq!((&run["would_start"], &run["summary"]), (&json!(true), &json!("It would start now on i-2.")));
        assert_eq!(run["kernels"][0]["agent"], "i-2");
        assert_eq!(run["queue"], json!({"ahead": 0, "pending": 1}));
        let run = json_of(dry_run(&control, &user, &wants("perhaps", 9), false).await.unwrap());
        assert_eq!((&run["would_start"], &run["reasons"][0]["code"]), (&json!(false), &json!("no-room")));
        assert_eq!(run["reasons"][0]["shortages"][0]["missing"], "1");

        // Kernels over several agents; pins count.
        let mut several = wants("several", 4);
        several.cluster_size = 2;
        several.cluster_mode = quarterdeck_model::ClusterMode::MultiNode;
        several.config.agent_list = Some(vec!["i-2".to_owned(), "i-1".to_owned()]);
        let run = dry_run(&control, &admin, &several, false).await.unwrap();
        let placed: Vec<_> = run.kernels.into_iter().map(|k| k.agent.unwrap()).collect();
        assert_eq!(placed, ["i-2", "i-1"]);

        // Requests that would be refused are refused alike.
        let mut nonsense = wants("nonsense", 1);
        nonsense.image = "no-such-image".to_owned();
        assert!(matches!(dry_run(&control, &user, &nonsense, false).await, Err(Error::NotFound { .. })));
        assert_eq!(before, dump(&db.store).await, "nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_stands_in_the_queue_or_ahead_of_it() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agent = lab.agent("i-1", 4).await;
        let user = lab.who(USER).await;
        let blocking = lab.create(wants("blocks-all", 7)).await.session_id;
        is_noted(&lab, blocking).await;
        let behind = json_of(dry_run(&lab.control, &user, &wants("small-one", 1), false).await.unwrap());
        let ahead = json_of(dry_run(&lab.control, &user, &wants("small-one", 1), true).await.unwrap());
        assert_eq!(behind["queue"], json!({"ahead": 1, "pending": 2}));
        assert_eq!(ahead["queue"], json!({"ahead": 0, "pending": 2}));
        assert_eq!((&ahead["would_start"], &ahead["kernels"][0]["agent"]), (&json!(true), &json!("i-1")));
        assert_eq!((&behind["would_start"], &behind["scheduler"]["turn"]), (&json!(false), &json!("not-reached")));
        assert!(behind["summary"].as_str().unwrap().ends_with("(1 session is ahead)"), "{behind}");
        let taken = dry_run(&lab.control, &user, &wants("blocks-all", 7), false).await;
        assert!(matches!(taken, Err(Error::SessionAlreadyExists(id)) if id == blocking));
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_stay_hidden_where_they_are() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agent = lab.agent("i-1", 4).await;
        lab.stop().await;
        let control = still(&db.store, Settings { hide_agents: true, ..settings() }).await;
        let credential = async |key: &str| control.identity().credential(key).await.unwrap().unwrap().principal.clone();
        let run = dry_run(&control, &*credential(USER).await, &wants("perhaps", 1), false).await.unwrap();
        assert!(run.would_start && run.agents.is_empty() && run.agents_total == 1);
        assert_eq!((run.kernels.len(), &run.kernels[0].agent, run.summary.as_str()), (1, &None, "It would start now."));
        let run = dry_run(&control, &*credential(ADMIN).await, &wants("perhaps", 1), false).await.unwrap();
        assert_eq!(run.agents.len(), 1);
    }
}
