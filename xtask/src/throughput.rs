//! `cargo xtask bench --sessions`: how many sessions a server takes, places and starts, and what its agents' heartbeats cost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::postgres::Cluster;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::bench::{build, request, runtime};
use crate::load;
use crate::prerequisites::postgresql;
use crate::run::{say, step};

/// Sessions of a run.
const SESSIONS: u64 = 20_000;
/// Agents that start them.
const AGENTS: usize = 20;
/// Connections that enqueue.
const CONNECTIONS: usize = 32;
/// Agents that send heartbeats, and how long they are watched.
const BEATING: usize = 1_000;
const WATCHED: Duration = Duration::from_secs(30);

/// Builds for release and measures, on both databases.
pub(crate) fn alone() -> anyhow::Result<()> {
    build()?;
    all(&runtime()?)
}

/// Measures on both databases, the binary that was chosen.
pub(crate) fn all(runtime: &Runtime) -> anyhow::Result<()> {
    step("Sessions on SQLite");
    on(runtime, &Database::sqlite()?, &Database::sqlite()?)?;
    postgresql()?;
    step("Sessions on PostgreSQL");
    let cluster = Cluster::start()?;
    on(runtime, &Database::postgres_on(&cluster.url())?, &Database::postgres_on(&cluster.url())?)
}

fn on(runtime: &Runtime, first: &Database, second: &Database) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("quarterdeck-bench-").tempdir()?;
    runtime.block_on(starts(first, &dir.path().join("starts")))?;
    runtime.block_on(heartbeats(second, &dir.path().join("heartbeats")))
}

/// From the request to `RUNNING`, many thousand times.
async fn starts(database: &Database, dir: &Path) -> anyhow::Result<()> {
    let server = Server::start(database, &dir.join("server"))?;
    let slots = "cpu=4000,mem=4000g";
    let _agents = server.agents(AGENTS, "i-bench", "synthetic", slots, &dir.join("agents"))?;
    let admin = server.client(ADMIN);
    admin.await_agents(AGENTS).await?;

    let address = server.url.trim_start_matches("http://").to_owned();
    let (numbers, target) = (Arc::new(AtomicU64::new(0)), address.clone());
    let began = Instant::now();
    let enqueued = load::run(&address, CONNECTIONS, Duration::from_secs(600), move |_, _| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let body = json!({
            "name": format!("bench-{number}"), "image": PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true,
            "config": {"resources": {"cpu": 1, "mem": "256m"}, "scaling_group": "default"},
        });
        let request = || request("POST", "/session", &target, "application/json", ADMIN, &body.to_string());
        (number < SESSIONS).then(request)
    })
    .await?;
    say(&format!("enqueued while others start:       {}", enqueued.line()));
    ensure!(enqueued.requests == SESSIONS, "{} of {SESSIONS} sessions were taken", enqueued.requests);
    while running(&admin).await? < SESSIONS {
        ensure!(began.elapsed() < Duration::from_secs(600), "sessions don't come up");
        // Seldom: counting among so many costs the server more than a start.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let took = began.elapsed().as_secs_f64();
    say(&format!(
        "request to RUNNING on {AGENTS} agents:     {:.0} sessions/s ({SESSIONS} in {took:.1} s)",
        SESSIONS as f64 / took
    ));
    Ok(())
}

async fn running(admin: &Client) -> anyhow::Result<u64> {
    let query = r#"{ compute_session_list(limit: 1, offset: 0, status: "RUNNING") { total_count } }"#;
    admin.gql(query, json!({})).await?["compute_session_list"]["total_count"].as_u64().context("no count")
}

/// What it costs to hear that many agents live.
async fn heartbeats(database: &Database, dir: &Path) -> anyhow::Result<()> {
    let server = Server::start(database, &dir.join("server"))?;
    let _agents = server.agents(BEATING, "i-beat", "synthetic", "cpu=8,mem=16g", &dir.join("agents"))?;
    server.client(ADMIN).await_agents(BEATING).await?;
    // What their arrival set off is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, began) = (processor_time(server.process.pid())?, Instant::now());
    tokio::time::sleep(WATCHED).await;
    let used = processor_time(server.process.pid())? - before;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    say(&format!("{BEATING} agents sending heartbeats:    {share:.1} % of a core"));
    Ok(())
}

/// What a process has used of processors, in user and kernel mode.
fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    // Linux counts in hundredths of a second there, on every architecture.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u32> { Ok(fields.get(at).context("a short line")?.parse()?) };
    // The 14th and 15th field of the line; the first two are before what was split.
    Ok(TICK * (ticks(11)? + ticks(12)?))
}
