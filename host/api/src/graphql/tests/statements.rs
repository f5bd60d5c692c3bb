//! Lists cost the same number of statements whatever their length.

use std::collections::BTreeMap;

use super::*;

/// The type below lists and non-nulls: kind and name.
fn inner(mut kind: &Json) -> (&str, &str) {
    while kind["ofType"].is_object() {
        kind = &kind["ofType"];
    }
    (kind["kind"].as_str().unwrap(), kind["name"].as_str().unwrap())
}

fn is_list(kind: &Json) -> bool {
    kind["kind"] == "LIST" || (kind["kind"] == "NON_NULL" && is_list(&kind["ofType"]))
}

/// Everything that a type shows, `depth` objects deep.
fn selection(types: &BTreeMap<&str, &Json>, name: &str, depth: usize) -> String {
    let mut words = Vec::new();
    for field in types[name]["fields"].as_array().unwrap() {
        let (kind, below) = inner(&field["type"]);
        let field = field["name"].as_str().unwrap();
        // An error for sessions that have ended.
        if field == "commit_status" {
            continue;
        }
        match kind {
            "OBJECT" if depth > 0 => words.push(format!("{field} {}", selection(types, below, depth - 1))),
            "OBJECT" => {}
            _ => words.push(field.to_owned()),
        }
    }
    format!("{{ {} }}", words.join(" "))
}

/// All queries that may yield many rows, with everything that hangs on those.
async fn lists(w: &World) -> Vec<(String, String)> {
    const KIND: &str = "kind name ofType { kind name ofType { kind name ofType { kind name } } }";
    let query = format!("{{ __schema {{ types {{ name fields {{ name args {{ name }} type {{ {KIND} }} }} }} }} }}");
    let document = w.data(ADMIN, &query, json!({})).await;
    let types: BTreeMap<&str, &Json> =
        document["__schema"]["types"].as_array().unwrap().iter().map(|t| (t["name"].as_str().unwrap(), t)).collect();
    let mut out = Vec::new();
    for field in types["Queries"]["fields"].as_array().unwrap() {
        let name = field["name"].as_str().unwrap();
        let has = |argument: &str| field["args"].as_array().unwrap().iter().any(|a| a["name"] == argument);
        let below = inner(&field["type"]).1;
        let arguments = match name {
            "compute_container_list" => format!("(limit: 100, offset: 0, session_id: \"{SESSION}\")"),
            "scaling_groups_for_domain" => "(domain: \"default\")".to_owned(),
            "scaling_groups_for_user_group" => format!("(user_group: \"{PROJECT}\")"),
            "scaling_groups_for_keypair" => format!("(access_key: \"{USER}\")"),
            "groups_by_name" => "(name: \"default\")".to_owned(),
            _ if has("limit") => "(limit: 100, offset: 0)".to_owned(),
            _ if is_list(&field["type"]) => String::new(),
            _ => continue,
        };
        out.push((name.to_owned(), format!("{{ {name}{arguments} {} }}", selection(&types, below, 3))));
    }
    out
}

/// How many statements each list costs, and how many rows it has.
async fn cost(w: &World, lists: &[(String, String)]) -> BTreeMap<String, (u64, usize)> {
    let mut out = BTreeMap::new();
    for (name, document) in lists {
        // The first time warms what is cached.
        w.data(ADMIN, document, json!({})).await;
        let before = w.control.store().statements();
        let data = w.data(ADMIN, document, json!({})).await;
        let spent = w.control.store().statements() - before;
        let rows = data[name].get("items").unwrap_or_else(|| &data[name]).as_array().map_or(0, Vec::len);
        out.insert(name.clone(), (spent, rows));
    }
    out
}

/// Fifty more of everything.
async fn crowd(w: &World) {
    let mut statements = Vec::new();
    for i in 10..60 {
        let id = |kind: &str| format!("{kind}000000-0000-4000-8000-0000000000{i}");
        let (user, project, session) = (id("8b"), id("8a"), id("8d"));
        statements.push(format!("INSERT INTO domains (name, created_at, modified_at) VALUES ('d{i}', 1, 1)"));
        statements.push(format!(
            "INSERT INTO projects (id, name, domain_name, created_at, modified_at) VALUES ('{project}', 'p{i}', 'default', 1, 1)"
        ));
        // A name that several projects have, one a domain.
        statements.push(format!(
            "INSERT INTO projects (id, name, domain_name, created_at, modified_at) VALUES ('{}', 'default', 'd{i}', 1, 1)",
            id("7a")
        ));
        statements.push(format!(
            "INSERT INTO users (id, username, email, status, created_at, modified_at, domain_name, role) \
             VALUES ('{user}', 'u{i}', 'u{i}@x', 'active', {i}, 1, 'default', 'user')"
        ));
        statements.push(format!(
            "INSERT INTO project_members (project_id, user_id) VALUES ('{project}', '{user}'), ('{PROJECT}', '{user}')"
        ));
        statements.push(format!(
            "INSERT INTO keypair_resource_policies (name, created_at, max_concurrent_sessions, max_containers_per_session, \
             max_vfolder_count, max_vfolder_size, idle_timeout) VALUES ('p{i}', 1, 1, 1, 1, 1, 1)"
        ));
        statements.push(format!(
            "INSERT INTO keypairs (access_key, secret_key, user_id, user_email, is_active, is_admin, resource_policy, \
             created_at, rate_limit) VALUES ('AK{i}', 's', '{user}', 'u{i}@x', TRUE, FALSE, 'p{i}', {i}, 1)"
        ));
        statements.push(format!(
            "INSERT INTO scaling_groups (name, created_at, driver, scheduler) VALUES ('g{i}', 1, 'static', 'fifo')"
        ));
        statements.push(format!("INSERT INTO scaling_group_domains (scaling_group, domain_name) VALUES ('g{i}', 'default'), ('g{i}', 'd{i}')"));
        statements.push(format!("INSERT INTO scaling_group_projects (scaling_group, project_id) VALUES ('g{i}', '{PROJECT}'), ('g{i}', '{project}')"));
        statements
            .push(format!("INSERT INTO scaling_group_keypairs (scaling_group, access_key) VALUES ('g{i}', '{USER}')"));
        statements.push(format!("INSERT INTO resource_presets (name, resource_slots) VALUES ('p{i}', '{{}}')"));
        statements.push(format!(
            "INSERT INTO images (id, name, image, tag, registry, architecture, config_digest, size_bytes, created_at) \
             VALUES ('{}', 'r/i{i}:1', 'i{i}', '1', 'r', 'x86_64', 'd', 1, 1)",
            id("8c")
        ));
        statements.push(format!("INSERT INTO image_aliases (alias, image_id) VALUES ('a{i}', '{}')", id("8c")));
        statements.push(format!(
            "INSERT INTO agents (id, status, scaling_group, addr, architecture, version, runtime, first_contact, last_seen, \
             credential, host_secret, available_slots) VALUES ('i-{i}', 'ALIVE', 'g{i}', 'a', 'x86_64', '1', 'process', 1, 1, \
             'c', 's', '{{\"cpu\":\"4\"}}')"
        ));
        statements.push(format!(
            "INSERT INTO agent_slots (agent_id, slot, capacity, occupied) VALUES ('i-{i}', 'cpu', 4000, 1000)"
        ));
        statements.push(format!(
            "INSERT INTO sessions (id, creation_id, name, session_type, cluster_mode, cluster_size, domain_name, project_id, \
             user_id, access_key, scaling_group, status, created_at, status_changed) VALUES ('{session}', 'c{i}', 's{i}', \
             'INTERACTIVE', 'single-node', 2, 'default', '{project}', '{user}', 'AK{i}', 'g{i}', 'RUNNING', {i}, 1)"
        ));
        for (of, role) in [(session.as_str(), "main"), (session.as_str(), "sub"), (SESSION, "more")] {
            statements.push(format!(
                "INSERT INTO kernels (id, session_id, cluster_role, cluster_idx, local_rank, cluster_hostname, image, \
                 architecture, registry, status, status_changed, created_at, requested_slots, occupied_slots, agent_id) VALUES \
                 ('{}', '{of}', '{role}', {i}, 0, '{role}{i}', 'r/i:1', 'x86_64', 'r', 'RUNNING', 1, 1, '{{}}', '{{\"cpu\":\"1\"}}', 'i-{i}')",
                id(match role {
                    "main" => "8e",
                    "sub" => "8f",
                    _ => "7f",
                })
            ));
        }
        statements.push(format!(
            "INSERT INTO session_dependencies (session_id, depends_on) VALUES ('{session}', '{EARLIER}')"
        ));
    }
    w.run(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn lists_cost_the_same_whatever_their_length() {
    for w in worlds(Settings::default()).await {
        w.work().await;
        let lists = lists(&w).await;
        assert!(lists.len() >= 20, "{lists:?}");
        let few = cost(&w, &lists).await;
        crowd(&w).await;
        let many = cost(&w, &lists).await;
        for (name, (spent, rows)) in &many {
            let (before, fewer) = few[name];
            assert_eq!(*spent, before, "{name}: statements for {rows} rows instead of {fewer}");
            // Folders and services have rows of their own where they are tested.
            let elsewhere = ["vfolder", "storage_volume", "endpoint", "routing"];
            let grown = *rows >= fewer + 50;
            assert!(grown || elsewhere.iter().any(|begin| name.starts_with(begin)), "{name}: {rows} rows");
        }
    }
}
