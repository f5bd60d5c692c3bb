//! The configuration tree: what is set on one host counts on every host, and what makes no sense is refused by name.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER, wait};
use serde_json::{Value, json};

use crate::routes::problem;

async fn set(admin: &Client, key: &str, value: Value) -> Answer {
    admin.post("/config/set", &json!({"key": key, "value": value})).await.unwrap()
}

#[tokio::test]
async fn values_that_make_no_sense_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let admin = server.client(ADMIN);
    for (key, value) in [
        ("config/auth/max_password_age", json!("soon")),
        ("config", json!({"docker": {"registry": {"cr.example.org/x": {"": "http://cr", "type": "floppy"}}}})),
        ("manager/status", json!("asleep")),
        ("config/resource_slots/cuda.device", json!("colour")),
    ] {
        let answer = set(&admin, key, value).await;
        assert_eq!((answer.status.as_u16(), problem(&answer)), (400, "invalid-api-params"), "{key}: {answer:?}");
        let (name, fault) = answer.body["data"].as_object().unwrap().iter().next().unwrap();
        assert!(name.starts_with(key) && fault.is_string(), "{key}: {answer:?}");
        assert!(answer.body["msg"].as_str().unwrap().starts_with(&format!("{name}: ")), "{answer:?}");
    }
    let tree = admin.post("/config/get", &json!({"key": "config/docker", "prefix": true})).await.unwrap().ok().unwrap();
    assert!(tree["result"]["registry"].get("cr.example.org/x").is_none(), "nothing is half-written: {tree}");
    // What nobody knows may hold anything.
    for (key, value) in [("site/motd", json!("asleep")), ("config/auth/motto", json!({"a": {"b": 5}}))] {
        assert_eq!(set(&admin, key, value).await.ok().unwrap(), json!({"result": "ok"}));
    }
    server.assert_well().await.unwrap();
}

/// How somebody who logs in is answered.
async fn login(server: &Server, password: &str) -> Answer {
    let body = json!({"type": "keypair", "domain": "default", "username": "user@conf.test", "password": password});
    server
        .client(USER)
        .send(Method::POST, "/auth/authorize", "application/json", Bytes::from(body.to_string()))
        .await
        .unwrap()
}

/// Changes on `one` and waits until `other` acts accordingly.
async fn a_change_reaches(one: &Server, other: &Server) {
    let soon = Duration::from_secs(10);
    let admin = one.client(ADMIN);
    let announce = json!({"enabled": true, "message": "maintenance at noon"});
    admin.post("/manager/announcement", &announce).await.unwrap().ok().unwrap();
    wait::until("the announcement", soon, || async {
        let told = other.client(USER).get("/manager/announcement").await?.ok()?;
        Ok((told["message"] == "maintenance at noon").then_some(()))
    })
    .await
    .unwrap();
    set(&admin, "config/resource_slots/tpu.device", json!("count")).await.ok().unwrap();
    wait::until("the slot type", soon, || async {
        let slots = other.client(USER).get("/config/resource-slots").await?.ok()?;
        Ok((slots["tpu.device"] == "count").then_some(()))
    })
    .await
    .unwrap();
    set(&admin, "config/auth/max_password_age", json!("0")).await.ok().unwrap();
    wait::until("passwords to be too old", soon, || async {
        let answer = login(other, "conf-user-pw").await;
        Ok((problem(&answer) == "password-expired").then_some(()))
    })
    .await
    .unwrap();
    admin.post("/config/delete", &json!({"key": "config/auth/max_password_age"})).await.unwrap().ok().unwrap();
    wait::until("passwords to be good again", soon, || async {
        Ok(login(other, "conf-user-pw").await.status.is_success().then_some(()))
    })
    .await
    .unwrap();
    // Who guesses on and on has to wait, and is told for how long.
    set(&admin, "config/auth/login-attempts", json!("2")).await.ok().unwrap();
    wait::until("guesses to be too many", soon, || async {
        let answer = login(other, "wrong").await;
        Ok((problem(&answer) == "rate-limit-exceeded").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(login(other, "conf-user-pw").await.status.as_u16(), 429);
    admin
        .send(Method::PUT, "/manager/status", "application/json", Bytes::from_static(br#"{"status": "frozen"}"#))
        .await
        .unwrap();
    wait::until("maintenance", soon, || async {
        Ok((problem(&other.client(USER).get("/acl").await?) == "server-frozen").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_change_takes_effect_on_every_host_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let only = Server::start(&database, &dir.path().join("only")).unwrap();
    a_change_reaches(&only, &only).await;
    if let Some(database) = Database::postgres().unwrap() {
        let one = Server::start(&database, &dir.path().join("one")).unwrap();
        let other = Server::again(&database, &dir.path().join("other")).unwrap();
        a_change_reaches(&one, &other).await;
    }
}
