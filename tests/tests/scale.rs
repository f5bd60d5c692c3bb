//! Many agents and many sessions at once: everybody is served, and the books are right to the last unit.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, scale, wait};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

const AGENTS: usize = 200;
/// Requests under way at once.
const CLIENTS: usize = 32;

async fn count(admin: &Client, status: &str) -> anyhow::Result<usize> {
    let query = "query($s: String) { compute_session_list(limit: 1, offset: 0, status: $s) { total_count } }";
    let data = admin.gql(query, json!({"s": status})).await?;
    Ok(usize::try_from(data["compute_session_list"]["total_count"].as_u64().unwrap())?)
}

/// Calls `call` with the numbers below `n`, from many clients at once.
async fn at_once<F, Fut>(n: usize, call: F) -> anyhow::Result<()>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let call = call.clone();
        clients.spawn(async move {
            for number in (client..n).step_by(CLIENTS) {
                call(number).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

fn cpus(books: &Map<String, Value>) -> u64 {
    books.values().filter_map(|slots| slots["cpu"].as_str()).map(|n| n.parse::<u64>().unwrap()).sum()
}

async fn crowd(database: Database) -> anyhow::Result<()> {
    let sessions = scale(300, 2_000);
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let _agents = server.agents(AGENTS, "i-crowd", "synthetic", "cpu=16,mem=16g", &dir.path().join("agents"))?;
    let admin = server.client(ADMIN);
    admin.await_agents(AGENTS).await?;

    let client = admin.clone();
    at_once(sessions, move |number| {
        let client = client.clone();
        async move {
            client.enqueue(&format!("crowd-{number}"), json!({"cpu": 1, "mem": "256m"})).await?;
            Ok(())
        }
    })
    .await?;
    wait::until("all sessions to run", Duration::from_secs(120), || async {
        let running = count(&admin, "RUNNING").await?;
        anyhow::ensure!(running == sessions, "{running} of {sessions}");
        Ok(Some(()))
    })
    .await?;

    // What the books say is what the rows add up to, on every agent and for the key pair.
    let books = admin.occupancy().await?;
    assert_eq!(cpus(&books), sessions as u64);
    assert!(
        books.values().all(|slots| slots["cpu"].as_str().is_none_or(|n| n.parse::<u64>().unwrap() <= 16)),
        "{books:?}"
    );
    admin.post("/resource/recalculate-usage", &json!({})).await?.ok()?;
    assert_eq!(admin.occupancy().await?, books);
    let used = concurrency(&admin).await?;
    assert_eq!(used, sessions as u64);

    let client = admin.clone();
    at_once(sessions, move |number| {
        let client = client.clone();
        async move {
            client.delete(&format!("/session/crowd-{number}")).await?.ok()?;
            Ok(())
        }
    })
    .await?;
    wait::until("all sessions to end", Duration::from_secs(120), || async {
        let ended = count(&admin, "TERMINATED").await?;
        anyhow::ensure!(ended == sessions, "{ended} of {sessions}");
        Ok(Some(()))
    })
    .await?;
    assert_eq!(server.logged_errors()?, [""; 0]);
    let books = admin.occupancy().await?;
    assert_eq!(books.len(), AGENTS);
    assert!(books.values().all(|slots| *slots == json!({})), "something is still occupied: {books:?}");
    assert_eq!(concurrency(&admin).await?, 0);
    admin.post("/resource/recalculate-usage", &json!({})).await?.ok()?;
    assert_eq!(admin.occupancy().await?, books);
    Ok(())
}

/// Sessions that the superadmin's key pair is charged with.
async fn concurrency(admin: &Client) -> anyhow::Result<u64> {
    let query = "query($k: String) { keypair(domain_name: \"default\", access_key: $k) { concurrency_used } }";
    let data = admin.gql(query, json!({"k": ADMIN.access})).await?;
    Ok(data["keypair"]["concurrency_used"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_on_sqlite() {
    crowd(Database::sqlite().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        crowd(database).await.unwrap();
    }
}
