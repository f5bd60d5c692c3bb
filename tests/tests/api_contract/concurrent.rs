//! Lists are whole whatever is written meanwhile.

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, scale};
use serde_json::{Value, json};

/// Lists with what hangs on their rows; rows of most of them come and go meanwhile.
const LISTS: &[&str] = &[
    "user_list(limit: 100, offset: 0) { total_count items { email groups { name } } }",
    "keypair_list(limit: 100, offset: 0) { total_count items { access_key num_queries compute_sessions { name } } }",
    "groups { name scaling_groups }",
    "domains { name scaling_groups }",
    "scaling_groups { name scheduler_opts }",
    "resource_presets { name resource_slots }",
    "keypair_resource_policies { name }",
    "images { name aliases }",
    "compute_session_list(limit: 100, offset: 0) { total_count items { name containers { status } idle_checks } }",
    "legacy_compute_session_list(limit: 100, offset: 0) { total_count items { sess_id } }",
];

async fn change(admin: &Client, document: &str) -> Value {
    let answer = admin.gql(&format!("mutation {{ {document} }}"), json!({})).await.unwrap();
    for payload in answer.as_object().unwrap().values() {
        assert_eq!(payload["ok"], true, "{document}: {answer}");
    }
    answer
}

/// Makes and removes one of everything.
async fn come_and_go(admin: &Client, user: &Client, turn: usize) {
    let name = format!("busy{turn}");
    let made = change(
        admin,
        &format!(
            "a: create_domain(name: \"{name}\", props: {{}}) {{ ok msg }} \
             b: create_scaling_group(name: \"{name}\", props: {{driver: \"static\", scheduler: \"fifo\"}}) {{ ok msg }} \
             c: associate_scaling_group_with_domain(domain: \"{name}\", scaling_group: \"{name}\") {{ ok msg }} \
             d: create_group(name: \"{name}\", props: {{domain_name: \"default\"}}) {{ ok msg group {{ id }} }} \
             e: create_resource_preset(name: \"{name}\", props: {{resource_slots: \"{{}}\"}}) {{ ok msg }} \
             f: alias_image(alias: \"{name}\", target: \"{PYTHON_IMAGE}\") {{ ok msg }}"
        ),
    )
    .await;
    let project = made["d"]["group"]["id"].as_str().unwrap();
    let session = format!("busy-{turn}");
    user.enqueue(&session, json!({"cpu": "1", "mem": "512m"})).await.unwrap();
    user.delete(&format!("/session/{session}")).await.unwrap().ok().unwrap();
    change(
        admin,
        &format!(
            "a: dealias_image(alias: \"{name}\") {{ ok msg }} \
             b: delete_resource_preset(name: \"{name}\") {{ ok msg }} \
             c: purge_group(gid: \"{project}\") {{ ok msg }} \
             d: purge_domain(name: \"{name}\") {{ ok msg }} \
             e: delete_scaling_group(name: \"{name}\") {{ ok msg }}"
        ),
    )
    .await;
}

async fn lists_are_whole(database: Database) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    let (writer, reader) = (admin.clone(), admin);
    let writing = tokio::spawn(async move {
        for turn in 0..scale(12, 400) {
            come_and_go(&writer, &user, turn).await;
        }
    });
    let document = format!("{{ {} }}", LISTS.join(" "));
    let mut read = 0;
    while !writing.is_finished() || read == 0 {
        reader.gql(&document, json!({})).await.unwrap();
        read += 1;
    }
    writing.await.unwrap();
    server.assert_well().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_whole_on_sqlite() {
    lists_are_whole(Database::sqlite().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_whole_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        lists_are_whole(database).await;
    }
}
