//! A scheduler that misbehaves on a live server: sessions still start, and the admin sees why.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER, guests, wait};
use serde_json::{Value, json};

async fn misbehaving(mode: &str, expected: &str) -> anyhow::Result<()> {
    let database = Database::sqlite()?;
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-hostile", "synthetic", "cpu=64,mem=64g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;

    let config = dir.path().join("config.json");
    std::fs::write(&config, json!({"misbehave": mode}).to_string())?;
    server.cli(&["plugin", "push", guests::hostile_scheduler()?.to_str().unwrap()])?;
    let config = config.display().to_string();
    server.cli(&["plugin", "bind", "hostile", "--scaling-group", "default", "--config", &config])?;

    // More sessions than failures until suspension: before and after it, all must start.
    for number in 0..7 {
        let id = user.enqueue(&format!("s-{mode}-{number}"), json!({"cpu": 1, "mem": "256m"})).await?;
        user.await_status(&id, &["RUNNING"], Duration::from_secs(60)).await?;
    }
    let seen: Value = wait::until("the plugin to be suspended", Duration::from_secs(60), || async {
        let listed: Value = serde_json::from_str(&server.cli(&["plugin", "list", "--json"])?)?;
        let hostile = listed["plugins"].as_array().unwrap().iter().find(|p| p["name"] == "hostile").unwrap().clone();
        Ok((hostile["status"] == "suspended").then_some(hostile))
    })
    .await?;
    let reason = seen["status_reason"].as_str().unwrap_or_default();
    assert!(reason.contains(expected), "{mode}: the reason says {reason:?}, not {expected:?}");
    let group = admin.gql("{ scaling_groups { name scheduler } }", json!({})).await?;
    assert_eq!(group["scaling_groups"][0]["scheduler"], "fifo", "what served before serves again");
    let ready = admin.get("/readyz").await?;
    assert!(ready.status.is_success(), "others have taken over: {ready:?}");
    let told = &ready.body["plugins"][0];
    assert_eq!((&told["plugin"], &told["target"]["name"]), (&json!("hostile"), &json!("default")), "{ready:?}");
    assert!(told["reason"].as_str().unwrap().contains("in a row"), "{ready:?}");
    let stages: Value = serde_json::from_str(&server.cli(&["plugin", "inspect", "hostile", "--json"])?)?;
    let steps = stages["revisions"][0]["steps"].as_array().unwrap().clone();
    assert_eq!(steps.last().unwrap()["step"], "suspended", "{steps:?}");
    assert_eq!(steps.last().unwrap()["actor"], "host");

    let metrics = server.client(ADMIN).get("/metrics").await?;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(text.lines().any(|l| l.contains("plugin=\"hostile\"") && !l.contains("outcome=\"ok\"")), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_endless_loop() {
    misbehaving("loop", "time").await.unwrap();
}

#[tokio::test]
async fn a_trap() {
    misbehaving("trap", "unreachable").await.unwrap();
}

#[tokio::test]
async fn four_gibibytes() {
    misbehaving("allocate", "memory").await.unwrap();
}

#[tokio::test]
async fn nonsense() {
    misbehaving("nonsense", "session").await.unwrap();
}

/// What hangs while it looks at its configuration says nothing about that: the built-in policy takes over, the failures
/// are counted, and what isn't known isn't remembered.
#[tokio::test]
async fn a_check_that_hangs() {
    let database = Database::sqlite().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let _agent = server.agent("i-stall", "synthetic", "cpu=64,mem=64g", &dir.path().join("agent")).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await.unwrap();
    server.cli(&["plugin", "push", guests::hostile_scheduler().unwrap().to_str().unwrap()]).unwrap();
    server.cli(&["plugin", "bind", "hostile", "--scaling-group", "default"]).unwrap();
    // The site's own configuration comes under the binding's.
    for (key, value) in
        [("config/plugins/error-budget/failures", "3"), ("config/plugins/scheduler/hostile/misbehave", "stall-check")]
    {
        admin.post("/config/set", &json!({"key": key, "value": value})).await.unwrap().ok().unwrap();
    }
    for number in 0..3 {
        let id = user.enqueue(&format!("while-it-hangs-{number}"), json!({"cpu": 1, "mem": "256m"})).await.unwrap();
        user.await_status(&id, &["RUNNING"], Duration::from_secs(60)).await.unwrap();
    }
    let told = wait::until("the plugin to be suspended", Duration::from_secs(60), || async {
        let ready = admin.get("/readyz").await?;
        Ok(ready.body["plugins"].as_array().and_then(|p| p.first()).cloned())
    })
    .await
    .unwrap();
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("check-config") && reason.contains("3 times in a row"), "{told}");
}

/// A policy that takes all the time there is keeps nobody waiting but its own group.
#[tokio::test]
async fn another_group_does_not_wait_for_a_slow_policy() {
    let database = Database::sqlite().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let _slow = server.agent("i-slow", "synthetic", "cpu=64,mem=64g", &dir.path().join("slow")).unwrap();
    let _quick = server.agent("i-quick", "synthetic", "cpu=64,mem=64g", &dir.path().join("quick")).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(2).await.unwrap();
    for (mutation, variables) in [
        (
            "mutation($n: String!, $p: CreateScalingGroupInput!) { create_scaling_group(name: $n, props: $p) { ok msg } }",
            json!({"n": "quick", "p": {"driver": "static", "scheduler": "fifo"}}),
        ),
        (
            "mutation($n: String!, $d: String!) { associate_scaling_group_with_domain(scaling_group: $n, domain: $d) { ok msg } }",
            json!({"n": "quick", "d": "default"}),
        ),
        (
            "mutation($i: String!, $p: ModifyAgentInput!) { modify_agent(id: $i, props: $p) { ok msg } }",
            json!({"i": "i-quick", "p": {"scaling_group": "quick"}}),
        ),
    ] {
        let answer = admin.gql(mutation, variables).await.unwrap();
        assert!(answer.as_object().unwrap().values().all(|a| a["ok"] == true), "{answer}");
    }
    let config = dir.path().join("config.json");
    std::fs::write(&config, json!({"misbehave": "loop"}).to_string()).unwrap();
    server.cli(&["plugin", "push", guests::hostile_scheduler().unwrap().to_str().unwrap()]).unwrap();
    let config = config.display().to_string();
    server.cli(&["plugin", "bind", "hostile", "--scaling-group", "default", "--config", &config]).unwrap();

    let create = async |name: &str, group: &str| {
        let body = json!({
            "name": name, "image": quarterdeck_tests::PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true,
            "config": {"resources": {"cpu": 1, "mem": "256m"}, "scaling_group": group},
        });
        let made = user.post("/session", &body).await.unwrap().ok().unwrap();
        made["sessionId"].as_str().unwrap().to_owned()
    };
    let mut overtaken = 0;
    for number in 0..3 {
        let slow = create(&format!("slow-{number}"), "default").await;
        let quick = create(&format!("quick-{number}"), "quick").await;
        user.await_status(&quick, &["RUNNING"], Duration::from_secs(60)).await.unwrap();
        // A round of the slow one takes a second, and the built-in policy takes over only then.
        overtaken += usize::from(user.session(&slow, "status").await.unwrap()["status"] == "PENDING");
        user.await_status(&slow, &["RUNNING"], Duration::from_secs(60)).await.unwrap();
    }
    assert!(overtaken > 0, "every session of the quick group waited for the slow one");
}
