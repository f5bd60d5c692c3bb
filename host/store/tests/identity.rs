//! Identity, configuration and resource tables, on every database there is here.
#![allow(clippy::unwrap_used, clippy::cloned_ref_to_slice_refs)]

use indexmap::IndexMap;
use quarterdeck_model::{
    AccessKey, DefaultForUnspecified, ImageId, ProjectId, Timestamp, UserId, UserRole, UserStatus,
};
use quarterdeck_store::testing::databases;
use quarterdeck_store::{
    Store, Tx, Violation, audit, config, domains, images, keypairs, meta, presets, projects, resource_policies,
    revisions, scaling_groups, users,
};
use serde_json::json;

const NOW: Timestamp = Timestamp(1_795_000_000_123_456);

fn domain(name: &str) -> domains::DomainRow {
    domains::DomainRow {
        name: name.into(),
        description: None,
        is_active: true,
        created_at: NOW,
        modified_at: NOW,
        total_resource_slots: json!({"cpu": "4"}),
        allowed_vfolder_hosts: json!({"local:volume1": ["upload-file"]}),
        allowed_docker_registries: vec!["reg".into()],
        integration_id: None,
    }
}

fn project(name: &str, domain: &str) -> projects::ProjectRow {
    projects::ProjectRow {
        id: ProjectId::new(),
        name: name.into(),
        domain_name: domain.into(),
        description: Some("d".into()),
        is_active: true,
        created_at: NOW,
        modified_at: NOW,
        total_resource_slots: json!({}),
        allowed_vfolder_hosts: json!({}),
        integration_id: None,
    }
}

fn user(email: &str, domain: &str) -> users::UserRow {
    users::UserRow {
        id: UserId::new(),
        username: Some(email.into()),
        email: email.into(),
        need_password_change: false,
        password_changed_at: Some(NOW),
        full_name: None,
        description: None,
        status: UserStatus::Active,
        status_info: None,
        created_at: NOW,
        modified_at: NOW,
        domain_name: domain.into(),
        role: UserRole::User,
        integration_id: None,
        allowed_client_ip: Some(vec!["10.0.0.0/8".into()]),
        totp_activated: false,
        totp_activated_at: None,
    }
}

fn keypair(access_key: &str, user: &users::UserRow) -> keypairs::KeypairRow {
    keypairs::KeypairRow {
        access_key: access_key.into(),
        secret_key: "s".repeat(40),
        user_id: user.id,
        user_email: user.email.clone(),
        is_active: true,
        is_admin: false,
        resource_policy: "default".into(),
        created_at: NOW,
        last_used: None,
        rate_limit: 1000,
        num_queries: 0,
        ssh_public_key: None,
    }
}

fn policy(name: &str) -> resource_policies::PolicyRow {
    resource_policies::PolicyRow {
        name: name.into(),
        created_at: NOW,
        default_for_unspecified: DefaultForUnspecified::Limited,
        total_resource_slots: json!({"mem": "1073741824"}),
        max_session_lifetime: 0,
        max_concurrent_sessions: 3,
        max_concurrent_sftp_sessions: 1,
        max_containers_per_session: 2,
        max_vfolder_count: 10,
        max_vfolder_size: 8_589_934_592,
        idle_timeout: 3600,
        allowed_vfolder_hosts: json!({}),
    }
}

fn group(name: &str) -> scaling_groups::ScalingGroupRow {
    scaling_groups::ScalingGroupRow {
        name: name.into(),
        description: None,
        is_active: true,
        is_public: true,
        created_at: NOW,
        wsproxy_addr: None,
        wsproxy_api_token: None,
        driver: "static".into(),
        driver_opts: json!({}),
        scheduler: "fifo".into(),
        scheduler_opts: json!({"config": {"num_retries_to_skip": 2}}),
        use_host_network: false,
    }
}

async fn base(store: &Store) -> (Tx, users::UserRow, projects::ProjectRow) {
    let mut tx = store.begin().await.unwrap();
    domains::insert(&mut tx, &domain("default")).await.unwrap();
    let project = project("default", "default");
    projects::insert(&mut tx, &project).await.unwrap();
    resource_policies::insert(&mut tx, &policy("default")).await.unwrap();
    let user = user("u@example.org", "default");
    users::insert(&mut tx, &user, Some("hash")).await.unwrap();
    (tx, user, project)
}

fn violation<T: std::fmt::Debug>(result: Result<T, quarterdeck_store::Error>) -> Violation {
    result.unwrap_err().violation().expect("the schema was violated").0
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    for db in databases().await {
        db.store.migrate().await.unwrap();
        assert_eq!(revisions::get(&mut db.store.reader(), revisions::IDENTITY).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn rows_read_back_as_written() {
    for db in databases().await {
        let (mut tx, user, project) = base(&db.store).await;
        let key = keypair("AKIAAAAAAAAAAAAAAAAA", &user);
        keypairs::insert(&mut tx, &key, Some("private")).await.unwrap();
        scaling_groups::insert(&mut tx, &group("g")).await.unwrap();
        assert_eq!(projects::join_all(&mut tx, user.id, "default", &[project.id, ProjectId::new()]).await.unwrap(), 1);
        assert_eq!(projects::join_all(&mut tx, user.id, "other", &[project.id]).await.unwrap(), 0);
        tx.commit().await.unwrap();

        let r = &mut db.store.reader();
        assert_eq!(domains::get(r, "default").await.unwrap(), Some(domain("default")));
        assert_eq!(domains::by_names(r, &["default".into(), "x".into()]).await.unwrap().len(), 1);
        assert_eq!(domains::list(r, Some(false)).await.unwrap(), []);
        assert_eq!(projects::get(r, project.id).await.unwrap().as_ref(), Some(&project));
        assert_eq!(projects::list(r, Some("default"), None, Some(true)).await.unwrap(), [project.clone()]);
        assert_eq!(projects::list(r, None, Some("nope"), None).await.unwrap(), []);
        assert_eq!(projects::of_user(r, user.id).await.unwrap(), [project.clone()]);
        assert_eq!(projects::of_users(r, &[user.id]).await.unwrap(), [(user.id, project.clone())]);
        assert!(projects::is_member(r, project.id, user.id).await.unwrap());
        assert_eq!(users::by_email(r, &user.email).await.unwrap().as_ref(), Some(&user));
        assert_eq!(users::by_ids(r, &[user.id]).await.unwrap(), [user.clone()]);
        assert_eq!(users::by_emails(r, &[user.email.clone()]).await.unwrap(), [user.clone()]);
        assert_eq!(users::password(r, user.id).await.unwrap().as_deref(), Some("hash"));
        assert_eq!(keypairs::get(r, "AKIAAAAAAAAAAAAAAAAA").await.unwrap().as_ref(), Some(&key));
        assert_eq!(keypairs::of_users(r, &[user.id]).await.unwrap(), [key.clone()]);
        assert_eq!(keypairs::ssh_private_key(r, key.access_key.as_str()).await.unwrap().as_deref(), Some("private"));
        let credential = keypairs::credential(r, key.access_key.as_str()).await.unwrap().unwrap();
        assert_eq!((credential.role, credential.email), (UserRole::User, user.email.clone()));
        assert_eq!(credential.allowed_client_ip, Some(vec!["10.0.0.0/8".into()]));
        assert_eq!(resource_policies::of_user(r, user.id).await.unwrap(), [policy("default")]);
        assert_eq!(scaling_groups::get(r, "g").await.unwrap(), Some(group("g")));
    }
}

#[tokio::test]
async fn changes_touch_only_what_they_name() {
    for db in databases().await {
        let (mut tx, user, project) = base(&db.store).await;
        let later = NOW.plus_millis(5);
        let changes = users::UserChanges {
            role: Some(UserRole::Admin),
            password: Some(("h2".into(), later)),
            ..Default::default()
        };
        assert_eq!(users::update(&mut tx, user.id, &changes, later).await.unwrap(), Some(1));
        assert_eq!(users::update(&mut tx, user.id, &Default::default(), later).await.unwrap(), None);
        let row = users::get(&mut tx, user.id).await.unwrap().unwrap();
        let expected = users::UserRow {
            role: UserRole::Admin,
            password_changed_at: Some(later),
            modified_at: later,
            ..user.clone()
        };
        assert_eq!(row, expected);
        users::rehash(&mut tx, user.id, "outdated", "h3").await.unwrap();
        assert_eq!(users::password(&mut tx, user.id).await.unwrap().as_deref(), Some("h2"));

        let changes = projects::ProjectChanges {
            integration_id: Some(None),
            total_resource_slots: Some(json!({"cpu": "1"})),
            ..Default::default()
        };
        assert_eq!(projects::update(&mut tx, project.id, &changes, later).await.unwrap(), Some(1));
        assert_eq!(
            projects::get(&mut tx, project.id).await.unwrap().unwrap().total_resource_slots,
            json!({"cpu": "1"})
        );

        assert_eq!(domains::update(&mut tx, "nope", &Default::default(), later).await.unwrap(), 0);
        let changes = resource_policies::PolicyChanges { idle_timeout: Some(1), ..Default::default() };
        assert_eq!(resource_policies::update(&mut tx, "default", &changes).await.unwrap(), Some(1));
        let row = resource_policies::get(&mut tx, "default").await.unwrap().unwrap();
        assert_eq!(row, resource_policies::PolicyRow { idle_timeout: 1, ..policy("default") });
        assert_eq!(resource_policies::update(&mut tx, "default", &Default::default()).await.unwrap(), None);

        presets::insert(
            &mut tx,
            &presets::PresetRow { name: "p".into(), resource_slots: json!({"cpu": "1"}), shared_memory: Some(64) },
        )
        .await
        .unwrap();
        let changes = presets::PresetChanges { shared_memory: Some(None), ..Default::default() };
        assert_eq!(presets::update(&mut tx, "p", &changes).await.unwrap(), Some(1));
        assert_eq!(presets::get(&mut tx, "p").await.unwrap().unwrap().shared_memory, None);
        assert_eq!(presets::list(&mut tx).await.unwrap().len(), 1);
        assert_eq!(presets::delete(&mut tx, "p").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_renamed_domain_takes_its_projects_along_unless_it_has_users() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        domains::insert(&mut tx, &domain("a")).await.unwrap();
        let project = project("p", "a");
        projects::insert(&mut tx, &project).await.unwrap();
        scaling_groups::insert(&mut tx, &group("g")).await.unwrap();
        scaling_groups::associate(&mut tx, "g", scaling_groups::Associate::Domain("a")).await.unwrap();
        let rename = |to: &str| domains::DomainChanges { name: Some(to.into()), ..Default::default() };
        assert_eq!(domains::update(&mut tx, "a", &rename("b"), NOW).await.unwrap(), 1);
        assert_eq!(projects::get(&mut tx, project.id).await.unwrap().unwrap().domain_name, "b");
        let names = scaling_groups::names_of_domains(&mut tx, &["b".into()]).await.unwrap();
        assert_eq!(names, [("b".to_owned(), "g".to_owned())]);
        users::insert(&mut tx, &user("u@x", "b"), None).await.unwrap();
        assert_eq!(violation(domains::update(&mut tx, "b", &rename("c"), NOW).await), Violation::ForeignKey);
    }
}

#[tokio::test]
async fn schema_rules_are_told_apart() {
    for db in databases().await {
        let (tx, user, project) = base(&db.store).await;
        tx.commit().await.unwrap();
        // PostgreSQL gives a transaction up after an error: one each.
        let mut tx = db.store.begin().await.unwrap();
        assert_eq!(violation(domains::insert(&mut tx, &domain("default")).await), Violation::Unique);
        drop(tx);
        let mut tx = db.store.begin().await.unwrap();
        let again = users::UserRow { id: UserId::new(), username: Some("other".into()), ..user.clone() };
        assert_eq!(violation(users::insert(&mut tx, &again, None).await), Violation::Unique);
        drop(tx);
        let mut tx = db.store.begin().await.unwrap();
        let stranger = users::UserRow { domain_name: "nowhere".into(), ..super_user("s@x") };
        assert_eq!(violation(users::insert(&mut tx, &stranger, None).await), Violation::ForeignKey);
        drop(tx);
        let mut tx = db.store.begin().await.unwrap();
        let key = keypairs::KeypairRow { resource_policy: "nope".into(), ..keypair("AKIAB", &user) };
        assert_eq!(violation(keypairs::insert(&mut tx, &key, None).await), Violation::ForeignKey);
        drop(tx);
        let mut tx = db.store.begin().await.unwrap();
        projects::add_members(&mut tx, project.id, &[user.id]).await.unwrap();
        assert_eq!(violation(projects::add_members(&mut tx, project.id, &[user.id]).await), Violation::Unique);
        drop(tx);
        let mut tx = db.store.begin().await.unwrap();
        keypairs::insert(&mut tx, &keypair("AKIAB", &user), None).await.unwrap();
        assert_eq!(violation(resource_policies::delete(&mut tx, "default").await), Violation::ForeignKey);
    }
}

fn super_user(email: &str) -> users::UserRow {
    user(email, "default")
}

#[tokio::test]
async fn keypairs_follow_their_users_role() {
    for db in databases().await {
        let (mut tx, user, _) = base(&db.store).await;
        for key in ["AKIA1", "AKIA2", "AKIA3"] {
            keypairs::insert(&mut tx, &keypair(key, &user), None).await.unwrap();
        }
        assert_eq!(keypairs::promote_all(&mut tx, user.id).await.unwrap(), 3);
        keypairs::demote(&mut tx, user.id, &AccessKey::from("AKIA2")).await.unwrap();
        let rows = keypairs::of_users(&mut tx, &[user.id]).await.unwrap();
        let state: Vec<_> = rows.iter().map(|k| (k.access_key.as_str(), k.is_admin, k.is_active)).collect();
        assert_eq!(state, [("AKIA1", true, false), ("AKIA3", true, false), ("AKIA2", false, true)]);
        keypairs::count_queries(&mut tx, &[("AKIA1".into(), 2), ("AKIA3".into(), 5), ("gone".into(), 1)])
            .await
            .unwrap();
        keypairs::count_queries(&mut tx, &[("AKIA1".into(), 1)]).await.unwrap();
        let counted = keypairs::by_access_keys(&mut tx, &["AKIA1".into(), "AKIA3".into()]).await.unwrap();
        let mut counted: Vec<_> = counted.iter().map(|k| (k.access_key.as_str(), k.num_queries)).collect();
        counted.sort_unstable();
        assert_eq!(counted, [("AKIA1", 3), ("AKIA3", 5)]);
        assert_eq!(keypairs::deactivate_all(&mut tx, user.id).await.unwrap(), 3);
        assert_eq!(users::active_kernels(&mut tx, user.id).await.unwrap(), 0);
        assert_eq!(users::delete(&mut tx, user.id).await.unwrap(), 1);
        assert_eq!(keypairs::get(&mut tx, "AKIA1").await.unwrap(), None);
    }
}

#[tokio::test]
async fn scaling_groups_are_reached_over_any_association() {
    for db in databases().await {
        let (mut tx, user, project) = base(&db.store).await;
        keypairs::insert(&mut tx, &keypair("AKIA1", &user), None).await.unwrap();
        for name in ["b", "a", "c", "B"] {
            scaling_groups::insert(&mut tx, &group(name)).await.unwrap();
        }
        let key = AccessKey::from("AKIA1");
        use scaling_groups::Associate::{Domain, Keypair, Project};
        scaling_groups::associate(&mut tx, "b", Domain("default")).await.unwrap();
        scaling_groups::associate(&mut tx, "a", Project(project.id)).await.unwrap();
        scaling_groups::associate(&mut tx, "c", Keypair(&key)).await.unwrap();
        scaling_groups::associate(&mut tx, "B", Keypair(&key)).await.unwrap();
        scaling_groups::ensure_associated(&mut tx, "b", Keypair(&key)).await.unwrap();
        let names = |rows: Vec<scaling_groups::ScalingGroupRow>| rows.into_iter().map(|g| g.name).collect::<Vec<_>>();
        let all = scaling_groups::associated(&mut tx, Some("default"), Some(project.id), Some(&key)).await.unwrap();
        assert_eq!(names(all), ["B", "a", "b", "c"]);
        let some = scaling_groups::associated(&mut tx, Some("default"), None, None).await.unwrap();
        assert_eq!(names(some), ["b"]);
        assert_eq!(scaling_groups::disassociate(&mut tx, Some("a"), Keypair(&key)).await.unwrap(), 0);
        assert_eq!(scaling_groups::disassociate(&mut tx, None, Keypair(&key)).await.unwrap(), 3);
        assert_eq!(scaling_groups::delete(&mut tx, "b").await.unwrap(), 1);
        assert_eq!(scaling_groups::names_of_domains(&mut tx, &["default".into()]).await.unwrap(), []);
    }
}

#[tokio::test]
async fn images_and_aliases() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        let image = images::ImageRow {
            id: ImageId::new(),
            name: "reg/stable/python:3".into(),
            image: "stable/python".into(),
            tag: "3".into(),
            registry: "reg".into(),
            architecture: "x86_64".into(),
            config_digest: "sha256:1".into(),
            size_bytes: 300,
            is_local: false,
            kind: "COMPUTE".into(),
            accelerators: None,
            labels: IndexMap::from([("z".into(), "1".into()), ("a".into(), "2".into())]),
            resources: json!({"cpu": {"min": "1", "max": null}}),
            created_at: NOW,
        };
        let id = images::upsert(&mut tx, &image).await.unwrap();
        let again = images::ImageRow { id: ImageId::new(), size_bytes: 5, ..image.clone() };
        assert_eq!(images::upsert(&mut tx, &again).await.unwrap(), id);
        let stored = images::ImageRow { id, size_bytes: 5, ..image.clone() };
        assert_eq!(images::by_name(&mut tx, &image.name).await.unwrap(), [stored.clone()]);
        images::insert_alias(&mut tx, "python", id).await.unwrap();
        images::set_alias(&mut tx, "py", id).await.unwrap();
        assert_eq!(images::by_alias(&mut tx, "python").await.unwrap(), Some(stored));
        let names: Vec<_> = images::aliases(&mut tx, &[id]).await.unwrap().into_values().flatten().collect();
        assert_eq!(names, ["py", "python"]);
        let changes = images::ImageChanges { labels: Some(IndexMap::new()), ..Default::default() };
        assert_eq!(images::update(&mut tx, id, &changes).await.unwrap(), Some(1));
        assert!(images::list(&mut tx).await.unwrap()[0].labels.is_empty());
        assert_eq!(images::delete_of_registry(&mut tx, "reg").await.unwrap(), 1);
        assert_eq!(images::by_alias(&mut tx, "py").await.unwrap(), None);
    }
}

#[tokio::test]
async fn the_config_tree_is_cut_at_whole_components() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Vec<_>>();
        config::set(&mut tx, &pairs(&[("a/b", "1"), ("a/b/c%2Fd", "2"), ("a/bc", "3"), ("a_b", "4")])).await.unwrap();
        config::set(&mut tx, &pairs(&[("a/b", "it's \"x\"\n")])).await.unwrap();
        assert_eq!(config::set_absent(&mut tx, &pairs(&[("a/b", "no"), ("n", "5")])).await.unwrap(), 1);
        assert_eq!(config::get(&mut tx, "a/b").await.unwrap().as_deref(), Some("it's \"x\"\n"));
        let mut found = config::subtree(&mut tx, "a/b").await.unwrap();
        found.sort();
        assert_eq!(found, pairs(&[("a/b", "it's \"x\"\n"), ("a/b/c%2Fd", "2")]));
        assert_eq!(config::delete(&mut tx, "a/b").await.unwrap(), 1);
        assert_eq!(config::delete_subtree(&mut tx, "a").await.unwrap(), 2);
        let mut rest = config::all(&mut tx).await.unwrap();
        rest.sort();
        assert_eq!(rest, pairs(&[("a_b", "4"), ("n", "5")]));
    }
}

#[tokio::test]
async fn texts_with_nul_are_refused_alike() {
    for db in databases().await {
        let r = &mut db.store.reader();
        let refused = keypairs::credential(r, "AKIA\0").await;
        assert!(matches!(refused, Err(quarterdeck_store::Error::NulInText)), "{refused:?}");
        assert_eq!(users::by_emails(r, &["a\0".into()]).await.unwrap(), []);
    }
}

#[tokio::test]
async fn facts_and_revisions() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        assert_eq!(meta::get_or_set(&mut tx, "cluster-id", "one").await.unwrap(), "one");
        assert_eq!(meta::get_or_set(&mut tx, "cluster-id", "two").await.unwrap(), "one");
        meta::set(&mut tx, "cluster-id", "three").await.unwrap();
        assert_eq!(meta::get(&mut tx, "cluster-id").await.unwrap().as_deref(), Some("three"));
        assert!(meta::delete(&mut tx, "cluster-id").await.unwrap());
        revisions::bump(&mut tx, revisions::IDENTITY).await.unwrap();
        revisions::bump(&mut tx, "new").await.unwrap();
        let all = revisions::all(&mut tx).await.unwrap();
        assert_eq!((all["identity"], all["config"], all["new"]), (2, 1, 1));
        drop(tx);
        assert_eq!(revisions::get(&mut db.store.reader(), revisions::IDENTITY).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn the_audit_is_told_what_goes_along() {
    for db in databases().await {
        let (mut tx, user, project) = base(&db.store).await;
        let key = AccessKey::from("AKIA1");
        keypairs::insert(&mut tx, &keypair("AKIA1", &user), None).await.unwrap();
        projects::add_members(&mut tx, project.id, &[user.id]).await.unwrap();
        use scaling_groups::Associate::{Domain, Keypair, Project};
        for name in ["a", "b"] {
            scaling_groups::insert(&mut tx, &group(name)).await.unwrap();
        }
        for (name, with) in [("a", Keypair(&key)), ("b", Domain("default")), ("b", Project(project.id))] {
            scaling_groups::associate(&mut tx, name, with).await.unwrap();
        }
        tx.commit().await.unwrap();

        macro_rules! gone {
            ($tx:ident, $work:expr) => {{
                let act = audit::Act::new(audit::Via::Cli, audit::Actor::default(), "purge");
                audit::scope(act, async {
                    let mut $tx = db.store.begin().await.unwrap();
                    assert_eq!($work.await.unwrap(), 1);
                    $tx.commit().await.unwrap();
                })
                .await;
                let entries = audit::page(&mut db.store.reader(), &audit::Filter::default(), 1).await.unwrap();
                let changes = entries[0].changes.rows.iter().filter(|c| c.before.is_some() && c.after.is_none());
                changes.map(|c| format!("{} {}", c.kind, c.name)).collect::<Vec<_>>()
            }};
        }
        assert_eq!(
            gone!(tx, users::delete(&mut tx, user.id)),
            [
                "scaling-group-keypair a AKIA1",
                "project-member u@example.org default default",
                "keypair AKIA1",
                "user u@example.org"
            ]
        );
        assert_eq!(
            gone!(tx, scaling_groups::delete(&mut tx, "b")),
            ["scaling-group-domain b default", "scaling-group-project b default default", "scaling-group b"]
        );
        assert_eq!(gone!(tx, projects::delete(&mut tx, project.id)), ["project default default"]);
    }
}
