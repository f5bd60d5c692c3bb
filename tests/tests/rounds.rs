//! The flight recorder on a live server, by the commands that admins use.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Agent, Server};
use quarterdeck_tests::{ADMIN, USER, guests, wait};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

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
        let big = server.agent("i-big", "synthetic", "cpu=64,mem=64g", &dir.path().join("big"))?;
        let small = server.agent("i-small", "synthetic", "cpu=32,mem=32g", &dir.path().join("small"))?;
        let admin = server.client(ADMIN);
        admin.await_agents(2).await?;
        Ok(Self { server, admin, _agents: [big, small], dir, _database: database })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.server.cli(&[args, &["--json"]].concat())?)?)
    }

    fn refused(&self, args: &[&str]) -> String {
        match self.server.cli(args) {
            Ok(output) => panic!("{args:?} went through: {output}"),
            Err(error) => error.to_string(),
        }
    }

    /// Starts a session and waits for the recording of the round that placed it: the round's id.
    async fn placed(&self, name: &str) -> anyhow::Result<i64> {
        let id = self.admin.enqueue(name, json!({"cpu": 1, "mem": "128m"})).await?;
        self.admin.await_status(&id, &["RUNNING"], PATIENCE).await?;
        wait::until("the recording of the round", PATIENCE, || async {
            for round in self.rounds(&[])? {
                if round["recorded"] != true || round["placed"] == 0 {
                    continue;
                }
                let shown = self.json(&["round", "show", &round["id"].to_string()])?;
                let decisions = shown["recording"]["decisions"].as_array().unwrap();
                if decisions.iter().any(|d| d["session"] == id.as_str() && d["fate"] == "placed") {
                    return Ok(round["id"].as_i64());
                }
            }
            Ok(None)
        })
        .await
    }

    fn rounds(&self, filter: &[&str]) -> anyhow::Result<Vec<Value>> {
        Ok(self.json(&[&["round", "list"], filter].concat())?["rounds"].as_array().unwrap().clone())
    }
}

async fn recorded(database: Database) -> anyhow::Result<()> {
    let lab = Lab::new(database).await?;
    let round = lab.placed("first-session").await?;
    let id = round.to_string();

    // Shown with names.
    let shown = lab.json(&["round", "show", &id])?;
    assert_eq!((&shown["plugin"], &shown["outcome"]), (&json!("fifo"), &json!("ok")));
    let decision = shown["recording"]["decisions"].as_array().unwrap().iter().find(|d| d["fate"] == "placed").unwrap();
    assert_eq!((&decision["name"], &decision["agents"]), (&json!("first-session"), &json!(["i-big"])));
    assert_eq!(decision["owner"], ADMIN.access);
    assert!(shown["recording"]["timings"]["commit_us"].as_u64().unwrap() > 0, "{shown}");
    let table = lab.server.cli(&["round", "show", &id])?;
    assert!(table.contains("first-session") && table.contains("placed on i-big"), "{table}");
    assert!(lab.refused(&["round", "show", "999999999"]).contains("No such round"));

    // Listed by page and by filter.
    lab.placed("second-session").await?;
    let all = lab.rounds(&[])?;
    let page = lab.json(&["round", "list", "--limit", "1"])?;
    assert_eq!(page["rounds"].as_array().unwrap()[0], all[0]);
    let next = page["next"].to_string();
    assert_eq!(lab.rounds(&["--limit", "1", "--before", &next])?[0], all[1]);
    assert_eq!(lab.rounds(&["--plugin", "fifo", "--scaling-group", "default", "--outcome", "ok"])?.len(), all.len());
    for nothing in [
        ["--plugin", "nobody"],
        ["--scaling-group", "nowhere"],
        ["--outcome", "trap"],
        ["--since", "2100-01-01T00:00:00Z"],
    ] {
        assert_eq!(lab.rounds(&nothing)?, Vec::<Value>::new(), "{nothing:?}");
    }
    assert!(lab.server.cli(&["round", "list"])?.contains("fifo@"));
    assert!(lab.refused(&["round", "list", "--since", "yesterday"]).contains("RFC 3339"));
    // For superadmins only.
    assert!(lab.server.cli_as(USER, &["round", "list"]).is_err());

    // The same policy decides the same, another one otherwise.
    let same = lab.json(&["round", "replay", &id])?;
    assert_eq!((&same["same"], &same["changes"]), (&json!(true), &json!([])), "{same}");
    assert_eq!(lab.json(&["round", "replay", &id, "fifo"])?["same"], true);
    lab.server.cli(&["plugin", "push", guests::best_fit()?.to_str().unwrap()])?;
    let other = lab.json(&["round", "replay", &id, "best-fit"])?;
    assert_eq!((&other["same"], &other["counts"]["moved"]), (&json!(false), &json!(1)), "{other}");
    let change = &other["changes"][0];
    assert_eq!(change["name"], "first-session");
    assert_eq!((&change["left"]["agents"], &change["right"]["agents"]), (&json!(["i-big"]), &json!(["i-small"])));
    assert!(other["right"]["replay"]["fuel_used"].as_u64().unwrap() > 0);
    let twice = lab.json(&["round", "replay", &id, "best-fit"])?;
    assert_eq!(twice["right"]["replay"]["fuel_used"], other["right"]["replay"]["fuel_used"]);
    let table = lab.server.cli(&["round", "diff", &id, "best-fit", "recorded"])?;
    assert!(table.contains("placed on i-small") && table.contains("placed on i-big"), "{table}");
    let config = lab.path("keep.json");
    std::fs::write(&config, r#"{"keep_empty_agents_free": true}"#)?;
    let configs = lab.json(&["round", "diff", &id, "best-fit", "best-fit", "--left-config", &config])?;
    assert_eq!(configs["left"]["plugin"]["config"], r#"{"keep_empty_agents_free":true}"#);
    assert_eq!(configs["right"]["plugin"]["config"], "{}");
    assert!(lab.refused(&["round", "replay", &id, "network_timeout"]).contains("is no scheduler"));
    assert!(lab.refused(&["round", "replay", &id, "unheard-of"]).contains("No such plugin"));
    std::fs::write(&config, r#"{"keep_empty_agents_free": "perhaps"}"#)?;
    assert!(lab.refused(&["round", "replay", &id, "best-fit", "--config", &config]).contains("keep_empty_agents_free"));
    let starved = lab.json(&["round", "replay", &id, "best-fit", "--fuel", "1000"])?;
    assert!(starved["right"]["replay"]["outcome"].as_str().unwrap().starts_with("fuel: "), "{starved}");

    exported(&lab, &id)?;

    // A policy that serves is replayed from the server without a difference.
    lab.server.cli(&["plugin", "bind", "best-fit", "--scaling-group", "default"])?;
    lab.placed("third-session").await?;
    let best_fit = guests::best_fit()?.display().to_string();
    let offline =
        lab.json(&["plugin", "replay", &best_fit, "--server", "--plugin", "best-fit", "--fail-on-difference"])?;
    assert!(offline["summary"]["rounds"].as_u64().unwrap() > 0);
    assert_eq!((&offline["summary"]["different"], &offline["summary"]["failed"]), (&json!(0), &json!(0)), "{offline}");

    // The ring is as small as it is told to be.
    lab.admin.post("/config/set", &json!({"key": "config/rounds/keep", "value": "2"})).await?.ok()?;
    for name in ["fourth-session", "fifth-session"] {
        lab.placed(name).await?;
    }
    assert_eq!(lab.rounds(&[])?.len(), 2);
    lab.server.assert_well().await
}

/// Recordings leave the server, with and without names, and are replayed without it.
fn exported(lab: &Lab, id: &str) -> anyhow::Result<()> {
    let (plain, packed, hidden) = (lab.path("rounds.jsonl"), lab.path("rounds.zst"), lab.path("hidden.jsonl"));
    lab.server.cli(&["round", "export", "--output", &plain])?;
    lab.server.cli(&["round", "export", "--output", &packed])?;
    lab.server.cli(&["round", "export", "--output", &hidden, "--pseudonymise"])?;
    let text = std::fs::read_to_string(&plain)?;
    assert!(text.contains("first-session") && text.contains("i-big"), "{text}");
    let lines = text.lines().count();
    assert_eq!(lab.server.cli(&["round", "export", id])?.lines().count(), 1);
    assert_eq!(lab.server.cli(&["round", "export", id, id])?.lines().count(), 2);
    assert!(lab.refused(&["round", "export", id, "999999999"]).contains("No such round"));
    let text = std::fs::read_to_string(&hidden)?;
    assert_eq!(text.lines().count(), lines);
    for name in ["first-session", "second-session", "i-big", "i-small", ADMIN.access, "conf-registry", "\"default\""] {
        assert!(!text.contains(name), "{name} survived: {text}");
    }
    lab.server.cli(&["round", "export", "--output", &lab.path("again.jsonl"), "--pseudonymise"])?;
    assert_eq!(std::fs::read_to_string(lab.path("again.jsonl"))?, text, "pseudonyms are stable");

    let best_fit = guests::best_fit()?.display().to_string();
    let mut summaries = Vec::new();
    for file in [&plain, &packed, &hidden] {
        let replayed = lab.json(&["plugin", "replay", &best_fit, "--rounds", file])?;
        assert_eq!(replayed["summary"]["rounds"], lines);
        summaries.push(replayed["summary"].clone());
    }
    assert_eq!(summaries[0], summaries[1]);
    assert_eq!(summaries[0], summaries[2], "names don't matter to decisions");
    assert!(summaries[0]["different"].as_u64().unwrap() >= 1, "{}", summaries[0]);
    assert!(lab.server.cli(&["plugin", "replay", &best_fit, "--rounds", &plain])?.contains("first-session"));
    assert!(lab.server.cli(&["plugin", "replay", &best_fit, "--rounds", &plain, "--fail-on-difference"]).is_err());
    let old = lab.path("old.jsonl");
    std::fs::write(&old, "{\"format\": 1}\n")?;
    assert!(lab.refused(&["plugin", "replay", &best_fit, "--rounds", &old]).contains("has format 1"));
    Ok(())
}

#[tokio::test]
async fn rounds_are_recorded_shown_exported_and_replayed() {
    for database in Database::each().unwrap() {
        recorded(database).await.unwrap();
    }
}

/// A round in which the policy failed is kept with what it did until then, and with who decided instead.
async fn failing() -> anyhow::Result<()> {
    let lab = Lab::new(Database::sqlite()?).await?;
    let config = lab.path("config.json");
    std::fs::write(&config, json!({"misbehave": "trap"}).to_string())?;
    lab.server.cli(&["plugin", "push", guests::hostile_scheduler()?.to_str().unwrap()])?;
    lab.server.cli(&["plugin", "bind", "hostile", "--scaling-group", "default", "--config", &config])?;
    let id = lab.placed("in-spite-of-it").await?;
    let round = id.to_string();
    let failed = lab.rounds(&["--outcome", "trap"])?;
    assert!(failed.iter().any(|r| r["id"] == id), "{failed:?}");
    assert_eq!(lab.rounds(&["--outcome", "failed"])?, failed);
    let shown = lab.json(&["round", "show", &round])?;
    assert_eq!((&shown["plugin"], &shown["recording"]["fallback"]["name"]), (&json!("hostile"), &json!("fifo")));
    // It fails again, and fifo decides again what it decided.
    let again = lab.json(&["round", "replay", &round])?;
    assert!(again["right"]["replay"]["outcome"].as_str().unwrap().starts_with("trap: "), "{again}");
    assert_eq!(again["counts"]["only_left"], 1);
    let config = lab.path("skip.json");
    std::fs::write(&config, r#"{"skip_blocked": true}"#)?;
    assert_eq!(lab.json(&["round", "replay", &round, "fifo", "--config", &config])?["same"], true);
    Ok(())
}

#[tokio::test]
async fn rounds_of_failing_policies_are_recorded_too() {
    failing().await.unwrap();
}
