//! What policies cost on a real server: each figure has both of its sides in one run, in turns, so that whatever else the
//! machine does hits both.

mod hooks;
mod shadow;
mod switches;

use std::path::Path;
use std::time::Duration;

use quarterdeck_tests::ADMIN;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::postgres::Cluster;
use quarterdeck_tests::process::Server;
use serde_json::{Value, json};

use super::figures::Figure;
use crate::authors::Component;

/// Measures everything on a server of its own.
pub(super) async fn measure(components: &[Component]) -> anyhow::Result<Vec<Figure>> {
    let dir = tempfile::Builder::new().prefix("quarterdeck-bench-").tempdir()?;
    let mut figures = Vec::new();
    {
        let database = Database::sqlite()?;
        let server = Server::start(&database, &dir.path().join("embedded"))?;
        figures.extend(hooks::measure(&server, components).await?);
        figures.extend(switches::measure(&server).await?);
        figures.extend(shadow::measure(&server, dir.path()).await?);
        server.assert_well().await?;
    }
    match Cluster::start() {
        Ok(cluster) => figures.push(between_hosts(&cluster, dir.path()).await?),
        Err(error) => figures.push(Figure::skipped(BETWEEN_HOSTS, format!("{error:#}"))),
    }
    Ok(figures)
}

const BETWEEN_HOSTS: &str = "swap to effect on another host of one PostgreSQL, median";

/// How long a change of a binding takes to be heeded by another host.
async fn between_hosts(cluster: &Cluster, dir: &Path) -> anyhow::Result<Figure> {
    let database = Database::postgres_on(&cluster.url())?;
    let first = Server::start(&database, &dir.join("first"))?;
    let second = Server::again(&database, &dir.join("second"))?;
    let took = switches::to_effect(&first.client(ADMIN), &second.client(ADMIN)).await?;
    Ok(Figure::measured(BETWEEN_HOSTS, milliseconds(percentile(&took, 0.5)), "ms").at_most(1_000.0))
}

/// Sorts times and takes the one below which a share of them stayed.
fn percentile(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let index = (times.len() as f64 * share) as usize;
    times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A live hook or scheduler with a configuration.
async fn bind(admin: &Client, plugin: &str, target: &Value, config: &Value) -> anyhow::Result<()> {
    let request = json!({"plugin": plugin, "target": target, "config": config});
    admin.post("/plugins/bindings", &request).await?.ok().map(drop)
}

async fn unbind(admin: &Client, plugin: &str, target: &Value, mode: &str) -> anyhow::Result<()> {
    let body = json!({"plugin": plugin, "target": target, "mode": mode}).to_string();
    let answer = admin.send(hyper::Method::DELETE, "/plugins/bindings", "application/json", body.into()).await?;
    answer.ok().map(drop)
}

fn everywhere() -> Value {
    json!({"kind": "everywhere"})
}

fn group() -> Value {
    json!({"kind": "scaling-group", "name": "default"})
}

/// Ends pending sessions.
async fn cancel(admin: &Client, names: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    for name in names {
        admin.delete(&format!("/session/{name}?forced=true")).await?.ok()?;
    }
    Ok(())
}
