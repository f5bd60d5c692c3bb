//! Policies in Python and JavaScript on a live server: pushed, bound, asked.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use hyper::StatusCode;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, guests};
use serde_json::json;

#[tokio::test]
async fn a_hook_in_python_refuses_and_allows() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let _agent = server.agent("i-python", "synthetic", "cpu=8,mem=8g", &dir.path().join("agent")).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await.unwrap();

    let component = guests::session_names().unwrap().display().to_string();
    server.cli(&["plugin", "push", &component]).unwrap();
    let wrong = dir.path().join("wrong.json");
    std::fs::write(&wrong, r#"{"pattern": "("}"#).unwrap();
    let bind = ["plugin", "bind", "session-names", "--everywhere"];
    let refusal = server.cli(&[&bind[..], &["--config", wrong.to_str().unwrap()]].concat()).unwrap_err().to_string();
    assert!(refusal.contains("/pattern") && refusal.contains("no regular expression"), "{refusal}");
    server.cli(&bind).unwrap();

    let ask = |name: &str| {
        let body = json!({
            "name": name, "image": PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true,
            "config": {"resources": {"cpu": 1, "mem": "128m"}, "scaling_group": "default"},
        });
        let user = user.clone();
        async move { user.post("/session", &body).await.unwrap() }
    };
    let refused = ask("Improper_Name").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    assert_eq!(refused.body["data"], json!({"plugins": "session-names"}));
    assert!(refused.body["msg"].as_str().unwrap().contains("Try `improper-name`"), "{refused:?}");
    let allowed = ask("proper-name").await.ok().unwrap();
    let id = allowed["sessionId"].as_str().unwrap();
    admin.await_status(id, &["RUNNING"], Duration::from_secs(30)).await.unwrap();
    assert_eq!(server.logged_errors().unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_scheduler_in_javascript_places() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let _big = server.agent("i-big", "synthetic", "cpu=64,mem=64g", &dir.path().join("big")).unwrap();
    let _small = server.agent("i-small", "synthetic", "cpu=4,mem=4g", &dir.path().join("small")).unwrap();
    let admin = server.client(ADMIN);
    admin.await_agents(2).await.unwrap();

    let component = guests::owner_rotation().unwrap().display().to_string();
    server.cli(&["plugin", "push", &component]).unwrap();
    server.cli(&["plugin", "bind", "owner-rotation", "--scaling-group", "default"]).unwrap();
    let mut agents = Vec::new();
    for name in ["turn-1", "turn-2", "turn-3", "turn-4"] {
        let id = admin.enqueue(name, json!({"cpu": 1, "mem": "128m"})).await.unwrap();
        admin.await_status(&id, &["RUNNING"], Duration::from_secs(30)).await.unwrap();
        let row = admin.session(&id, "containers { agent }").await.unwrap();
        agents.push(row["containers"][0]["agent"].as_str().unwrap().to_owned());
    }
    // The built-in fifo takes the big one each time.
    assert_eq!(agents, ["i-big", "i-small", "i-big", "i-small"]);
    let metrics = admin.get("/metrics").await.unwrap();
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let calls = |l: &&str| l.starts_with("quarterdeck_plugin_calls_total{") && l.contains("owner-rotation");
    assert!(text.lines().filter(calls).all(|l| l.contains("outcome=\"ok\"")), "{text}");
    assert!(text.lines().any(|l| calls(&l)), "{text}");
    assert_eq!(server.logged_errors().unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_project_under_development_watches_and_decides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let component = guests::best_fit().unwrap();
    let settings = format!("component = {component:?}\nbuild = [\"true\"]\n");
    std::fs::write(dir.path().join("quarterdeck.toml"), settings).unwrap();
    let project = dir.path().to_str().unwrap();
    server.cli(&["plugin", "dev", project, "--scaling-group", "default", "--once"]).unwrap();
    let shown = server.cli(&["plugin", "shadow", "--json"]).unwrap();
    assert!(shown.contains("best-fit"), "{shown}");
    let groups = server.client(ADMIN).gql("{ scaling_groups { name scheduler } }", json!({})).await.unwrap();
    assert_eq!(groups["scaling_groups"][0]["scheduler"], "fifo");
}
