//! `kill -9` of the server or the agent while sessions start: nothing is stuck, nothing is placed twice.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER, wait};
use serde_json::{Value, json};

/// Kills of each kind: a handful in CI, many with `--long`.
fn rounds() -> u32 {
    if std::env::var("QUARTERDECK_TEST_SCALE").as_deref() == Ok("long") { 100 } else { 4 }
}

/// What the books say and what recomputing them from the kernels says.
async fn occupied_slots(admin: &quarterdeck_tests::client::Client) -> anyhow::Result<Value> {
    let data = admin.gql("{ agents { id occupied_slots } }", json!({})).await?;
    let mut map = serde_json::Map::new();
    for agent in data["agents"].as_array().unwrap() {
        let slots: Value = serde_json::from_str(agent["occupied_slots"].as_str().unwrap())?;
        let used: serde_json::Map<_, _> =
            slots.as_object().unwrap().iter().filter(|(_, v)| *v != "0").map(|(k, v)| (k.clone(), v.clone())).collect();
        map.insert(agent["id"].as_str().unwrap().to_owned(), used.into());
    }
    Ok(map.into())
}

async fn settled(database: Database, victim: &str) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let mut agent = server.agent("i-survivor", "process", "cpu=16,mem=16g", &dir.path().join("agent"))?;
    let admin = server.client(ADMIN);
    let user = server.client(USER);
    wait::until("the agent to join", Duration::from_secs(30), || async {
        let agents = admin.gql("{ agents(status: \"ALIVE\") { id } }", json!({})).await?;
        Ok(agents["agents"].as_array().filter(|a| !a.is_empty()).map(|_| ()))
    })
    .await?;

    for round in 0..rounds() {
        let mut ids = Vec::new();
        for number in 0..3 {
            ids.push(user.enqueue(&format!("round-{round}-{number}"), json!({"cpu": 1, "mem": "256m"})).await?);
        }
        // Later in each round: from "just enqueued" to "probably running".
        tokio::time::sleep(Duration::from_millis(u64::from(round % 8) * 60)).await;
        match victim {
            "server" => {
                server.process.kill9()?;
                server.restart()?;
            }
            _ => {
                agent.process.kill9()?;
                agent.restart()?;
            }
        }
        for id in &ids {
            let status = user.await_status(id, &["RUNNING", "TERMINATED", "CANCELLED"], Duration::from_secs(60)).await?;
            let row = admin.session(id, "status status_info containers { id agent status }").await?;
            if status == "RUNNING" {
                let containers = row["containers"].as_array().unwrap();
                assert_eq!(containers.len(), 1, "{row}");
                assert_eq!(containers[0]["agent"], "i-survivor", "{row}");
            } else {
                assert!(row["status_info"].as_str().is_some_and(|r| !r.is_empty()), "ended without a reason: {row}");
            }
        }
        for number in 0..3 {
            user.delete(&format!("/session/round-{round}-{number}?forced=true")).await?;
        }
        for id in &ids {
            user.await_status(id, &["TERMINATED", "CANCELLED"], Duration::from_secs(60)).await?;
        }
        let books = occupied_slots(&admin).await?;
        assert_eq!(books, json!({"i-survivor": {}}), "resources leaked in round {round}");
        admin.post("/resource/recalculate-usage", &json!({})).await?.ok()?;
        assert_eq!(occupied_slots(&admin).await?, books, "the books differ from their recomputation");
    }
    server.process.stop()?;
    Ok(())
}

#[tokio::test]
async fn the_server_is_killed_while_sessions_start() {
    for database in Database::each().unwrap() {
        settled(database, "server").await.unwrap();
    }
}

#[tokio::test]
async fn the_agent_is_killed_while_sessions_start() {
    for database in Database::each().unwrap() {
        settled(database, "agent").await.unwrap();
    }
}
