//! Sessions tell of their lives to whoever their creator named: real servers and agents, a real receiver, both databases.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::StatusCode;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::receiver::{Heard, Receiver, Reply};
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, wait};
use serde_json::{Value, json};
use sha2::Sha256;

const MINUTE: Duration = Duration::from_secs(60);
const WHOLE_LIFE: [&str; 6] = ["enqueued", "scheduled", "preparing", "started", "terminating", "terminated"];

fn well() -> Reply {
    Some((StatusCode::NO_CONTENT, String::new()))
}

fn no(status: u16) -> Reply {
    Some((StatusCode::from_u16(status).unwrap(), "not now".to_owned()))
}

async fn allow_home(admin: &Client) -> anyhow::Result<()> {
    let set = json!({"key": "config/outgoing/allowed-networks", "value": "127.0.0.0/8"});
    admin.post("/config/set", &set).await?.ok().map(drop)
}

fn request(name: &str, url: &str) -> Value {
    json!({
        "name": name, "image": PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true, "callback_url": url,
        "config": {"resources": {"cpu": 1, "mem": "256m"}, "scaling_group": "default"},
    })
}

async fn create(user: &Client, name: &str, url: &str) -> anyhow::Result<String> {
    let created = user.post("/session", &request(name, url)).await?.ok()?;
    Ok(created["sessionId"].as_str().context("an id")?.to_owned())
}

/// The events of a session that a receiver heard of, repetitions included.
fn events(receiver: &Receiver, session: &str) -> Vec<String> {
    let of_session = |heard: &Heard| (heard.json()["session_id"] == session).then(|| heard.json());
    let heard = receiver.heard();
    heard.iter().filter_map(of_session).map(|body| body["event"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn await_events(receiver: &Receiver, session: &str, wanted: &[&str]) -> anyhow::Result<()> {
    wait::until(&format!("{wanted:?} of {session}"), MINUTE, || async {
        let heard = events(receiver, session);
        ensure!(heard == wanted, "{heard:?}");
        Ok(Some(()))
    })
    .await
}

async fn ends(user: &Client, name: &str, id: &str) -> anyhow::Result<()> {
    user.delete(&format!("/session/{name}")).await?.ok()?;
    user.await_status(id, &["TERMINATED"], MINUTE).await.map(drop)
}

/// A counter of `/metrics`.
async fn metric(client: &Client, name: &str) -> anyhow::Result<i64> {
    let answer = client.get("/metrics").await?;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    Ok(line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap()))
}

/// The call's id.
fn delivery(heard: &Heard) -> &str {
    heard.header("x-quarterdeck-delivery")
}

/// As a receiver checks it, by the documentation.
fn verify(heard: &Heard) -> anyhow::Result<()> {
    let header = heard.header("x-quarterdeck-signature");
    let (time, mac) = header.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).context(header.to_owned())?;
    let age = chrono::Utc::now().timestamp() - time.parse::<i64>()?;
    ensure!((0..120).contains(&age), "signed {age} s ago");
    let mut expected = Hmac::<Sha256>::new_from_slice(USER.secret.as_bytes())?;
    expected.update(format!("{time}.").as_bytes());
    expected.update(&heard.body);
    let expected: String = expected.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(mac == expected, "{mac} instead of {expected}");
    Ok(())
}

async fn lives_are_told(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-told", "synthetic", "cpu=64,mem=64g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;
    allow_home(&admin).await?;

    // `/stumbles` answers 503 to the first try of each event, `/unheard-of` doesn't know of anything.
    let tries = Mutex::new(BTreeMap::<String, usize>::new());
    let receiver = Receiver::start(move |heard| {
        let mut tries = tries.lock().unwrap();
        let tries = tries.entry(delivery(heard).to_owned()).or_default();
        *tries += 1;
        match heard.path.split('?').next() {
            Some("/stumbles") if *tries == 1 && heard.json()["event"] == "scheduled" => no(503),
            Some("/unheard-of") => no(404),
            _ => well(),
        }
    })
    .await?;
    let slow = Receiver::start(|_| None).await?;

    // More sessions than may be told of at once to one receiver, which doesn't answer.
    let since = Instant::now();
    for n in 0..8 {
        create(&user, &format!("slow-{n}"), &slow.url).await?;
    }
    let id = create(&user, "told", &format!("{}/told?token=abc", receiver.url)).await?;
    user.await_status(&id, &["RUNNING"], MINUTE).await?;
    await_events(&receiver, &id, &WHOLE_LIFE[..4]).await.with_context(|| server.process.tail())?;
    let stumbling = create(&user, "stumbles", &format!("{}/stumbles", receiver.url)).await?;
    let unknown = create(&user, "never", &format!("{}/unheard-of", receiver.url)).await?;
    // What nobody wants to know is told to nobody.
    let silent = user.enqueue("silent", json!({"cpu": 1, "mem": "256m"})).await?;
    for (name, id) in [("told", &id), ("stumbles", &stumbling), ("never", &unknown), ("silent", &silent)] {
        user.await_status(id, &["RUNNING"], MINUTE).await?;
        ends(&user, name, id).await?;
    }
    await_events(&receiver, &id, &WHOLE_LIFE).await?;
    await_events(&receiver, &unknown, &WHOLE_LIFE).await?;
    let repeated = ["enqueued", "scheduled", "scheduled", "preparing", "started", "terminating", "terminated"];
    await_events(&receiver, &stumbling, &repeated).await?;
    ensure!(events(&receiver, &silent).is_empty());
    // Each of the four waits half a minute.
    let (waiting, most) = (slow.heard().len(), 4 * (1 + since.elapsed().as_secs() as usize / 30));
    ensure!((4..=most).contains(&waiting), "{waiting} calls to one receiver");

    let mut deliveries = BTreeSet::new();
    for heard in receiver.heard() {
        verify(&heard)?;
        let body = heard.json();
        ensure!(body["type"] == "session_lifecycle" && body.as_object().context("an object")?.len() == 4, "{body}");
        let when = chrono::DateTime::parse_from_rfc3339(body["when"].as_str().context("when")?)?;
        ensure!(chrono::Utc::now().signed_duration_since(when).num_seconds() < 120, "{body}");
        ensure!(heard.header("content-type") == "application/json" && heard.method == "POST");
        ensure!(body["session_id"] != *id || heard.path == "/told?token=abc", "{}", heard.path);
        deliveries.insert(delivery(&heard).to_owned());
    }
    let stumbles: Vec<_> = receiver.heard().into_iter().filter(|h| h.path == "/stumbles").collect();
    ensure!(delivery(&stumbles[1]) == delivery(&stumbles[2]));
    ensure!(stumbles[2].at - stumbles[1].at >= Duration::from_millis(1_400), "it was tried again at once");
    ensure!(deliveries.len() == receiver.heard().len() - 1, "each call has an id of its own");

    wait::until("the calls to be counted", MINUTE, || async {
        let ended = async |outcome: &str| {
            metric(&admin, &format!("quarterdeck_callbacks_total{{outcome=\"{outcome}\"}}")).await
        };
        let ended = (ended("delivered").await?, ended("failed").await?, ended("retried").await?);
        let pending = metric(&admin, "quarterdeck_callbacks_pending").await?;
        ensure!(ended.0 == 12 && ended.1 == 6 && ended.2 >= 1 && pending >= 8, "{ended:?}, {pending}");
        Ok(Some(()))
    })
    .await?;
    let log = std::fs::read_to_string(&server.process.log)?;
    ensure!(
        log.contains("a call-back failed for good") && !log.contains("token=abc") && !log.contains("/unheard-of"),
        "{log}"
    );
    server.process.stop()?;
    Ok(())
}

/// What happened is told although the server was killed, and the receiver wasn't there.
async fn nothing_is_lost(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-lost", "process", "cpu=8,mem=8g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;
    allow_home(&admin).await?;
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    // Until it opens, nothing gets an answer.
    let receiver = Receiver::start(move |_| if is_open.load(Ordering::SeqCst) { well() } else { None }).await?;
    let mut batch = request("batch", &receiver.url);
    (batch["type"], batch["startupCommand"]) = (json!("batch"), json!("true"));
    let created = user.post("/session", &batch).await?.ok()?;
    let id = created["sessionId"].as_str().context("an id")?.to_owned();
    user.await_status(&id, &["TERMINATED"], MINUTE).await?;
    wait::until("the first call", MINUTE, || async {
        let heard = events(&receiver, &id);
        ensure!(!heard.is_empty() && heard.iter().all(|event| event == "enqueued"), "{heard:?}");
        Ok(Some(()))
    })
    .await?;
    server.process.kill9()?;
    open.store(true, Ordering::SeqCst);
    server.restart()?;
    let all = ["enqueued", "scheduled", "preparing", "started", "success", "terminating", "terminated"];
    // By their ids, receivers tell what they have heard already.
    wait::until("the whole story", MINUTE, || async {
        let mut known = BTreeSet::new();
        let news: Vec<_> = receiver.heard().into_iter().filter(|h| known.insert(delivery(h).to_owned())).collect();
        let news: Vec<_> = news.iter().map(|h| h.json()["event"].clone()).collect();
        ensure!(news == all, "{news:?}");
        Ok(Some(()))
    })
    .await
    .with_context(|| server.process.tail())?;
    ensure!(receiver.heard().len() > all.len(), "what nobody had confirmed is told once more");
    ensure!(server.logged_errors()?.is_empty());
    server.process.stop()?;
    Ok(())
}

/// Addresses that a user has no business at are refused, at creation or when they are called.
async fn private_addresses_are_refused(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&database, &dir.path().join("server"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    for bad in ["ftp://127.0.0.1/", "http://me:secret@example.org/", &format!("http://h/{}", "x".repeat(3000))] {
        let answer = user.post("/session", &request("refused", bad)).await?;
        ensure!(answer.status == StatusCode::BAD_REQUEST, "{answer:?}");
        ensure!(answer.body["data"]["callback_url"].is_string(), "{answer:?}");
    }
    let receiver = Receiver::start(|_| well()).await?;
    let port = receiver.url.rsplit(':').next().context("a port")?.to_owned();
    for (n, host) in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254"].iter().enumerate() {
        create(&user, &format!("private-{n}"), &format!("http://{host}:{port}/")).await?;
    }
    wait::until("the calls to be refused", MINUTE, || async {
        let failed = metric(&admin, r#"quarterdeck_callbacks_total{outcome="failed"}"#).await?;
        ensure!(failed == 4, "{failed}");
        Ok(Some(()))
    })
    .await?;
    ensure!(receiver.heard().is_empty());
    ensure!(std::fs::read_to_string(&server.process.log)?.contains("does not lead to a public address"));
    server.process.stop()?;
    Ok(())
}

#[tokio::test]
async fn lives_are_told_in_order_and_signed() {
    for database in Database::each().unwrap() {
        lives_are_told(database).await.unwrap();
    }
}

#[tokio::test]
async fn what_happened_is_told_after_a_crash() {
    for database in Database::each().unwrap() {
        nothing_is_lost(database).await.unwrap();
    }
}

#[tokio::test]
async fn users_have_no_business_in_private_networks() {
    for database in Database::each().unwrap() {
        private_addresses_are_refused(database).await.unwrap();
    }
}
