//! The admission policy as a hook on a live server: who is refused, what the user reads, and that it ends with the
//! binding.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER};
use serde_json::{Value, json};

fn file(dir: &Path, name: &str, content: &Value) -> anyhow::Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, content.to_string())?;
    Ok(path.display().to_string())
}

async fn ask(client: &Client, name: &str, cpu: u32) -> anyhow::Result<Answer> {
    let body = json!({
        "name": name, "image": PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true,
        "config": {"resources": {"cpu": cpu, "mem": "256m"}, "scaling_group": "default"},
    });
    client.post("/session", &body).await
}

async fn runs(client: &Client, name: &str, cpu: u32) -> anyhow::Result<()> {
    let created = ask(client, name, cpu).await?.ok()?;
    client.await_status(created["sessionId"].as_str().unwrap(), &["RUNNING"], Duration::from_secs(30)).await?;
    Ok(())
}

fn assert_refused(answer: &Answer, words: &[&str]) {
    assert_refused_by("admission-limits", answer, words);
}

fn assert_refused_by(hook: &str, answer: &Answer, words: &[&str]) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    assert_eq!(answer.body["type"], "https://api.backend.ai/probs/rejected-by-hook", "{answer:?}");
    assert_eq!(answer.body["title"], "Operation rejected by a hook plugin.");
    assert_eq!(answer.body["data"], json!({"plugins": hook}));
    let reason = answer.body["msg"].as_str().unwrap();
    assert!(words.iter().all(|w| reason.contains(w)), "{reason}");
}

async fn admission(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-hooks", "synthetic", "cpu=64,mem=64g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;

    runs(&user, "before-the-limit", 3).await?;

    // Everywhere: no more than two CPUs.
    let two = file(dir.path(), "two.json", &json!({"max_per_session": {"cpu": 2}}))?;
    server.cli(&["plugin", "bind", "admission-limits", "--everywhere", "--config", &two])?;
    assert_refused(&ask(&user, "refused", 3).await?, &["at most 2 of cpu", "asks for 3"]);
    assert_refused(&ask(&admin, "refused", 3).await?, &["at most 2 of cpu"]);
    let stored = user.get("/session/_/match?id=refused").await?.ok()?;
    assert_eq!(stored["matches"], json!([]), "nothing of a refused session is kept");
    runs(&user, "within-the-limit", 2).await?;
    user.get("/session/before-the-limit").await?.ok()?;

    // A domain of its own, stricter, is asked besides.
    let one = file(dir.path(), "one.json", &json!({"projects": {"default/default": {"max_per_session": {"cpu": 1}}}}))?;
    server.cli(&["plugin", "bind", "admission-limits", "--domain", "default", "--config", &one])?;
    assert_refused(&ask(&user, "refused", 2).await?, &["at most 1 of cpu"]);
    server.cli(&["plugin", "unbind", "admission-limits", "--everywhere"])?;
    assert_refused(&ask(&user, "refused", 2).await?, &["at most 1 of cpu"]);
    runs(&user, "one-for-all", 1).await?;

    // Other rules: images and cluster sizes.
    let images = file(
        dir.path(),
        "images.json",
        &json!({"denied_images": ["conf-registry/*/python:*"], "max_cluster_size": 1}),
    )?;
    server.cli(&["plugin", "bind", "admission-limits", "--domain", "default", "--config", &images])?;
    assert_refused(
        &ask(&user, "refused", 1).await?,
        &["conf-registry/stable/python:3.9-ubuntu20.04", "may not be used here"],
    );

    // The change before last is back, and after the end of the binding all may start again.
    server.cli(&["plugin", "rollback", "--domain", "default", "--kind", "hook"])?;
    assert_refused(&ask(&user, "refused", 2).await?, &["at most 1 of cpu"]);
    server.cli(&["plugin", "unbind", "admission-limits", "--domain", "default"])?;
    runs(&user, "refused", 3).await?;

    // The host tells hooks how many sessions there are: four run by now.
    let quota = file(dir.path(), "quota.json", &json!({"default": {"max_sessions_per_owner": 4}}))?;
    server.cli(&["plugin", "bind", "project-quotas", "--everywhere", "--config", &quota])?;
    let words = ["project default", "at most 4 sessions", "there are 4"];
    assert_refused_by("project-quotas", &ask(&user, "one-too-many", 1).await?, &words);
    runs(&admin, "of-somebody-else", 1).await?;
    server.cli(&["plugin", "unbind", "project-quotas", "--everywhere"])?;

    assert_eq!(server.logged_errors()?, [""; 0]);
    // What the configuration may not be is told with the key.
    for (wrong, key) in [
        (json!({"max_per_session": {"mem": "much"}}), "/max_per_session/mem"),
        (json!({"max_cluster_size": 0}), "/max_cluster_size"),
        (json!({"no_such_rule": true}), "no_such_rule"),
    ] {
        let wrong = file(dir.path(), "wrong.json", &wrong)?;
        let refusal = server.cli(&["plugin", "bind", "admission-limits", "--everywhere", "--config", &wrong]);
        let refusal = refusal.unwrap_err().to_string();
        assert!(refusal.contains("400") && refusal.contains(key), "{key}: {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn admission_is_limited_while_the_hook_is_bound() {
    for database in Database::each().unwrap() {
        admission(database).await.unwrap();
    }
}
