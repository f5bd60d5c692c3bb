//! Sessions in containers of a real engine, from the registry that has their images to their end. Skipped without one.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Bytes;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::engine::{docker, make_image, make_image_with, socket};
use quarterdeck_tests::events::Events;
use quarterdeck_tests::process::{Server, quarterdeck};
use quarterdeck_tests::registry::{Guard, PASSWORD, Registry, Shelf, USER as SCANNER};
use quarterdeck_tests::{ADMIN, root};
use serde_json::{Value, json};

/// An engine unpacks layers meanwhile.
const SOON: Duration = Duration::from_secs(120);
const SLOTS: &str = "cpu=8,mem=8g";

const LABELS: [(&str, &str); 6] = [
    ("ai.backend.kernelspec", "1"),
    ("ai.backend.base-distro", "ubuntu20.04"),
    ("ai.backend.features", "batch query uid-match user-input"),
    ("ai.backend.runtime-type", "python"),
    ("ai.backend.runtime-path", "/usr/bin/python3"),
    ("ai.backend.resource.min.mem", "64m"),
];

fn python() -> PathBuf {
    std::env::var_os("QUARTERDECK_TEST_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

/// What an engine has of an image, as registries keep it: its configuration, and its layers, compressed.
fn taken_out(socket: &Path, image: &str) -> anyhow::Result<(Bytes, Vec<Bytes>)> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    docker(socket, &["save", "--output", at("image.tar").to_str().unwrap(), image])?;
    let unpacked = Command::new("tar").arg("-xf").arg(at("image.tar")).arg("-C").arg(dir.path()).status()?;
    anyhow::ensure!(unpacked.success(), "tar failed");
    let manifest: Value = serde_json::from_slice(&std::fs::read(at("manifest.json"))?)?;
    let layers = manifest[0]["Layers"].as_array().context("an image has layers")?;
    let compressed = |layer: &Value| -> anyhow::Result<Bytes> {
        Ok(Command::new("gzip").args(["-1", "-c"]).arg(at(layer.as_str().unwrap())).output()?.stdout.into())
    };
    let layers = layers.iter().map(compressed).collect::<anyhow::Result<Vec<_>>>()?;
    Ok((std::fs::read(at(manifest[0]["Config"].as_str().unwrap()))?.into(), layers))
}

/// Says when images are fetched.
async fn fetch(admin: &Client, rule: &str) -> anyhow::Result<()> {
    admin.post("/config/set", &json!({"key": "config/docker/image/auto_pull", "value": rule})).await?.ok().map(drop)
}

/// A session's id, once it is enqueued.
async fn enqueued(who: &Client, name: &str, image: &str) -> anyhow::Result<String> {
    let body = json!({
        "name": name, "image": image, "architecture": "x86_64", "enqueueOnly": true,
        "config": {"resources": {"cpu": 1, "mem": "256m"}, "scaling_group": "default"},
    });
    Ok(who.post("/session", &body).await?.ok()?["sessionId"].as_str().unwrap().to_owned())
}

async fn printed(who: &Client, session: &str, code: &str) -> anyhow::Result<String> {
    let mut body = json!({"mode": "query", "code": code, "runId": "one", "options": {}});
    let mut console = String::new();
    loop {
        let result = who.post(&format!("/session/{session}"), &body).await?.ok()?["result"].clone();
        for part in result["console"].as_array().unwrap() {
            console.push_str(part[1].as_str().unwrap_or_default());
        }
        if result["status"] == "finished" {
            return Ok(console);
        }
        (body["mode"], body["code"]) = (json!("continue"), json!(""));
    }
}

/// Ends a session, and waits until it has.
async fn end(who: &Client, name: &str, id: &str) -> anyhow::Result<()> {
    who.delete(&format!("/session/{name}")).await?.ok()?;
    who.await_status(id, &["TERMINATED"], SOON).await.map(drop)
}

/// The message that a session's start failed with.
async fn refused(who: &Client, id: &str) -> anyhow::Result<String> {
    who.await_status(id, &["CANCELLED", "ERROR", "TERMINATED"], SOON).await?;
    let session = who.session(id, "status status_info status_data").await?;
    Ok(session.to_string())
}

async fn fetched_and_run(database: Database, socket: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let admin = server.client(ADMIN);
    let _agent = server.contained_agent("i-fetch", socket, SLOTS, &dir.path().join("agent"))?;
    admin.await_agents(1).await?;

    // A registry that wants to know who asks, with an image that the engine hasn't got.
    let unique = format!("quarterdeck.test/fetched:{}", std::process::id());
    make_image_with(socket, &python(), &[&unique], &LABELS, &[])?;
    let (config, layers) = taken_out(socket, &unique)?;
    docker(socket, &["rmi", &unique])?;
    let mut shelf = Shelf::new(Guard::Token);
    shelf.add_built("stable/python", "3", config, layers);
    let registry = Registry::start(shelf).await?;
    let name = registry.url.trim_start_matches("http://").to_owned();
    let key = format!("config/docker/registry/{}", name.replace(':', "%3A"));
    let body = json!({"key": key, "value": {"": registry.url, "username": SCANNER, "password": PASSWORD}});
    admin.post("/config/set", &body).await?.ok()?;
    let image = format!("{name}/stable/python:3");
    let query = "mutation($r: String) { rescan_images(registry: $r) { ok msg task_id } }";
    let task = admin.gql(query, json!({"r": name})).await?["rescan_images"]["task_id"].clone();
    let mut events =
        Events::open(&admin, &format!("/events/background-task?task_id={}", task.as_str().unwrap()), None).await?;
    let mut told = Vec::new();
    while let Some(event) = events.next(SOON).await? {
        told.push(event.data["message"].clone());
    }
    let images = admin.gql("{ images { name tag registry digest } }", json!({})).await?;
    let known = images["images"].as_array().unwrap().iter().any(|found| found["registry"] == json!(name));
    assert!(known, "{told:?}");

    let query = "mutation($r: [String]) { modify_domain(name: \"default\", props: {allowed_docker_registries: $r}) { ok msg } }";
    let answer = admin.gql(query, json!({"r": [name]})).await?;
    assert_eq!(answer["modify_domain"]["ok"], true, "{answer}");

    let id = enqueued(&admin, "fetched", &image).await?;
    admin.await_status(&id, &["RUNNING", "CANCELLED", "ERROR", "TERMINATED"], SOON).await?;
    let session = admin.session(&id, "status status_info status_data").await?;
    assert_eq!(session["status"], "RUNNING", "{session}");
    let code = "import os; print(os.environ['FROM_IMAGE'], os.uname().nodename, os.getuid())";
    assert_eq!(printed(&admin, "fetched", code).await?, "yes main1 1000\n");
    let logs = admin.get("/session/fetched/logs").await?.ok()?["result"]["logs"].as_str().unwrap().to_owned();
    assert!(logs.contains(&format!("fetched the image {image}")), "{logs}");
    end(&admin, "fetched", &id).await?;

    // The next one finds it there.
    let id = enqueued(&admin, "again", &image).await?;
    admin.await_status(&id, &["RUNNING"], SOON).await?;
    let logs = admin.get("/session/again/logs").await?.ok()?["result"]["logs"].as_str().unwrap().to_owned();
    assert!(!logs.contains("fetched"), "{logs}");
    end(&admin, "again", &id).await?;
    docker(socket, &["rmi", &image])?;

    // Where nothing is to be fetched, nothing is.
    fetch(&admin, "none").await?;
    let id = enqueued(&admin, "never", &image).await?;
    let why = refused(&admin, &id).await?;
    assert!(why.contains("is meant to be on this node, and isn't"), "{why}");
    server.assert_well().await
}

#[tokio::test]
async fn images_come_from_a_registry_with_credentials() {
    let Some(socket) = socket() else { return };
    for database in Database::each().unwrap() {
        fetched_and_run(database, &socket).await.unwrap();
    }
}

async fn built(database: Database, socket: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let admin = server.client(ADMIN);
    let importer = "lablup/importer:manylinux2010";
    let add =
        ["image", "add", importer, "--architecture", "x86_64", "--runtime-type", "app", "--database", &database.url];
    quarterdeck(&add, &[])?;
    fetch(&admin, "tag").await?;
    make_image_with(
        socket,
        &python(),
        &[importer],
        &[],
        &[("/root/build-image.sh", &root().join("tests/images/build.py"))],
    )?;
    make_image(socket, &python(), &["quarterdeck.test/foreign/python:3"])?;
    let target = format!("quarterdeck.test/imported/python:{}", std::process::id());
    let import = json!({
        "src": "quarterdeck.test/foreign/python:3", "target": target, "brand": "Python, imported", "baseDistro": "ubuntu",
        "supportedAccelerators": [], "runtimeType": "python", "runtimePath": "/usr/bin/python3", "CPUCountEnvs": [],
        "servicePorts": [{"name": "jupyter", "protocol": "http", "ports": [8080]}], "architecture": "x86_64",
    });
    let task = async || -> anyhow::Result<String> {
        let task = admin.post("/image/import", &import).await?.ok()?["importTask"].clone();
        let query = "query($k: UUID!) { compute_container(id: $k) { session_id } }";
        let container = admin.gql(query, json!({"k": task["taskId"]})).await?["compute_container"].clone();
        Ok(container["session_id"].as_str().unwrap().to_owned())
    };

    // An agent that wasn't told so doesn't hand out its engine.
    let mut agent = server.contained_agent("i-strict", socket, SLOTS, &dir.path().join("strict"))?;
    admin.await_agents(1).await?;
    let why = refused(&admin, &task().await?).await?;
    assert!(why.contains("--build-images"), "{why}");
    agent.process.stop()?;

    let home = dir.path().join("builder");
    let _agent = server.building_agent("i-builder", socket, SLOTS, &home)?;
    admin.await_agents(1).await?;
    let id = task().await?;
    admin.await_status(&id, &["TERMINATED", "CANCELLED", "ERROR"], SOON).await?;
    let session = admin.session(&id, "status status_info status_data result").await?;
    assert_eq!(session["result"], "SUCCESS", "{session} {}", docker(socket, &["images"])?);
    let labels = docker(socket, &["image", "inspect", "--format", "{{json .Config.Labels}}", &target])?;
    let labels: Value = serde_json::from_str(&labels)?;
    assert_eq!(labels["ai.backend.brand"], "Python, imported");
    assert_eq!(labels["ai.backend.service-ports"], "jupyter:http:8080");
    assert_eq!(labels["ai.backend.runtime-path"], "/usr/bin/python3");

    // It is an image that sessions run in, and theirs is no engine.
    let add =
        ["image", "add", &target, "--architecture", "x86_64", "--runtime-type", "python", "--database", &database.url];
    quarterdeck(&add, &[])?;
    let id = enqueued(&admin, "imported", &target).await?;
    admin.await_status(&id, &["RUNNING"], SOON).await?;
    let code = "import os; print(os.path.exists('/var/run/docker.sock'), os.environ['FROM_IMAGE'])";
    assert_eq!(printed(&admin, "imported", code).await?, "False yes\n");
    end(&admin, "imported", &id).await?;
    docker(socket, &["rmi", &target])?;
    server.assert_well().await
}

#[tokio::test]
async fn imports_build_images() {
    let Some(socket) = socket() else { return };
    for database in Database::each().unwrap() {
        built(database, &socket).await.unwrap();
    }
}
