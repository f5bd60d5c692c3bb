//! A candidate watches a live group, is promoted, and rolled back: by the commands that admins use.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Agent, Server};
use quarterdeck_tests::{ADMIN, USER, guests, wait};
use serde_json::{Value, json};

struct Lab {
    server: Server,
    admin: Client,
    _agents: [Agent; 2],
    dir: tempfile::TempDir,
    _database: Database,
}

const GROUP: [&str; 2] = ["--scaling-group", "default"];

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

    fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        self.server.cli(&[&["plugin"], args].concat())
    }

    fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.cli(&[args, &["--json"]].concat())?)?)
    }

    fn refused(&self, args: &[&str]) -> String {
        self.cli(args).unwrap_err().to_string()
    }

    /// Where a new session is placed.
    async fn placement(&self, name: &str) -> anyhow::Result<String> {
        let id = self.admin.enqueue(name, json!({"cpu": 1, "mem": "128m"})).await?;
        self.admin.await_status(&id, &["RUNNING"], Duration::from_secs(30)).await?;
        let row = self.admin.session(&id, "containers { agent }").await?;
        Ok(row["containers"][0]["agent"].as_str().unwrap().to_owned())
    }

    /// The figures of the only shadow, once they are as wanted.
    async fn figures(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait::until(what, Duration::from_secs(30), || async {
            let shadow = self.json(&["shadow"])?["shadows"][0].clone();
            if wanted(&shadow) { Ok(Some(shadow)) } else { anyhow::bail!("{shadow}") }
        })
        .await
    }
}

async fn life(database: Database) -> anyhow::Result<()> {
    let lab = Lab::new(database).await?;
    lab.cli(&["push", &guests::best_fit()?.display().to_string()])?;
    let config = lab.dir.path().join("config.json");
    std::fs::write(&config, r#"{"keep_empty_agents_free": false}"#)?;
    let bind = ["bind", "best-fit", GROUP[0], GROUP[1], "--shadow", "--config", &config.display().to_string()];
    let bound = lab.json(&bind)?;
    assert_eq!((&bound["now"]["name"], &bound["before"]), (&json!("best-fit"), &Value::Null));
    let refusal = lab.refused(&["promote", "best-fit", GROUP[0], GROUP[1]]);
    assert!(refusal.contains("(400)") && refusal.contains("not been shown anything"), "{refusal}");

    // The live policy decides, and what the other would have done is kept.
    for name in ["shadowed-1", "shadowed-2", "shadowed-3"] {
        assert_eq!(lab.placement(name).await?, "i-big");
    }
    let shadow = lab.figures("three rounds to be seen", |s| s["figures"]["elsewhere"] == 3).await?;
    let figures = &shadow["figures"];
    assert_eq!((&figures["failed"], &figures["same"]), (&json!(0), &json!(0)), "{shadow}");
    assert_eq!((&figures["only_live"], &figures["only_candidate"]), (&json!(0), &json!(0)), "{shadow}");
    assert!(figures["latency_ratio"].as_f64().unwrap() > 0.0 && shadow["rested"].is_null(), "{shadow}");
    let shown = lab.json(&["shadow", "best-fit", "--limit", "2"])?;
    assert_eq!(shown["runs"].as_array().unwrap().len(), 2);
    let session = &shown["runs"][0]["details"]["sessions"][0];
    assert_eq!(session["live"], json!({"fate": "placed", "agents": ["i-big"]}), "{shown}");
    assert_eq!(session["candidate"], json!({"fate": "placed", "agents": ["i-small"]}), "{shown}");
    let next = shown["next"].to_string();
    let rest = lab.json(&["shadow", "best-fit", "--before", &next])?;
    assert_eq!((rest["runs"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
    let text = lab.cli(&["shadow", "best-fit"])?;
    assert!(text.contains("scaling-group:default") && text.contains("i-small"), "{text}");

    // Promoted it decides, with its configuration; rolled back, what decided before.
    let promoted = lab.json(&["promote", "best-fit", GROUP[0], GROUP[1]])?;
    assert_eq!(promoted["now"]["name"], "best-fit");
    assert!(promoted["before"].as_str().unwrap().starts_with("fifo@"), "{promoted}");
    assert_eq!(lab.json(&["shadow"])?, json!({"shadows": []}));
    assert_eq!(lab.placement("by-best-fit").await?, "i-small");
    let history = lab.json(&["inspect", "best-fit"])?["history"][0].clone();
    assert_eq!((&history["action"], &history["config"]["keep_empty_agents_free"]), (&json!("promote"), &json!(false)));
    assert!(history["reason"].as_str().unwrap().starts_with("shown "), "{history}");
    lab.cli(&["rollback", GROUP[0], GROUP[1]])?;
    assert_eq!(lab.placement("by-fifo-again").await?, "i-big");

    // Ended, it sees nothing more.
    lab.cli(&["bind", "best-fit", GROUP[0], GROUP[1], "--shadow"])?;
    lab.cli(&["unbind", "best-fit", GROUP[0], GROUP[1], "--shadow"])?;
    assert_eq!(lab.json(&["shadow"])?, json!({"shadows": []}));
    assert!(lab.refused(&["unbind", "best-fit", GROUP[0], GROUP[1], "--shadow"]).contains("(404)"));
    assert!(lab.refused(&["promote", "best-fit", GROUP[0], GROUP[1]]).contains("(404)"));
    for args in [&["shadow"][..], &["promote", "best-fit", GROUP[0], GROUP[1]]] {
        let refusal = lab.server.cli_as(USER, &[&["plugin"], args].concat()).unwrap_err().to_string();
        assert!(refusal.contains("(401)"), "{refusal}");
    }
    assert_eq!(lab.server.logged_errors()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_candidate_watches_is_promoted_and_rolled_back() {
    for database in Database::each().unwrap() {
        life(database).await.unwrap();
    }
}

/// Whatever a candidate does, the live policy doesn't notice: it is counted, and put to rest.
#[tokio::test]
async fn a_failing_candidate_is_put_to_rest() {
    for misbehaviour in ["trap", "nonsense"] {
        let lab = Lab::new(Database::sqlite().unwrap()).await.unwrap();
        let hostile = guests::hostile_scheduler().unwrap().display().to_string();
        let pushed = lab.json(&["push", &hostile]).unwrap();
        let name = pushed["revision"]["name"].as_str().unwrap().to_owned();
        let config = lab.dir.path().join("config.json");
        std::fs::write(&config, json!({"misbehave": misbehaviour}).to_string()).unwrap();
        let config = config.display().to_string();
        lab.cli(&["bind", &name, GROUP[0], GROUP[1], "--shadow", "--config", &config]).unwrap();
        for number in 0..6 {
            assert_eq!(lab.placement(&format!("undisturbed-{number}")).await.unwrap(), "i-big");
        }
        let shadow = lab.figures("the candidate to rest", |s| !s["rested"].is_null()).await.unwrap();
        assert_eq!(shadow["figures"]["failed"], 5, "{shadow}");
        assert!(shadow["rested"]["reason"].as_str().unwrap().starts_with("failed 5 times in a row"), "{shadow}");
        let runs = lab.json(&["shadow", &name]).unwrap();
        assert_eq!(runs["runs"].as_array().unwrap().len(), 5, "{runs}");
        let refusal = lab.refused(&["promote", &name, GROUP[0], GROUP[1]]);
        assert!(refusal.contains("put to rest"), "{refusal}");
        let revision = lab.json(&["list"]).unwrap()["plugins"].as_array().unwrap().clone();
        let revision = revision.iter().find(|p| p["name"] == name.as_str()).unwrap();
        assert_eq!((&revision["status"], &revision["failures"]), (&json!("ready"), &json!(0)), "nobody is suspended");
        assert_eq!(lab.server.logged_errors().unwrap(), [""; 0]);
    }
}
