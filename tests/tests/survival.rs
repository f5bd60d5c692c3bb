//! `kill -9` of the server or the agent while sessions start: nothing is stuck, nothing is placed twice.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::dice::Dice;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER, scale, wait};
use serde_json::{Value, json};

async fn settled(database: Database, victim: &str) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let mut agent = server.agent("i-survivor", "process", "cpu=16,mem=16g", &dir.path().join("agent"))?;
    let admin = server.client(ADMIN);
    let user = server.client(USER);
    admin.await_agents(1).await?;

    // A handful in CI, many with `--long`.
    for round in 0..scale(2, 100) {
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

/// Clients at work during a storm.
const CLIENTS: usize = 3;
/// Sessions that a client has at a time.
const AT_ONCE: usize = 3;

/// What clients were promised: session → its end, too.
type Promises = Arc<Mutex<BTreeMap<String, bool>>>;

/// Makes sessions and ends them, until told to stop. Whatever isn't acknowledged doesn't count, and is ended as well: what
/// would run on otherwise after each kill fills the agents in the end.
async fn work(client: Client, number: usize, stop: Arc<AtomicBool>, promises: Promises) {
    let mut dice = Dice::new(number as u64);
    // By name, with the id where it is known.
    let mut mine: Vec<(String, Option<String>)> = Vec::new();
    for count in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let name = format!("storm-{number}-{count}");
        let id = client.enqueue(&name, json!({"cpu": 1, "mem": "256m"})).await.ok();
        if let Some(id) = &id {
            promises.lock().unwrap().insert(id.clone(), false);
        }
        mine.push((name, id));
        tokio::time::sleep(Duration::from_millis(20 + dice.roll(200) as u64)).await;
        while mine.len() >= AT_ONCE && !stop.load(Ordering::SeqCst) {
            let (name, id) = mine.remove(dice.roll(mine.len()));
            let Ok(answer) = client.delete(&format!("/session/{name}?forced=true")).await else {
                mine.push((name, id));
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            // Otherwise there is none of that name, or not any more.
            if let (true, Some(id)) = (answer.ok().is_ok(), id) {
                promises.lock().unwrap().insert(id, true);
            }
        }
    }
}

/// Kernels whose directories an agent has, or had when it was killed.
fn kernels_of(state: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && matches!(name.as_str(), "kernels" | "ended") {
            let names = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
            found.extend(names.map(|e| e.file_name().to_string_lossy().chars().take(36).collect::<String>()));
        } else if entry.path().is_dir() {
            kernels_of(&entry.path(), found);
        }
    }
}

/// All sessions, by id.
async fn sessions(admin: &Client) -> anyhow::Result<BTreeMap<String, Value>> {
    let query = "query($o: Int!) { compute_session_list(limit: 100, offset: $o) { items { \
                 id status status_info containers { id agent status } } total_count } }";
    let mut all = BTreeMap::new();
    loop {
        let page = admin.gql(query, json!({"o": all.len()})).await?["compute_session_list"].clone();
        let items = page["items"].as_array().unwrap().clone();
        let last = items.is_empty();
        all.extend(items.into_iter().map(|item| (item["id"].as_str().unwrap().to_owned(), item)));
        if last || all.len() as u64 >= page["total_count"].as_u64().unwrap() {
            return Ok(all);
        }
    }
}

async fn storm(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let names = ["i-one", "i-two"];
    let states: Vec<_> = names.iter().map(|name| dir.path().join(name)).collect();
    let mut agents = Vec::new();
    for (name, state) in names.iter().zip(&states) {
        agents.push(server.agent(name, "process", "cpu=8,mem=8g", state)?);
    }
    let admin = server.client(ADMIN);
    admin.await_agents(2).await?;

    let (stop, promises) = (Arc::new(AtomicBool::new(false)), Promises::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(work(server.client(USER), number, Arc::clone(&stop), Arc::clone(&promises))))
        .collect();
    let mut seen: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut look = || {
        for (name, state) in names.iter().copied().zip(&states) {
            let mut kernels = BTreeSet::new();
            kernels_of(state, &mut kernels);
            for kernel in kernels {
                seen.entry(kernel).or_default().insert(name);
            }
        }
    };
    // Another storm each time: what it meets is told by what it breaks, not by its seed.
    let mut dice = Dice::new(u64::from(std::process::id()));
    for _ in 0..scale(20, 500) {
        tokio::time::sleep(Duration::from_millis(50 + dice.roll(500) as u64)).await;
        look();
        match dice.roll(4) {
            0 | 1 => {
                server.process.kill9()?;
                server.restart()?;
            }
            victim => {
                agents[victim - 2].process.kill9()?;
                look();
                agents[victim - 2].restart()?;
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await?;
    }
    let promises = promises.lock().unwrap().clone();
    assert!(promises.len() > 10, "hardly anything happened: {promises:?}");

    // Nothing that was acknowledged is lost, and everything comes to rest.
    let all = wait::until("all sessions to come to rest", Duration::from_secs(150), || async {
        let all = sessions(&admin).await?;
        for (id, ends) in &promises {
            let session = all.get(id).unwrap_or_else(|| panic!("{id} was acknowledged, and is lost"));
            let status = session["status"].as_str().unwrap();
            let rests = match status {
                "TERMINATED" | "CANCELLED" => true,
                "RUNNING" => !ends,
                _ => false,
            };
            anyhow::ensure!(rests, "end promised: {ends}, {session}");
        }
        Ok(Some(all))
    })
    .await?;
    look();
    for (kernel, agents) in &seen {
        assert_eq!(agents.len(), 1, "kernel {kernel} was on {agents:?}");
    }
    for session in all.values() {
        for container in session["containers"].as_array().unwrap() {
            let id = container["id"].as_str().unwrap();
            if let (Some(agents), Some(agent)) = (seen.get(id), container["agent"].as_str()) {
                assert!(agents.contains(agent), "{session} ran elsewhere: {agents:?}");
            }
        }
    }

    // The books are right, and empty when everything has ended.
    let books = admin.occupancy().await?;
    admin.post("/resource/recalculate-usage", &json!({})).await?.ok()?;
    assert_eq!(admin.occupancy().await?, books, "the books differ from their recomputation");
    let user = server.client(USER);
    for (id, session) in &all {
        if session["status"] == "RUNNING" {
            user.delete(&format!("/session/{id}?forced=true")).await?.ok()?;
        }
    }
    wait::until("the agents to be empty", Duration::from_secs(60), || async {
        let books = admin.occupancy().await?;
        anyhow::ensure!(books.values().all(|slots| *slots == json!({})), "{books:?}");
        Ok(Some(()))
    })
    .await?;
    server.process.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_kills_on_sqlite() {
    storm(Database::sqlite().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_kills_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        storm(database).await.unwrap();
    }
}
