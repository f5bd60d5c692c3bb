//! The end of sessions by their key pair's lifetime limit.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, KeyPair, USER, wait};
use serde_json::{Value, json};

/// A key pair of the seeded user under a policy of its own.
async fn keypair_with_lifetime(admin: &Client, seconds: u32) -> anyhow::Result<KeyPair> {
    let policy = format!("lifetime-{seconds}");
    let props = json!({
        "default_for_unspecified": "UNLIMITED", "total_resource_slots": "{}", "max_session_lifetime": seconds,
        "max_concurrent_sessions": 10, "max_containers_per_session": 1, "idle_timeout": 0,
        "max_vfolder_count": 1, "max_vfolder_size": 0, "allowed_vfolder_hosts": "{}",
    });
    let create = "mutation($n: String!, $p: CreateKeyPairResourcePolicyInput!) \
                  { create_keypair_resource_policy(name: $n, props: $p) { ok msg } }";
    let made = admin.gql(create, json!({"n": policy, "p": props})).await?;
    assert_eq!(made["create_keypair_resource_policy"]["ok"], true, "{made}");
    let create = "mutation($p: KeyPairInput!) \
                  { create_keypair(user_id: \"user@conf.test\", props: $p) { ok msg keypair { access_key secret_key } } }";
    let props = json!({"resource_policy": policy, "rate_limit": 100_000, "is_active": true, "is_admin": false});
    let made = admin.gql(create, json!({"p": props})).await?["create_keypair"].clone();
    assert_eq!(made["ok"], true, "{made}");
    let text = |key: &str| made["keypair"][key].as_str().unwrap().to_owned().leak();
    Ok(KeyPair { access: text("access_key"), secret: text("secret_key") })
}

async fn lifetimes(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("server.toml");
    std::fs::write(&config, "idle_interval_seconds = 0.2\n")?;
    let config = config.display().to_string();
    let server = Server::start_with(&database, &dir.path().join("server"), &[("QUARTERDECK_CONFIG", &config)])?;
    let _agent = server.agent("i-idle", "synthetic", "cpu=64,mem=64g", &dir.path().join("agent"))?;
    let admin = server.client(ADMIN);
    admin.await_agents(1).await?;

    let short = server.client(keypair_with_lifetime(&admin, 2).await?);
    let long = server.client(keypair_with_lifetime(&admin, 3600).await?);
    let unlimited = server.client(USER);
    let size = json!({"cpu": 1, "mem": "256m"});
    let mut ids = Vec::new();
    for (client, name) in [(&short, "short-lived"), (&long, "long-lived"), (&unlimited, "immortal")] {
        let id = client.enqueue(name, size.clone()).await?;
        client.await_status(&id, &["RUNNING", "TERMINATING", "TERMINATED"], Duration::from_secs(30)).await?;
        ids.push(id);
    }

    short.await_status(&ids[0], &["TERMINATED"], Duration::from_secs(30)).await?;
    let ended = admin.session(&ids[0], "status_info created_at terminated_at status_history").await?;
    assert_eq!(ended["status_info"], "idle-session-lifetime", "{ended}");
    let time = |key: &str| chrono::DateTime::parse_from_rfc3339(ended[key].as_str().unwrap()).unwrap();
    let lived = time("terminated_at") - time("created_at");
    assert!(lived.num_milliseconds() >= 2_000, "it was cut off after {lived}");
    let books = admin.occupancy().await?;
    assert_eq!(books["i-idle"]["cpu"], "2", "its resources are free again: {books:?}");

    // The one with time left says how much; the one without a limit is judged, and nothing is left to tell.
    let remaining = wait::until("a report on idleness", Duration::from_secs(20), || async {
        let info = long.get("/session/long-lived").await?.ok()?;
        let report = info["idleChecks"]["session_lifetime"].clone();
        assert_eq!(report["remaining_time_type"], "expire_after", "{info}");
        Ok(report["remaining"].as_f64())
    })
    .await?;
    assert!((3_000.0..=3_600.0).contains(&remaining), "{remaining} s are left");
    let graph = admin.session(&ids[1], "status idle_checks").await?;
    assert_eq!(graph["status"], "RUNNING");
    let checks: Value = serde_json::from_str(graph["idle_checks"].as_str().unwrap())?;
    assert!(checks["session_lifetime"]["remaining"].as_f64().is_some_and(|left| left <= remaining), "{checks}");

    let info = unlimited.get("/session/immortal").await?.ok()?;
    assert_eq!(info["status"], "RUNNING");
    assert_eq!(
        info["idleChecks"],
        json!({"session_lifetime": {"remaining": null, "remaining_time_type": "expire_after", "extra": null}})
    );

    assert_eq!(server.logged_errors()?, [""; 0]);
    // A limit that is lowered counts from the next round on.
    let lower = "mutation { modify_keypair_resource_policy(name: \"lifetime-3600\", props: {max_session_lifetime: 1}) { ok msg } }";
    assert_eq!(admin.gql(lower, json!({})).await?["modify_keypair_resource_policy"]["ok"], true);
    long.await_status(&ids[1], &["TERMINATED"], Duration::from_secs(30)).await?;
    unlimited.await_status(&ids[2], &["RUNNING"], Duration::ZERO).await?;
    Ok(())
}

#[tokio::test]
async fn a_session_ends_with_its_lifetime() {
    for database in Database::each().unwrap() {
        lifetimes(database).await.unwrap();
    }
}

#[tokio::test]
async fn an_absurd_interval_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.toml");
    std::fs::write(&config, "idle_interval_seconds = 0\n").unwrap();
    let config = config.display().to_string();
    let database = Database::sqlite().unwrap();
    let refused = Server::start_with(&database, &dir.path().join("server"), &[("QUARTERDECK_CONFIG", &config)]);
    let message = format!("{:#}", refused.unwrap_err());
    assert!(message.contains("idle_interval_seconds: 0 is not within"), "{message}");
}
