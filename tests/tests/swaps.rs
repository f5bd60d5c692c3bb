//! Policies are swapped while sessions come in: no round fails, no session is lost.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, guests, scale, wait};
use serde_json::{Value, json};

/// What takes turns; each is a change of its own kind.
#[derive(Clone, Copy, Debug)]
enum Swap {
    Bind(&'static str),
    Rollback,
}

const TURNS: [Swap; 7] = [
    Swap::Bind("best-fit"),
    Swap::Bind("fifo"),
    Swap::Rollback,
    Swap::Bind("drf"),
    Swap::Bind("best-fit"),
    Swap::Rollback,
    Swap::Bind("fifo"),
];

async fn swap(admin: &Client, swap: Swap) -> anyhow::Result<String> {
    let target = json!({"kind": "scaling-group", "name": "default"});
    let answer = match swap {
        Swap::Bind(plugin) => admin.post("/plugins/bindings", &json!({"plugin": plugin, "target": target})).await?,
        Swap::Rollback => admin.post("/plugins/rollback", &json!({"target": target})).await?,
    };
    Ok(answer.ok()?["now"]["name"].as_str().unwrap().to_owned())
}

async fn counted(admin: &Client, status: &str) -> anyhow::Result<usize> {
    let query = "query($s: String) { compute_session_list(limit: 1, offset: 0, status: $s) { total_count } }";
    let data = admin.gql(query, json!({"s": status})).await?;
    Ok(usize::try_from(data["compute_session_list"]["total_count"].as_u64().unwrap())?)
}

/// The lines of `/metrics` that begin so.
async fn metrics(admin: &Client, name: &str) -> anyhow::Result<Vec<String>> {
    let answer = admin.get("/metrics").await?;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    Ok(text.lines().filter(|l| l.starts_with(name)).map(str::to_owned).collect())
}

/// How many calls into this policy there were: each decides a round.
async fn decided(admin: &Client, policy: &str) -> anyhow::Result<u64> {
    let name = format!("plugin=\"{policy}\"");
    let lines = metrics(admin, "quarterdeck_plugin_calls_total{").await?;
    let counts = lines.iter().filter(|l| l.contains(&name)).filter_map(|l| l.rsplit(' ').next());
    Ok(counts.map(str::parse::<u64>).sum::<Result<u64, _>>()?)
}

async fn swaps(database: Database) -> anyhow::Result<()> {
    let turns = scale(200, 1_000);
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let _big = server.agent("i-big", "synthetic", "cpu=65536,mem=65536g", &dir.path().join("big"))?;
    let _small = server.agent("i-small", "synthetic", "cpu=2048,mem=2048g", &dir.path().join("small"))?;
    let admin = server.client(ADMIN);
    admin.await_agents(2).await?;
    let pushed = server.cli(&["plugin", "push", "--json", guests::best_fit()?.to_str().unwrap()])?;
    let pushed: Value = serde_json::from_str(&pushed)?;
    let steps: Vec<_> = pushed["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["uploaded", "verified", "compiled", "self-tested"]);

    // Sessions come in all the time.
    let (stop, enqueued) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (admin, stop, enqueued) = (admin.clone(), Arc::clone(&stop), Arc::clone(&enqueued));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let number = enqueued.load(Ordering::SeqCst);
                admin.enqueue(&format!("swap-{number}"), json!({"cpu": 1, "mem": "128m"})).await?;
                enqueued.fetch_add(1, Ordering::SeqCst);
            }
            anyhow::Ok(())
        })
    };
    for turn in 0..turns {
        let serves = swap(&admin, TURNS[turn % TURNS.len()]).await?;
        anyhow::ensure!(!load.is_finished(), "the load broke off at turn {turn}, when {serves} came");
        // Now and then a policy decides a round before the next takes its place; most are swapped away between rounds.
        if turn % 10 == 0 {
            let before = decided(&admin, &serves).await?;
            wait::until(&format!("{serves} to decide a round"), Duration::from_secs(60), || async {
                Ok((decided(&admin, &serves).await? > before).then_some(()))
            })
            .await?;
        }
    }
    stop.store(true, Ordering::SeqCst);
    load.await??;

    let enqueued = enqueued.load(Ordering::SeqCst);
    assert!(enqueued >= turns / 10, "{enqueued} sessions in {turns} turns");
    wait::until("every session to run", Duration::from_secs(120), || async {
        let running = counted(&admin, "RUNNING").await?;
        anyhow::ensure!(running == enqueued, "{running} of {enqueued}");
        Ok(Some(()))
    })
    .await?;
    let busy = admin.occupancy().await?;
    let on = |agent: &str| busy[agent]["cpu"].as_str().map_or(0, |n| n.parse::<usize>().unwrap());
    assert_eq!(on("i-big") + on("i-small"), enqueued, "each is placed once: {busy:?}");
    assert!(on("i-big") > 0 && on("i-small") > 0, "more than one policy has placed some: {busy:?}");

    // No call failed, and the built-in policy never had to step in.
    let calls = metrics(&admin, "quarterdeck_plugin_calls_total{").await?;
    for policy in ["best-fit", "fifo", "drf"] {
        let name = format!("plugin=\"{policy}\"");
        assert!(calls.iter().any(|l| l.contains(&name)), "{policy} was never asked: {calls:?}");
    }
    assert!(calls.iter().all(|l| l.contains("outcome=\"ok\"")), "{calls:?}");
    assert_eq!(metrics(&admin, "quarterdeck_plugin_fallbacks_total{").await?, [""; 0]);
    assert_eq!(server.logged_errors()?, [""; 0]);

    // The lives of the revisions tell of it, and don't grow without end.
    let seen: Value = serde_json::from_str(&server.cli(&["plugin", "inspect", "--json", "best-fit"])?)?;
    let steps = seen["revisions"][0]["steps"].as_array().unwrap();
    assert!((6..=100).contains(&steps.len()), "{}", steps.len());
    assert!(["active", "retired"].iter().all(|word| steps.iter().any(|s| s["step"] == *word)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_on_sqlite() {
    swaps(Database::sqlite().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        swaps(database).await.unwrap();
    }
}
