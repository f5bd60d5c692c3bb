//! `kill -9` of the server or the agent while sessions start: nothing is stuck, nothing is placed twice.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER, scale};
use serde_json::json;

async fn settled(database: Database, victim: &str) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let mut agent = server.agent("i-survivor", "process", "cpu=16,mem=16g", &dir.path().join("agent"))?;
    let admin = server.client(ADMIN);
    let user = server.client(USER);
    admin.await_agents(1).await?;

    // A handful in CI, many with `--long`.
    for round in 0..scale(4, 100) {
        let mut ids = Vec::new();
        for number in 0..3 {
            ids.push(user.enqueue(&format!("round-{round}-{number}"), json!({"cpu": 1, "mem": "256m"})).await?);
        }
        // Later in each round: from "just enqueued" to "probably running".
        tokio::time::sleep(Duration::from_millis((round as u64 % 8) * 60)).await;
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
            let status =
                user.await_status(id, &["RUNNING", "TERMINATED", "CANCELLED"], Duration::from_secs(60)).await?;
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
        let books = admin.occupancy().await?;
        assert_eq!(books["i-survivor"], json!({}), "resources leaked in round {round}");
        admin.post("/resource/recalculate-usage", &json!({})).await?.ok()?;
        assert_eq!(admin.occupancy().await?, books, "the books differ from their recomputation");
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
