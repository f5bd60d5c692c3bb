//! The life of policies on a live server, by the commands that admins use.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Agent, Server};
use quarterdeck_tests::{ADMIN, DOMAIN_ADMIN, USER, guests};
use serde_json::{Value, json};

struct Lab {
    server: Server,
    admin: Client,
    _agents: [Agent; 2],
    dir: tempfile::TempDir,
    _database: Database,
}

impl Lab {
    /// A server and two agents of different size: fifo prefers the large one, best-fit the small one.
    async fn new(database: Database) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let server = Server::start(&database, &dir.path().join("server"))?;
        let big = server.agent("i-big", "synthetic", "cpu=65536,mem=65536g", &dir.path().join("big"))?;
        let small = server.agent("i-small", "synthetic", "cpu=2048,mem=2048g", &dir.path().join("small"))?;
        let admin = server.client(ADMIN);
        admin.await_agents(2).await?;
        Ok(Self { server, admin, _agents: [big, small], dir, _database: database })
    }

    fn file(&self, name: &str, content: &[u8]) -> anyhow::Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    fn push_best_fit(&self) -> anyhow::Result<()> {
        self.server.cli(&["plugin", "push", &best_fit()?])?;
        Ok(())
    }

    fn bind(&self, plugin: &str) -> anyhow::Result<String> {
        self.server.cli(&["plugin", "bind", plugin, "--scaling-group", "default"])
    }

    /// Why a command was refused.
    fn refused(&self, args: &[&str]) -> String {
        match self.server.cli(args) {
            Ok(output) => panic!("{args:?} went through: {output}"),
            Err(error) => error.to_string(),
        }
    }

    /// Where a new session is placed.
    async fn placement(&self, name: &str) -> anyhow::Result<String> {
        let id = self.admin.enqueue(name, json!({"cpu": 1, "mem": "128m"})).await?;
        self.admin.await_status(&id, &["RUNNING"], Duration::from_secs(30)).await?;
        let row = self.admin.session(&id, "containers { agent }").await?;
        Ok(row["containers"][0]["agent"].as_str().unwrap().to_owned())
    }

    /// What a revision looks like in the list.
    fn listed(&self, plugin: &str) -> anyhow::Result<Value> {
        let listed: Value = serde_json::from_str(&self.server.cli(&["plugin", "list", "--json"])?)?;
        Ok(listed["plugins"].as_array().unwrap().iter().find(|p| p["name"] == plugin).unwrap().clone())
    }

    async fn scheduler(&self) -> anyhow::Result<String> {
        let groups = self.admin.gql("{ scaling_groups { name scheduler } }", json!({})).await?;
        Ok(groups["scaling_groups"][0]["scheduler"].as_str().unwrap().to_owned())
    }

    /// No call into a plugin has failed, and the built-in policy never had to step in.
    async fn assert_no_failures(&self) -> anyhow::Result<()> {
        assert_eq!(self.server.logged_errors()?, [""; 0]);
        let metrics = self.admin.get("/metrics").await?;
        let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
        let calls = |l: &&str| l.starts_with("quarterdeck_plugin_calls_total{") && l.contains("kind=\"scheduler\"");
        assert!(text.lines().any(|l| calls(&l)), "{text}");
        let failed: Vec<_> = text.lines().filter(calls).filter(|l| !l.contains("outcome=\"ok\"")).collect();
        assert!(failed.is_empty(), "{failed:?}");
        assert!(!text.contains("quarterdeck_plugin_fallbacks_total{"), "{text}");
        for shown in ["quarterdeck_plugin_counted_total{plugin=", "quarterdeck_plugin_call_seconds_count{plugin="] {
            assert!(text.contains(shown), "{shown} is missing: {text}");
        }
        Ok(())
    }
}

fn best_fit() -> anyhow::Result<String> {
    Ok(guests::best_fit()?.display().to_string())
}

async fn life(database: Database) -> anyhow::Result<()> {
    let lab = Lab::new(database).await?;
    assert_eq!(lab.placement("by-fifo").await?, "i-big");

    // Pushed: known, and serving nobody.
    let pushed: Value = serde_json::from_str(&lab.server.cli(&["plugin", "push", "--json", &best_fit()?])?)?;
    assert_eq!(pushed["created"], true);
    let again: Value = serde_json::from_str(&lab.server.cli(&["plugin", "push", "--json", &best_fit()?])?)?;
    assert_eq!((&again["created"], &again["revision"]), (&json!(false), &pushed["revision"]));
    let seen = lab.listed("best-fit")?;
    assert_eq!(
        (&seen["kind"], &seen["status"], &seen["builtin"]),
        (&json!("scheduler"), &json!("ready"), &json!(false))
    );
    assert_eq!(seen["uploaded_by"], "admin@conf.test");
    assert_eq!((&seen["bindings"], &seen["stage"]), (&json!([]), &json!("self-tested")));
    let fifo = lab.listed("fifo")?;
    assert_eq!(fifo["by_name"], json!([{"kind": "scaling-group", "name": "default"}]));
    assert_eq!(lab.placement("still-by-fifo").await?, "i-big");

    // Bound with a configuration: it places by it. Empty agents are kept free, so both stay where something runs.
    let config = lab.file("keep.json", br#"{"keep_empty_agents_free": true}"#)?;
    lab.server.cli(&["plugin", "bind", "best-fit", "--scaling-group", "default", "--config", &config])?;
    assert_eq!(lab.placement("kept-together").await?, "i-big");
    let bindings = lab.listed("best-fit")?["bindings"].clone();
    assert_eq!(bindings.as_array().unwrap().len(), 1);
    assert_eq!(bindings[0]["target"], json!({"kind": "scaling-group", "name": "default"}));
    assert_eq!(bindings[0]["config"], json!({"keep_empty_agents_free": true}));
    assert_eq!(bindings[0]["bound_by"], "admin@conf.test");
    assert_eq!(lab.scheduler().await?, "best-fit");
    assert_eq!(lab.listed("best-fit")?["stage"], "active");

    // Another configuration of the same policy.
    let config = lab.file("use.json", br#"{"keep_empty_agents_free": false}"#)?;
    lab.server.cli(&["plugin", "bind", "best-fit", "--scaling-group", "default", "--config", &config])?;
    assert_eq!(lab.placement("by-best-fit").await?, "i-small");

    // Rolled back: the configuration before; and again: what was undone.
    lab.server.cli(&["plugin", "rollback", "--scaling-group", "default"])?;
    assert_eq!(lab.listed("best-fit")?["bindings"][0]["config"], json!({"keep_empty_agents_free": true}));
    lab.server.cli(&["plugin", "rollback", "--scaling-group", "default"])?;
    assert_eq!(lab.listed("best-fit")?["bindings"][0]["config"], json!({"keep_empty_agents_free": false}));
    assert_eq!(lab.placement("again-by-best-fit").await?, "i-small");

    // Between policies, too.
    lab.bind("fifo")?;
    assert_eq!(lab.placement("by-fifo-again").await?, "i-big");
    lab.server.cli(&["plugin", "rollback", "--scaling-group", "default"])?;
    assert_eq!(lab.placement("best-fit-is-back").await?, "i-small");
    assert_eq!(lab.listed("best-fit")?["bindings"][0]["config"], json!({"keep_empty_agents_free": false}));

    lab.server.cli(&["plugin", "unbind", "best-fit", "--scaling-group", "default"])?;
    assert_eq!(lab.scheduler().await?, "fifo");
    let seen = lab.listed("best-fit")?;
    assert_eq!((&seen["bindings"], &seen["stage"]), (&json!([]), &json!("retired")));
    assert_eq!(lab.placement("fifo-as-ever").await?, "i-big");

    let shown: Value = serde_json::from_str(&lab.server.cli(&["plugin", "inspect", "--json", "best-fit"])?)?;
    let actions: Vec<_> = shown["history"].as_array().unwrap().iter().map(|h| h["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["unbind", "rollback", "bind", "rollback", "rollback", "bind", "bind"], "newest first");
    let steps: Vec<_> = shown["revisions"][0]["steps"].as_array().unwrap().clone();
    let words: Vec<_> = steps.iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(words[..5], ["uploaded", "verified", "compiled", "self-tested", "active"], "{words:?}");
    assert_eq!(words.last(), Some(&"retired"));
    assert!(steps.iter().all(|s| s["status"] == "ok" && s["duration_ms"].is_number()), "{steps:?}");
    assert!(steps.iter().all(|s| s["actor"] == "admin@conf.test"), "{steps:?}");
    let table = lab.server.cli(&["plugin", "inspect", "best-fit"])?;
    assert!(words.iter().all(|w| table.contains(w)), "{table}");
    assert!(table.contains("keep_empty_agents_free") && table.contains("admin@conf.test"), "{table}");
    lab.assert_no_failures().await
}

#[tokio::test]
async fn a_policy_is_pushed_bound_rolled_back_and_unbound() {
    for database in Database::each().unwrap() {
        life(database).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_policy_is_refused_with_its_reason() {
    let lab = Lab::new(Database::sqlite().unwrap()).await.unwrap();
    let best_fit = std::fs::read(guests::best_fit().unwrap()).unwrap();
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let cases: &[(&str, &[u8], &str)] = &[
        ("noise.wasm", &noise, "not a WebAssembly component: magic header not detected"),
        ("truncated.wasm", &best_fit[..best_fit.len() / 2], "not a WebAssembly component: unexpected end-of-file"),
        ("core.wasm", b"\0asm\x01\0\0\0", "it is a core module"),
        ("empty.wasm", b"", "not a WebAssembly component: unexpected end-of-file"),
        ("hollow.wasm", b"\0asm\x0d\0\x01\0", "doesn't export `quarterdeck:policy/plugin@^0.1.0`"),
    ];
    for (name, content, reason) in cases {
        let file = lab.file(name, content).unwrap();
        let refusal = lab.refused(&["plugin", "push", &file]);
        let last = refusal.lines().last().unwrap_or_default();
        assert!(last.contains("(400)") && last.contains(reason), "{name}: {refusal}");
        assert!(refusal.lines().any(|l| l.contains("uploaded")), "the steps are told: {refusal}");
        assert!(refusal.lines().any(|l| l.contains("verified") && l.contains("failed")), "{name}: {refusal}");
    }
    let missing = lab.refused(&["plugin", "push", "no-such-file.wasm"]);
    assert!(missing.contains("no-such-file.wasm"), "{missing}");
    let listed: Value = serde_json::from_str(&lab.server.cli(&["plugin", "list", "--json"]).unwrap()).unwrap();
    let (builtin, kept): (Vec<_>, Vec<_>) =
        listed["plugins"].as_array().unwrap().iter().partition(|p| p["builtin"] == true);
    assert!(builtin.iter().all(|p| p["status"] == "ready"), "{builtin:?}");
    assert_eq!(kept.len(), cases.len(), "they are kept, to be looked at");
    for (plugin, (_, _, reason)) in kept.iter().map(|p| {
        let told = p["status_reason"].as_str().unwrap();
        (p, cases.iter().find(|(_, _, reason)| told.contains(reason)).unwrap())
    }) {
        assert_eq!((&plugin["status"], &plugin["stage"]), (&json!("failed"), &json!("failed")));
        let digest = plugin["digest"].as_str().unwrap();
        let shown = lab.server.cli(&["plugin", "inspect", digest]).unwrap();
        assert!(shown.contains(reason), "{shown}");
        let refusal = lab.refused(&["plugin", "bind", digest, "--scaling-group", "default"]);
        assert!(refusal.contains("(400)") && refusal.contains(reason), "{refusal}");
    }
}

#[tokio::test]
async fn mistakes_are_told_and_change_nothing() {
    let lab = Lab::new(Database::sqlite().unwrap()).await.unwrap();
    lab.push_best_fit().unwrap();
    let group = ["--scaling-group", "default"];
    let unknown: &[(&[&str], &str)] = &[
        (&["bind", "no-such", group[0], group[1]], "No such plugin"),
        (&["bind", "best-fit@9.9.9", group[0], group[1]], "No such plugin"),
        (&["bind", "best-fit", "--scaling-group", "no-such"], "No such scaling group"),
        (&["bind", "admission-limits", "--domain", "no-such"], "No such domain"),
        (&["unbind", "best-fit", group[0], group[1]], "No such plugin binding"),
        (&["rollback", group[0], group[1]], "No such plugin binding"),
        (&["inspect", "no-such"], "No such plugin"),
    ];
    for (args, reason) in unknown {
        let refusal = lab.refused(&[&["plugin"], *args].concat());
        assert!(refusal.contains("(404)") && refusal.contains(reason), "{args:?}: {refusal}");
    }
    let configs: &[(&str, &str)] = &[
        (r#"{"keep_empty_agents_free": "yes"}"#, "/keep_empty_agents_free"),
        (r#"{"keep_full_agents_free": true}"#, "keep_full_agents_free"),
        ("[1]", "config"),
    ];
    for (config, field) in configs {
        let file = lab.file("config.json", config.as_bytes()).unwrap();
        let refusal = lab.refused(&["plugin", "bind", "best-fit", group[0], group[1], "--config", &file]);
        assert!(
            refusal.contains("(400)") && refusal.contains(field) && !refusal.contains(": :"),
            "{config}: {refusal}"
        );
    }
    let refusal = lab.refused(&["plugin", "bind", "best-fit", "--everywhere"]);
    assert!(refusal.contains("(400)") && refusal.contains("serves a scaling group"), "{refusal}");
    let refusal = lab.refused(&["plugin", "bind", "admission-limits", group[0], group[1]]);
    assert!(refusal.contains("(400)") && refusal.contains("serves a domain or everybody"), "{refusal}");

    // Policies are the superadmins' business.
    let file = best_fit().unwrap();
    let commands: &[&[&str]] = &[
        &["push", &file],
        &["list"],
        &["inspect", "fifo"],
        &["bind", "best-fit", group[0], group[1]],
        &["unbind", "best-fit", group[0], group[1]],
        &["rollback", group[0], group[1]],
    ];
    for keys in [USER, DOMAIN_ADMIN] {
        for args in commands {
            let refusal = lab.server.cli_as(keys, &[&["plugin"], *args].concat()).unwrap_err().to_string();
            assert!(refusal.contains("(401)"), "{} {args:?}: {refusal}", keys.access);
        }
    }
    assert_eq!(lab.scheduler().await.unwrap(), "fifo");
    assert_eq!(lab.placement("by-fifo").await.unwrap(), "i-big");
    lab.assert_no_failures().await.unwrap();
}

#[tokio::test]
async fn a_binding_outlives_the_server() {
    let mut lab = Lab::new(Database::sqlite().unwrap()).await.unwrap();
    lab.push_best_fit().unwrap();
    lab.bind("best-fit").unwrap();
    lab.server.process.kill9().unwrap();
    // Compiled policies are a cache: without it, the server makes them anew from what it stores.
    remove_compiled(&lab.server.data_dir);
    lab.server.restart().unwrap();
    lab.admin.await_agents(2).await.unwrap();
    assert_eq!(lab.placement("after-the-crash").await.unwrap(), "i-small");
    lab.assert_no_failures().await.unwrap();
}

fn remove_compiled(data_dir: &Path) {
    let compiled = data_dir.join("compiled");
    assert!(compiled.exists());
    std::fs::remove_dir_all(compiled).unwrap();
}
