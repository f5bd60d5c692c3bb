//! What a candidate that watches costs the live policy.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, wait};
use serde_json::{Value, json};

use super::{Figure, bind, cancel, group, unbind};

const AGENTS: usize = 200;
/// Sessions that fit nowhere: each round goes over all of them.
const WAITING: usize = 500;
const TURNS: usize = 16;
/// Rounds in a turn.
const ROUNDS: usize = 5;

pub(super) async fn measure(server: &Server, dir: &Path) -> anyhow::Result<Vec<Figure>> {
    let admin = server.client(ADMIN);
    let _agents = server.agents(AGENTS, "i-bench", "synthetic", "cpu=8,mem=16g", &dir.join("agents"))?;
    admin.await_agents(AGENTS).await?;
    // Every round is kept, with its duration.
    let all = json!({"key": "config/rounds/mode", "value": "all"});
    admin.post("/config/set", &all).await?.ok()?;
    let config = json!({"skip_blocked": true, "hold_after_s": 1_000_000});
    bind(&admin, "fifo", &group(), &config).await?;
    for number in 0..WAITING {
        admin.enqueue(&format!("bench-wait-{number}"), json!({"cpu": 1000, "mem": "1g"})).await?;
    }
    let (mut alone, mut accompanied) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        if turn % 2 == 0 {
            alone.extend(rounds(&admin, turn).await?);
        } else {
            let shadow = json!({"plugin": "fifo", "target": group(), "mode": "shadow", "config": config});
            admin.post("/plugins/bindings", &shadow).await?.ok()?;
            accompanied.extend(rounds(&admin, turn).await?);
            unbind(&admin, "fifo", &group(), "shadow").await?;
        }
    }
    cancel(&admin, (0..WAITING).map(|number| format!("bench-wait-{number}"))).await?;
    let (alone, accompanied) = (median(alone), median(accompanied));
    let size = format!("{WAITING} sessions x {AGENTS} agents");
    Ok(vec![
        Figure::measured(format!("a round of {size} on a server, alone: median"), alone / 1e3, "ms"),
        Figure::measured(format!("a round of {size} on a server, watched: median"), accompanied / 1e3, "ms"),
        Figure::measured(
            "a shadow adds to the live round on a server, median",
            (accompanied / alone - 1.0) * 100.0,
            "%",
        )
        .at_most(5.0),
    ])
}

/// How long the next rounds take, in microseconds.
async fn rounds(admin: &Client, turn: usize) -> anyhow::Result<Vec<f64>> {
    // The first is that of a binding that is new.
    next_round(admin, &format!("bench-warm-{turn}")).await?;
    let mut times = Vec::with_capacity(ROUNDS);
    for number in 0..ROUNDS {
        times.push(next_round(admin, &format!("bench-round-{turn}-{number}")).await?);
    }
    Ok(times)
}

/// Has a round begin by one more session, and waits for it: its duration.
async fn next_round(admin: &Client, name: &str) -> anyhow::Result<f64> {
    let before = newest(admin).await?.map_or(0, |round| round.0);
    admin.enqueue(name, json!({"cpu": 1000, "mem": "1g"})).await?;
    let round = wait::until("another round", Duration::from_secs(60), || async {
        Ok(newest(admin).await?.filter(|round| round.0 > before))
    })
    .await?;
    // A candidate that watches is done when the next one begins, as on a site that isn't overloaded.
    tokio::time::sleep(Duration::from_millis(150)).await;
    cancel(admin, [name.to_owned()]).await?;
    Ok(round.1)
}

/// The newest round on record: its number and duration.
async fn newest(admin: &Client) -> anyhow::Result<Option<(i64, f64)>> {
    let page = admin.get("/plugins/rounds?scaling_group=default&limit=1").await?.ok()?;
    let read = |round: &Value| Some((round["id"].as_i64()?, round["duration_us"].as_f64()?));
    let rounds = page["rounds"].as_array().context("no list of rounds")?;
    Ok(rounds.first().and_then(read))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
