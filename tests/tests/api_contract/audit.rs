//! Who changed what: every change has its entry, whichever way it came, and nothing else has.

use hyper::Method;
use hyper::body::Bytes;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Server, quarterdeck};
use quarterdeck_tests::{ADMIN, DOMAIN_ADMIN, USER, guests};
use serde_json::{Value, json};

async fn entries(admin: &Client, query: &str) -> Vec<Value> {
    admin.get(&format!("/audit?{query}")).await.unwrap().ok().unwrap()["entries"].as_array().unwrap().clone()
}

/// The entries since number `after`, oldest first, as `via action target`.
async fn since(admin: &Client, after: i64) -> Vec<String> {
    let mut all = entries(admin, "limit=1000").await;
    all.retain(|e| e["id"].as_i64().unwrap() > after);
    all.reverse();
    let text = |e: &Value, name: &str| e[name].as_str().unwrap().to_owned();
    all.iter().map(|e| format!("{} {} {}", text(e, "via"), text(e, "action"), text(e, "target"))).collect()
}

async fn newest(admin: &Client) -> i64 {
    entries(admin, "limit=1").await.first().map_or(0, |e| e["id"].as_i64().unwrap())
}

/// What the newest entry says was changed, as `kind name: before → after`.
async fn last_changes(admin: &Client) -> Vec<String> {
    let entry = entries(admin, "limit=1").await.remove(0);
    let changes = entry["changes"].as_array().unwrap().clone();
    let line = |c: &Value| {
        format!("{} {}: {} → {}", c["kind"].as_str().unwrap(), c["name"].as_str().unwrap(), c["before"], c["after"])
    };
    changes.iter().map(line).collect()
}

/// Memberships, associations of scaling groups, and dotfiles: what is no row of its own to people.
async fn links_and_dotfiles_are_told(admin: &Client, user: &Client) {
    let gql = async |document: &str, variables: &Value| {
        let body = json!({"query": document, "variables": variables});
        let answer = admin.post("/admin/gql", &body).await.unwrap().ok().unwrap();
        assert!(!answer.to_string().contains("\"ok\":false") && answer["errors"].is_null(), "{document}: {answer}");
        answer["data"].clone()
    };
    let none = json!({});
    let person = gql("{ user(email: \"user@conf.test\") { uuid } }", &none).await;
    let created = "mutation { create_group(name: \"crew\", props: {domain_name: \"default\"}) { ok group { id } } }";
    let project = gql(created, &none).await["create_group"]["group"]["id"].clone();
    let ids = json!({"p": project, "u": [person["user"]["uuid"]], "k": USER.access});
    for (mode, sides) in [("add", ["null", "MEMBER"]), ("remove", ["MEMBER", "null"])] {
        let document = format!(
            "mutation($p: UUID!, $u: [String]) {{ modify_group(gid: $p, props: {{user_update_mode: \"{mode}\", user_uuids: $u}}) {{ ok }} }}"
        );
        gql(&document, &json!({"p": ids["p"], "u": ids["u"]})).await;
        let member = json!({"member": "user@conf.test", "project": "crew", "domain": "default"}).to_string();
        let [before, after] = sides.map(|side| side.replace("MEMBER", &member));
        assert_eq!(
            last_changes(admin).await,
            [format!("project-member user@conf.test crew default: {before} → {after}")],
            "{mode}"
        );
    }
    // A user's projects, set as a whole: what stays isn't told.
    let set = "mutation($u: [String]) { modify_user(email: \"new@conf.test\", props: {group_ids: $u}) { ok } }";
    gql(set, &json!({"u": [ids["p"]]})).await;
    let told = last_changes(admin).await;
    let joined = "project-member new@conf.test crew default: null → ";
    assert!(told.iter().any(|line| line.starts_with(joined)), "{told:?}");
    gql(set, &json!({"u": [ids["p"]]})).await;
    assert_eq!(last_changes(admin).await, Vec::<String>::new());

    for (with, kind, argument, declared, name, document) in [
        (
            "user_group",
            "scaling-group-project",
            "user_group: $p",
            "$p: UUID!",
            "crew default",
            json!({"scaling_group": "default", "project": "crew", "domain": "default"}),
        ),
        (
            "keypair",
            "scaling-group-keypair",
            "access_key: $k",
            "$k: String!",
            USER.access,
            json!({"scaling_group": "default", "access_key": USER.access}),
        ),
    ] {
        for (verb, before, after) in
            [("associate", json!(null), document.clone()), ("disassociate", document, json!(null))]
        {
            let document = format!(
                "mutation({declared}) {{ {verb}_scaling_group_with_{with}(scaling_group: \"default\", {argument}) {{ ok }} }}"
            );
            gql(&document, &ids).await;
            assert_eq!(last_changes(admin).await, [format!("{kind} default {name}: {before} → {after}")], "{verb}");
        }
    }
    let all = "mutation { disassociate_all_scaling_groups_with_domain(domain: \"audited\") { ok } }";
    gql(all, &none).await;
    let gone = json!({"scaling_group": "default", "domain_name": "audited"});
    assert_eq!(last_changes(admin).await, [format!("scaling-group-domain default audited: {gone} → null")]);

    let file = |permission: &str, data: &str| json!({"path": ".rc2", "permission": permission, "data": data});
    for (path, holder, owner, client) in [
        ("user-config", json!({}), format!("keypair {}", USER.access), user),
        ("group-config", json!({"group": "crew", "domain": "default"}), "project crew default".to_owned(), admin),
        ("domain-config", json!({"domain": "audited"}), "domain audited".to_owned(), admin),
    ] {
        let path = format!("/{path}/dotfiles");
        let with = |body: Value| {
            let mut body = body;
            body.as_object_mut().unwrap().extend(holder.as_object().unwrap().clone());
            Bytes::from(body.to_string())
        };
        let send = async |method: Method, body: Value| {
            client.send(method, &path, "application/json", with(body)).await.unwrap().ok().unwrap();
            last_changes(admin).await.remove(0)
        };
        let line = send(Method::POST, file("644", "one-secret")).await;
        let head = "null → {\"path\":\".rc2\",\"permission\":\"644\",\"size\":10,\"sha256\":\"";
        assert!(line.starts_with(&format!("dotfile .rc2 {owner}: {head}")), "{line}");
        let line = send(Method::PATCH, file("600", "two-secret")).await;
        assert!(line.starts_with(&format!("dotfile .rc2 {owner}: {{\"permission\":\"644\",\"sha256\":\"")), "{line}");
        assert!(line.contains("→ {\"permission\":\"600\",\"sha256\":\"") && !line.contains("size"), "{line}");
        let query: Vec<_> = holder
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| format!("&{name}={}", value.as_str().unwrap()))
            .collect();
        let removed = format!("{path}?path=.rc2{}", query.concat());
        client.delete(&removed).await.unwrap().ok().unwrap();
        let line = last_changes(admin).await.remove(0);
        assert!(line.starts_with(&format!("dotfile .rc2 {owner}: {{")) && line.ends_with("→ null"), "{line}");
    }
}

async fn changes_are_told(database: Database) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));

    // The seed came in by a command at the console.
    let seeded = entries(&admin, "via=cli").await;
    assert_eq!(seeded.len(), 1, "{seeded:?}");
    assert_eq!((&seeded[0]["action"], &seeded[0]["address"]), (&json!("quarterdeck db load"), &json!("console")));
    assert!(seeded[0]["target"].as_str().unwrap().ends_with("seed.json") && seeded[0]["actor"].is_string());

    // What looks, and what is refused, isn't told.
    let start = newest(&admin).await;
    for path in ["/auth", "/logs/error", "/config/docker-registries", "/folders", "/template/session"] {
        admin.get(path).await.unwrap();
    }
    let gql = async |client: &Client, document: &str| {
        client.post("/admin/gql", &json!({"query": document})).await.unwrap().ok().unwrap()
    };
    gql(&admin, "{ keypairs { num_queries } }").await;
    gql(&user, "mutation { delete_domain(name: \"default\") { ok } }").await;
    gql(&admin, "mutation { modify_domain(name: \"none\", props: {description: \"x\"}) { ok } }").await;
    admin.post("/config/get", &json!({"key": "config"})).await.unwrap().ok().unwrap();
    admin.post("/config/set", &json!({"key": ""})).await.unwrap();
    admin.delete("/session/none").await.unwrap();
    let unsigned = json!({"type": "keypair", "domain": "default", "username": "user@conf.test", "password": "wrong"});
    admin.post("/auth/authorize", &unsigned).await.unwrap();
    assert_eq!(since(&admin, start).await, Vec::<String>::new());

    // Everything that changes something is.
    let post = async |client: &Client, path: &str, body: Value| client.post(path, &body).await.unwrap().ok().unwrap();
    post(&admin, "/config/set", json!({"key": "site/motd", "value": "hello"})).await;
    post(&admin, "/config/set", json!({"key": "config/docker/registry/x/password", "value": "registry-secret"})).await;
    post(&admin, "/config/delete", json!({"key": "site", "prefix": true})).await;
    post(&admin, "/manager/announcement", json!({"enabled": true, "message": "soon"})).await;
    let signup = json!({"domain": "default", "email": "new@conf.test", "password": "signup-secret"});
    let pair = post(&admin, "/auth/signup", signup).await;
    post(&user, "/user-config/dotfiles", json!({"path": ".rc", "permission": "644", "data": "dotfile-secret"})).await;
    post(&user, "/user-config/bootstrap-script", json!({"script": "export KEY=script-secret"})).await;
    user.send(Method::PATCH, "/auth/ssh-keypair", "application/json", Bytes::new()).await.unwrap().ok().unwrap();
    gql(&admin, "mutation { modify_user(email: \"new@conf.test\", props: {password: \"new-secret\", full_name: \"N\"}) { ok } }").await;
    // One entry a mutation, whatever the number in a document; variables are told as what they stand for.
    let document = "mutation($d: String!) { a: create_domain(name: $d, props: {}) { ok } b: associate_scaling_group_with_domain(domain: $d, scaling_group: \"default\") { ok } }";
    admin.post("/admin/gql", &json!({"query": document, "variables": {"d": "audited"}})).await.unwrap().ok().unwrap();
    let id = user.enqueue("audited", json!({"cpu": "1", "mem": "512m"})).await.unwrap();
    user.delete("/session/audited").await.unwrap().ok().unwrap();
    let component = std::fs::read(guests::best_fit().unwrap()).unwrap();
    let pushed =
        admin.send(Method::POST, "/plugins", "application/wasm", component.into()).await.unwrap().ok().unwrap();
    let digest = pushed["revision"]["digest"].as_str().unwrap();
    let target = json!({"kind": "scaling-group", "name": "default"});
    post(&admin, "/plugins/bindings", json!({"plugin": "best-fit", "target": target})).await;
    assert_eq!(
        since(&admin, start).await,
        [
            "rest POST /config/set site/motd",
            "rest POST /config/set config/docker/registry/x/password",
            "rest POST /config/delete site",
            "rest POST /manager/announcement ",
            "rest POST /auth/signup new@conf.test",
            "rest POST /user-config/dotfiles .rc",
            "rest POST /user-config/bootstrap-script ",
            "rest PATCH /auth/ssh-keypair ",
            "graphql modify_user new@conf.test",
            "graphql create_domain audited",
            "graphql associate_scaling_group_with_domain domain audited, scaling_group default",
            "rest POST /session audited",
            "rest DELETE /session/{session} audited",
            &format!("rest POST /plugins {digest}"),
            "rest POST /plugins/bindings best-fit",
        ],
        "session {id}"
    );

    // Who, from where, what; and no secret.
    let by_user = entries(&admin, "actor=user%40conf.test&action=dotfiles").await;
    assert_eq!(by_user.len(), 1);
    assert_eq!(
        (&by_user[0]["access_key"], &by_user[0]["address"], &by_user[0]["details"]),
        (&json!(USER.access), &json!("127.0.0.1"), &json!({"path": ".rc", "permission": "644", "data": "***"}))
    );
    assert!(by_user[0]["request_id"].is_string());
    assert_eq!(entries(&admin, &format!("actor={}&target=.RC", USER.access)).await, by_user);
    // Values before and after.
    let modified = entries(&admin, "action=modify_user&target=new%40conf.test").await;
    assert_eq!(
        modified[0]["changes"],
        json!([{"kind": "user", "name": "new@conf.test",
            "before": {"password": "***", "full_name": ""}, "after": {"password": "***", "full_name": "N"}}])
    );
    let set = entries(&admin, "action=config%2Fset&target=registry%2Fx%2Fpassword").await;
    assert_eq!(set[0]["changes"][0]["after"]["value"], "***");
    let removed = entries(&admin, "action=config%2Fdelete").await;
    assert_eq!(removed[0]["changes"][0]["before"], json!({"name": "site/motd", "value": "hello"}));
    let bound = entries(&admin, "action=plugins%2Fbindings").await;
    let kinds: Vec<_> = bound[0]["changes"].as_array().unwrap().iter().map(|c| c["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"plugin-binding") && kinds.contains(&"scaling-group"), "{kinds:?}");
    let shown = server.cli(&["audit", "--action", "modify_user", "--changes"]).unwrap();
    assert!(shown.contains("full_name:  → N") && shown.contains("password: *** → ***"), "{shown}");

    links_and_dotfiles_are_told(&admin, &user).await;
    let shown = server.cli(&["audit", "--target", "crew", "--changes"]).unwrap();
    assert!(shown.contains("project-member user@conf.test crew default (new)"), "{shown}");

    let everything = json!(entries(&admin, "limit=1000").await).to_string();
    for secret in ["-secret", pair["secret_key"].as_str().unwrap(), "PRIVATE"] {
        assert!(!everything.contains(secret), "{secret}: {everything}");
    }

    // Pages, and refusals.
    let page = admin.get("/audit?limit=4").await.unwrap().ok().unwrap();
    let next = page["next"].as_i64().unwrap();
    let rest = admin.get(&format!("/audit?limit=1000&before={next}")).await.unwrap().ok().unwrap();
    assert!(rest["next"].is_null() && rest["entries"][0]["id"].as_i64().unwrap() < next);
    assert_eq!(admin.get("/audit?since=2999-01-01T00:00:00Z").await.unwrap().ok().unwrap()["entries"], json!([]));
    for bad in ["limit=0", "limit=1001", "since=yesterday", "via=magic", "colour=red", "before=x"] {
        assert_eq!(admin.get(&format!("/audit?{bad}")).await.unwrap().status, 400, "{bad}");
    }
    for client in [&user, &server.client(DOMAIN_ADMIN)] {
        assert_eq!(client.get("/audit").await.unwrap().status, 401);
    }

    // At the console.
    let table = server.cli(&["audit", "--actor", "user@conf.test", "--limit", "1000"]).unwrap();
    assert!(
        table.lines().next().unwrap().trim_start().starts_with("NUMBER")
            && table.contains("POST /user-config/dotfiles"),
        "{table}"
    );
    assert!(!table.contains("signup"), "{table}");
    let json: Value =
        serde_json::from_str(&server.cli(&["audit", "--via", "graphql", "--target", "AUDITED", "--json"]).unwrap())
            .unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), 3, "{json}");
    assert!(server.cli(&["audit", "--since", "then"]).is_err());
    let before = newest(&admin).await;
    quarterdeck(&["agent-token", "new", "--note", "rack 7", "--database", &database.url], &[]).unwrap();
    assert_eq!(since(&admin, before).await, ["cli quarterdeck agent-token new "]);
    // What was typed, and not how the command groups it.
    assert_eq!(entries(&admin, "limit=1").await[0]["details"], json!({"note": "rack 7"}));
    server.assert_well().await.unwrap();
}

#[tokio::test]
async fn changes_are_told_on_sqlite() {
    changes_are_told(Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn changes_are_told_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        changes_are_told(database).await;
    }
}
