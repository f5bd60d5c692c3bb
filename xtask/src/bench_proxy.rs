//! What the app proxy costs, beside nginx before the same backend.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quarterdeck_tests::root;

use crate::load::{self, Load};
use crate::prerequisites::nginx;
use crate::run::{cargo, run, say, step, timed};

/// How long each side is loaded, how often.
const SECONDS: u64 = 4;
const TURNS: usize = 3;
/// Connections of the load generator.
const CONNECTIONS: usize = 32;
/// What is to be reached: the proxy's share of nginx's requests a second.
const TARGET: f64 = 0.8;

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until somebody listens there: nginx doesn't tell when it does.
fn await_listener(port: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(Instant::now() < deadline, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One nginx for the backend and for the proxy in front of it, each with a worker of its own.
fn configuration(dir: &Path, backend: u16, front: u16) -> String {
    format!(
        "daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off; client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};\n  \
         uwsgi_temp_path {dir}; scgi_temp_path {dir}; keepalive_requests 100000000;\n  \
         server {{ listen 127.0.0.1:{backend}; location / {{ return 200 \"{body}\"; }} }}\n  \
         upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; }}\n  \
         server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://backend; proxy_http_version 1.1;\n    \
         proxy_set_header Connection \"\"; }} }}\n}}\n",
        dir = dir.display(),
        body = "x".repeat(256),
    )
}

/// Measures both, turn by turn, so that both see the same weather.
pub(crate) fn run_all() -> anyhow::Result<()> {
    let program = nginx()?;
    timed("Building the app proxy for release", || {
        run(cargo().args(["build", "--release", "--locked", "--package", "quarterdeck-proxy", "--example", "front"]))
    })?;
    step("App proxy beside nginx, before the same backend");
    let dir = tempfile::Builder::new().prefix("quarterdeck-nginx-").tempdir()?;
    let (backend, nginx_port) = (free_port()?, free_port()?);
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, configuration(dir.path(), backend, nginx_port))?;
    let _nginx = Guard(Command::new(program).arg("-c").arg(&file).stdin(Stdio::null()).spawn().context("nginx")?);
    let mut front = Command::new(root().join("target/release/examples/front"))
        .args(["127.0.0.1:0", &format!("127.0.0.1:{backend}")])
        .stdout(Stdio::piped())
        .spawn()
        .context("the app proxy")?;
    let mut line = String::new();
    BufReader::new(front.stdout.take().context("piped")?).read_line(&mut line)?;
    let _front = Guard(front);
    let ours = line.trim().strip_prefix("listening on ").context("the app proxy didn't start")?.to_owned();
    let theirs = format!("127.0.0.1:{nginx_port}");
    for port in [backend, nginx_port] {
        await_listener(port)?;
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut ratios = Vec::new();
        for turn in 0..TURNS {
            let nginx = measure(&theirs, "/").await?;
            let proxy = measure(&ours, "/e/bench/").await?;
            say(&format!("turn {}: nginx      {}", turn + 1, nginx.line()));
            say(&format!("        app proxy  {}", proxy.line()));
            ratios.push(proxy.rate() / nginx.rate());
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        let verdict = if median >= TARGET { "reached" } else { "MISSED" };
        say(&format!("app proxy: {median:.2} of nginx's requests/s (median of {TURNS}; at least {TARGET}) {verdict}"));
        ensure!(median.is_finite(), "nothing was measured");
        Ok(())
    })
}

async fn measure(address: &str, path: &str) -> anyhow::Result<Load> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
    load::run(address, CONNECTIONS, Duration::from_secs(SECONDS), move |_, _| Some(request.clone())).await
}
