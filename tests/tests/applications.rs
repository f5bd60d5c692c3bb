//! Applications of sessions, reached through a coordinator that is told where they are. On both databases.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, ensure};
use hyper::StatusCode;
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::receiver::Receiver;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, wait};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// A port that the session says it will listen at.
const PORT: u16 = 18_765;

async fn set_coordinator(admin: &Client, address: &str) -> anyhow::Result<()> {
    let mutation = "mutation($props: ModifyScalingGroupInput!) {
        modify_scaling_group(name: \"default\", props: $props) { ok msg } }";
    let done = admin.gql(mutation, json!({ "props": { "wsproxy_addr": address } })).await?;
    ensure!(done["modify_scaling_group"]["ok"] == true, "{done}");
    Ok(())
}

async fn start(user: &Client, body: Value) -> anyhow::Result<Answer> {
    user.post("/session/apps/start-service", &body).await
}

fn is_problem(answer: &Answer, status: StatusCode, slug: &str) -> bool {
    answer.status == status && answer.body["type"].as_str().is_some_and(|kind| kind.ends_with(slug))
}

async fn applications_are_reached(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-apps", "process", "cpu=4,mem=4g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;

    // Whoever the session names may connect, and is greeted.
    let greet = format!(
        "import socket\nserver = socket.create_server(('0.0.0.0', {PORT}))\nwhile True:\n  c = server.accept()[0]\n  c.sendall(b'ahoy')\n  c.close()\n"
    );
    let script = format!("cat > greet.py <<'END'\n{greet}END\nnohup python3 greet.py > /dev/null 2>&1 &\n");
    let created = user
        .post(
            "/session",
            &json!({
                "name": "apps", "image": PYTHON_IMAGE, "architecture": "x86_64", "bootstrap_script": script,
                "config": {"resources": {"cpu": 1, "mem": "256m"}, "preopen_ports": [PORT]},
            }),
        )
        .await?
        .ok()?;
    ensure!(created["status"] == "RUNNING", "{created}");
    let app = PORT.to_string();

    let alone = start(&user, json!({"app": app})).await?;
    ensure!(is_problem(&alone, StatusCode::SERVICE_UNAVAILABLE, "service-unavailable"), "{alone:?}");
    ensure!(alone.body["msg"] == "No coordinator configured for this resource group", "{alone:?}");

    let status = Arc::new(AtomicU16::new(200));
    let answered = Arc::clone(&status);
    let coordinator = Receiver::start(move |heard| {
        let reply = match heard.path.as_str() {
            "/status" => json!({"api_version": "v2", "advertise_address": "https://apps.example.org"}),
            "/v2/conf" => json!({"token": "let-me-in"}),
            _ => return Some((StatusCode::NOT_FOUND, String::new())),
        };
        let status = if heard.path == "/status" { 200 } else { answered.load(Ordering::SeqCst) };
        Some((StatusCode::from_u16(status).unwrap(), reply.to_string()))
    })
    .await?;
    set_coordinator(&admin, &format!("{}/", coordinator.url)).await?;

    let admitted = start(&user, json!({"app": app, "login_session_token": "me", "port": PORT})).await?.ok()?;
    ensure!(admitted == json!({"token": "let-me-in", "wsproxy_addr": "https://apps.example.org"}), "{admitted}");
    start(&user, json!({"service": app})).await?.ok()?;
    let told: Vec<Value> =
        coordinator.heard().iter().filter(|heard| heard.path == "/v2/conf").map(|heard| heard.json()).collect();
    ensure!(told[0]["login_session_token"] == "me" && told[1]["login_session_token"].is_null(), "{told:?}");
    ensure!(told[0].as_object().context("an object")?.len() == 3, "{told:?}");
    let asked = coordinator.heard().iter().filter(|heard| heard.path == "/status").count();
    ensure!(asked == 1, "what a coordinator says of itself is believed for a while, but it was asked {asked} times");

    // What the coordinator was told leads to the program in the session.
    let place = (
        told[0]["kernel_host"].as_str().context("a host")?,
        u16::try_from(told[0]["kernel_port"].as_u64().context("a port")?)?,
    );
    let greeting = wait::until("the session to greet", std::time::Duration::from_secs(30), || async {
        let mut heard = String::new();
        tokio::net::TcpStream::connect(place).await?.read_to_string(&mut heard).await?;
        Ok(Some(heard))
    })
    .await?;
    ensure!(greeting == "ahoy", "{greeting}");

    let unknown = start(&user, json!({"app": "none"})).await?;
    ensure!(is_problem(&unknown, StatusCode::NOT_FOUND, "object-not-found"), "{unknown:?}");
    ensure!(unknown.body["msg"] == "apps:none", "{unknown:?}");
    let closed = start(&user, json!({"app": app, "port": 4000})).await?;
    ensure!(is_problem(&closed, StatusCode::BAD_REQUEST, "invalid-api-params"), "{closed:?}");
    let garbled = start(&user, json!({"app": app, "envs": "{"})).await?;
    ensure!(is_problem(&garbled, StatusCode::BAD_REQUEST, "invalid-api-params"), "{garbled:?}");
    status.store(500, Ordering::SeqCst);
    let broken = start(&user, json!({"app": app})).await?;
    ensure!(is_problem(&broken, StatusCode::SERVICE_UNAVAILABLE, "service-unavailable"), "{broken:?}");
    set_coordinator(&admin, "http://127.0.0.1:1").await?;
    let away = start(&user, json!({"app": app})).await?;
    ensure!(is_problem(&away, StatusCode::SERVICE_UNAVAILABLE, "service-unavailable"), "{away:?}");
    user.delete("/session/apps").await?.ok()?;
    ensure!(server.logged_errors()?.is_empty(), "{:?}", server.logged_errors()?);
    server.process.stop()?;
    Ok(())
}

#[tokio::test]
async fn applications_are_reached_through_a_coordinator() {
    for database in Database::each().unwrap() {
        applications_are_reached(database).await.unwrap();
    }
}
