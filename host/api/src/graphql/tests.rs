//! Asks the schema, on every database there is here.
#![allow(clippy::unwrap_used)]

mod statements;
mod work;

use std::sync::{Arc, OnceLock};

use quarterdeck_control::store::testing::{self, TestDb};
use quarterdeck_control::store::{Sql, Stmt};
use quarterdeck_control::{Control, Principal, Settings, manager, seed};
use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
use serde_json::{Value as Json, json};

use super::{Schema, schema};

const ADMIN: &str = "AKIACONFADMIN0000001";
const DOMAIN_ADMIN: &str = "AKIACONFDADMIN000002";
const USER: &str = "AKIACONFUSER00000003";
const PROJECT: &str = "9a000000-0000-4000-8000-000000000001";
const USER_ID: &str = "9b000000-0000-4000-8000-000000000003";
const SESSION: &str = "9d000000-0000-4000-8000-000000000001";
const EARLIER: &str = "9d000000-0000-4000-8000-000000000002";

/// One runtime for all tests: components are compiled once.
fn plugins() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let new = || Runtime::new(RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() }).unwrap();
    RUNTIME.get_or_init(new).clone()
}

struct World {
    control: Control,
    schema: Schema,
    /// Kept for as long as its database is in use.
    _db: TestDb,
}

async fn worlds(settings: Settings) -> Vec<World> {
    let seed: Json = serde_json::from_str(include_str!("../../../../tests/conformance/seed.json")).unwrap();
    let mut out = Vec::new();
    for db in testing::databases().await {
        seed::load(&db.store, &seed).await.unwrap();
        let control = Control::new(db.store.clone(), plugins(), settings.clone()).await.unwrap();
        control.identity().refresh().await.unwrap();
        out.push(World { schema: schema(control.clone()), control, _db: db });
    }
    out
}

impl World {
    async fn who(&self, access_key: &str) -> Arc<Principal> {
        Arc::clone(&self.control.identity().credential(access_key).await.unwrap().unwrap().principal)
    }

    /// The whole answer.
    async fn ask(&self, access_key: &str, query: &str, variables: Json) -> Json {
        let Json::Object(variables) = variables else { panic!("variables are an object") };
        let caller = self.who(access_key).await;
        let outcome = self.schema.execute(caller, query.to_owned(), None, variables).await;
        serde_json::to_value(&outcome).unwrap()
    }

    /// The data of an answer without errors.
    async fn data(&self, access_key: &str, query: &str, variables: Json) -> Json {
        let mut answer = self.ask(access_key, query, variables).await;
        assert!(answer.get("errors").is_none(), "{query}: {answer}");
        answer["data"].take()
    }

    /// The message of the first error of an answer; fields that failed are null.
    async fn fault(&self, access_key: &str, query: &str, variables: Json) -> String {
        let answer = self.ask(access_key, query, variables).await;
        let data = answer.get("data").and_then(Json::as_object).into_iter().flatten();
        for (name, value) in data {
            assert!(value.is_null(), "{query}: {name} is {value}");
        }
        answer["errors"][0]["message"].as_str().unwrap_or_else(|| panic!("{query}: {answer}")).to_owned()
    }

    async fn run(&self, statements: &[&str]) {
        let mut tx = self.control.store().begin().await.unwrap();
        for statement in statements {
            tx.execute(Stmt::assembled((*statement).to_owned())).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// An agent, and two sessions of the user: one of two kernels that waits and depends on one that has ended.
    async fn work(&self) {
        let row = |id: &str, name: &str, status: &str, size: u32, ended: &str| {
            format!(
                "INSERT INTO sessions (id, creation_id, name, session_type, cluster_mode, cluster_size, domain_name, \
                 project_id, user_id, access_key, scaling_group, status, status_history, created_at, status_changed, \
                 terminated_at) VALUES ('{id}', 'c-{name}', '{name}', 'INTERACTIVE', 'single-node', {size}, 'default', \
                 '{PROJECT}', '{USER_ID}', '{USER}', 'default', '{status}', '{{\"PENDING\":\"x\"}}', 1000000, 2000000, {ended})"
            )
        };
        let kernel = |id: u32, session: &str, role: &str, status: &str| {
            format!(
                "INSERT INTO kernels (id, session_id, cluster_role, cluster_idx, local_rank, cluster_hostname, image, \
                 architecture, registry, status, status_changed, created_at, requested_slots, occupied_slots, \
                 resource_opts, agent_id, agent_addr, container_id, last_stat) VALUES \
                 ('9e000000-0000-4000-8000-00000000000{id}', '{session}', '{role}', 1, 0, '{role}1', 'r/i:1', 'x86_64', \
                 'r', '{status}', 2000000, 1000000, '{{}}', '{{\"cpu\":\"1\",\"mem\":\"1048576\"}}', '{{\"shmem\":64}}', \
                 'i-one', '10.0.0.1:6001', 'box-{id}', '{{\"mem\":{{\"current\":\"77\",\"stats.max\":\"99\"}}}}')"
            )
        };
        self.run(&[
            "INSERT INTO agents (id, status, scaling_group, addr, architecture, version, runtime, first_contact, \
             last_seen, credential, host_secret, available_slots) VALUES ('i-one', 'ALIVE', 'default', 'a', 'x86_64', '1', \
             'process', 1, 1, 'c', 's', '{\"cpu\":\"4\",\"mem\":\"4294967296\"}')",
            "INSERT INTO agent_slots (agent_id, slot, capacity, occupied) VALUES ('i-one', 'cpu', 4000, 1500), \
             ('i-one', 'mem', 4294967296, 1073741824)",
            &row(SESSION, "waiting", "PENDING", 2, "NULL"),
            &row(EARLIER, "ended", "TERMINATED", 1, "2000000"),
            &kernel(1, SESSION, "main", "PENDING"),
            &kernel(2, SESSION, "sub", "PENDING"),
            &kernel(3, EARLIER, "main", "TERMINATED"),
            &format!("INSERT INTO session_dependencies (session_id, depends_on) VALUES ('{SESSION}', '{EARLIER}')"),
        ])
        .await;
    }
}

#[tokio::test]
async fn identity_is_shown_by_role() {
    for w in worlds(Settings::default()).await {
        let me = w
            .data(USER, "{ user { email is_active role groups { id name } allowed_client_ip created_at } }", json!({}))
            .await;
        assert_eq!(me["user"]["email"], "user@conf.test");
        assert_eq!(me["user"]["groups"], json!([{"id": PROJECT, "name": "default"}]));
        assert_eq!(me["user"]["allowed_client_ip"], Json::Null);
        assert!(me["user"]["created_at"].as_str().unwrap().ends_with("+00:00"));

        let query = "query($e: String) { user(email: $e) { uuid } }";
        assert_eq!(w.fault(USER, query, json!({"e": "admin@conf.test"})).await, "Forbidden operation.");
        assert_eq!(w.data(DOMAIN_ADMIN, query, json!({"e": "ghost@x"})).await["user"], Json::Null);
        let by_id = "query($i: ID) { user_from_uuid(user_id: $i) { email } }";
        assert_eq!(
            w.data(ADMIN, by_id, json!({"i": USER_ID.replace('-', "").to_uppercase()})).await["user_from_uuid"]["email"],
            "user@conf.test"
        );
        assert_eq!(w.data(USER, by_id, json!({"i": USER_ID})).await["user_from_uuid"]["email"], "user@conf.test");
        assert_eq!(w.fault(ADMIN, by_id, json!({"i": "x"})).await, "badly formed hexadecimal UUID string");

        assert_eq!(w.fault(USER, "{ users { email } }", json!({})).await, "Insufficient privilege.");
        assert_eq!(
            w.data(DOMAIN_ADMIN, "{ users(is_active: true) { email } }", json!({})).await["users"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
        assert_eq!(
            w.fault(ADMIN, "{ users(status: \"x\") { email } }", json!({})).await,
            "'x' is not a valid UserStatus"
        );
        let page = w
            .data(
                ADMIN,
                "query($f: String, $o: String) { user_list(limit: 1, offset: 1, filter: $f, order: $o) { total_count items { ... on User { email } } } }",
                json!({"f": "email like \"%admin@%\" & role in [\"ADMIN\", \"SUPERADMIN\"]", "o": "-email"}),
            )
            .await;
        assert_eq!(page["user_list"], json!({"total_count": 2, "items": [{"email": "admin@conf.test"}]}));
        let refused = "query($f: String, $o: String, $l: Int!) { user_list(limit: $l, offset: 0, filter: $f, order: $o) { total_count } }";
        assert!(
            w.fault(ADMIN, refused, json!({"l": 1, "f": "shoe == 1"}))
                .await
                .starts_with("Query filter parsing error: ")
        );
        assert!(
            w.fault(ADMIN, refused, json!({"l": 1, "o": "~email"})).await.starts_with("Query ordering parsing error: ")
        );
        assert_eq!(w.fault(ADMIN, refused, json!({"l": -1})).await, "LIMIT must not be negative");

        let key = "query($k: String) { keypair(access_key: $k) { access_key secret_key user_info { email } concurrency_used compute_sessions { id } } }";
        let own = w.data(USER, key, json!({})).await;
        assert_eq!(own["keypair"]["secret_key"], "confUserSecret00000000000000000000000003");
        assert_eq!(own["keypair"]["user_info"]["email"], "user@conf.test");
        assert_eq!(w.data(DOMAIN_ADMIN, key, json!({"k": USER})).await["keypair"]["secret_key"], Json::Null);
        assert!(w.data(ADMIN, key, json!({"k": USER})).await["keypair"]["secret_key"].is_string());
        assert_eq!(w.fault(USER, key, json!({"k": ADMIN})).await, "Forbidden operation.");
        let listed =
            w.data(USER, "{ keypair_list(limit: 10, offset: 0) { total_count } keypairs { id } }", json!({})).await;
        assert_eq!((&listed["keypair_list"]["total_count"], &listed["keypairs"][0]["id"]), (&json!(1), &json!(USER)));

        assert_eq!(w.fault(USER, "{ domain(name: \"other\") { name } }", json!({})).await, "No such domain.");
        assert_eq!(
            w.fault(DOMAIN_ADMIN, "{ domains { name } }", json!({})).await,
            "Forbidden operation. (superadmin privilege required)"
        );
        assert_eq!(
            w.data(USER, "{ domain { name scaling_groups } }", json!({})).await["domain"],
            json!({"name": "default", "scaling_groups": ["default"]})
        );
        assert_eq!(
            w.data(USER, "{ groups(domain_name: \"no\") { id } keypair_resource_policy { name } }", json!({})).await,
            json!({"groups": [{"id": PROJECT}], "keypair_resource_policy": {"name": "default"}})
        );
    }
}

#[tokio::test]
async fn queries_are_counted_before_they_are_shown() {
    for w in worlds(Settings::default()).await {
        let count = async || {
            w.data(USER, "{ keypair { num_queries } }", json!({})).await["keypair"]["num_queries"].as_i64().unwrap()
        };
        let before = count().await;
        for _ in 0..3 {
            w.control.identity().count_query(&USER.into());
        }
        assert_eq!(count().await, before + 3);
    }
}

#[tokio::test]
async fn a_known_document_is_neither_read_nor_checked_again() {
    for w in worlds(Settings::default()).await {
        let own = "{ keypair { rate_limit is_active key: access_key } }";
        let first = w.data(USER, own, json!({})).await;
        let before = w.control.store().statements();
        for _ in 0..3 {
            assert_eq!(serde_json::to_string(&w.data(USER, own, json!({})).await).unwrap(), first.to_string());
        }
        assert_eq!(w.control.store().statements(), before);
        assert_eq!(w.data(ADMIN, own, json!({})).await["keypair"]["key"], ADMIN, "each sees its own");

        // What isn't valid isn't from being asked again, nor are variables.
        let faults = [
            ("{ keypair { nonsense } }", json!({})),
            ("{ keypair(access_key: 1) { access_key } }", json!({})),
            ("query($k: String) { keypair(access_key: $k) { access_key } }", json!({"k": 1})),
        ];
        for (query, variables) in faults {
            let valid = w.ask(USER, query, json!({})).await;
            let once = w.ask(USER, query, variables.clone()).await;
            assert!(once.get("errors").is_some() && once.get("data").is_none(), "{query}: {once} {valid}");
            assert_eq!(w.ask(USER, query, variables).await, once);
        }
    }
}

#[tokio::test]
async fn sessions_of_a_key_pair_are_counted_anew() {
    for w in worlds(Settings::default()).await {
        let own = "{ keypair { ...counted } } fragment counted on KeyPair { concurrency_used }";
        let used = async || w.data(USER, own, json!({})).await["keypair"]["concurrency_used"].clone();
        assert_eq!(used().await, 0);
        w.run(&[&format!("INSERT INTO concurrency (access_key, sessions) VALUES ('{USER}', 3)")]).await;
        assert_eq!(used().await, 3);
    }
}

#[tokio::test]
async fn groups_are_shown_to_members_and_administrators() {
    for w in worlds(Settings::default()).await {
        let made = w
            .data(ADMIN, "mutation { create_group(name: \"mine\", props: {domain_name: \"default\"}) { ok msg group { id is_active } } }", json!({}))
            .await;
        assert_eq!((&made["create_group"]["ok"], &made["create_group"]["msg"]), (&json!(true), &json!("success")));
        let id = made["create_group"]["group"]["id"].as_str().unwrap();
        let group = "query($i: UUID!, $d: String) { group(id: $i, domain_name: $d) { name } }";
        assert_eq!(w.data(DOMAIN_ADMIN, group, json!({"i": id})).await["group"]["name"], "mine");
        assert_eq!(w.fault(USER, group, json!({"i": id})).await, "Insufficient privilege.");
        assert_eq!(w.fault(DOMAIN_ADMIN, group, json!({"i": id, "d": "other"})).await, "Insufficient privilege.");
        let unknown = json!({"i": "00000000-0000-4000-8000-00000000ffff"});
        assert_eq!(w.data(USER, group, unknown).await["group"], Json::Null);

        let modify =
            "mutation($g: UUID!, $p: ModifyGroupInput!) { modify_group(gid: $g, props: $p) { ok msg group { name } } }";
        let outcome = async |key: &str, gid: &str, props: Json| {
            w.data(key, modify, json!({"g": gid, "p": props})).await["modify_group"].take()
        };
        assert_eq!(outcome(ADMIN, id, json!({})).await["msg"], "nothing to update");
        assert_eq!(outcome(USER, id, json!({"name": "x"})).await["msg"], "no permission to execute modify_group");
        assert_eq!(
            outcome(ADMIN, "00000000-0000-4000-8000-00000000ffff", json!({"name": "x"})).await["msg"],
            "no such group"
        );
        let added =
            outcome(DOMAIN_ADMIN, id, json!({"user_update_mode": "add", "user_uuids": [USER_ID], "name": null})).await;
        assert_eq!(added, json!({"ok": true, "msg": "success", "group": null}));
        assert_eq!(w.data(USER, group, json!({"i": id})).await["group"]["name"], "mine");
        let refused =
            w.fault(ADMIN, modify, json!({"g": id, "p": {"user_update_mode": "swap", "user_uuids": [USER_ID]}})).await;
        assert_eq!(refused, "invalid user_update_mode");
        let refused = w
            .fault(
                ADMIN,
                "mutation { create_group(name: \"not a slug\", props: {domain_name: \"default\"}) { ok } }",
                json!({}),
            )
            .await;
        assert_eq!(refused, "invalid name format. slug format required.");
        let twice = w
            .data(
                ADMIN,
                "mutation { create_group(name: \"mine\", props: {domain_name: \"default\"}) { ok msg group { id } } }",
                json!({}),
            )
            .await;
        assert_eq!((&twice["create_group"]["ok"], &twice["create_group"]["group"]), (&json!(false), &Json::Null));
        assert!(twice["create_group"]["msg"].as_str().unwrap().starts_with("integrity error: "));
    }
}

#[tokio::test]
async fn changes_answer_as_the_contract_says() {
    for w in worlds(Settings::default()).await {
        let change = async |key: &str, change: &str| {
            let answer = w.data(key, &format!("mutation {{ x: {change} {{ ok msg }} }}"), json!({})).await;
            (answer["x"]["ok"].as_bool().unwrap(), answer["x"]["msg"].as_str().unwrap().to_owned())
        };
        let no = |msg: &str| (false, msg.to_owned());
        let done = (true, "success".to_owned());
        assert_eq!(
            change(ADMIN, "create_domain(name: \"has space\", props: {})").await,
            no("invalid name format. slug format required.")
        );
        assert_eq!(change(ADMIN, "create_domain(name: \"d\", props: {})").await, done);
        assert_eq!(
            change(ADMIN, "modify_domain(name: \"none\", props: {description: \"x\"})").await,
            no("no matching modifydomain")
        );
        assert_eq!(
            change(DOMAIN_ADMIN, "delete_domain(name: \"d\")").await,
            no("no permission to execute delete_domain")
        );
        assert_eq!(
            change(ADMIN, "purge_domain(name: \"default\")").await,
            no("unexpected error: There are users bound to the domain. Remove users first.")
        );
        assert_eq!(change(ADMIN, "purge_domain(name: \"d\")").await, done);
        assert_eq!(change(ADMIN, "delete_user(email: \"ghost@x\")").await, no("no matching deleteuser"));
        assert_eq!(change(ADMIN, "delete_keypair(access_key: \"none\")").await, no("no matching deletekeypair"));
        assert_eq!(
            change(ADMIN, "modify_agent(id: \"none\", props: {schedulable: true})").await,
            no("no matching modifyagent")
        );
        assert_eq!(
            change(ADMIN, "create_scaling_group(name: \"sg\", props: {driver: \"static\", scheduler: \"fifo\"})").await,
            done
        );
        assert_eq!(
            change(ADMIN, "disassociate_scaling_group_with_domain(domain: \"default\", scaling_group: \"sg\")").await,
            no("no matching disassociatescalinggroupwithdomain")
        );
        assert_eq!(
            change(ADMIN, "associate_scaling_group_with_domain(domain: \"default\", scaling_group: \"sg\")").await,
            done
        );
        assert!(
            change(ADMIN, "associate_scaling_group_with_domain(domain: \"none\", scaling_group: \"sg\")")
                .await
                .1
                .starts_with("integrity error: ")
        );
        assert_eq!(change(ADMIN, "modify_scaling_group(name: \"sg\", props: {})").await, no("nothing to update"));
        assert_eq!(change(ADMIN, "delete_scaling_group(name: \"sg\")").await, done);
        assert_eq!(change(ADMIN, "dealias_image(alias: \"none\")").await, no("No such alias"));
        assert_eq!(change(ADMIN, "clear_images(registry: \"none\")").await, (true, String::new()));
        assert_eq!(change(ADMIN, "modify_image(target: \"none\", props: {})").await, no("Image not found"));
        assert_eq!(
            change(ADMIN, "preload_image(references: [\"x\"], target_agents: [])").await,
            no("Not implemented.")
        );
        assert_eq!(change(ADMIN, "create_resource_preset(name: \"p\", props: {resource_slots: \"{\\\"cpu\\\": 1}\", shared_memory: \"64m\"})").await, done);
        assert_eq!(
            change(ADMIN, "delete_keypair_resource_policy(name: \"none\")").await,
            no("no matching deletekeypairresourcepolicy")
        );
        let policy = "create_keypair_resource_policy(name: \"p\", props: {default_for_unspecified: \"LIMITED\", total_resource_slots: \"{}\", \
                      max_concurrent_sessions: 1, max_containers_per_session: 1, idle_timeout: 0, max_vfolder_count: 1, max_vfolder_size: 1099511627776})";
        assert_eq!(change(ADMIN, policy).await, done);
        let stored = w
            .data(USER, "{ keypair_resource_policy(name: \"p\") { max_session_lifetime max_vfolder_size } }", json!({}))
            .await;
        assert_eq!(
            stored["keypair_resource_policy"],
            json!({"max_session_lifetime": 0, "max_vfolder_size": 1_099_511_627_776i64})
        );
        let preset = w.data(USER, "{ resource_preset(name: \"p\") { shared_memory } }", json!({})).await;
        assert_eq!(preset["resource_preset"]["shared_memory"], 64 << 20);

        let made = w
            .data(
                ADMIN,
                "mutation($p: UserInput!) { create_user(email: \"new@x\", props: $p) { ok msg user { username role status } } }",
                json!({"p": {"username": "", "password": "p", "need_password_change": false, "domain_name": "default", "group_ids": null,
                             "allowed_client_ip": ["10.0.0.0/8", "192.168.0.7"]}}),
            )
            .await;
        assert_eq!(made["create_user"]["user"], json!({"username": "new@x", "role": "user", "status": "active"}));
        let made = w
            .data(ADMIN, "mutation { create_keypair(user_id: \"new@x\", props: {resource_policy: \"default\", rate_limit: 7}) { ok keypair { secret_key user_id rate_limit } } }", json!({}))
            .await;
        assert_eq!(made["create_keypair"]["keypair"]["rate_limit"], 7);
        assert!(made["create_keypair"]["keypair"]["secret_key"].is_string());
        let wrong = "mutation($r: String) { modify_user(email: \"new@x\", props: {role: $r}) { ok } }";
        assert_eq!(w.fault(ADMIN, wrong, json!({"r": "boss"})).await, "'boss' is not a valid UserRole");

        manager::set_status(&w.control, manager::ManagerStatus::Frozen).await.unwrap();
        let frozen = w.fault(ADMIN, "mutation { delete_user(email: \"new@x\") { ok } }", json!({})).await;
        assert_eq!(frozen, "The server is frozen due to maintenance. Please try again later.");
        assert_eq!(w.data(ADMIN, "{ user(email: \"new@x\") { status } }", json!({})).await["user"]["status"], "active");
    }
}
