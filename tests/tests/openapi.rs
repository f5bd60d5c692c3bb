//! What a real server answers is what `/openapi.json` says it does.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use hyper::Method;
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER, guests, wait};
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
        self.check(&Method::POST, path, self.admin.post(path, body).await.unwrap())
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
