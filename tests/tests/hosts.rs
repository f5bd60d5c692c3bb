//! Two hosts on one PostgreSQL: both serve, one leads, and the other takes over.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use hyper::StatusCode;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Agent, Server};
use quarterdeck_tests::{ADMIN, USER, guests, wait};
use serde_json::json;

struct Hosts {
    /// The one that leads, having come first.
    first: Server,
    /// The one that agents call.
    second: Server,
    _agents: [Agent; 2],
    dir: tempfile::TempDir,
    _database: Database,
}

impl Hosts {
    /// `None` without PostgreSQL: SQLite serves one host.
    async fn new() -> anyhow::Result<Option<Self>> {
        let Some(database) = Database::postgres()? else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let first = Server::start(&database, &dir.path().join("first"))?;
        leads(&first).await?;
        let second = Server::again(&database, &dir.path().join("second"))?;
        let big = second.agent("i-big", "synthetic", "cpu=64,mem=64g", &dir.path().join("big"))?;
        let small = second.agent("i-small", "synthetic", "cpu=8,mem=8g", &dir.path().join("small"))?;
        for host in [&first, &second] {
            host.client(ADMIN).await_agents(2).await?;
        }
        Ok(Some(Self { first, second, _agents: [big, small], dir, _database: database }))
    }
}

/// Waits until a host schedules.
async fn leads(host: &Server) -> anyhow::Result<()> {
    let admin = host.client(ADMIN);
    wait::until("the host to lead", Duration::from_secs(20), || async {
        let metrics = admin.get("/metrics").await?;
        let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
        Ok(text.contains("quarterdeck_loop_last_pass_timestamp_seconds{name=\"schedule\"}").then_some(()))
    })
    .await
}

/// Enqueues through one host; where the session runs, as the other host tells.
async fn placed(at: &Client, seen_at: &Client, name: &str) -> anyhow::Result<String> {
    let id = at.enqueue(name, json!({"cpu": 1, "mem": "256m"})).await?;
    seen_at.await_status(&id, &["RUNNING"], Duration::from_secs(15)).await?;
    let row = seen_at.session(&id, "containers { agent }").await?;
    Ok(row["containers"][0]["agent"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn sessions_start_through_either_and_survive_the_leader() {
    let Some(mut hosts) = Hosts::new().await.unwrap() else { return };
    let (one, two) = (hosts.first.client(USER), hosts.second.client(USER));
    placed(&one, &two, "through-one").await.unwrap();
    placed(&two, &one, "through-two").await.unwrap();

    // The call that waits for its session gets it, too, though another host starts it.
    let body = json!({
        "name": "waited-for", "image": quarterdeck_tests::PYTHON_IMAGE, "architecture": "x86_64",
        "config": {"resources": {"cpu": 1, "mem": "256m"}},
    });
    let created = two.post("/session", &body).await.unwrap().ok().unwrap();
    assert_eq!(created["status"], "RUNNING", "{created}");

    // One more is on its way when the leader dies.
    let orphan = two.enqueue("orphan", json!({"cpu": 1, "mem": "256m"})).await.unwrap();
    hosts.first.process.kill9().unwrap();
    let id = two.enqueue("after-the-fall", json!({"cpu": 1, "mem": "256m"})).await.unwrap();
    for id in [&orphan, &id] {
        two.await_status(id, &["RUNNING"], Duration::from_secs(15)).await.unwrap();
    }
    for name in ["through-one", "through-two", "waited-for", "orphan", "after-the-fall"] {
        two.delete(&format!("/session/{name}")).await.unwrap().ok().unwrap();
    }
    let admin = hosts.second.client(ADMIN);
    wait::until("nothing to be occupied", Duration::from_secs(20), || async {
        let books = admin.occupancy().await?;
        anyhow::ensure!(books.values().all(|slots| *slots == json!({})), "{books:?}");
        Ok(Some(()))
    })
    .await
    .unwrap();

    assert_eq!(hosts.second.logged_errors().unwrap(), [""; 0]);
    // The fallen one comes back as a follower.
    hosts.first.restart().unwrap();
    placed(&one, &two, "after-the-return").await.unwrap();
}

#[tokio::test]
async fn a_key_pair_that_one_switches_off_is_refused_by_the_other() {
    let Some(hosts) = Hosts::new().await.unwrap() else { return };
    let (admin, user) = (hosts.first.client(ADMIN), hosts.second.client(USER));
    for (active, expected) in [(false, StatusCode::UNAUTHORIZED), (true, StatusCode::OK)] {
        // It is in the other host's memory.
        user.get("/auth/role").await.unwrap();
        let switch =
            "mutation($k: String!, $a: Boolean) { modify_keypair(access_key: $k, props: {is_active: $a}) { ok msg } }";
        let done = admin.gql(switch, json!({"k": USER.access, "a": active})).await.unwrap();
        assert_eq!(done["modify_keypair"]["ok"], true, "{done}");
        wait::until("the other host to know", Duration::from_secs(2), || async {
            let answer = user.get("/auth/role").await?;
            anyhow::ensure!(answer.status == expected, "{answer:?}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_policy_bound_through_one_serves_at_the_other() {
    let Some(mut hosts) = Hosts::new().await.unwrap() else { return };
    let (one, two) = (hosts.first.client(USER), hosts.second.client(USER));
    assert_eq!(placed(&two, &one, "by-fifo").await.unwrap(), "i-big");

    // Pushed and bound at the follower; the leader schedules by it, within its next look at the bindings.
    hosts.second.cli(&["plugin", "push", guests::best_fit().unwrap().to_str().unwrap()]).unwrap();
    hosts.second.cli(&["plugin", "bind", "best-fit", "--scaling-group", "default"]).unwrap();
    let attempt = std::sync::atomic::AtomicU32::new(0);
    wait::until("the leader to use it", Duration::from_secs(5), || async {
        let number = attempt.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok((placed(&one, &two, &format!("try-{number}")).await? == "i-small").then_some(()))
    })
    .await
    .unwrap();

    // So do hooks: bound at the leader, asked by the other.
    let config = hosts.dir.path().join("one.json");
    std::fs::write(&config, json!({"max_per_session": {"cpu": 1}}).to_string()).unwrap();
    let config = config.display().to_string();
    hosts.first.cli(&["plugin", "bind", "admission-limits", "--everywhere", "--config", &config]).unwrap();
    let attempt = std::sync::atomic::AtomicU32::new(0);
    wait::until("the other host to ask the hook", Duration::from_secs(5), || async {
        let number = attempt.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let refused = two.enqueue(&format!("two-cpus-{number}"), json!({"cpu": 2, "mem": "256m"})).await;
        Ok(refused.is_err_and(|e| e.to_string().contains("rejected-by-hook")).then_some(()))
    })
    .await
    .unwrap();

    // The follower takes over with the policy that it got from the database.
    hosts.first.process.kill9().unwrap();
    assert_eq!(placed(&two, &two, "by-best-fit").await.unwrap(), "i-small");
}
