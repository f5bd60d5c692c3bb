//! The watched directory on real servers.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER, guests, wait};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    server: Server,
    admin: Client,
    /// The watched one.
    watched: PathBuf,
    dir: tempfile::TempDir,
    database: Database,
}

impl Lab {
    fn new(database: Database) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let watched = dir.path().join("watched");
        std::fs::create_dir(&watched)?;
        let env = [("QUARTERDECK_PLUGIN_DIR", watched.to_str().unwrap())];
        let server = Server::start_with(&database, &dir.path().join("server"), &env)?;
        let admin = server.client(ADMIN);
        Ok(Self { server, admin, watched, dir, database })
    }

    /// Puts a file there at once, as careful people do.
    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let hidden = self.watched.join(format!(".{name}"));
        std::fs::write(&hidden, content).unwrap();
        std::fs::rename(hidden, self.watched.join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.watched.join(name)).unwrap();
    }

    /// Waits until a file stands as wanted.
    async fn drop_is(&self, file: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait::until(&format!("{file} {what}"), PATIENCE, || async {
            let drops = self.admin.get("/plugins/drops").await?.ok()?;
            let found = drops["drops"].as_array().unwrap().iter().find(|d| d["file"] == file && wanted(d)).cloned();
            match found {
                Some(found) => Ok(Some(found)),
                None => anyhow::bail!("{drops}"),
            }
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}; log: {}", self.server.process.tail()))
    }

    async fn in_state(&self, file: &str, state: &str) -> Value {
        self.drop_is(file, state, |d| d["state"] == state).await
    }

    /// Waits until a component has come in with these bytes.
    async fn came_in(&self, file: &str, content: &[u8]) -> Value {
        let digest = digest(content);
        self.drop_is(file, "comes in", |d| d["state"] == "ok" && d["digest"] == digest.as_str()).await
    }

    /// Waits until all files were looked at once more: a file whose name comes last has come in.
    async fn looked_again(&self, mark: &str) {
        let content = guests::marked(&best_fit(), mark);
        self.put("zzz.wasm", &content);
        self.came_in("zzz.wasm", &content).await;
    }

    /// The live bindings of the revisions of a plugin.
    fn bindings(&self, plugin: &str) -> Vec<Value> {
        let listed: Value = serde_json::from_str(&self.server.cli(&["plugin", "list", "--json"]).unwrap()).unwrap();
        let revisions = listed["plugins"].as_array().unwrap().iter().filter(|p| p["name"] == plugin).cloned();
        revisions
            .flat_map(|r| {
                let digest = r["digest"].clone();
                let mut bindings = r["bindings"].as_array().unwrap().clone();
                bindings.iter_mut().for_each(|b| b["digest"] = digest.clone());
                bindings
            })
            .collect()
    }

    /// What was done to a plugin's bindings, oldest first: action and actor.
    fn history(&self, plugin: &str) -> Vec<(String, String)> {
        let shown = self.server.cli(&["plugin", "inspect", "--json", plugin]).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let entries = shown["history"].as_array().unwrap();
        let word = |h: &Value, key: &str| h[key].as_str().unwrap().to_owned();
        entries.iter().rev().map(|h| (word(h, "action"), word(h, "actor"))).collect()
    }

    async fn scheduler(&self) -> String {
        let groups = self.admin.gql("{ scaling_groups { name scheduler } }", json!({})).await.unwrap();
        groups["scaling_groups"][0]["scheduler"].as_str().unwrap().to_owned()
    }
}

fn best_fit() -> Vec<u8> {
    std::fs::read(guests::best_fit().unwrap()).unwrap()
}

fn digest(content: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn by_file(action: &str) -> (String, String) {
    (action.to_owned(), "file best-fit.wasm".to_owned())
}

const SETTINGS: &str = "scaling_group = \"default\"\n[config]\nkeep_empty_agents_free = true\n";

async fn life(database: Database) {
    let mut lab = Lab::new(database).unwrap();
    let first = best_fit();

    // Written slowly, and looked at all the while: nobody takes a part for the whole.
    lab.put("best-fit.toml", SETTINGS);
    let mut file = std::fs::File::create(lab.watched.join("best-fit.wasm")).unwrap();
    for piece in first.chunks(first.len() / 150) {
        file.write_all(piece).unwrap();
        lab.admin.get("/plugins/drops").await.unwrap().ok().unwrap();
    }
    drop(file);
    let came = lab.came_in("best-fit.wasm", &first).await;
    assert_eq!(came["plugin"], "best-fit@1.0.0");
    assert_eq!(came["binding"]["target"], json!({"kind": "scaling-group", "name": "default"}));
    assert!(came["directory"].as_str().unwrap().ends_with("/watched"), "{came}");
    let listed: Value = serde_json::from_str(&lab.server.cli(&["plugin", "list", "--json"]).unwrap()).unwrap();
    assert!(listed["plugins"].as_array().unwrap().iter().all(|p| p["status"] == "ready"), "{listed}");
    assert_eq!(lab.scheduler().await, "best-fit");
    assert_eq!(lab.bindings("best-fit")[0]["config"], json!({"keep_empty_agents_free": true}));
    let table = lab.server.cli(&["plugin", "drops"]).unwrap();
    assert!(table.contains("best-fit.wasm") && table.contains("scaling-group:default"), "{table}");

    // Other settings bind it anew; the same content written again doesn't.
    lab.put("best-fit.toml", SETTINGS.replace("true", "false"));
    lab.put("best-fit.wasm", &first);
    wait::until("the new configuration", PATIENCE, || async {
        Ok((lab.bindings("best-fit")[0]["config"] == json!({"keep_empty_agents_free": false})).then_some(()))
    })
    .await
    .unwrap();
    lab.put("best-fit.wasm", &first);
    lab.looked_again("once").await;
    assert_eq!(lab.history("best-fit"), [by_file("bind"), by_file("bind")]);

    // So does another version, and what a person rolls back stays so: over looks, and over a crash.
    let second = guests::marked(&first, "second");
    lab.put("best-fit.wasm", &second);
    lab.came_in("best-fit.wasm", &second).await;
    assert_eq!(lab.bindings("best-fit")[0]["digest"], digest(&second).as_str());
    lab.server.cli(&["plugin", "rollback", "--scaling-group", "default"]).unwrap();
    lab.looked_again("twice").await;
    lab.server.process.kill9().unwrap();
    lab.server.restart().unwrap();
    lab.looked_again("after the crash").await;
    assert_eq!(lab.bindings("best-fit")[0]["digest"], digest(&first).as_str());
    let rolled_back = ("rollback".to_owned(), "admin@conf.test".to_owned());
    assert_eq!(lab.history("best-fit").last(), Some(&rolled_back));

    // Until the file changes.
    let third = guests::marked(&first, "third");
    lab.put("best-fit.wasm", &third);
    lab.came_in("best-fit.wasm", &third).await;
    assert_eq!(lab.bindings("best-fit")[0]["digest"], digest(&third).as_str());

    // A file that goes leaves what it did, unless its settings say otherwise.
    lab.remove("best-fit.wasm");
    wait::until("the file to be forgotten", PATIENCE, || async {
        let drops = lab.admin.get("/plugins/drops").await?.ok()?;
        Ok(drops["drops"].as_array().unwrap().iter().all(|d| d["file"] != "best-fit.wasm").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(lab.scheduler().await, "best-fit");
    lab.put("best-fit.toml", format!("unbind_on_removal = true\n{SETTINGS}"));
    lab.put("best-fit.wasm", &third);
    lab.came_in("best-fit.wasm", &third).await;
    lab.remove("best-fit.wasm");
    wait::until("the binding to end", PATIENCE, || async { Ok((lab.scheduler().await == "fifo").then_some(())) })
        .await
        .unwrap();
    assert_eq!(lab.history("best-fit").last(), Some(&by_file("unbind")));
    lab.server.assert_well().await.unwrap();
}

#[tokio::test]
async fn a_dropped_component_serves_until_somebody_decides_otherwise() {
    for database in Database::each().unwrap() {
        life(database).await;
    }
}

/// The candidates that watch.
fn shadows(lab: &Lab) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&lab.server.cli(&["plugin", "shadow", "--json"]).unwrap()).unwrap();
    listed["shadows"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_dropped_component_may_watch_before_it_decides() {
    let lab = Lab::new(Database::sqlite().unwrap()).unwrap();
    let _agent = lab.server.agent("i-only", "synthetic", "cpu=8,mem=8g", &lab.dir.path().join("agent")).unwrap();
    lab.admin.await_agents(1).await.unwrap();
    let content = best_fit();
    let watches = format!("mode = \"shadow\"\n{SETTINGS}");
    lab.put("best-fit.toml", &watches);
    lab.put("best-fit.wasm", &content);
    let came = lab.came_in("best-fit.wasm", &content).await;
    assert_eq!(came["binding"]["mode"], "shadow", "{came}");
    assert_eq!(lab.scheduler().await, "fifo", "it decides nothing");
    let id = lab.admin.enqueue("watched", json!({"cpu": 1, "mem": "128m"})).await.unwrap();
    lab.admin.await_status(&id, &["RUNNING"], PATIENCE).await.unwrap();
    let shadow = wait::until("it to have seen the round", PATIENCE, || async {
        Ok(shadows(&lab).into_iter().find(|s| s["figures"]["seen"].as_i64() >= Some(1)))
    })
    .await
    .unwrap();
    assert_eq!(shadow["config"], json!({"keep_empty_agents_free": true}));
    assert_eq!(shadow["bound_by"], "file best-fit.wasm");

    // Nothing is forgotten by looking again; another mode lets it decide, and it doesn't watch itself.
    lab.looked_again("once").await;
    assert_eq!(shadows(&lab)[0]["binding"], shadow["binding"]);
    lab.put("best-fit.toml", SETTINGS);
    lab.drop_is("best-fit.wasm", "decides", |d| d["state"] == "ok" && d["binding"]["mode"] == "live").await;
    assert_eq!(lab.scheduler().await, "best-fit");
    assert_eq!(shadows(&lab), [json!(null); 0]);

    // A watching one that goes with its file leaves the live one alone.
    lab.put("best-fit.toml", format!("unbind_on_removal = true\n{watches}"));
    lab.drop_is("best-fit.wasm", "watches", |d| d["state"] == "ok" && d["binding"]["mode"] == "shadow").await;
    assert_eq!(shadows(&lab).len(), 1);
    lab.remove("best-fit.wasm");
    wait::until("it to watch no longer", PATIENCE, || async { Ok(shadows(&lab).is_empty().then_some(())) })
        .await
        .unwrap();
    assert_eq!(lab.scheduler().await, "best-fit");
    lab.server.assert_well().await.unwrap();
}

#[tokio::test]
async fn what_is_refused_tells_why_and_hurts_nobody() {
    let lab = Lab::new(Database::sqlite().unwrap()).unwrap();
    let good = best_fit();
    lab.put("noise.wasm", b"\0asm and then nothing of the kind");
    lab.put("typo.wasm", &good);
    lab.put("typo.toml", "scalinggroup = \"default\"\n");
    lab.put("nowhere.wasm", &good);
    lab.put("nowhere.toml", "scaling_group = \"no-such\"\n");
    lab.put("config.wasm", &good);
    lab.put("config.toml", "scaling_group = \"default\"\n[config]\nkeep_empty_agents_free = \"yes\"\n");
    lab.put("kind.wasm", &good);
    lab.put("kind.toml", "everywhere = true\n");
    let outside = lab.dir.path().join("outside.wasm");
    std::fs::write(&outside, &good).unwrap();
    symlink(&outside, lab.watched.join("link.wasm")).unwrap();
    std::fs::create_dir(lab.watched.join("folder.wasm")).unwrap();
    for name in ["upload.wasm.part", "upload.part.wasm", "upload.tmp", "README.md"] {
        lab.put(name, &good);
    }
    for (file, reason) in [
        ("noise.wasm", "not a WebAssembly component"),
        ("typo.wasm", "line 1: unknown field `scalinggroup`"),
        ("nowhere.wasm", "no such scaling group: no-such"),
        ("config.wasm", "/keep_empty_agents_free"),
        ("kind.wasm", "serves a scaling group"),
        ("link.wasm", "is a link that leaves the directory"),
        ("folder.wasm", "is no regular file"),
    ] {
        let refused = lab.in_state(file, "refused").await;
        assert!(refused["reason"].as_str().unwrap().contains(reason), "{file}: {refused}");
    }
    let drops = lab.admin.get("/plugins/drops").await.unwrap().ok().unwrap();
    assert_eq!(drops["drops"].as_array().unwrap().len(), 7, "{drops}");
    assert_eq!(lab.scheduler().await, "fifo");
    assert_eq!(lab.history("best-fit"), []);

    // A bad file doesn't make a host unfit, and one that is mended comes in.
    let ready = lab.admin.get("/readyz").await.unwrap();
    assert_eq!(ready.status, 200, "{}", String::from_utf8_lossy(&ready.bytes));
    lab.put("config.toml", SETTINGS);
    lab.came_in("config.wasm", &good).await;
    assert_eq!(lab.scheduler().await, "best-fit");
    lab.put("nowhere.toml", "");
    lab.came_in("nowhere.wasm", &good).await;
    lab.server.assert_well().await.unwrap();

    let stranger = lab.server.client(USER).get("/plugins/drops").await.unwrap();
    assert_eq!(stranger.status, 401);
}

#[tokio::test]
async fn a_crash_in_the_midst_of_it_leaves_nothing_half_done() {
    let mut lab = Lab::new(Database::sqlite().unwrap()).unwrap();
    let content = best_fit();
    lab.put("best-fit.toml", SETTINGS);
    lab.put("best-fit.wasm", &content);
    // Cut off wherever it is: while it is verified, compiled, tested, bound.
    for step in ["verified", "compiled", "self-tested", "active"] {
        let plugin = format!("/plugins/{}", digest(&content));
        wait::until(step, PATIENCE, || async {
            let shown = lab.admin.get(&plugin).await?.body;
            let steps = shown["revisions"][0]["steps"].as_array().cloned().unwrap_or_default();
            Ok(steps.iter().any(|s| s["step"] == step).then_some(()))
        })
        .await
        .unwrap();
        lab.server.process.kill9().unwrap();
        lab.server.restart().unwrap();
    }
    lab.came_in("best-fit.wasm", &content).await;
    assert_eq!(lab.scheduler().await, "best-fit");
    assert_eq!(lab.history("best-fit"), [by_file("bind")]);
}

#[tokio::test]
async fn hosts_that_share_a_directory_act_once() {
    let Some(database) = Database::postgres().unwrap() else { return };
    let lab = Lab::new(database).unwrap();
    let env = [("QUARTERDECK_PLUGIN_DIR", lab.watched.to_str().unwrap())];
    let other = Server::again_with(&lab.database, &lab.dir.path().join("other"), &env).unwrap();
    // A directory of its own, as a third machine has it.
    let own = lab.dir.path().join("own");
    std::fs::create_dir(&own).unwrap();
    let env = [("QUARTERDECK_PLUGIN_DIR", own.to_str().unwrap())];
    let third = Server::again_with(&lab.database, &lab.dir.path().join("third"), &env).unwrap();

    let content = best_fit();
    for round in 0..3 {
        let content = guests::marked(&content, &format!("round {round}"));
        for dir in [&lab.watched, &own] {
            std::fs::write(dir.join(".new"), SETTINGS).unwrap();
            std::fs::rename(dir.join(".new"), dir.join("best-fit.toml")).unwrap();
            std::fs::write(dir.join(".new"), &content).unwrap();
            std::fs::rename(dir.join(".new"), dir.join("best-fit.wasm")).unwrap();
        }
        let wanted = digest(&content);
        wait::until("all places to agree", PATIENCE, || async {
            let drops = lab.admin.get("/plugins/drops").await?.ok()?;
            let drops: Vec<_> = drops["drops"].as_array().unwrap().clone();
            let done = drops.iter().filter(|d| d["state"] == "ok" && d["digest"] == wanted.as_str()).count();
            Ok((done == 2 && drops.len() == 2).then_some(()))
        })
        .await
        .unwrap();
        assert_eq!(lab.bindings("best-fit")[0]["digest"], wanted.as_str());
        assert_eq!(lab.history("best-fit").len(), round + 1, "one binding each: {:?}", lab.history("best-fit"));
    }
    for server in [&lab.server, &other, &third] {
        server.assert_well().await.unwrap();
    }
}
