//! What hooks add to the request that they are asked about.

use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE};
use serde_json::{Value, json};

use super::{Figure, bind, cancel, everywhere, unbind};
use crate::authors::Component;
use crate::bench::request;
use crate::load::{self, Load};

/// Requests in a turn: pending sessions are few then, and what the scheduler does with them costs next to nothing.
const TURN: u64 = 40;
const TURNS: usize = 30;

/// Hooks that are asked one after the other.
struct Chain {
    name: String,
    hooks: Vec<(String, Value)>,
    /// Milliseconds that it may add at most.
    target: f64,
}

pub(super) async fn measure(server: &Server, components: &[Component]) -> anyhow::Result<Vec<Figure>> {
    let admin = server.client(ADMIN);
    let open = json!({"hours": {"daily": ["00:00-24:00"]}, "time_zone": "Asia/Seoul"});
    let mut chains = vec![Chain {
        name: "three Rust hooks".to_owned(),
        hooks: vec![
            ("admission-limits".to_owned(), json!({"max_per_session": {"cpu": 64}, "max_cluster_size": 4})),
            ("allowed-images".to_owned(), json!({"rules": [{"effect": "allow", "images": ["*/stable/*"]}]})),
            ("working-hours".to_owned(), open),
        ],
        target: 1.0,
    }];
    let mut figures = Vec::new();
    for (language, target) in [("python", 3.0), ("javascript", 1.0)] {
        let name = format!("a hook in {language}");
        match components.iter().find(|component| component.language == language) {
            None => figures.push(Figure::skipped(name, "not built")),
            Some(Component { built: Err(why), .. }) => figures.push(Figure::skipped(name, why.clone())),
            Some(Component { built: Ok(path), .. }) => {
                let (plugin, digest) = push(&admin, std::fs::read(path)?).await?;
                // The first binding is by digest, which nothing else can be meant by; it is the only revision of its name.
                bind(&admin, &digest, &everywhere(), &json!({})).await?;
                unbind(&admin, &plugin, &everywhere(), "live").await?;
                chains.push(Chain { name, hooks: vec![(plugin, json!({}))], target });
            }
        }
    }

    let address = server.url.trim_start_matches("http://").to_owned();
    let mut without = Load::default();
    let mut with: Vec<Load> = chains.iter().map(|_| Load::default()).collect();
    let mut number = 0;
    for _ in 0..TURNS {
        without.join(turn(&admin, &address, &mut number).await?);
        for (chain, load) in chains.iter().zip(&mut with) {
            for (hook, config) in &chain.hooks {
                bind(&admin, hook, &everywhere(), config).await?;
            }
            load.join(turn(&admin, &address, &mut number).await?);
            for (hook, _) in &chain.hooks {
                unbind(&admin, hook, &everywhere(), "live").await?;
            }
        }
    }
    figures.push(Figure::measured("an enqueue without hooks, median", without.percentile(0.5), "ms"));
    figures.push(Figure::measured("an enqueue without hooks, p99", without.percentile(0.99), "ms"));
    for (chain, load) in chains.iter().zip(&with) {
        let added = |share: f64| load.percentile(share) - without.percentile(share);
        figures.push(Figure::measured(format!("added to an enqueue by {}, median", chain.name), added(0.5), "ms"));
        let p99 = Figure::measured(format!("added to an enqueue by {}, p99", chain.name), added(0.99), "ms");
        figures.push(p99.at_most(chain.target));
    }
    Ok(figures)
}

/// Pushes a component: the plugin's name and the digest.
async fn push(admin: &Client, component: Vec<u8>) -> anyhow::Result<(String, String)> {
    let pushed = admin.send(Method::POST, "/plugins", "application/wasm", component.into()).await?.ok()?;
    let text = |key: &str| pushed["revision"][key].as_str().map(str::to_owned);
    text("name").zip(text("digest")).context("the answer names no revision")
}

/// Enqueues sessions one after the other, and ends them. The first is that of a configuration that nobody has seen yet,
/// and isn't measured.
async fn turn(admin: &Client, address: &str, number: &mut u64) -> anyhow::Result<Load> {
    let (first, target) = (*number, address.to_owned());
    *number += TURN + 1;
    let body = |number: u64| {
        json!({
            "name": format!("bench-hook-{number}"), "image": PYTHON_IMAGE, "architecture": "x86_64",
            "enqueueOnly": true, "tag": "bench",
            "config": {"resources": {"cpu": 1, "mem": "512m"}, "scaling_group": "default"},
        })
    };
    admin.post("/session", &body(first)).await?.ok()?;
    let load = load::run(address, 1, Duration::from_secs(60), move |_, done| {
        let body = body(first + 1 + done).to_string();
        (done < TURN).then(|| request("POST", "/session", &target, "application/json", ADMIN, &body))
    })
    .await?;
    cancel(admin, (first..*number).map(|number| format!("bench-hook-{number}"))).await?;
    Ok(load)
}
