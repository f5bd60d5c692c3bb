//! What a real server answers is what `/openapi.json` says it does.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, guests, wait};
use serde_json::{Value, json};

struct Described {
    document: Value,
    admin: Client,
}

impl Described {
    /// Checks an answer against what is written about it: status, and each field.
    fn check(&self, method: &Method, path: &str, answer: Answer) -> Value {
        let operation = &self.document["paths"][path][method.as_str().to_ascii_lowercase()];
        assert!(operation.is_object(), "{method} {path} isn't described");
        let described = &operation["responses"][answer.status.as_str()];
        assert!(described.is_object(), "{method} {path} answers {}", answer.status);
        let value: Value = serde_json::from_slice(&answer.bytes).unwrap();
        let schema = described["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
        let schema = json!({"$ref": schema, "components": self.document["components"]});
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let problems: Vec<_> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(problems.is_empty(), "{method} {path}: {problems:#?} in {value:#}");
        value
    }

    async fn get(&self, path: &str, actual: &str) -> Value {
        self.check(&Method::GET, path, self.admin.get(actual).await.unwrap())
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        self.post_to(path, path, body).await
    }

    async fn post_to(&self, path: &str, actual: &str, body: &Value) -> Value {
        self.check(&Method::POST, path, self.admin.post(actual, body).await.unwrap())
    }
}

/// Lets each described object have the described fields only.
fn close(value: &mut Value) {
    if let Value::Object(map) = value {
        if map.get("properties").is_some_and(Value::is_object) {
            map.entry("additionalProperties").or_insert(Value::Bool(false));
        }
        map.values_mut().for_each(close);
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(close);
    }
}

/// Rounds of live and watching policies, and what is told about single sessions.
async fn rounds_and_questions(server: &Server, server_says: &Described, dir: &Path) {
    let admin = &server_says.admin;
    let _big = server.agent("i-big", "synthetic", "cpu=64,mem=64g", &dir.join("big")).unwrap();
    let _small = server.agent("i-small", "synthetic", "cpu=8,mem=8g", &dir.join("small")).unwrap();
    admin.await_agents(2).await.unwrap();
    let target = json!({"kind": "scaling-group", "name": "default"});
    let fifo = json!({"plugin": "fifo", "target": target, "config": {"skip_blocked": true}});
    admin.post("/plugins/bindings", &fifo).await.unwrap().ok().unwrap();
    let candidate = json!({"plugin": "best-fit", "target": target, "mode": "shadow", "config": {}});
    server_says.post("/plugins/bindings", &candidate).await;

    // One that is placed elsewhere by the candidate, and one that waits.
    let placed = admin.enqueue("described", json!({"cpu": 1, "mem": "128m"})).await.unwrap();
    admin.await_status(&placed, &["RUNNING"], Duration::from_secs(60)).await.unwrap();
    let waits = admin.enqueue("too-large", json!({"cpu": 100, "mem": "128m"})).await.unwrap();
    let round = wait::until("a recorded round that placed it", Duration::from_secs(60), || async {
        let page = server_says.get("/plugins/rounds", "/plugins/rounds?recorded=true").await;
        let rounds = page["rounds"].as_array().unwrap();
        Ok(rounds.iter().find(|r| r["placed"] == 1).map(|r| r["id"].as_i64().unwrap()))
    })
    .await
    .unwrap();
    let shown = server_says.get("/plugins/rounds/{id}", &format!("/plugins/rounds/{round}")).await;
    assert!(shown["recording"]["decisions"].as_array().is_some_and(|all| !all.is_empty()), "{shown}");
    let body = json!({"plugin": "best-fit", "config": {}});
    let path = format!("/plugins/rounds/{round}/replay");
    let replayed = server_says.post_to("/plugins/rounds/{id}/replay", &path, &body).await;
    assert_eq!(replayed["changes"].as_array().map(Vec::len), Some(1), "{replayed}");
    let body = json!({"left": null, "right": {"plugin": "lifo"}});
    server_says.post_to("/plugins/rounds/{id}/diff", &format!("/plugins/rounds/{round}/diff"), &body).await;

    let shadow = wait::until("the candidate to have seen it", Duration::from_secs(60), || async {
        let shadows = server_says.get("/plugins/shadow", "/plugins/shadow").await;
        let shadow = &shadows["shadows"][0];
        Ok((shadow["figures"]["elsewhere"] == 1).then(|| shadow["binding"].as_str().unwrap().to_owned()))
    })
    .await
    .unwrap();
    let runs = server_says.get("/plugins/shadow/{binding}", &format!("/plugins/shadow/{shadow}")).await;
    let differed = |run: &Value| run["details"]["sessions"][0]["candidate"]["agents"] == json!(["i-small"]);
    assert!(runs["runs"].as_array().unwrap().iter().any(differed), "{runs}");

    let why = wait::until("a round to have seen the one that waits", Duration::from_secs(60), || async {
        let why = server_says.get("/plugins/why/{session}", &format!("/plugins/why/{waits}")).await;
        Ok((!why["noted"]["retries"].is_null()).then_some(why))
    })
    .await
    .unwrap();
    assert_eq!((&why["reasons"][0]["code"], &why["agents"][0]["fits"]), (&json!("no-room"), &json!(false)), "{why}");
    let run = server_says.get("/plugins/why/{session}", &format!("/plugins/why/{placed}")).await;
    assert_eq!(run["status"], "RUNNING", "{run}");
    for cpu in [1, 100] {
        let request = json!({
            "name": "would-be", "image": PYTHON_IMAGE, "architecture": "x86_64",
            "config": {"resources": {"cpu": cpu, "mem": "128m"}, "scaling_group": "default"},
        });
        let answer = server_says.post("/plugins/dry-run", &request).await;
        assert_eq!(answer["would_start"], cpu == 1, "{answer}");
    }
    server_says.post("/plugins/promote", &json!({"plugin": "best-fit", "target": target})).await;
}

#[tokio::test]
async fn answers_are_as_they_are_described() {
    let database = Database::sqlite().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let watched = dir.path().join("watched");
    std::fs::create_dir(&watched).unwrap();
    let env = [("QUARTERDECK_PLUGIN_DIR", watched.to_str().unwrap())];
    let server = Server::start_with(&database, &dir.path().join("server"), &env).unwrap();
    let admin = server.client(ADMIN);
    let mut document = admin.get("/openapi.json").await.unwrap().ok().unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{document}");
    close(&mut document["components"]["schemas"]);
    let server_says = Described { document, admin };

    for path in ["/healthz", "/readyz", "/plugins", "/plugins/drops"] {
        server_says.get(path, path).await;
    }
    let component = std::fs::read(guests::best_fit().unwrap()).unwrap();
    for _ in ["new", "known"] {
        let push = server_says.admin.send(Method::POST, "/plugins", "application/wasm", component.clone().into());
        server_says.check(&Method::POST, "/plugins", push.await.unwrap());
    }
    let target = json!({"kind": "scaling-group", "name": "default"});
    let binding = json!({"plugin": "best-fit", "target": target, "config": {"keep_empty_agents_free": true}});
    server_says.post("/plugins/bindings", &binding).await;
    server_says.get("/plugins/{plugin}", "/plugins/best-fit").await;
    server_says.get("/plugins", "/plugins").await;
    server_says.post("/plugins/rollback", &json!({"target": target})).await;
    server_says.get("/plugins/{plugin}", "/plugins/fifo").await;

    std::fs::write(watched.join("best.toml"), "scaling_group = \"default\"\n").unwrap();
    std::fs::write(watched.join("best.wasm"), &component).unwrap();
    wait::until("the file to come in", Duration::from_secs(60), || async {
        let drops = server_says.get("/plugins/drops", "/plugins/drops").await;
        Ok((drops["drops"][0]["state"] == "ok").then_some(()))
    })
    .await
    .unwrap();

    rounds_and_questions(&server, &server_says, dir.path()).await;

    // Refusals, too.
    let refused = server.client(USER).get("/plugins").await.unwrap();
    assert_eq!(refused.status, 401);
    let mut problem: Value = serde_json::from_slice(&refused.bytes).unwrap();
    let schema = json!({"$ref": "#/components/schemas/Problem", "components": server_says.document["components"]});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    assert!(validator.is_valid(&problem), "{problem}");
    problem["colour"] = json!("red");
    assert!(!validator.is_valid(&problem), "what isn't described is noticed");
}
