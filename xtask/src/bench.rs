//! `cargo xtask bench`: the hot paths, in a release build, with the load generator beside the server.

mod figures;
mod live;
pub(crate) mod requests;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use quarterdeck_tests::client::signed_headers;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{KeyPair, root};

use crate::prerequisites::wasm_target;
use crate::run::{cargo, run, say, step, timed};

/// Runs every benchmark.
pub(crate) fn run_all() -> anyhow::Result<()> {
    policies(false)?;
    let runtime = runtime()?;
    timed("Rounds of the other built-in policies", || {
        run(cargo().args(["bench", "--quiet", "--locked", "--package", "quarterdeck-plugin", "--bench", "rounds"]))
    })?;

    step("Cold start and idle memory on SQLite");
    let database = Database::sqlite()?;
    let dir = tempfile::Builder::new().prefix("quarterdeck-bench-").tempdir()?;
    cold_start(&database, dir.path())?;

    requests::all(&runtime)?;

    crate::folders::all(&runtime)?;

    crate::throughput::all(&runtime)
}

/// Only signed requests, on both databases.
pub(crate) fn requests() -> anyhow::Result<()> {
    build()?;
    requests::all(&runtime()?)
}

/// The load generator must not be slower than what it measures: runs this program again, built for release, with the
/// same arguments. Whether it did.
pub(crate) fn again_in_release() -> anyhow::Result<bool> {
    if !cfg!(debug_assertions) {
        return Ok(false);
    }
    let arguments = std::env::args_os().skip(1);
    run(cargo().args(["run", "--quiet", "--release", "--locked", "--package", "xtask", "--"]).args(arguments))?;
    Ok(true)
}

/// Builds the server for release, and has it be what is measured.
pub(crate) fn build() -> anyhow::Result<()> {
    wasm_target()?;
    crate::guests::build()?;
    timed("Building for release", || {
        run(cargo().args(["build", "--release", "--locked", "--package", "quarterdeck"]))
    })?;
    quarterdeck_tests::process::use_binary(&root().join("target/release/quarterdeck"));
    Ok(())
}

/// What policies cost: native and Wasm in one run, then on a server. `json` has the figures printed for programs.
pub(crate) fn policies(json: bool) -> anyhow::Result<()> {
    build()?;
    let components = crate::authors::hooks();
    let mut figures = timed("Policies through the real host, beside native code", figures::in_process)?;
    let live = timed("Policies on a real server", || runtime()?.block_on(live::measure(&components)))?;
    figures.extend(live);
    figures::print(&figures, json)
}

/// What policies cost on a server of the debug build: to see whether the measuring works, not how fast anything is.
pub(crate) fn rehearse() -> anyhow::Result<()> {
    let components = crate::authors::hooks();
    let live = timed("Policies on a real server", || runtime()?.block_on(live::measure(&components)))?;
    figures::print(&live, false)
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn cold_start(database: &Database, dir: &std::path::Path) -> anyhow::Result<()> {
    let data = dir.join("server");
    // The first start migrates and compiles the built-in policies; later ones find them cached.
    drop(Server::start(database, &data)?);
    let mut times = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        let server = Server::again(database, &data)?;
        times.push(start.elapsed());
        drop(server);
    }
    times.sort();
    say(&format!(
        "cold start: {:.0} ms median of 10, {:.0} ms at best",
        times[5].as_secs_f64() * 1e3,
        times[0].as_secs_f64() * 1e3
    ));
    let server = Server::again(database, &data)?;
    std::thread::sleep(Duration::from_secs(5));
    let pid = server.process.pid();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("memory of the server")?;
    let kib: u64 = rollup
        .lines()
        .find_map(|l| l.strip_prefix("Pss:"))
        .and_then(|v| v.trim().trim_end_matches(" kB").trim().parse().ok())
        .context("no Pss in smaps_rollup")?;
    say(&format!("idle memory: {:.1} MiB PSS after 5 s", kib as f64 / 1024.0));
    Ok(())
}

/// A signed request as it goes over the wire.
pub(crate) fn request(
    method: &str,
    path: &str,
    authority: &str,
    content_type: &str,
    keys: KeyPair,
    body: &str,
) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in signed_headers(method, path, authority, content_type, keys) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}
