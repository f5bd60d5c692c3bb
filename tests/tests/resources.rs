//! Registries, background tasks, event streams, usage and watchers, against real servers and agents.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::events::{Event, Events};
use quarterdeck_tests::process::{Server, quarterdeck};
use quarterdeck_tests::registry::{Guard, PASSWORD, Registry, Shelf, USER as SCANNER};
use quarterdeck_tests::{ADMIN, DOMAIN_ADMIN, USER, wait};
use serde_json::{Value, json};

/// On a machine that does much else, too.
const SOON: Duration = Duration::from_secs(60);

fn labels(more: &[(&str, &str)]) -> Value {
    let mut labels = json!({
        "ai.backend.kernelspec": "1", "ai.backend.features": "batch query", "ai.backend.base-distro": "ubuntu20.04",
        "ai.backend.runtime-type": "python", "ai.backend.runtime-path": "/usr/bin/python",
        "ai.backend.accelerators": "cuda,rocm", "ai.backend.resource.min.mem": "256m",
    });
    for (name, value) in more {
        labels[*name] = json!(value);
    }
    labels
}

async fn configure(admin: &Client, name: &str, registry: Value) {
    let body = json!({"key": format!("config/docker/registry/{name}"), "value": registry});
    admin.post("/config/set", &body).await.unwrap().ok().unwrap();
}

async fn rescan(who: &Client, registry: Option<&str>) -> anyhow::Result<String> {
    let query = "mutation($r: String) { rescan_images(registry: $r) { ok msg task_id } }";
    let answer = who.gql(query, json!({"r": registry})).await?["rescan_images"].clone();
    anyhow::ensure!(answer["ok"] == true && answer["msg"] == "", "{answer}");
    Ok(answer["task_id"].as_str().unwrap().to_owned())
}

fn stream(task: &str) -> String {
    format!("/events/background-task?task_id={task}")
}

/// Follows a task to its end: the messages on the way, and the last event.
async fn follow(who: &Client, task: &str) -> (Vec<Event>, Event) {
    let mut events = Events::open(who, &stream(task), None).await.unwrap();
    let mut updates = Vec::new();
    loop {
        let event = events.next(SOON).await.unwrap().expect("an end is told");
        if event.name == "bgtask_updated" {
            updates.push(event);
            continue;
        }
        let close = events.next(SOON).await.unwrap().unwrap();
        assert_eq!((close.name.as_str(), close.data), ("server_close", json!({})));
        assert_eq!(events.next(SOON).await.unwrap(), None);
        return (updates, event);
    }
}

async fn images(admin: &Client, registry: &str) -> BTreeMap<String, Value> {
    let query = "{ images { id name tag registry architecture digest size_bytes labels { key value } \
                 supported_accelerators resource_limits { key min max } } }";
    let all = admin.gql(query, json!({})).await.unwrap();
    let of_registry = all["images"].as_array().unwrap().iter().filter(|i| i["registry"] == registry);
    of_registry
        .map(|i| {
            let text = |key: &str| i[key].as_str().unwrap().to_owned();
            (format!("{}:{}/{}", text("name"), text("tag"), text("architecture")), i.clone())
        })
        .collect()
}

async fn scans(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let admin = server.client(ADMIN);
    // The seed's registry is whatever listens where it points.
    let seeded = json!({"key": "config/docker/registry/conf-registry", "prefix": true});
    admin.post("/config/delete", &seeded).await?.ok()?;
    let mut shelf = Shelf::new(Guard::Token).slow(Duration::from_millis(60));
    for tag in ["3.8-ubuntu20.04", "3.9-ubuntu20.04", "3.10-ubuntu20.04", "3.6-old"] {
        shelf.add("stable/python", tag, "amd64", &labels(&[]));
    }
    shelf.add_list("stable/r", "4.1", &["amd64", "arm64"], &labels(&[("ai.backend.resource.min.cpu", "2")]));
    shelf.add("stable/nothing", "1", "amd64", &json!({"maintainer": "somebody"}));
    shelf.add_broken("stable/nothing", "2");
    for skipped in ["stable/base-python", "stable/krunner-env", "builder"] {
        shelf.add(skipped, "1", "amd64", &labels(&[]));
    }
    let registry = Registry::start(shelf).await?;
    configure(&admin, "cr.test", json!({"": registry.url, "username": SCANNER, "password": PASSWORD})).await;

    let (updates, end) =
        follow(&server.client(USER), &rescan(&server.client(DOMAIN_ADMIN), Some("cr.test")).await?).await;
    assert_eq!((end.name.as_str(), end.retry, &end.data["message"]), ("bgtask_done", Some(5), &json!("")));
    let told: BTreeSet<_> = updates.iter().map(|u| u.data["message"].as_str().unwrap()).collect();
    let expected = [
        "Updated stable/python:3.8-ubuntu20.04/x86_64",
        "Updated stable/python:3.9-ubuntu20.04/x86_64",
        "Updated stable/python:3.10-ubuntu20.04/x86_64",
        "Updated stable/python:3.6-old/x86_64",
        "Updated stable/r:4.1/x86_64",
        "Updated stable/r:4.1/aarch64",
        "Skipped stable/nothing:1/x86_64 (the label ai.backend.kernelspec is missing)",
        "Skipped stable/nothing:2/unknown (the manifest is of a kind that has no configuration)",
    ];
    assert_eq!(told, BTreeSet::from(expected));
    let last = &updates.last().unwrap().data;
    assert_eq!((&last["current_progress"], &last["total_progress"]), (&json!(7), &json!(7)), "{last}");
    assert!(updates.windows(2).all(|pair| pair[0].id < pair[1].id), "{updates:?}");
    assert!((2..=4).contains(&registry.busiest()), "{} at once", registry.busiest());

    let found = images(&admin, "cr.test").await;
    assert_eq!(found.len(), 6, "{found:?}");
    let image = &found["stable/r:4.1/aarch64"];
    assert_eq!(image["size_bytes"], 1123);
    assert_eq!(image["supported_accelerators"], json!(["cuda", "rocm"]));
    let limit = |key: &str, min: &str| json!({"key": key, "min": min, "max": null});
    assert_eq!(image["resource_limits"], json!([limit("cpu", "2"), limit("mem", "256m")]));
    assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));
    assert!(found["stable/python:3.6-old/x86_64"]["labels"].as_array().unwrap().len() > 5);

    // Once more: the same records, and what was followed too late tells its outcome.
    let task = rescan(&admin, Some("cr.test")).await?;
    assert_eq!(follow(&admin, &task).await.1.name, "bgtask_done");
    let again = images(&admin, "cr.test").await;
    assert!(found.iter().all(|(name, image)| again[name]["id"] == image["id"]));
    let (none, late) = follow(&admin, &task).await;
    assert!(none.is_empty());
    assert_eq!(late.name, "task_done");
    let expected =
        json!({"task_id": task, "status": "done", "current_progress": "7", "total_progress": "7", "message": ""});
    assert_eq!(late.data, expected);

    // A registry that is away is told of, and doesn't keep the others from being scanned.
    configure(&admin, "gone.test", json!({"": "http://127.0.0.1:1"})).await;
    let (updates, end) = follow(&admin, &rescan(&admin, None).await?).await;
    assert_eq!(end.name, "bgtask_failed");
    assert!(end.data["message"].as_str().unwrap().starts_with("gone.test: 127.0.0.1:1 can't be reached"), "{end:?}");
    assert_eq!(updates.len(), 8);
    let (_, unknown) = follow(&admin, &rescan(&admin, Some("never.test")).await?).await;
    assert!(unknown.name.ends_with("task_failed"), "{unknown:?}");
    assert_eq!(unknown.data["message"], "It is an unknown registry.");
    assert!(rescan(&server.client(USER), None).await.is_err());
    server.assert_well().await
}

#[tokio::test]
async fn registries_are_scanned_in_the_background() {
    for database in Database::each().unwrap() {
        scans(database).await.unwrap();
    }
}

#[tokio::test]
async fn registries_are_asked_as_they_want() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let admin = server.client(ADMIN);
    let shelf = |guard| {
        let mut shelf = Shelf::new(guard);
        for name in ["team/a", "team/deep/er", "other/c"] {
            shelf.add(name, "1.0", "amd64", &labels(&[]));
        }
        shelf
    };
    let credentials = |url: &str| json!({"": url, "username": SCANNER, "password": PASSWORD});
    let open = Registry::start(shelf(Guard::Open)).await.unwrap();
    configure(&admin, "open", json!(open.url)).await;
    let basic = Registry::start(shelf(Guard::Basic)).await.unwrap();
    configure(&admin, "basic", credentials(&basic.url)).await;
    configure(&admin, "stranger", json!(basic.url)).await;
    let harbor = Registry::start(shelf(Guard::Token)).await.unwrap();
    let mut config = credentials(&harbor.url);
    config["type"] = json!("harbor2");
    config["project"] = json!("team");
    configure(&admin, "harbor", config.clone()).await;
    config["type"] = json!("local");
    configure(&admin, "local", config).await;

    // Before version 2, Harbor has numbers for projects; several pages of each listing.
    let mut shelf = Shelf::new(Guard::Token);
    for name in ["crew/a", "other/c", "team/a", "team/b", "team/deep/er"] {
        shelf.add(name, "1.0", "amd64", &labels(&[]));
    }
    let harbor1 = Registry::start(shelf).await.unwrap();
    let mut config = credentials(&harbor1.url);
    config["type"] = json!("harbor");
    configure(&admin, "harbor1", config.clone()).await;
    config["project"] = json!("team, crew");
    configure(&admin, "harbor1-some", config).await;

    // Docker Hub lists what the user has, elsewhere; its images for agents of the reference's are no images for sessions.
    let mut shelf = Shelf::new(Guard::Token);
    for name in ["a", "b", "c", "kernel-python"] {
        shelf.add(&format!("{SCANNER}/{name}"), "1.0", "amd64", &labels(&[]));
    }
    shelf.add("somebody/else", "1.0", "amd64", &labels(&[]));
    let hub = Registry::start(shelf).await.unwrap();
    let mut config = credentials(&hub.url);
    config["type"] = json!("hub");
    config["hub"] = json!(format!("{}/listing", hub.url));
    configure(&admin, "hub", config).await;
    let nobody = json!({"": hub.url, "type": "hub", "hub": format!("{}/listing", hub.url)});
    configure(&admin, "hub-nobody", nobody).await;
    for (name, expected) in [("open", 3), ("basic", 3), ("harbor", 2), ("harbor1", 5), ("harbor1-some", 4), ("hub", 3)]
    {
        let (_, end) = follow(&admin, &rescan(&admin, Some(name)).await.unwrap()).await;
        assert!(end.name.ends_with("task_done"), "{name}: {end:?}");
        assert_eq!(images(&admin, name).await.len(), expected, "{name}");
    }
    for (name, reason) in [
        ("stranger", "status 401"),
        ("local", "config/docker/registry/local/type"),
        ("hub-nobody", "its registry needs a username"),
    ] {
        let (_, end) = follow(&admin, &rescan(&admin, Some(name)).await.unwrap()).await;
        assert!(end.data["message"].as_str().unwrap().contains(reason), "{name}: {end:?}");
    }
    server.assert_well().await.unwrap();
}

/// A request for an import, in the words of the API.
fn import(changes: &[(&str, Value)]) -> Value {
    let mut body = json!({
        "src": "cr.test/foreign/torch:2.1", "target": "cr.test/stable/torch:2.1", "brand": "Torch", "baseDistro": "ubuntu",
        "supportedAccelerators": ["cuda"], "runtimeType": "python", "runtimePath": "/usr/bin/python3", "CPUCountEnvs": [],
        "servicePorts": [{"name": "jupyter", "protocol": "http", "ports": [8080]}], "architecture": "x86_64",
    });
    for (name, value) in changes {
        body[*name] = value.clone();
    }
    body
}

async fn imports(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let importer = "lablup/importer:manylinux2010";
    let add =
        ["image", "add", importer, "--architecture", "x86_64", "--runtime-type", "app", "--database", &database.url];
    quarterdeck(&add, &[])?;
    let admin = server.client(ADMIN);
    let _agent = server.agent("i-import", "synthetic", "cpu=4,mem=8g", &dir.path().join("agent"))?;
    admin.await_agents(1).await?;
    let task = admin.post("/image/import", &import(&[])).await?.ok()?["importTask"].clone();
    let (name, kernel) = (task["sessionId"].as_str().unwrap(), task["taskId"].as_str().unwrap());
    assert!(name.starts_with("image-import-"), "{task}");
    let query = "query($k: UUID!) { compute_container(id: $k) { id status session_id } }";
    let container = admin.gql(query, json!({"k": kernel})).await?["compute_container"].clone();
    let id = container["session_id"].as_str().unwrap();
    let session = admin.session(id, "name type image startup_command occupied_slots").await?;
    assert_eq!((&session["name"], &session["type"]), (&json!(name), &json!("BATCH")));
    assert_eq!(session["startup_command"], "/root/build-image.sh");
    admin.await_status(id, &["RUNNING", "TERMINATED"], SOON).await?;

    for (changes, status) in [
        (vec![("baseDistro", json!("arch"))], 400),
        (vec![("minCPU", json!(0))], 400),
        (vec![("servicePorts", json!([{"name": "x", "protocol": "udp", "ports": [1]}]))], 400),
        (vec![("src", json!("not an image"))], 400),
        (vec![("launchOptions", json!({"group": "none"}))], 400),
    ] {
        assert_eq!(admin.post("/image/import", &import(&changes)).await?.status, status, "{changes:?}");
    }
    assert_eq!(server.client(USER).post("/image/import", &import(&[])).await?.status, 401);
    server.assert_well().await
}

/// What the session does is the importer image's own; here it is enqueued, placed and started.
#[tokio::test]
async fn images_are_imported_by_a_batch_session() {
    for database in Database::each().unwrap() {
        imports(database).await.unwrap();
    }
}

#[tokio::test]
async fn tasks_of_a_killed_host_fail() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let mut server = Server::start(&database, &dir.path().join("server")).unwrap();
    let admin = server.client(ADMIN);
    let mut shelf = Shelf::new(Guard::Open).slow(Duration::from_secs(30));
    shelf.add("stable/python", "1.0", "amd64", &labels(&[]));
    let registry = Registry::start(shelf).await.unwrap();
    configure(&admin, "cr.test", json!(registry.url)).await;
    let task = rescan(&admin, Some("cr.test")).await.unwrap();
    let mut events = Events::open(&admin, &stream(&task), None).await.unwrap();
    server.process.kill9().unwrap();
    assert!(events.next(SOON).await.is_err(), "the connection is gone");
    server.restart().unwrap();
    let end = wait::until("the task to count as lost", SOON, || async {
        let mut events = Events::open(&admin, &stream(&task), None).await?;
        let first = events.next(SOON).await?;
        Ok(first.filter(|event| event.name.contains("failed")))
    })
    .await
    .unwrap();
    assert_eq!(end.data["message"], "The host that worked on it was lost.");

    // A host that is stopped says so.
    let task = rescan(&admin, Some("cr.test")).await.unwrap();
    server.process.stop().unwrap();
    server.restart().unwrap();
    let (_, end) = follow(&admin, &task).await;
    assert_eq!((end.name.as_str(), &end.data["message"]), ("task_cancelled", &json!("The host was stopped.")));
}

/// Listens at one host while another, or the same, works.
async fn session_events(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let first = Server::start(&database, &dir.path().join("first"))?;
    let second = match database.url.starts_with("postgres") {
        true => Some(Server::again(&database, &dir.path().join("second"))?),
        false => None,
    };
    let listener = second.as_ref().unwrap_or(&first);
    let (user, admin, worker) = (listener.client(USER), listener.client(ADMIN), first.client(USER));
    let _agent = first.agent("i-events", "synthetic", "cpu=8,mem=8g", &dir.path().join("agent"))?;
    first.client(ADMIN).await_agents(1).await?;

    worker.enqueue("earlier", json!({"cpu": 1, "mem": "256m"})).await?;
    let mut own = Events::open(&user, "/events/session?sessionName=watched", None).await?;
    let mut kernels = Events::open(&admin, "/events/session?scope=kernel&group=default", None).await?;
    let mut others = Events::open(&listener.client(ADMIN), "/events/session?name=watched", None).await?;
    let id = worker.enqueue("watched", json!({"cpu": 1, "mem": "256m"})).await?;
    worker.await_status(&id, &["RUNNING"], SOON).await?;
    worker.delete("/session/watched").await?.ok()?;
    let mut heard = Vec::new();
    loop {
        let event = own.next(SOON).await?.unwrap();
        assert_eq!(event.data["sessionId"], json!(id), "{event:?}");
        assert_eq!(event.data["ownerAccessKey"], USER.access);
        let is_last = event.name == "session_terminated";
        heard.push(event);
        if is_last {
            break;
        }
    }
    let names: Vec<_> = heard.iter().map(|e| e.name.as_str()).collect();
    let position = |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
    let order =
        ["session_enqueued", "session_scheduled", "session_started", "session_terminating", "session_terminated"];
    assert!(order.map(position).is_sorted(), "{names:?}");
    let main = &heard[position("kernel_started")];
    let keys: BTreeSet<_> = main.data.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["reason", "sessionName", "ownerAccessKey", "sessionId", "exitCode", "kernelId", "clusterRole", "clusterIdx"];
    assert_eq!(keys, BTreeSet::from(expected));
    assert_eq!((&main.data["clusterRole"], &main.data["clusterIdx"]), (&json!("main"), &json!(1)));
    assert_eq!(main.data["exitCode"], Value::Null);
    assert!(heard[position("kernel_terminated")].data["exitCode"].is_i64());
    let ended = &heard[position("session_terminating")];
    assert_eq!((&ended.data["reason"], &ended.data["kernelId"]), (&json!("user-requested"), &main.data["kernelId"]));
    assert!(ended.data.get("clusterRole").is_none() && ended.retry.is_none());

    let seen = kernels.find(SOON, |e| e.name == "kernel_terminated" && e.data["sessionId"] == json!(id)).await?;
    assert_eq!(seen.data["sessionName"], "watched");
    // A name is one of the caller's own key pair.
    assert!(others.next(Duration::from_millis(300)).await.is_err());

    // Who comes back hears what was missed, once each.
    let from = position("session_scheduled");
    let mut back = Events::open(&user, "/events/session?sessionName=watched", heard[from].id).await?;
    for missed in &heard[from + 1..] {
        assert_eq!(&back.next(SOON).await?.unwrap(), missed);
    }
    assert!(back.next(Duration::from_millis(300)).await.is_err());

    for (query, status) in [
        ("ownerAccessKey=AKIACONFADMIN0000001", 403),
        ("owner_access_key=AKIACONFADMIN0000001", 403),
        ("group=no-such-group", 404),
        ("scope=both", 400),
        ("sessionId=x", 400),
        ("bogus=1", 400),
    ] {
        assert_eq!(user.get(&format!("/events/session?{query}")).await?.status, status, "{query}");
    }

    // One key pair doesn't take all there is.
    let mut many = Vec::new();
    let refused = loop {
        let answer = user.open("/events/session", &[]).await?;
        if answer.status() != 200 {
            break answer;
        }
        many.push(answer);
        anyhow::ensure!(many.len() < 500, "nothing limits the streams of a key pair");
    };
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    drop(many);
    wait::until("closed streams to make room", SOON, || async {
        Ok((user.open("/events/session", &[]).await?.status() == 200).then_some(()))
    })
    .await?;
    first.assert_well().await
}

#[tokio::test]
async fn events_of_sessions_are_heard() {
    for database in Database::each().unwrap() {
        session_events(database).await.unwrap();
    }
}

async fn usage(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let _agent = server.agent("i-usage", "process", "cpu=8,mem=8g", &dir.path().join("agent"))?;
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    admin.await_agents(1).await?;
    let gid = admin.gql("{ groups(domain_name: \"default\") { id name } }", json!({})).await?;
    let group = gid["groups"].as_array().unwrap().iter().find(|g| g["name"] == "default").unwrap()["id"].clone();
    let day = |offset: i64| (chrono::Utc::now() + chrono::TimeDelta::days(offset)).format("%Y%m%d").to_string();
    let period = json!({"group_id": group, "start_date": day(-1), "end_date": day(1)});
    assert_eq!(admin.get_with("/resource/usage/period", &period).await?.ok()?, json!([]));

    let id = user.enqueue("used", json!({"cpu": 2, "mem": "512m"})).await?;
    user.await_status(&id, &["RUNNING"], Duration::from_secs(60)).await?;
    let running = wait::until("a running kernel to be measured", Duration::from_secs(40), || async {
        let report = admin.get_with("/resource/usage/period", &period).await?.ok()?;
        Ok(report.pointer("/0/c_infos/0").cloned())
    })
    .await?;
    assert_eq!(
        (&running["status"], &running["used_time"], &running["used_days"]),
        (&json!("RUNNING"), &Value::Null, &Value::Null)
    );
    assert_eq!(running["terminated_at"], "None");
    user.delete("/session/used").await?.ok()?;
    user.await_status(&id, &["TERMINATED"], Duration::from_secs(60)).await?;

    let month = json!({"group_ids": null, "month": chrono::Utc::now().format("%Y%m").to_string()});
    let single = admin
        .get(&format!(
            "/resource/usage/month?group_ids={}&month={}",
            group.as_str().unwrap(),
            chrono::Utc::now().format("%Y%m")
        ))
        .await?;
    let by_month = admin.get_with("/resource/usage/month", &month).await?.ok()?;
    assert_eq!(single.ok()?, by_month);
    let report = admin.get_with("/resource/usage/period", &period).await?.ok()?;
    assert_eq!(report, by_month);
    assert_eq!(report.as_array().unwrap().len(), 1, "{report}");
    let (whole, kernel) = (&report[0], &report[0]["c_infos"][0]);
    assert_eq!(
        (&whole["g_id"], &whole["g_name"], &whole["domain_name"]),
        (&group, &json!("default"), &json!("default"))
    );
    assert_eq!((whole["g_cpu_allocated"].as_f64(), &whole["g_mem_allocated"]), (Some(2.0), &json!(512 << 20)));
    assert_eq!(
        (&kernel["session_id"], &kernel["name"], &kernel["status"]),
        (&json!(id), &json!("used"), &json!("TERMINATED"))
    );
    assert_eq!((&kernel["email"], &kernel["agent"]), (&json!("user@conf.test"), &json!("i-usage")));
    assert_eq!(kernel["image_name"], quarterdeck_tests::PYTHON_IMAGE);
    assert_eq!(
        (&kernel["shared_memory"], &kernel["used_days"], &kernel["nfs"]),
        (&json!(64 << 20), &json!(1), &Value::Null)
    );
    assert!(kernel["used_time"].as_str().unwrap().starts_with("0:0"), "{kernel}");
    let keys: BTreeSet<_> = kernel.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "id session_id container_id domain_name group_id group_name name access_key email full_name agent \
        cpu_allocated cpu_used mem_allocated mem_used shared_memory disk_allocated disk_used io_read io_write used_time \
        used_days device_type smp gpu_mem_allocated gpu_allocated nfs image_id image_name created_at terminated_at \
        status status_info status_changed status_history cluster_mode";
    assert_eq!(keys, expected.split_whitespace().collect());

    for (client, path) in [(&user, "/resource/stats/user/month"), (&admin, "/resource/stats/admin/month")] {
        let series = client.get(path).await?.ok()?;
        let series = series.as_array().unwrap();
        assert_eq!(series.len(), 2880);
        let used: Vec<_> = series.iter().filter(|point| point["num_sessions"]["value"] != 0).collect();
        assert!((1..=2).contains(&used.len()), "{used:?}");
        assert_eq!(used[0]["cpu_allocated"], json!({"value": 2, "unit_hint": "count"}));
        assert_eq!(used[0]["mem_allocated"], json!({"value": 512 << 20, "unit_hint": "bytes"}));
    }
    let nothing = admin.get("/resource/stats/user/month").await?.ok()?;
    assert!(nothing.as_array().unwrap().iter().all(|point| point["num_sessions"]["value"] == 0));

    for (body, reason) in [
        (json!({"group_id": null, "start_date": "20230101", "end_date": "20230601"}), "100 days"),
        (json!({"group_id": null, "start_date": "20230102", "end_date": "20230101"}), "must be later"),
        (json!({"group_id": null, "start_date": "20231301", "end_date": "20231302"}), "Invalid date values"),
        (json!({"group_id": "x", "start_date": "20230101", "end_date": "20230102"}), "not the id of a group"),
        (json!({"start_date": "20230101", "end_date": "20230102"}), "Input validation error"),
    ] {
        let answer = admin.get_with("/resource/usage/period", &body).await?;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.body["msg"].as_str().unwrap().contains(reason), "{}", answer.body);
    }
    let answer = admin.get_with("/resource/usage/month", &json!({"group_ids": [], "month": "202313"})).await?;
    assert_eq!((answer.status.as_u16(), &answer.body["msg"]), (400, &json!("Invalid date values")));
    server.assert_well().await
}

#[tokio::test]
async fn what_is_used_is_reported() {
    for database in Database::each().unwrap() {
        usage(database).await.unwrap();
    }
}

/// A watcher that starts its agent and doesn't stop it.
async fn watcher() -> u16 {
    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| async move {
                let token = request.headers().get("x-backendai-watcher-token").map_or(&b""[..], |v| v.as_bytes());
                let asked = (request.method().as_str(), request.uri().path(), token);
                let (status, text) = match asked {
                    ("GET", "/", b"sesame") => (200, "{\"agent-status\":\"active\"}"),
                    ("POST", "/agent/start" | "/agent/restart", b"sesame") => (200, "{\"result\":\"ok\"}"),
                    ("POST", "/agent/stop", b"sesame") => (409, "not now"),
                    _ => (403, "who are you?"),
                };
                let mut response = hyper::Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
                Ok::<_, std::convert::Infallible>(response)
            });
            let _ = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new())
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        }
    });
    port
}

#[tokio::test]
async fn watchers_are_asked_where_agents_are() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let _agent = server.agent("i-watched", "synthetic", "cpu=1,mem=1g", &dir.path().join("agent")).unwrap();
    let admin = server.client(ADMIN);
    admin.await_agents(1).await.unwrap();
    let set = async |key: &str, value: String| {
        admin.post("/config/set", &json!({"key": key, "value": value})).await.unwrap().ok().unwrap();
    };
    let unknown = admin.get("/resource/watcher?agent_id=i-nobody").await.unwrap();
    assert_eq!((unknown.status.as_u16(), &unknown.body["title"]), (404, &json!("No such agent instance.")));
    set("nodes/agents/i-watched/watcher_port", "1".to_owned()).await;
    let away = admin.get("/resource/watcher?agent=i-watched").await.unwrap();
    assert_eq!(away.status, 503, "{}", away.body);
    assert!(away.body["type"].as_str().unwrap().ends_with("service-unavailable"));

    set("nodes/agents/i-watched/watcher_port", watcher().await.to_string()).await;
    let stranger = admin.get("/resource/watcher?agent_id=i-watched").await.unwrap();
    assert_eq!((stranger.status.as_u16(), &stranger.bytes[..]), (403, &b"who are you?"[..]));
    set("config/watcher/token", "sesame".to_owned()).await;
    let status = admin.get("/resource/watcher?agent_id=i-watched").await.unwrap();
    assert_eq!(status.ok().unwrap(), json!({"agent-status": "active"}));
    let body = json!({"agent_id": "i-watched"});
    for (order, expected) in [("start", 200), ("restart", 200), ("stop", 409)] {
        let answer = admin.post(&format!("/resource/watcher/agent/{order}"), &body).await.unwrap();
        assert_eq!(answer.status, expected, "{order}: {}", answer.body);
    }
    assert_eq!(
        admin.post("/session/_/sync-agent-registry", &json!({"agent": "i-watched"})).await.unwrap().body,
        json!({})
    );
    assert_eq!(admin.post("/session/_/sync-agent-registry", &json!({"agent": "i-x"})).await.unwrap().status, 404);
    server.assert_well().await.unwrap();
}
