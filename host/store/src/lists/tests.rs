#![allow(clippy::unwrap_used)]

use quarterdeck_model::{AccessKey, AgentStatus, SessionStatus, UserStatus};

use super::*;
use crate::listing::Listing;
use crate::testing::databases;
use crate::{Sql, Stmt, Store};

const P1: &str = "00000000-0000-4000-8000-0000000000a1";
const P2: &str = "00000000-0000-4000-8000-0000000000a2";
const U1: &str = "00000000-0000-4000-8000-0000000000b1";
const U2: &str = "00000000-0000-4000-8000-0000000000b2";
const S1: &str = "00000000-0000-4000-8000-0000000000c1";
const S2: &str = "00000000-0000-4000-8000-0000000000c2";

/// Two domains, two projects, two users with a key pair each, a scaling group with two agents, and two sessions of the
/// first user: one of two kernels that waits, one that ended and depends on it.
async fn seed(store: &Store) {
    let mut tx = store.begin().await.unwrap();
    let statements: Vec<String> = [
        "INSERT INTO domains (name, created_at, modified_at, allowed_docker_registries) VALUES ('d1', 1, 1, '[\"r\"]'), \
         ('d2', 2, 2, '[]')"
            .to_owned(),
        format!("INSERT INTO projects (id, name, domain_name, created_at, modified_at) VALUES ('{P1}', 'alpha', 'd1', 1, 1), ('{P2}', 'beta', 'd2', 2, 2)"),
        "INSERT INTO keypair_resource_policies (name, created_at, max_concurrent_sessions, max_containers_per_session, \
         max_vfolder_count, max_vfolder_size, idle_timeout) VALUES ('default', 1, 5, 1, 10, 0, 0)"
            .to_owned(),
        format!("INSERT INTO users (id, username, email, full_name, status, created_at, modified_at, domain_name, role, allowed_client_ip) VALUES \
                 ('{U1}', 'ada', 'ada@x', 'Ada L', 'active', 1000000, 1, 'd1', 'superadmin', '[\"10.0.0.0/8\"]'), \
                 ('{U2}', NULL, 'Bob@x', 'bob_m', 'before-verification', 2000000, 2, 'd2', 'user', NULL)"),
        format!("INSERT INTO project_members (project_id, user_id) VALUES ('{P1}', '{U1}'), ('{P2}', '{U2}'), ('{P2}', '{U1}')"),
        format!("INSERT INTO keypairs (access_key, secret_key, user_id, user_email, is_active, is_admin, resource_policy, created_at, rate_limit) VALUES \
                 ('AK1', 's1', '{U1}', 'ada@x', TRUE, TRUE, 'default', 1, 10), ('AK2', 's2', '{U2}', 'Bob@x', FALSE, FALSE, 'default', 2, 20)"),
        "INSERT INTO concurrency (access_key, sessions) VALUES ('AK1', 3)".to_owned(),
        "INSERT INTO scaling_groups (name, created_at, driver, scheduler) VALUES ('g', 1, 'static', 'fifo'), ('h', 1, 'static', 'fifo')".to_owned(),
        "INSERT INTO scaling_group_domains (scaling_group, domain_name) VALUES ('g', 'd1')".to_owned(),
        format!("INSERT INTO scaling_group_projects (scaling_group, project_id) VALUES ('h', '{P1}')"),
        "INSERT INTO agents (id, status, scaling_group, addr, architecture, version, runtime, first_contact, last_seen, credential, host_secret) VALUES \
         ('i-b', 'ALIVE', 'g', 'a', 'x86_64', '1', 'process', 1, 1, 'c', 's'), ('i-a', 'LOST', 'g', 'a', 'x86_64', '1', 'process', 2, 2, 'd', 't')"
            .to_owned(),
        format!("INSERT INTO sessions (id, creation_id, name, session_type, cluster_mode, cluster_size, domain_name, project_id, user_id, access_key, scaling_group, status, created_at, status_changed, terminated_at) VALUES \
                 ('{S1}', 'x', 'one', 'INTERACTIVE', 'single-node', 2, 'd1', '{P1}', '{U1}', 'AK1', 'g', 'PENDING', 10, 10, NULL), \
                 ('{S2}', 'y', 'two', 'BATCH', 'multi-node', 1, 'd1', '{P1}', '{U1}', 'AK1', 'g', 'TERMINATED', 5, 20, 20)"),
        format!("INSERT INTO kernels (id, session_id, cluster_role, cluster_idx, local_rank, cluster_hostname, image, architecture, registry, status, status_changed, created_at, requested_slots, occupied_slots, last_stat) VALUES \
                 ('00000000-0000-4000-8000-0000000000d1', '{S1}', 'main', 1, 0, 'main1', 'r/i:1', 'x86_64', 'r', 'PENDING', 10, 10, '{{}}', '{{\"cpu\":\"1\"}}', NULL), \
                 ('00000000-0000-4000-8000-0000000000d2', '{S1}', 'sub', 1, 1, 'sub1', 'r/i:1', 'x86_64', 'r', 'PENDING', 10, 10, '{{}}', '{{\"cpu\":\"1\"}}', NULL), \
                 ('00000000-0000-4000-8000-0000000000d3', '{S2}', 'main', 1, 0, 'main1', 'r/i:1', 'x86_64', 'r', 'TERMINATED', 20, 5, '{{}}', '{{}}', '{{\"cpu_used\":{{}}}}')"),
        format!("INSERT INTO session_dependencies (session_id, depends_on) VALUES ('{S2}', '{S1}')"),
    ]
    .into();
    for statement in statements {
        tx.execute(Stmt::assembled(statement)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn emails(store: &Store, filter: &str, order: &str) -> Vec<String> {
    let listing = Listing::parse(users::FIELDS, Some(filter), Some(order), 10, 0).unwrap();
    let page = users::page(&mut store.reader(), &users::Scope::default(), &listing).await.unwrap();
    assert_eq!(page.total, i64::try_from(page.items.len()).unwrap());
    page.items.into_iter().map(|u| u.email).collect()
}

#[tokio::test]
async fn filters_mean_the_same_on_every_database() {
    for db in databases().await {
        seed(&db.store).await;
        for (filter, expected) in [
            ("email like \"%@x\"", vec!["Bob@x", "ada@x"]),
            ("email like \"bob%\"", vec![]),
            ("email ilike \"bob%\"", vec!["Bob@x"]),
            ("full_name like \"bob\\_%\"", vec!["Bob@x"]),
            ("full_name like \"Ada\\_%\"", vec![]),
            ("full_name contains \"b_m\"", vec!["Bob@x"]),
            ("email like \"x\\\\\"", vec![]),
            ("email ilike \"x\\\\\"", vec![]),
            ("username is null", vec!["Bob@x"]),
            ("username == null | email == \"ada@x\"", vec!["Bob@x", "ada@x"]),
            ("is_active == true", vec!["ada@x"]),
            ("is_active is false", vec!["Bob@x"]),
            ("status == \"BEFORE_VERIFICATION\"", vec!["Bob@x"]),
            ("status in [\"ACTIVE\", \"DELETED\"]", vec!["ada@x"]),
            ("role < \"USER\"", vec!["ada@x"]),
            ("created_at >= \"1970-01-01T00:00:02+00:00\"", vec!["Bob@x"]),
            ("created_at <= \"1970-01-01T00:00:01Z\"", vec!["ada@x"]),
            ("totp_activated_at is null", vec!["Bob@x", "ada@x"]),
            ("uuid == \"{00000000-0000-4000-8000-0000000000B1}\"", vec!["ada@x"]),
            ("uuid > \"00000000-0000-4000-8000-0000000000b1\"", vec!["Bob@x"]),
            ("allowed_client_ip contains \"10.0\"", vec!["ada@x"]),
            ("email in []", vec![]),
            ("!email == \"ada@x\"", vec!["Bob@x"]),
        ] {
            assert_eq!(emails(&db.store, filter, "email").await, expected, "{filter} on {:?}", db.dialect());
        }
        assert_eq!(emails(&db.store, "need_password_change == false", "-email").await, ["ada@x", "Bob@x"]);
        assert_eq!(emails(&db.store, "need_password_change == false", "role").await, ["ada@x", "Bob@x"]);
        assert_eq!(emails(&db.store, "need_password_change == false", "username").await, ["ada@x", "Bob@x"]);
        assert_eq!(emails(&db.store, "need_password_change == false", "-username").await, ["Bob@x", "ada@x"]);
    }
}

/// Every field of every list, so that no expression of a field table is wrong.
#[tokio::test]
async fn every_field_can_be_asked_for() {
    use crate::listing::{Field, Kind};

    fn value(field: &Field) -> String {
        match field.kind {
            Kind::Text => "\"x\"".to_owned(),
            Kind::Int => "1".to_owned(),
            Kind::Bool => "true".to_owned(),
            Kind::Uuid => format!("\"{U1}\""),
            Kind::Date => "\"2020-01-01\"".to_owned(),
            Kind::Enum(words) => format!("\"{}\"", words[0].0),
        }
    }
    for db in databases().await {
        seed(&db.store).await;
        let mut sql = db.store.reader();
        let lists = [
            users::FIELDS,
            keypairs::FIELDS,
            agents::FIELDS,
            agents::SUMMARY_FIELDS,
            sessions::FIELDS,
            containers::FIELDS,
            legacy_sessions::FIELDS,
        ];
        for (which, fields) in lists.into_iter().enumerate() {
            let mut arguments: Vec<(Option<String>, Option<String>)> = Vec::new();
            for field in fields.iter().filter(|f| f.filter) {
                let mut operators = vec!["==", "!=", ">=", "<"];
                if field.kind == Kind::Text || field.kind == Kind::Uuid {
                    operators.extend(["like", "ilike", "contains"]);
                }
                arguments
                    .extend(operators.iter().map(|o| (Some(format!("{} {o} {}", field.name, value(field))), None)));
                arguments.push((Some(format!("{} is null", field.name)), None));
                arguments.push((Some(format!("{} in [{}]", field.name, value(field))), None));
                if field.kind == Kind::Int {
                    arguments.push((Some(format!("{} in [1, 1.5] | {0} > 0.5", field.name)), None));
                }
            }
            arguments.extend(fields.iter().filter(|f| f.order).map(|f| (None, Some(format!("-{}", f.name)))));
            for (filter, order) in arguments {
                let listing = Listing::parse(fields, filter.as_deref(), order.as_deref(), 10, 0).unwrap();
                let outcome = match which {
                    0 => users::page(&mut sql, &users::Scope::default(), &listing).await.map(|_| ()),
                    1 => keypairs::page(&mut sql, &keypairs::Scope::default(), &listing).await.map(|_| ()),
                    2 | 3 => agents::page(&mut sql, &agents::Scope::default(), &listing).await.map(|_| ()),
                    4 => sessions::page(&mut sql, &sessions::Scope::default(), &listing).await.map(|_| ()),
                    5 => containers::page(&mut sql, &containers::Scope::default(), &listing).await.map(|_| ()),
                    _ => {
                        legacy_sessions::page(&mut sql, &legacy_sessions::Scope::default(), &listing).await.map(|_| ())
                    }
                };
                outcome.unwrap_or_else(|e| panic!("{filter:?} {order:?} on {:?}: {e}", db.dialect()));
            }
        }
    }
}

#[tokio::test]
async fn scopes_and_pages() {
    for db in databases().await {
        seed(&db.store).await;
        let mut sql = db.store.reader();
        let all = |limit, offset| Listing::parse(users::FIELDS, None, None, limit, offset).unwrap();

        let scope = users::Scope { project: Some(P2.parse().unwrap()), ..Default::default() };
        let page = users::page(&mut sql, &scope, &all(1, 0)).await.unwrap();
        assert_eq!((page.total, page.items.len(), page.items[0].email.as_str()), (2, 1, "Bob@x"));
        assert_eq!(users::page(&mut sql, &scope, &all(1, 1)).await.unwrap().items[0].email, "ada@x");
        assert!(users::page(&mut sql, &scope, &all(0, 0)).await.unwrap().items.is_empty());
        assert!(users::page(&mut sql, &scope, &all(5, 2)).await.unwrap().items.is_empty());
        let scope = users::Scope {
            statuses: Some(vec![UserStatus::Active]),
            domain: Some("d1".to_owned()),
            ..Default::default()
        };
        let ada = users::select(&mut sql, &scope, 100).await.unwrap();
        assert_eq!(ada[0].allowed_client_ip.as_deref(), Some(&["10.0.0.0/8".to_owned()][..]));

        let keys = keypairs::select(&mut sql, &keypairs::Scope::default(), 10).await.unwrap();
        assert_eq!(keys.iter().map(|k| k.concurrency_used).collect::<Vec<_>>(), [0, 3]);
        let scope = keypairs::Scope {
            domain: Some("d1".to_owned()),
            access_key: Some(AccessKey::from("AK1")),
            email: Some("ada@x".to_owned()),
            is_active: Some(true),
        };
        assert_eq!(keypairs::select(&mut sql, &scope, 10).await.unwrap().len(), 1);

        let found = agents::select(&mut sql, &agents::Scope::default()).await.unwrap();
        assert_eq!(found.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["i-b", "i-a"]);
        let scope = agents::Scope {
            scaling_groups: Some(vec!["g".to_owned()]),
            statuses: Some(vec![AgentStatus::Lost]),
            id: Some("i-a".into()),
        };
        assert_eq!(agents::select(&mut sql, &scope).await.unwrap().len(), 1);
        let nowhere = agents::Scope { scaling_groups: Some(vec![]), ..Default::default() };
        assert!(agents::select(&mut sql, &nowhere).await.unwrap().is_empty());
        let reachable = agents::reachable_groups(&mut sql, "d1", ada[0].id, &"AK1".into()).await.unwrap();
        assert_eq!(reachable, ["g", "h"]);
    }
}

#[tokio::test]
async fn sessions_and_kernels() {
    for db in databases().await {
        seed(&db.store).await;
        let mut sql = db.store.reader();
        let all = sessions::select(&mut sql, &sessions::Scope::default(), 10).await.unwrap();
        assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["two", "one"]);
        assert_eq!(all[1].main.as_ref().unwrap().image, "r/i:1");
        assert_eq!(
            sessions::dependencies_of(&mut sql, &[all[0].id, all[1].id]).await.unwrap(),
            [(all[0].id, all[1].id)]
        );
        let scope = sessions::Scope {
            ids: Some(vec![all[1].id]),
            domain: Some("d1".to_owned()),
            project: Some(P1.parse().unwrap()),
            access_keys: Some(vec!["AK1".into()]),
            statuses: Some(vec![SessionStatus::Pending]),
        };
        assert_eq!(sessions::page(&mut sql, &scope, &Listing::all(sessions::FIELDS)).await.unwrap().total, 1);

        let scope = containers::Scope { sessions: Some(vec![all[1].id]), ..Default::default() };
        assert_eq!(containers::select(&mut sql, &scope).await.unwrap().len(), 2);
        let scope = containers::Scope {
            role: Some("sub".to_owned()),
            domain: Some("d1".to_owned()),
            access_key: Some("AK1".into()),
            ..scope
        };
        assert_eq!(containers::select(&mut sql, &scope).await.unwrap()[0].cluster_hostname, "sub1");

        let live = |reference: &str| legacy_sessions::Scope { live: Some(reference.to_owned()), ..Default::default() };
        assert_eq!(legacy_sessions::select(&mut sql, &live("one"), 2).await.unwrap().len(), 1);
        assert_eq!(legacy_sessions::select(&mut sql, &live(&S1.replace('-', "")), 2).await.unwrap().len(), 1);
        assert!(legacy_sessions::select(&mut sql, &live("two"), 2).await.unwrap().is_empty());
        let every =
            legacy_sessions::page(&mut sql, &legacy_sessions::Scope::default(), &Listing::all(legacy_sessions::FIELDS))
                .await
                .unwrap();
        assert_eq!(every.total, 2);
    }
}
