//! What signed requests cost: beside the bare framework on the same machine, in turns, and on both databases.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::Query;
use axum::routing::get;
use axum::{Json, Router};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::postgres::Cluster;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::request;
use crate::load::{self, Load};
use crate::prerequisites::postgresql;
use crate::run::{say, step};

/// How long each load runs.
const LIMIT: Duration = Duration::from_secs(5);
/// How often the bare framework and the server take turns.
const TURNS: usize = 3;
/// Connections of the load generator.
const CONNECTIONS: usize = 32;
/// Those that enqueue.
const ENQUEUING: usize = 16;

/// What is to be reached, in requests a second.
const SIGNED: f64 = 45_000.0;
const FROM_DATABASE: f64 = 20_000.0;
const GRAPHQL: f64 = 20_000.0;
const ENQUEUED: f64 = 1_700.0;
/// What is to be reached at the 99th percentile of enqueueing, in milliseconds.
const ENQUEUED_MS: f64 = 20.0;

/// Serves `GET /auth` as the framework does by itself, without what the server does, until killed.
pub(crate) fn serve_bare(runtime: &Runtime) -> anyhow::Result<()> {
    let echo = |Query(query): Query<HashMap<String, String>>| async move {
        Json(json!({ "authorized": "yes", "echo": query.get("echo") }))
    };
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        Ok(axum::serve(listener, Router::new().route("/auth", get(echo))).await?)
    })
}

/// The framework by itself; it dies with this.
struct Bare {
    child: Child,
    address: String,
}

impl Bare {
    fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program).arg("bare-framework").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").context("the bare framework didn't start")?.to_owned();
        Ok(Self { child, address })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures on both databases.
pub(super) fn all(runtime: &Runtime) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("quarterdeck-bench-").tempdir()?;
    let bare = Bare::start()?;
    step("Signed requests on SQLite, beside the bare framework");
    runtime.block_on(on(&Database::sqlite()?, &dir.path().join("sqlite"), &bare))?;
    postgresql()?;
    step("Signed requests on PostgreSQL, beside the bare framework");
    let cluster = Cluster::start()?;
    runtime.block_on(on(&Database::postgres_on(&cluster.url())?, &dir.path().join("postgres"), &bare))
}

async fn on(database: &Database, dir: &Path, bare: &Bare) -> anyhow::Result<()> {
    let server = Server::start(database, dir)?;
    let address = server.url.trim_start_matches("http://").to_owned();
    let get = |path| request("GET", path, &address, "application/octet-stream", ADMIN, "");
    let (mut framework, mut signed) = (Load::default(), Load::default());
    for _ in 0..TURNS {
        framework.join(same(&bare.address, get("/auth?echo=x")).await?);
        signed.join(same(&address, get("/auth?echo=x")).await?);
    }
    say(&format!("bare framework, GET /auth:  {}", framework.line()));
    say(&format!("signed GET /auth:           {} {}", signed.line(), verdict(signed.rate() >= SIGNED)));
    let groups = same(&address, get("/scaling-groups?group=default")).await?;
    say(&format!("signed GET /scaling-groups: {} {}", groups.line(), verdict(groups.rate() >= FROM_DATABASE)));
    let query = json!({ "query": "{ keypair { access_key is_active rate_limit } }", "variables": {} }).to_string();
    let keypair = request("POST", "/admin/gql", &address, "application/json", ADMIN, &query);
    let keypair = same(&address, keypair).await?;
    say(&format!("own key pair by GraphQL:    {} {}", keypair.line(), verdict(keypair.rate() >= GRAPHQL)));

    let (counter, target) = (Arc::new(AtomicU64::new(0)), address.clone());
    let enqueued = load::run(&address, ENQUEUING, LIMIT, move |_, _| {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        let body = json!({
            "name": format!("bench-{number}"), "image": PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true,
            "config": {"resources": {"cpu": 1, "mem": "512m"}, "scaling_group": "default"},
        });
        Some(request("POST", "/session", &target, "application/json", ADMIN, &body.to_string()))
    })
    .await?;
    let reached = enqueued.rate() >= ENQUEUED && enqueued.percentile(0.99) < ENQUEUED_MS;
    say(&format!("POST /session (enqueue):    {} {}", enqueued.line(), verdict(reached)));
    // Nothing of these is kept in memory: each asks the database.
    for path in ["/resource/presets", "/session/bench-0"] {
        let load = same(&address, get(path)).await?;
        let name = format!("signed GET {path}:");
        say(&format!("{name:<27} {} {}", load.line(), verdict(load.rate() >= FROM_DATABASE)));
    }
    Ok(())
}

/// The same request again and again.
async fn same(address: &str, request: Vec<u8>) -> anyhow::Result<Load> {
    load::run(address, CONNECTIONS, LIMIT, move |_, _| Some(request.clone())).await
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}
