//! "Why is it pending" and "would it start": by the commands that people use, on a real server.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER};
use serde_json::{Value, json};

async fn answers(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-only", "synthetic", "cpu=4,mem=8g", &dir.path().join("agent"))?;
    let admin = server.client(ADMIN);
    admin.await_agents(1).await?;
    let json_of = |args: &[&str]| -> anyhow::Result<Value> { Ok(serde_json::from_str(&server.cli(args)?)?) };
    let dry_run = ["dry-run", "--image", PYTHON_IMAGE, "--architecture", "x86_64", "--scaling-group", "default"];

    // A dry run leaves nothing behind, however often it is made.
    let fits = [&dry_run[..], &["--resources", "cpu=2,mem=1g", "--json"]].concat();
    for _ in 0..3 {
        let run = json_of(&fits)?;
        assert_eq!((&run["would_start"], &run["kernels"][0]["agent"]), (&json!(true), &json!("i-only")), "{run}");
    }
    let sessions = admin.gql("{ compute_session_list(limit: 10, offset: 0) { total_count } }", json!({})).await?;
    assert_eq!(sessions["compute_session_list"]["total_count"], 0);

    // What would wait is told in words, with an exit code for scripts.
    let large = [&dry_run[..], &["--resources", "cpu=6,mem=10g"]].concat();
    let refusal = server.cli(&large).unwrap_err().to_string();
    assert!(!refusal.contains("error"), "waiting is no error: {refusal}");
    let file = dir.path().join("request.json");
    std::fs::write(&file, json!({"image": PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true}).to_string())?;
    let run = json_of(&["dry-run", "--file", &file.display().to_string(), "--resources", "cpu=1,mem=1g", "--json"])?;
    assert_eq!(run["would_start"], true, "{run}");

    let id = admin.enqueue("too-large", json!({"cpu": 6, "mem": "10g"})).await?;
    quarterdeck_tests::wait::until("a round to see it", Duration::from_secs(30), || async {
        let row = admin.session(&id, "status_info").await?;
        Ok((row["status_info"] == "no-available-instances").then_some(()))
    })
    .await?;
    let why = json_of(&["why", "too-large", "--json"])?;
    assert_eq!(why["reasons"][0]["code"], "no-room");
    let missing: Vec<_> =
        why["agents"][0]["lacks"].as_array().unwrap().iter().map(|s| (&s["slot"], &s["missing"])).collect();
    assert_eq!(missing, [(&json!("cpu"), &json!("2")), (&json!("mem"), &json!("2147483648"))]);
    assert!(why["noted"]["retries"].as_u64().unwrap() > 0 && why["last_round"]["outcome"] == "ok", "{why}");
    let text = server.cli(&["why", "too-large"])?;
    assert!(text.starts_with("too-large (PENDING): Could not find"), "{text}");
    assert!(text.contains("cpu: 2 missing (6 asked for, 0 of 4 taken)"), "{text}");
    assert!(text.contains("i-only") && text.contains("2 cpu, 2g mem"), "{text}");

    // Those behind it: ahead of the queue there would be room.
    let behind = admin.post("/plugins/dry-run", &request(false)).await?.ok()?;
    assert_eq!(behind["queue"], json!({"ahead": 1, "pending": 2}));
    let ahead = admin.post("/plugins/dry-run", &request(true)).await?.ok()?;
    assert_eq!((&ahead["queue"]["ahead"], &ahead["would_start"]), (&json!(0), &json!(true)));

    // Sessions are their owners' business; questions about requests that make no sense are refused like the requests.
    let refusal = server.cli_as(USER, &["why", &id]).unwrap_err().to_string();
    assert!(refusal.contains("(404)") && refusal.contains("No such session"), "{refusal}");
    let refusal = server.cli(&["dry-run", "--image", "no-such-image", "--architecture", "x86_64"]).unwrap_err();
    assert!(refusal.to_string().contains("(404)"), "{refusal}");
    let refusal = admin.post("/plugins/dry-run", &json!({"name": "abcd", "image": "x", "bogus": 1})).await?;
    assert_eq!(refusal.status, 400);
    assert_eq!(server.logged_errors()?, [""; 0]);
    Ok(())
}

fn request(ahead: bool) -> Value {
    json!({
        "name": "would-be", "image": PYTHON_IMAGE, "architecture": "x86_64", "ahead": ahead,
        "config": {"resources": {"cpu": 1, "mem": "512m"}, "scaling_group": "default"},
    })
}

#[tokio::test]
async fn people_are_told_why_sessions_wait_and_whether_one_would() {
    for database in Database::each().unwrap() {
        answers(database).await.unwrap();
    }
}
