//! Model services as users have them: a model that is trained here, uploaded with the official client, served by several
//! sessions, and called while these come and go. On both databases.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::{Client as Http, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::official::{OfficialClient, PYTHON_VARIABLE};
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, scale, wait};
use serde_json::{Value, json};

/// Requests on their way at once.
const CALLERS: usize = 12;
const MINUTE: Duration = Duration::from_secs(60);

/// Trains a logistic regression that tells two kinds of points apart; the model is its weights.
fn train() -> Value {
    let mut dice = quarterdeck_tests::dice::Dice::new(7);
    let mut noise = || dice.roll(1000) as f64 / 1000.0 - 0.5;
    let points: Vec<([f64; 2], f64)> = (0..200)
        .map(|n| {
            let kind = f64::from(u8::from(n % 2 == 0));
            ([kind * 2.0 - 1.0 + noise(), 1.0 - kind * 2.0 + noise()], kind)
        })
        .collect();
    let (mut weights, mut bias) = ([0.0; 2], 0.0);
    for _ in 0..200 {
        for (point, kind) in &points {
            let score: f64 = weights[0] * point[0] + weights[1] * point[1] + bias;
            let error = kind - 1.0 / (1.0 + (-score).exp());
            weights[0] += 0.1 * error * point[0];
            weights[1] += 0.1 * error * point[1];
            bias += 0.1 * error;
        }
    }
    json!({ "weights": weights, "bias": bias })
}

/// What serves it. It tells which session answered.
const SERVE: &str = r#"
import json, math, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "model.json")) as file:
    model = json.load(file)
session = os.environ.get("BACKENDAI_SESSION_ID") or os.environ.get("HOSTNAME", "?")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({"model": os.environ["MODEL_NAME"]})
    def do_POST(self):
        point = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        score = sum(w * x for w, x in zip(model["weights"], point)) + model["bias"]
        self.answer({"kind": int(1 / (1 + math.exp(-score)) > 0.5), "pid": os.getpid(), "session": session})
    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

Server(("0.0.0.0", int(os.environ["SERVICE_PORT"])), Handler).serve_forever()
"#;

fn definition(port: u16) -> String {
    format!(
        "models:\n- name: kinds-of-points\n  model_path: /models\n  service:\n    \
         start_command: python3 \"$QD_TEST_SERVE\"/serve.py\n    port: {port}\n    \
         health_check:\n      path: /health\n      interval: 1\n      max_wait_time: 5\n      max_retries: 3\n"
    )
}

struct Caller {
    http: Http<HttpConnector, Full<Bytes>>,
    url: String,
    token: String,
}

impl Caller {
    async fn ask(&self, kind: bool) -> anyhow::Result<Value> {
        let point = if kind { "[1.0, -1.0]" } else { "[-1.0, 1.0]" };
        let request = Request::post(format!("{}/predict", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::new(Bytes::from_static(point.as_bytes())))?;
        let answer = self.http.request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body)?;
        ensure!(answer["kind"] == u8::from(kind), "{answer}");
        Ok(answer)
    }
}

/// A service with its routes, as its owner sees it by the object graph.
async fn routes(client: &Client, id: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let query = "query($id: UUID!) { endpoint(endpoint_id: $id) { routings { session status } } }";
    let data = client.gql(query, json!({ "id": id })).await?;
    let list = data["endpoint"]["routings"].as_array().context("routings")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list.iter().map(|r| (text(&r["session"]), text(&r["status"]))).collect())
}

async fn await_healthy(client: &Client, id: &str, count: usize) -> anyhow::Result<Vec<String>> {
    wait::until(&format!("{count} healthy routes alone"), MINUTE, || async {
        let routes = routes(client, id).await?;
        let healthy: Vec<_> = routes.iter().filter(|(_, s)| *s == "HEALTHY").map(|(id, _)| id.clone()).collect();
        anyhow::ensure!(healthy.len() == count && routes.len() == count, "{routes:?}");
        Ok(Some(healthy))
    })
    .await
}

/// The scaling group of services, with this server's app proxy.
async fn prepare(admin: &Client) -> anyhow::Result<()> {
    let mutation = "mutation($name: String!, $props: ModifyScalingGroupInput!) {
        modify_scaling_group(name: $name, props: $props) { ok msg } }";
    let options = json!({ "allowed_session_types": ["interactive", "batch", "inference"] }).to_string();
    let props = json!({ "wsproxy_addr": "embedded", "scheduler_opts": options });
    let done = admin.gql(mutation, json!({ "name": "default", "props": props })).await?;
    ensure!(done["modify_scaling_group"]["ok"] == true, "{done}");
    Ok(())
}

fn upload(cli: &OfficialClient, dir: &Path, host: &str) -> anyhow::Result<()> {
    cli.run(&["vfolder", "create", "points", host, "--usage-mode", "model"])?.ok()?;
    let files = [
        ("model.json", train().to_string()),
        ("serve.py", SERVE.to_owned()),
        ("model-definition.yaml", definition(8765)),
    ];
    for (name, text) in &files {
        std::fs::write(dir.join(name), text)?;
    }
    let names: Vec<String> = files.iter().map(|(name, _)| dir.join(name).display().to_string()).collect();
    let mut args = vec!["vfolder", "upload", "-b", dir.to_str().context("a plain path")?, "points"];
    args.extend(names.iter().map(String::as_str));
    cli.run(&args)?.ok()?;
    let listed = cli.run(&["vfolder", "ls", "points"])?.ok()?;
    ensure!(files.iter().all(|(name, _)| listed.contains(name)), "{listed}");
    Ok(())
}

async fn a_model_is_served(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let env = [("QUARTERDECK_APP_PROXY_LISTEN", "127.0.0.1:0")];
    let server = Server::start_with(&database, &dir.path().join("server"), &env)?;
    let home = dir.path().join("home");
    let Some(cli) = OfficialClient::installed(&server.url, USER, &home)? else {
        eprintln!("skipped: {PYTHON_VARIABLE} doesn't name a Python that has the official client");
        return Ok(());
    };
    let _agent = server.agent("i-services", "process", "cpu=8,mem=8g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;
    prepare(&admin).await?;
    let seed: Value = serde_json::from_str(&std::fs::read_to_string(quarterdeck_tests::seed_file())?)?;
    upload(&cli, &home, seed["environment"]["CONF_VFOLDER_HOST"].as_str().context("the seed's folder host")?)?;

    let make = ["service", "create", "-t", "points-svc", "-e", "QD_TEST_SERVE=/models", "--arch", "x86_64"];
    let size = ["-r", "cpu=1", "-r", "mem=512m", PYTHON_IMAGE, "points", "1"];
    cli.does(&[&make[..], &size].concat(), &["points-svc"]);
    let listed = user.get("/services?name=points-svc").await?.ok()?;
    let id = listed[0]["id"].as_str().with_context(|| format!("an id in {listed}"))?.to_owned();
    let healthy = await_healthy(&user, &id, 1).await.with_context(|| server.process.tail())?;
    let url = format!("{}/e/points-svc", server.apps.as_deref().context("an app proxy")?);
    let token = look_at(&cli, &user, &id, &url, &healthy[0]).await?;
    let caller = Arc::new(Caller { http: Http::builder(TokioExecutor::new()).build_http(), url, token });
    caller.ask(true).await?;
    let stranger = Caller { token: "none".to_owned(), http: caller.http.clone(), url: caller.url.clone() };
    assert!(format!("{:#}", stranger.ask(true).await.unwrap_err()).contains("401"));

    cli.run(&["service", "scale", "points-svc", "3"])?.ok()?;
    let three = await_healthy(&user, &id, 3).await?;

    // Requests go on and on while sessions come and go.
    let (asked, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let drained = Arc::new(std::sync::Mutex::new((Instant::now(), Vec::<String>::new())));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (caller, asked, failed) = (Arc::clone(&caller), Arc::clone(&asked), Arc::clone(&failed));
            let (stop, drained) = (Arc::clone(&stop), Arc::clone(&drained));
            tokio::spawn(async move {
                let mut late = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    match caller.ask(asked.fetch_add(1, Ordering::Relaxed) % 2 == number % 2).await {
                        Ok(answer) => {
                            let (since, gone) = &*drained.lock().unwrap();
                            let session = answer["session"].as_str().unwrap_or_default();
                            if begun > *since && gone.iter().any(|id| id == session) {
                                late.push(answer);
                            }
                        }
                        Err(error) => {
                            eprintln!("a request failed: {error:#}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                late
            })
        })
        .collect();

    // One replica is killed outright …
    let victim = caller.ask(true).await?;
    let victim_session = victim["session"].as_str().context("its session")?.to_owned();
    kill_replica(&victim_session)?;
    wait::until("the killed replica to be replaced", MINUTE, || async {
        let routes = routes(&user, &id).await?;
        let healthy = routes.values().filter(|s| *s == "HEALTHY").count();
        Ok((!routes.contains_key(&victim_session) && healthy == 3).then_some(()))
    })
    .await?;
    let at_kill = failed.load(Ordering::Relaxed);
    assert!(at_kill <= CALLERS, "{at_kill} requests failed at the kill, of {CALLERS} that were under way");
    assert!(three.contains(&victim_session));

    // … and the service shrinks to one and grows again.
    cli.run(&["service", "scale", "points-svc", "1"])?.ok()?;
    let leaving = wait::until("two routes to drain", MINUTE, || async {
        let routes = routes(&user, &id).await?;
        let leaving: Vec<_> = routes.into_iter().filter(|(_, s)| s == "TERMINATING").map(|(id, _)| id).collect();
        Ok((leaving.len() == 2).then_some(leaving))
    })
    .await?;
    // The proxy hears of it within a second, whichever host it is.
    *drained.lock().unwrap() = (Instant::now() + Duration::from_secs(1), leaving);
    await_healthy(&user, &id, 1).await?;
    cli.run(&["service", "scale", "points-svc", "3"])?.ok()?;
    await_healthy(&user, &id, 3).await?;
    let wanted = scale(10_000, 100_000);
    wait::until("enough requests", MINUTE * 4, || async {
        Ok((asked.load(Ordering::Relaxed) >= wanted).then_some(()))
    })
    .await?;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert_eq!(caller.await?, Vec::<Value>::new(), "requests reached a session that was draining");
    }
    assert_eq!(failed.load(Ordering::Relaxed), at_kill, "requests failed though nothing was killed");

    // Its end takes its sessions with it.
    cli.run(&["service", "rm", "points-svc"])?.ok()?;
    wait::until("the service to go", MINUTE, || async {
        let list = user.get("/services").await?.ok()?;
        Ok(list.as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .await?;
    let gone = caller.ask(true).await.unwrap_err();
    assert!(format!("{gone:#}").contains("404"), "{gone:#}");
    assert_eq!(server.logged_errors()?, [""; 0]);
    Ok(())
}

/// What the official client shows of a service and does with its route; a token for it.
async fn look_at(cli: &OfficialClient, user: &Client, id: &str, url: &str, session: &str) -> anyhow::Result<String> {
    cli.does(&["service", "list"], &["points-svc", id]);
    cli.does(&["service", "info", "points-svc"], &["points-svc", "HEALTHY", session]);
    cli.does(&["service", "sync", "points-svc"], &["Done."]);
    cli.does(&["service", "get-endpoint", id], &[url]);
    let query = "query($id: UUID!) { endpoint(endpoint_id: $id) { routings { routing_id traffic_ratio } } }";
    let route = async || anyhow::Ok(user.gql(query, json!({ "id": id })).await?["endpoint"]["routings"][0].clone());
    let routing = route().await?["routing_id"].as_str().context("a route")?.to_owned();
    cli.does(&["service", "update-traffic-ratio", "points-svc", &routing, "0.5"], &["Done."]);
    ensure!(route().await?["traffic_ratio"] == 0.5, "the ratio stayed");
    cli.does(&["service", "update-traffic-ratio", "points-svc", &routing, "1"], &["Done."]);
    // The client's own command asks for a ratio that its code doesn't take.
    cli.may_not(&["service", "downscale-route", "points-svc", &routing, "1"], &["TypeError"]);
    Ok(cli.does(&["service", "generate-token", "points-svc", "1h", "--quiet"], &[]).trim().to_owned())
}

/// Kills the processes that serve a session, as a crash would.
fn kill_replica(session: &str) -> anyhow::Result<()> {
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        if has(&line, "serve.py") && has(&environ, session) && !has(&line, "-c\0") {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            killed += 1;
        }
    }
    ensure!(killed > 0, "nothing serves session {session}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_served_on_sqlite() {
    a_model_is_served(Database::sqlite().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_served_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        a_model_is_served(database).await.unwrap();
    }
}
