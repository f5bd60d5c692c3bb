//! A session from creation to its end, on a real server with a real agent, on both databases.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER};
use serde_json::{Value, json};

async fn whole_life(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-life", "process", "cpu=4,mem=4g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;

    // Created, and waited for.
    let created = user
        .post(
            "/session",
            &json!({
                "name": "life", "image": PYTHON_IMAGE, "architecture": "x86_64",
                "config": {"resources": {"cpu": 1, "mem": "512m"}, "environ": {"GREETING": "ahoy"}},
            }),
        )
        .await?
        .ok()?;
    assert_eq!(created["status"], "RUNNING", "{created}");
    let id = created["sessionId"].as_str().unwrap().to_owned();

    // Which interpreter really runs is no secret.
    let info = user.get("/session/life").await?.ok()?;
    assert_eq!(info["status"], "RUNNING");
    assert!(info["runtimeInfo"].to_string().contains("python"), "{info}");

    // State persists between runs; the environment arrived.
    run(&user, "import os; x = 40").await?;
    let (console, exit) = run(&user, "print(os.environ['GREETING'], x + 2)").await?;
    assert_eq!((console.as_str(), exit), ("ahoy 42\n", Some(0)));
    let (console, _) = run(&user, "1/0").await?;
    assert!(console.contains("ZeroDivisionError"), "{console}");

    let logs = user.get("/session/life/logs").await?.ok()?;
    assert!(logs["result"]["logs"].as_str().unwrap().contains("ahoy 42"), "{logs}");
    let matches = user.get("/session/_/match?id=life").await?.ok()?;
    assert_eq!(matches["matches"][0]["id"], json!(id));

    // The books.
    let agents = admin.gql("{ agents { occupied_slots } }", json!({})).await?;
    let slots: Value = serde_json::from_str(agents["agents"][0]["occupied_slots"].as_str().unwrap())?;
    assert_eq!(slots["cpu"], "1");

    // A restart of the server changes nothing for the session.
    server.process.stop()?;
    server.restart()?;
    let (console, _) = run(&user, "print(x)").await?;
    assert_eq!(console, "40\n");

    let gone = user.delete("/session/life").await?.ok()?;
    assert_eq!(gone["stats"]["status"], "terminated", "{gone}");
    user.await_status(&id, &["TERMINATED"], Duration::from_secs(30)).await?;
    let kept = user.get("/session/life/logs").await?.ok()?;
    assert!(kept["result"]["logs"].as_str().unwrap().contains("ahoy 42"), "the log outlives the session: {kept}");

    // A batch session ends by itself, with its result.
    let batch = user
        .post(
            "/session",
            &json!({
                "name": "batch", "image": PYTHON_IMAGE, "architecture": "x86_64", "type": "batch", "enqueueOnly": true,
                "startupCommand": "echo from batch; exit 3", "config": {"resources": {"cpu": 1, "mem": "256m"}},
            }),
        )
        .await?
        .ok()?;
    let id = batch["sessionId"].as_str().unwrap();
    user.await_status(id, &["TERMINATED"], Duration::from_secs(30)).await?;
    let row = user.session(id, "result status_info").await?;
    assert_eq!(row, json!({"result": "FAILURE", "status_info": "task-finished"}));
    assert_eq!(server.logged_errors()?, [""; 0]);
    server.process.stop()?;
    Ok(())
}

/// A session from a template has its owner's dotfiles and ran its owner's script.
async fn from_a_template(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-template", "process", "cpu=4,mem=4g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;
    user.post("/user-config/dotfiles", &json!({"path": ".sea/rc", "permission": "600", "data": "ahoy"})).await?.ok()?;
    user.post("/user-config/bootstrap-script", &json!({"script": " cp .sea/rc landed\n"})).await?.ok()?;
    let template = json!({
        "api_version": "v1", "kind": "taskTemplate", "metadata": {"name": "t", "tag": "from-template"},
        "spec": {
            "kernel": {"image": PYTHON_IMAGE, "environ": {"A": "1"}, "git": null, "run": null},
            "resources": {"cpu": "1", "mem": "256m"}, "scaling_group": "default",
        },
    });
    let payload = json!({"session_templates": [{"template": template}]}).to_string();
    let made = user.post("/template/session", &json!({"payload": payload})).await?.ok()?;
    let request = json!({"template_id": made["id"], "name": "life", "config": {"environ": {"A": "2"}}});
    let created = user.post("/session/_/create-from-template", &request).await?.ok()?;
    assert_eq!(created["status"], "RUNNING", "{created}");
    let row = user.session(created["sessionId"].as_str().unwrap(), "tag").await?;
    assert_eq!(row["tag"], "from-template");
    let code = "import os; print(os.environ['A'], open('.sea/rc').read(), open('landed').read(), oct(os.stat('.sea/rc').st_mode)[-3:])";
    let (console, _) = run(&user, code).await?;
    assert_eq!(console, "2 ahoy ahoy 600\n");
    user.delete("/session/life").await?.ok()?;
    server.process.stop()?;
    Ok(())
}

/// Runs code to its end: what it printed, and its exit code.
async fn run(user: &quarterdeck_tests::client::Client, code: &str) -> anyhow::Result<(String, Option<i64>)> {
    let (mut console, mut run_id, mut mode, mut text) = (String::new(), Value::Null, "query", code);
    loop {
        let body = json!({"mode": mode, "runId": run_id, "code": text, "options": null});
        let result = user.post("/session/life", &body).await?.ok()?["result"].clone();
        for fragment in result["console"].as_array().unwrap() {
            console.push_str(fragment[1].as_str().unwrap_or_default());
        }
        run_id = result["runId"].clone();
        match result["status"].as_str() {
            Some("finished") => return Ok((console, result["exitCode"].as_i64())),
            Some("continued") => (mode, text) = ("continue", ""),
            other => anyhow::bail!("{other:?}: {result}"),
        }
    }
}

#[tokio::test]
async fn a_session_lives_its_life() {
    for database in Database::each().unwrap() {
        whole_life(database).await.unwrap();
    }
}

#[tokio::test]
async fn a_template_and_its_owners_belongings_make_a_session() {
    from_a_template(Database::sqlite().unwrap()).await.unwrap();
}
