//! Who may do what: every route and every field, for everybody.

use std::collections::BTreeSet;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::wait::within;
use quarterdeck_tests::{ADMIN, DOMAIN_ADMIN, KeyPair, USER};
use serde_json::{Value, json};

use crate::routes::{self, Route, assert_sane, problem};

/// Roles that sign, in the order of the tables' columns.
const ROLES: [&str; 4] = ["user", "domain administrator", "superadmin", "monitor"];

struct World {
    server: Server,
    /// In the order of [`ROLES`].
    callers: [Client; 4],
    /// A key pair that nobody knows.
    nobody: Client,
    /// A key pair that was switched off.
    inactive: Client,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let admin = server.client(ADMIN);
    admin.gql("mutation { create_domain(name: \"elsewhere\", props: {}) { ok } }", json!({})).await.unwrap();
    let monitor = new_user(&admin, "monitor").await;
    let inactive = new_user(&admin, "user").await;
    let off = "mutation($k: String!) { modify_keypair(access_key: $k, props: {is_active: false}) { ok } }";
    let done = admin.gql(off, json!({"k": inactive.access})).await.unwrap();
    assert_eq!(done["modify_keypair"]["ok"], true);
    let callers = [USER, DOMAIN_ADMIN, ADMIN, monitor].map(|keys| server.client(keys));
    let nobody = server.client(KeyPair { access: "AKIANOBODYATALL00000", secret: "none" });
    let inactive = server.client(inactive);
    World { server, callers, nobody, inactive, _dir: dir }
}

/// Makes a user of a role; the key pair.
async fn new_user(admin: &Client, role: &str) -> KeyPair {
    let email = format!("{role}-of-the-matrix@conf.test");
    let props = json!({
        "username": email, "password": "matrix-pw", "need_password_change": false, "domain_name": "default", "role": role,
    });
    let create = "mutation($e: String!, $p: UserInput!) { create_user(email: $e, props: $p) { ok msg } }";
    let made = admin.gql(create, json!({"e": email, "p": props})).await.unwrap();
    assert_eq!(made["create_user"]["ok"], true, "{made}");
    let found = admin
        .gql("query($e: String) { keypairs(email: $e) { access_key secret_key } }", json!({"e": email}))
        .await
        .unwrap();
    let text = |name: &str| -> &'static str {
        Box::leak(found["keypairs"][0][name].as_str().unwrap().to_owned().into_boxed_str())
    };
    KeyPair { access: text("access_key"), secret: text("secret_key") }
}

/// Makes a project of the default domain; its id.
async fn new_project(admin: &Client, name: &str) -> String {
    let create = "mutation($n: String!) { create_group(name: $n, props: {domain_name: \"default\"}) { group { id } } }";
    let made = admin.gql(create, json!({"n": name})).await.unwrap();
    made["create_group"]["group"]["id"].as_str().unwrap().to_owned()
}

async fn call(client: &Client, route: &Route, what: &str) -> Answer {
    // Streams of events have no end: they are asked for with a parameter that is refused.
    let path = match route.path.starts_with("/events/") {
        true => format!("{}?scope=nothing", route.path),
        false => route.path.clone(),
    };
    within(what, client.send(route.method.clone(), &path, "application/json", Bytes::new())).await
}

/// Whether a column of [`ROLES`] may call.
fn admitted(access: char, role: usize) -> bool {
    match access {
        '-' | 'u' => true,
        'a' => role == 1 || role == 2,
        's' => role == 2,
        other => panic!("{other} is no access"),
    }
}

fn is_refused(answer: &Answer) -> bool {
    answer.status == StatusCode::UNAUTHORIZED && (problem(answer) == "auth-failed" || answer.bytes.is_empty())
}

#[tokio::test]
async fn every_route_is_there_for_those_who_may() {
    let world = world().await;
    for route in routes::all() {
        let what = format!("{} {}", route.method, route.path);
        for (who, client) in [("nobody", &world.nobody), ("a key pair that is off", &world.inactive)] {
            let answer = call(client, &route, &what).await;
            assert_eq!(is_refused(&answer), route.access != '-', "{what} by {who}: {answer:?}");
        }
        for (role, client) in world.callers.iter().enumerate() {
            let answer = call(client, &route, &what).await;
            assert_eq!(is_refused(&answer), !admitted(route.access, role), "{what} by a {}: {answer:?}", ROLES[role]);
            assert_sane(&what, &answer);
            assert_ne!(problem(&answer), "url-not-found", "{what} is not there");
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
        }
    }
    // What isn't documented isn't there.
    let admin = &world.callers[2];
    for (method, path, status) in [
        (Method::GET, "/auth/", StatusCode::NOT_FOUND),
        (Method::GET, "/v6/auth", StatusCode::NOT_FOUND),
        (Method::GET, "/folders/a/b/c", StatusCode::NOT_FOUND),
        (Method::DELETE, "/auth", StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, "/session", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = within(path, admin.send(method, path, "application/json", Bytes::new())).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_sane(path, &answer);
    }

    // Maintenance comes after who may, and before what is asked for.
    for (status, open, shut) in
        [("frozen", &['-', 'R'][..], "server-frozen"), ("terminated", &['-'], "service-unavailable")]
    {
        let body = Bytes::from(json!({"status": status}).to_string());
        let set = admin.send(Method::PUT, "/manager/status", "application/json", body).await.unwrap();
        assert_eq!(set.status, StatusCode::NO_CONTENT, "{set:?}");
        // What changes the status back is among them.
        for route in routes::all().iter().filter(|r| !(r.path == "/manager/status" && r.method == Method::PUT)) {
            let what = format!("{} {} while {status}", route.method, route.path);
            let answer = call(admin, route, &what).await;
            let is_shut = answer.status == StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!(is_shut, !open.contains(&route.gate), "{what}: {answer:?}");
            assert!(!is_shut || answer.bytes.is_empty() || problem(&answer) == shut, "{what}: {answer:?}");
            if route.access != '-' {
                assert!(is_refused(&call(&world.nobody, route, &what).await), "{what} by nobody");
            }
        }
    }
}

/// What a word of the table stands for.
fn sentence(word: &str) -> Option<&'static str> {
    Some(match word {
        "sa" => "Forbidden operation. (superadmin privilege required)",
        "no" => "Forbidden operation.",
        "low" => "Insufficient privilege.",
        "role" => "Missing or invalid API parameters. (Unknown client role)",
        "dom" => "No such domain.",
        _ => return None,
    })
}

fn assert_told(word: &str, body: &Value, what: &str) {
    let said = body["errors"][0]["message"].as_str();
    match (word, sentence(word)) {
        ("ok", _) => assert_eq!(said, None, "{what}"),
        ("gone", _) => {
            let role_told = ["sa", "no", "low", "role"].iter().any(|word| said == sentence(word));
            assert!(said.is_some() && !role_told, "{what}: {body}");
        }
        (_, Some(sentence)) => assert_eq!(said, Some(sentence), "{what}"),
        (other, None) => panic!("{other} is no word of the table"),
    }
}

/// Whether a role is at least `lowest`.
fn may_change(lowest: &str, role: usize) -> bool {
    match lowest {
        "admin" => role == 1 || role == 2,
        "superadmin" => role == 2,
        other => panic!("{other} is no role"),
    }
}

#[tokio::test]
async fn every_field_of_the_object_graph_is_there_for_those_who_may() {
    let world = world().await;
    let admin = &world.callers[2];
    let roots = admin
        .gql("{ __schema { queryType { fields { name } } mutationType { fields { name } } } }", json!({}))
        .await
        .unwrap();
    let names = |kind: &str| -> BTreeSet<String> {
        let fields = roots["__schema"][kind]["fields"].as_array().unwrap();
        fields.iter().map(|field| field["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut untold = names("queryType");
    untold.extend(names("mutationType"));
    let offered = untold.clone();

    let rows = include_str!("../../vectors/graphql_roles.txt").lines();
    for row in rows.filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let cells: Vec<&str> = row.trim_start_matches("! ").split(" | ").map(str::trim).collect();
        let field = cells[0];
        untold.remove(field);
        // What is missing is listed where the schema is compared with the contract.
        if !offered.contains(field) {
            continue;
        }
        let document = match row.starts_with("! ") {
            true => format!("mutation {{ {field}{} {{ ok msg }} }}", cells[1]),
            false => format!("query {{ {field}{} }}", cells[1]),
        };
        for (role, client) in world.callers.iter().enumerate() {
            let document = match document.contains("$PROJECT") {
                true => document.replace("$PROJECT", &new_project(admin, &format!("{field}-{role}")).await),
                false => document.clone(),
            };
            let what = format!("{document} by a {}", ROLES[role]);
            let answer = within(&what, client.post("/admin/gql", &json!({"query": document}))).await;
            assert_eq!(answer.status, StatusCode::OK, "{what}: {answer:?}");
            let body = &answer.body;
            if row.starts_with("! ") {
                let refused = body["data"][field]["msg"] == format!("no permission to execute {field}");
                assert_eq!(refused, !may_change(cells[2], role), "{what}: {body}");
                assert!(!refused || body["data"][field]["ok"] == false, "{what}: {body}");
            } else {
                assert_told(cells[2 + role], body, &what);
            }
            // The predecessor tells the same, as a problem.
            let legacy = within(&what, client.post("/admin/graphql", &json!({"query": document}))).await;
            let failed = body.get("errors").is_some();
            assert_eq!(
                legacy.status == StatusCode::BAD_REQUEST && problem(&legacy) == "graphql-error",
                failed,
                "{what}"
            );
        }
    }
    assert!(untold.is_empty(), "the table of roles doesn't tell of {untold:?}");
    world.server.assert_well().await.unwrap();
}
