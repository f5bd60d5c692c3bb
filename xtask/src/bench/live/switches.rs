//! How long it takes until a policy serves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hyper::Method;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, guests};
use serde_json::json;

use super::{Figure, bind, everywhere, group, milliseconds, percentile};

/// The size of the component that is pushed.
const COMPONENT_BYTES: usize = 100 * 1024;
const SWAPS: usize = 50;
const PUSHES: usize = 10;

pub(super) async fn measure(server: &Server) -> anyhow::Result<Vec<Figure>> {
    let admin = server.client(ADMIN);
    let swaps = to_effect(&admin, &admin).await?;
    let (mut active, mut bytes) = (Vec::new(), 0);
    for number in 0..PUSHES {
        let component = component(number)?;
        bytes = component.len();
        let started = Instant::now();
        let pushed = admin.send(Method::POST, "/plugins", "application/wasm", component.into()).await?.ok()?;
        ensure!(pushed["created"] == true, "the component was there already: {pushed}");
        let digest = pushed["revision"]["digest"].as_str().context("no digest in the answer")?;
        bind(&admin, digest, &group(), &json!({})).await?;
        active.push(started.elapsed());
    }
    bind(&admin, "fifo", &group(), &json!({"skip_blocked": true})).await?;
    let uploaded = format!("upload to active of a component of {} KiB", bytes / 1024);
    Ok(vec![
        Figure::measured("swap to effect, artifact compiled: median", milliseconds(percentile(&swaps, 0.5)), "ms"),
        Figure::measured("swap to effect, artifact compiled: p95", milliseconds(percentile(&swaps, 0.95)), "ms")
            .at_most(10.0),
        Figure::measured(format!("{uploaded}: median"), milliseconds(percentile(&active, 0.5)), "ms").at_most(500.0),
        Figure::measured(format!("{uploaded}: slowest of {PUSHES}"), milliseconds(percentile(&active, 1.0)), "ms"),
    ])
}

/// A scheduler of that size, with other bytes each time: one that does nothing as long as it isn't told to misbehave,
/// filled up by sections that nobody reads.
fn component(number: usize) -> anyhow::Result<Vec<u8>> {
    let mut component = guests::marked(&std::fs::read(guests::hostile_scheduler()?)?, &format!("bench {number}"));
    while component.len() + 100 < COMPONENT_BYTES {
        component = guests::marked(&component, &"0".repeat(90));
    }
    Ok(component)
}

/// From the request that binds another configuration of a hook at one host until a request at the other is decided by it.
/// The component is compiled; what is measured is the switch.
pub(super) async fn to_effect(at: &Client, seen_at: &Client) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(SWAPS);
    for swap in 0..SWAPS + 2 {
        let lets_pass = swap % 2 == 0;
        let limit = if lets_pass { 8 } else { 1 };
        let started = Instant::now();
        bind(at, "admission-limits", &everywhere(), &json!({"max_per_session": {"cpu": limit}})).await?;
        while passes(seen_at).await? != lets_pass {
            ensure!(started.elapsed() < Duration::from_secs(20), "the swap has no effect");
        }
        // Before, hosts load the artifact.
        if swap >= 2 {
            times.push(started.elapsed());
        }
    }
    super::unbind(at, "admission-limits", &everywhere(), "live").await?;
    Ok(times)
}

/// Whether a request for two processors gets past the hook. A dry run asks hooks as an enqueue does, and leaves nothing
/// behind.
async fn passes(client: &Client) -> anyhow::Result<bool> {
    let request = json!({
        "name": "bench-swap", "image": PYTHON_IMAGE, "architecture": "x86_64",
        "config": {"resources": {"cpu": 2, "mem": "512m"}, "scaling_group": "default"},
    });
    let answer = client.post("/plugins/dry-run", &request).await?;
    if answer.status.is_success() {
        return Ok(true);
    }
    ensure!(answer.body["type"].as_str().is_some_and(|kind| kind.ends_with("rejected-by-hook")), "{}", answer.body);
    Ok(false)
}
