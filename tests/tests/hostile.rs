//! Hostile components against live servers: what can't get in is told why; what got in and does harm costs nobody else
//! anything, and the admin sees why it serves no more.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Agent, Server};
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, wait};
use serde_json::{Value, json};

#[allow(dead_code, reason = "the plugin host's tests hold it against more")]
#[path = "../../host/plugin/tests/hostile/suite/mod.rs"]
mod suite;

use suite::{Ends, case};

/// Configuration under which components in disguise drop it.
const ARMED: &str = r#"{"armed": true}"#;

struct Lab {
    server: Server,
    user: Client,
    _agent: Agent,
    dir: tempfile::TempDir,
    _database: Database,
}

impl Lab {
    async fn new() -> anyhow::Result<Self> {
        let (database, dir) = (Database::sqlite()?, tempfile::tempdir()?);
        let config = dir.path().join("server.toml");
        std::fs::write(&config, "idle_interval_seconds = 0.2\n")?;
        let config = config.display().to_string();
        let server = Server::start_with(&database, &dir.path().join("server"), &[("QUARTERDECK_CONFIG", &config)])?;
        let agent = server.agent("i-hostile", "synthetic", "cpu=4096,mem=4096g", &dir.path().join("agent"))?;
        server.client(ADMIN).await_agents(1).await?;
        let user = server.client(USER);
        Ok(Self { server, user, _agent: agent, dir, _database: database })
    }

    fn file(&self, name: &str, content: &[u8]) -> anyhow::Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    fn push(&self, name: &str, wasm: &[u8]) -> anyhow::Result<String> {
        self.server.cli(&["plugin", "push", &self.file(&format!("{name}.wasm"), wasm)?])
    }

    /// Pushes a component in disguise and binds it so that it drops it.
    fn arm(&self, name: &str, target: &[&str]) -> anyhow::Result<()> {
        self.push(name, &case(name).in_disguise().unwrap())?;
        let config = self.file("armed.json", ARMED.as_bytes())?;
        self.server.cli(&[&["plugin", "bind", name, "--config", config.as_str()], target].concat())?;
        Ok(())
    }

    async fn session_runs(&self, name: &str) -> anyhow::Result<String> {
        let id = self.user.enqueue(name, json!({"cpu": 1, "mem": "128m"})).await?;
        self.user.await_status(&id, &["RUNNING"], Duration::from_secs(60)).await?;
        Ok(id)
    }

    /// The plugin was suspended, and `plugin inspect` says why.
    async fn suspended(&self, name: &str) -> anyhow::Result<()> {
        let shown = wait::until(&format!("{name} to be suspended"), Duration::from_secs(60), || async {
            let shown: Value = serde_json::from_str(&self.server.cli(&["plugin", "inspect", "--json", name])?)?;
            Ok((shown["revisions"][0]["status"] == "suspended").then_some(shown))
        })
        .await?;
        let reason = case(name).reason;
        assert!(shown.to_string().contains(reason), "{name}: {reason:?} is not in {shown}");
        Ok(())
    }

    fn still_alive(&self) {
        assert!(Path::new(&format!("/proc/{}/exe", self.server.process.pid())).exists());
    }
}

#[tokio::test]
async fn what_is_unfit_is_refused_with_the_reason() {
    let lab = Lab::new().await.unwrap();
    // Those that take a compiler long, and large ones, are for the plugin host's own tests, where limits are small.
    let heavy = ["compile-bomb", "doubling-instances", "too-large"];
    let cases = suite::all();
    let refused = cases.iter().filter(|case| matches!(case.ends, Ends::Verified | Ends::Compiled | Ends::SelfTested));
    let mut count = 0;
    for case in refused.filter(|case| !heavy.contains(&case.name)) {
        let refusal = lab.push(case.name, &case.wasm()).expect_err(case.name).to_string();
        assert!(refusal.contains("(400)") && refusal.contains(case.reason), "{}: {refusal}", case.name);
        count += 1;
        if count % 10 == 0 {
            lab.session_runs(&format!("meanwhile-{count}")).await.unwrap();
        }
    }
    assert!(count >= 40, "{count}");
    assert_eq!(lab.server.logged_errors().unwrap(), [""; 0]);
}

#[tokio::test]
async fn sessions_start_whatever_a_scheduler_does() {
    let lab = Lab::new().await.unwrap();
    let names = [
        "traps-in-open",
        "traps-in-settle",
        "recurses",
        "loops-in-propose",
        "allocates-4-gib",
        "leaks-rounds",
        "amplifies",
        "nonsense-agent",
        "repeats-itself",
        "text-is-no-text",
    ];
    for name in names {
        lab.arm(name, &["--scaling-group", "default"]).unwrap();
        // As many rounds as it takes until it is suspended.
        for number in 0..5 {
            let session = format!("{name}-{number}");
            lab.session_runs(&session).await.unwrap();
            // Its owner may have so many at a time.
            lab.user.delete(&format!("/session/{session}")).await.unwrap().ok().unwrap();
        }
        lab.suspended(name).await.unwrap();
    }
    lab.still_alive();
}

async fn ask(client: &Client, name: &str) -> anyhow::Result<quarterdeck_tests::client::Answer> {
    let body = json!({
        "name": name, "image": PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true,
        "config": {"resources": {"cpu": 1, "mem": "128m"}, "scaling_group": "default"},
    });
    client.post("/session", &body).await
}

#[tokio::test]
async fn a_broken_hook_fails_closed_or_open_as_it_was_bound() {
    let lab = Lab::new().await.unwrap();
    for name in ["traps-in-handle", "loops-in-handle", "endless-denial", "handle-fails", "exits"] {
        // Open: the request goes through.
        lab.arm(name, &["--everywhere", "--fail-open"]).unwrap();
        lab.session_runs(&format!("{name}-open")).await.unwrap();
        lab.server.cli(&["plugin", "unbind", name, "--everywhere"]).unwrap();
        // Closed: it doesn't, before and after the hook was suspended; and the user isn't told a plugin's internals.
        lab.arm(name, &["--everywhere"]).unwrap();
        for number in 0..6 {
            let answer = ask(&lab.user, &format!("{name}-{number}")).await.unwrap();
            assert_eq!(answer.status.as_u16(), 400, "{name}: {answer:?}");
            assert_eq!(answer.body["type"], "https://api.backend.ai/probs/rejected-by-hook", "{name}: {answer:?}");
            assert!(!answer.body.to_string().contains(case(name).reason), "{name}: {answer:?}");
        }
        lab.suspended(name).await.unwrap();
        lab.server.cli(&["plugin", "unbind", name, "--everywhere"]).unwrap();
        lab.session_runs(&format!("{name}-after")).await.unwrap();
    }
    // A patch of what no hook may touch is a fault of the hook: nobody becomes a superadmin by it.
    lab.push("unknown-patch", &case("unknown-patch").wasm()).unwrap();
    lab.server.cli(&["plugin", "bind", "unknown-patch", "--everywhere"]).unwrap();
    let answer = ask(&lab.user, "patched").await.unwrap();
    assert_eq!(answer.status.as_u16(), 400, "{answer:?}");
    lab.still_alive();
}

#[tokio::test]
async fn sessions_count_as_active_where_an_idle_checker_fails() {
    let lab = Lab::new().await.unwrap();
    let ids = [lab.session_runs("first").await.unwrap(), lab.session_runs("second").await.unwrap()];
    for name in ["traps-in-check", "recurses-in-check", "nan-is-left", "findings-on-strangers", "report-is-deep"] {
        lab.arm(name, &["--everywhere"]).unwrap();
        lab.suspended(name).await.unwrap();
        for id in &ids {
            lab.user.await_status(id, &["RUNNING"], Duration::ZERO).await.unwrap();
        }
        lab.server.cli(&["plugin", "unbind", name, "--everywhere"]).unwrap();
    }

    // One that hangs keeps no other from its work.
    lab.arm("loops-in-check", &["--everywhere"]).unwrap();
    let lower =
        "mutation { modify_keypair_resource_policy(name: \"default\", props: {max_session_lifetime: 1}) { ok msg } }";
    let done = lab.server.client(ADMIN).gql(lower, json!({})).await.unwrap();
    assert_eq!(done["modify_keypair_resource_policy"]["ok"], true, "{done}");
    for id in &ids {
        lab.user.await_status(id, &["TERMINATED"], Duration::from_secs(60)).await.unwrap();
        let ended = lab.user.session(id, "status_info").await.unwrap();
        assert_eq!(ended["status_info"], "idle-session-lifetime", "{ended}");
    }
    lab.still_alive();
}
