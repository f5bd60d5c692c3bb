//! Users, key pairs, projects and domains from the outside of the crate, on every database there is here.
#![allow(clippy::unwrap_used, missing_docs)]

mod desk;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use desk::{ADMIN, DOMAIN_ADMIN, USER, controls, who};
use quarterdeck_control::auth::{Authorize, Signup};
use quarterdeck_control::store::{self, Store, agents, keypairs as key_rows, users as user_rows};
use quarterdeck_control::{
    Control, Error, Result, auth, config, domains, images, keypairs, manager, presets, projects, resource_policies,
    scaling_groups, scope, users,
};
use quarterdeck_model::{AccessKey, ProjectId, Timestamp, UserRole, UserStatus};
use serde_json::json;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PROJECT: &str = "9a000000-0000-4000-8000-000000000001";

fn login(email: &str, password: &str) -> Authorize {
    Authorize { kind: "keypair".into(), domain: "default".into(), username: email.into(), password: password.into() }
}

fn text<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

async fn stored_password(store: &Store, email: &str) -> Option<String> {
    let sql = &mut store.reader();
    let user = user_rows::by_email(sql, email).await.unwrap().unwrap();
    user_rows::password(sql, user.id).await.unwrap()
}

fn new_user(username: &str) -> users::UserInput {
    users::UserInput {
        username: username.into(),
        password: "first password".into(),
        domain_name: "default".into(),
        ..users::UserInput::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_in() {
    for (db, control) in controls().await {
        let ok = auth::authorize(&control, login("user@conf.test", "conf-user-pw"), CLIENT).await.unwrap();
        assert_eq!((ok.access_key.as_str(), ok.role, ok.status), (USER, UserRole::User, UserStatus::Active));
        let mismatch = "User credential mismatch.";
        for (email, password) in
            [("user@conf.test", "wrong"), ("nobody@conf.test", "conf-user-pw"), ("user", "conf-user-pw"), ("a\0", "x")]
        {
            assert_eq!(text(auth::authorize(&control, login(email, password), CLIENT).await), mismatch, "{email}");
        }
        let elsewhere = Authorize { domain: "other".into(), ..login("user@conf.test", "conf-user-pw") };
        assert_eq!(text(auth::authorize(&control, elsewhere, CLIENT).await), mismatch);
        let jwt = Authorize { kind: "jwt".into(), ..login("user@conf.test", "conf-user-pw") };
        assert_eq!(text(auth::authorize(&control, jwt, CLIENT).await), "Unsupported authorization type");

        // A hash from elsewhere is replaced by the first login.
        let sql = &mut db.store.reader();
        let user = user_rows::by_email(sql, "user@conf.test").await.unwrap().unwrap();
        let old = stored_password(&db.store, "user@conf.test").await.unwrap();
        let foreign = bcrypt::hash("conf-user-pw", 4).unwrap();
        user_rows::rehash(sql, user.id, &old, &foreign).await.unwrap();
        assert_eq!(text(auth::authorize(&control, login("user@conf.test", "no"), CLIENT).await), mismatch);
        assert_eq!(stored_password(&db.store, "user@conf.test").await.as_ref(), Some(&foreign));
        auth::authorize(&control, login("user@conf.test", "conf-user-pw"), CLIENT).await.unwrap();
        assert!(stored_password(&db.store, "user@conf.test").await.unwrap().starts_with("$argon2id$"));
        auth::authorize(&control, login("user@conf.test", "conf-user-pw"), CLIENT).await.unwrap();

        // Passwords that became too old.
        let caller = who(&control, USER).await;
        let refused =
            auth::update_expired_password(&control, CLIENT, "default", "user@conf.test", "conf-user-pw", "n").await;
        assert_eq!(text(refused), "Unsupported function.");
        control.config_tree().set(&[("config/auth/max_password_age".into(), "0".into())]).await.unwrap();
        let expired = auth::authorize(&control, login("user@conf.test", "conf-user-pw"), CLIENT).await;
        assert!(matches!(expired, Err(Error::PasswordExpired(_))));
        let same = auth::update_expired_password(
            &control,
            CLIENT,
            "default",
            "user@conf.test",
            "conf-user-pw",
            "conf-user-pw",
        )
        .await;
        assert!(text(same).starts_with("Cannot update to the same password"));
        auth::update_expired_password(&control, CLIENT, "default", "user@conf.test", "conf-user-pw", "new")
            .await
            .unwrap();
        control.config_tree().set(&[("config/auth/max_password_age".into(), "90d".into())]).await.unwrap();
        auth::authorize(&control, login("user@conf.test", "new"), CLIENT).await.unwrap();

        // Changing one's own password.
        assert_eq!(text(auth::update_password(&control, &caller, "old", "a", "b").await), "Old password mismatch");
        assert_eq!(text(auth::update_password(&control, &caller, "new", "a", "b").await), "new password mismatch");
        auth::update_password(&control, &caller, "new", "newer", "newer").await.unwrap();
        auth::authorize(&control, login("user@conf.test", "newer"), CLIENT).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_up_and_out() {
    for (db, control) in controls().await {
        let request = |email: &str| Signup {
            domain: "default".into(),
            email: email.into(),
            password: "a password".into(),
            username: None,
            full_name: None,
            description: None,
        };
        let pair = auth::signup(&control, request("new@x.test"), Some("ko-KR,en")).await.unwrap();
        let caller = who(&control, &pair.access_key).await;
        assert_eq!((caller.email.as_str(), caller.rate_limit, caller.is_admin), ("new@x.test", 1000, false));
        let row = user_rows::by_email(&mut db.store.reader(), "new@x.test").await.unwrap().unwrap();
        assert_eq!((row.username.as_deref(), row.status_info.as_deref()), (Some("new@x.test"), Some("user-signup")));
        let roles = auth::roles(&control, &caller, Some(PROJECT.parse().unwrap())).await.unwrap();
        assert_eq!((roles.global_role, roles.domain_role, roles.group_role), ("user", "user", Some("user")));
        assert!(matches!(
            auth::roles(&control, &caller, Some(ProjectId::new())).await,
            Err(Error::NotFound { object: "project (user group)", .. })
        ));

        for (request, problem) in [
            (request("new@x.test"), "Email already exists"),
            (Signup { domain: "nowhere".into(), ..request("b@x.test") }, "Unknown domain"),
            (Signup { username: Some("admin".into()), ..request("b@x.test") }, "Username already exists"),
            (request(&"l".repeat(65)), "value too long for type character varying(64)"),
        ] {
            match auth::signup(&control, request, None).await {
                Err(Error::BadRequest(msg)) => assert_eq!(msg, problem),
                other => panic!("{problem}: {other:?}"),
            }
        }
        assert_eq!(text(auth::signout(&control, &caller, "user@conf.test", "x").await), "Not the account owner");
        assert_eq!(text(auth::signout(&control, &caller, "new@x.test", "x").await), "Invalid email and/or password");
        auth::signout(&control, &caller, "new@x.test", "a password").await.unwrap();
        // At once, on this host.
        assert!(!control.identity().credential(&pair.access_key).await.unwrap().unwrap().is_active);
        let refused = auth::authorize(&control, login("new@x.test", "a password"), CLIENT).await;
        assert_eq!(text(refused), "User credential mismatch.");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_their_key_pairs() {
    for (db, control) in controls().await {
        let admin = who(&control, ADMIN).await;
        let input = users::UserInput {
            group_ids: Some(vec![PROJECT.into(), ProjectId::new().to_string(), "nonsense".into()]),
            allowed_client_ip: Some(vec!["10.1.*.*".into(), "::1".into()]),
            ..new_user("")
        };
        let user = users::create(&control, &admin, "u@x.test", input).await.unwrap();
        assert_eq!(
            (user.username.as_deref(), user.status, user.role),
            (Some("u@x.test"), UserStatus::Active, UserRole::User)
        );
        assert_eq!(user.allowed_client_ip, Some(vec!["10.1.0.0/16".into(), "::1/128".into()]));
        let sql = &mut db.store.reader();
        assert_eq!(store::projects::of_user(sql, user.id).await.unwrap().len(), 1);
        let pairs = key_rows::of_users(sql, &[user.id]).await.unwrap();
        assert_eq!((pairs.len(), pairs[0].rate_limit, pairs[0].is_admin), (1, 10_000, false));
        assert!(pairs[0].ssh_public_key.as_deref().unwrap().starts_with("ssh-rsa "));
        let key = pairs[0].access_key.clone();
        assert_eq!(
            control
                .identity()
                .credential(key.as_str())
                .await
                .unwrap()
                .unwrap()
                .allowed_client_ip
                .as_ref()
                .unwrap()
                .len(),
            2
        );

        let again = users::create(&control, &admin, "u@x.test", new_user("other")).await;
        assert!(matches!(again, Err(Error::Integrity(_))));
        let long = users::create(&control, &admin, "v@x.test", new_user(&"n".repeat(65))).await;
        assert!(matches!(long, Err(Error::Integrity(_))));
        let role = users::UserInput { role: Some("boss".into()), ..new_user("v") };
        assert_eq!(text(users::create(&control, &admin, "v@x.test", role).await), "'boss' is not a valid UserRole");
        let ip = users::UserInput { allowed_client_ip: Some(vec!["10.0.0.1/8".into()]), ..new_user("v") };
        assert_eq!(
            text(users::create(&control, &admin, "v@x.test", ip).await),
            "Missing or invalid API parameters. (10.0.0.1/8 is invalid IP address value)"
        );
        for key in [DOMAIN_ADMIN, USER] {
            let caller = who(&control, key).await;
            let refused = users::create(&control, &caller, "w@x.test", new_user("w")).await;
            assert!(matches!(refused, Err(Error::InsufficientPrivilege(_))));
        }

        // Roles take the key pairs along.
        let change = |input| users::modify(&control, &admin, "u@x.test", input);
        let role = |role: &str| users::ModifyUserInput { role: Some(role.into()), ..Default::default() };
        change(role("admin")).await.unwrap();
        assert!(who(&control, key.as_str()).await.is_admin);
        change(role("user")).await.unwrap();
        assert!(!who(&control, key.as_str()).await.is_admin);
        // Projects and domain.
        assert_eq!(text(change(Default::default()).await), "nothing to update");
        let none = users::ModifyUserInput { group_ids: Some(vec!["nonsense".into()]), ..Default::default() };
        change(none).await.unwrap();
        assert_eq!(store::projects::of_user(sql, user.id).await.unwrap(), []);
        let moved = users::ModifyUserInput { domain_name: Some("nowhere".into()), ..Default::default() };
        assert!(matches!(change(moved).await, Err(Error::Integrity(_))));
        let off = users::ModifyUserInput { is_active: Some(false), ..Default::default() };
        assert_eq!(change(off).await.unwrap().status, UserStatus::Inactive);
        let unknown = users::modify(&control, &admin, "nobody@x.test", role("user")).await;
        assert!(matches!(unknown, Err(Error::NotFound { .. })));

        users::delete(&control, &admin, "u@x.test").await.unwrap();
        assert!(!control.identity().credential(key.as_str()).await.unwrap().unwrap().is_active);
        users::purge(&control, &admin, "u@x.test", false).await.unwrap();
        assert!(control.identity().credential(key.as_str()).await.unwrap().is_none());
        assert!(matches!(users::purge(&control, &admin, "u@x.test", false).await, Err(Error::NotFound { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_pairs_hold_from_the_next_request() {
    for (_db, control) in controls().await {
        let admin = who(&control, ADMIN).await;
        let input = |policy: &str| keypairs::KeypairInput {
            is_active: None,
            is_admin: None,
            resource_policy: policy.into(),
            rate_limit: 5,
        };
        let row = keypairs::create(&control, &admin, "user@conf.test", input("default")).await.unwrap();
        assert!(row.is_active && !row.is_admin);
        let key = row.access_key.as_str();
        assert_eq!(who(&control, key).await.rate_limit, 5);
        let faster = keypairs::ModifyKeypairInput { rate_limit: Some(7), ..Default::default() };
        keypairs::modify(&control, &admin, key, faster.clone()).await.unwrap();
        assert_eq!(who(&control, key).await.rate_limit, 7);
        keypairs::modify(&control, &admin, key, Default::default()).await.unwrap();
        for (email, policy) in [("nobody@x.test", "default"), ("user@conf.test", "nope")] {
            let refused = keypairs::create(&control, &admin, email, input(policy)).await;
            assert!(matches!(refused, Err(Error::Integrity(_))), "{email} {policy}");
        }
        let policy = keypairs::ModifyKeypairInput { resource_policy: Some("nope".into()), ..Default::default() };
        assert!(matches!(keypairs::modify(&control, &admin, key, policy).await, Err(Error::Integrity(_))));
        for input in [faster, Default::default()] {
            assert!(matches!(keypairs::modify(&control, &admin, "AKIANO", input).await, Err(Error::NotFound { .. })));
        }
        let own = who(&control, key).await;
        let pair = keypairs::set_ssh_keypair(&control, &own, "ssh-rsa AAAA \n\n", "secret").await.unwrap();
        assert_eq!((pair.public.as_str(), pair.private.as_str()), ("ssh-rsa AAAA\n", "secret\n"));
        assert_eq!(keypairs::ssh_public_key(&control, &own).await.unwrap().as_deref(), Some("ssh-rsa AAAA\n"));
        keypairs::delete(&control, &admin, key).await.unwrap();
        assert!(control.identity().credential(key).await.unwrap().is_none());
        assert!(matches!(keypairs::delete(&control, &admin, key).await, Err(Error::NotFound { .. })));
        let policy = resource_policies::delete(&control, &admin, "default").await;
        assert!(matches!(policy, Err(Error::Integrity(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_and_projects() {
    for (db, control) in controls().await {
        let admin = who(&control, ADMIN).await;
        let domain_admin = who(&control, DOMAIN_ADMIN).await;
        assert_eq!(
            text(domains::create(&control, &admin, "no slug", Default::default()).await),
            "invalid name format. slug format required."
        );
        let row = domains::create(&control, &admin, "d1", Default::default()).await.unwrap();
        assert_eq!(
            (row.is_active, row.total_resource_slots, row.allowed_docker_registries.len()),
            (true, json!({}), 0)
        );
        assert!(matches!(domains::create(&control, &admin, "d1", Default::default()).await, Err(Error::Integrity(_))));
        let refused = domains::create(&control, &domain_admin, "d2", Default::default()).await;
        assert!(matches!(refused, Err(Error::InsufficientPrivilege(_))));

        let project = |domain: &str| projects::ProjectInput { domain_name: domain.into(), ..Default::default() };
        assert!(matches!(
            projects::create(&control, &domain_admin, "p", project("d1")).await,
            Err(Error::InsufficientPrivilege(_))
        ));
        let own = projects::create(&control, &domain_admin, "p", project("default")).await.unwrap();
        let there = projects::create(&control, &admin, "p", project("d1")).await.unwrap();
        assert!(matches!(projects::create(&control, &admin, "p", project("d1")).await, Err(Error::Integrity(_))));
        assert!(matches!(projects::create(&control, &admin, "p", project("nowhere")).await, Err(Error::Integrity(_))));
        assert!(matches!(
            projects::create(&control, &admin, "-", project("d1")).await,
            Err(Error::InvalidParams { .. })
        ));

        let modify = |caller, id, input| {
            let control = &control;
            async move { projects::modify(control, caller, id, input).await }
        };
        assert_eq!(text(modify(&admin, own.id, Default::default()).await), "nothing to update");
        let user = user_rows::by_email(&mut db.store.reader(), "user@conf.test").await.unwrap().unwrap();
        let members = |mode: &str| projects::ModifyProjectInput {
            user_update_mode: Some(mode.into()),
            user_uuids: Some(vec![user.id.to_string()]),
            ..Default::default()
        };
        assert_eq!(modify(&domain_admin, own.id, members("add")).await.unwrap(), None);
        assert!(matches!(modify(&domain_admin, own.id, members("add")).await, Err(Error::Integrity(_))));
        assert_eq!(modify(&domain_admin, own.id, members("remove")).await.unwrap(), None);
        assert_eq!(text(modify(&domain_admin, own.id, members("swap")).await), "invalid user_update_mode");
        // Users of another domain look like nobody, and then nobody is added.
        let stranger = users::UserInput { domain_name: "d1".into(), ..new_user("stranger") };
        users::create(&control, &admin, "stranger@x.test", stranger).await.unwrap();
        let stranger = user_rows::by_email(&mut db.store.reader(), "stranger@x.test").await.unwrap().unwrap();
        let refused = "integrity error: violates foreign key constraint: \
                       only users of the project's domain can be its members";
        for other in [stranger.id.to_string(), ProjectId::new().to_string()] {
            let both =
                projects::ModifyProjectInput { user_uuids: Some(vec![user.id.to_string(), other]), ..members("add") };
            assert_eq!(text(modify(&domain_admin, own.id, both).await), refused);
        }
        let sql = &mut db.store.reader();
        assert!(!store::projects::is_member(sql, own.id, stranger.id).await.unwrap());
        assert!(!store::projects::is_member(sql, own.id, user.id).await.unwrap());
        assert_eq!(text(modify(&admin, there.id, members("add")).await), refused);
        users::purge(&control, &admin, "stranger@x.test", false).await.unwrap();
        for id in [there.id, ProjectId::new()] {
            let refused = modify(&domain_admin, id, members("add")).await;
            assert!(matches!(refused, Err(Error::InsufficientPrivilege(_))));
        }
        assert!(matches!(modify(&admin, ProjectId::new(), members("add")).await, Err(Error::NotFound { .. })));
        // An administrator can't push a project out of the own domain.
        let away = projects::ModifyProjectInput { domain_name: Some("d1".into()), ..Default::default() };
        assert!(matches!(modify(&domain_admin, own.id, away).await, Err(Error::InsufficientPrivilege(_))));
        let slots =
            projects::ModifyProjectInput { total_resource_slots: Some(json!({"mem": "2g"})), ..Default::default() };
        let row = modify(&domain_admin, own.id, slots).await.unwrap().unwrap();
        assert_eq!(row.total_resource_slots, json!({"mem": "2147483648"}));
        projects::delete(&control, &domain_admin, own.id).await.unwrap();
        projects::purge(&control, &domain_admin, own.id).await.unwrap();

        assert!(text(domains::purge(&control, &admin, "d1").await).contains("There are groups bound to the domain"));
        assert!(
            text(domains::purge(&control, &admin, "default").await).contains("There are users bound to the domain")
        );
        let renamed = domains::ModifyDomainInput { name: Some("d3".into()), ..Default::default() };
        assert_eq!(domains::modify(&control, &admin, "d1", renamed).await.unwrap().name, "d3");
        projects::purge(&control, &admin, there.id).await.unwrap();
        domains::delete(&control, &admin, "d3").await.unwrap();
        domains::purge(&control, &admin, "d3").await.unwrap();
        assert!(matches!(domains::purge(&control, &admin, "d3").await, Err(Error::NotFound { .. })));
        let hosts = domains::ModifyDomainInput { allowed_vfolder_hosts: Some(json!(["x"])), ..Default::default() };
        assert!(matches!(domains::modify(&control, &admin, "default", hosts).await, Err(Error::BadRequest(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_are_resolved_by_role() {
    for (_db, control) in controls().await {
        let (admin, domain_admin, user) =
            (who(&control, ADMIN).await, who(&control, DOMAIN_ADMIN).await, who(&control, USER).await);
        for own in [None, Some(USER)] {
            assert_eq!(scope::resolve_owner(&control, &user, own).await.unwrap().access_key, AccessKey::from(USER));
        }
        for caller in [&admin, &domain_admin, &user] {
            let unknown = scope::resolve_owner(&control, caller, Some("AKIANOBODY")).await;
            assert_eq!(text(unknown), "Unknown owner access key");
        }
        assert_eq!(scope::resolve_owner(&control, &admin, Some(USER)).await.unwrap().email, "user@conf.test");
        assert!(scope::resolve_owner(&control, &domain_admin, Some(USER)).await.is_ok());
        assert!(matches!(scope::resolve_owner(&control, &domain_admin, Some(ADMIN)).await, Err(Error::Forbidden(_))));
        assert_eq!(
            text(scope::resolve_owner(&control, &user, Some(ADMIN)).await),
            "Only admins can perform operations on behalf of other users."
        );
    }
}

fn registration(id: &str) -> agents::Registration {
    agents::Registration {
        id: id.into(),
        region: "local".into(),
        scaling_group: "default".into(),
        addr: "http://127.0.0.1:1".into(),
        public_host: None,
        architecture: "x86_64".into(),
        version: "0".into(),
        runtime: "synthetic".into(),
        runtime_types: vec!["*".into()],
        compute_plugins: json!({}),
        credential: "x".into(),
        host_secret: "y".into(),
        boot_id: "b".into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presets_fit_where_one_agent_has_room() {
    for (db, control) in controls().await {
        let (admin, user) = (who(&control, ADMIN).await, who(&control, USER).await);
        let slots = json!({"cpu": 3, "mem": "1g"});
        presets::create(&control, &admin, "medium", &slots, Some("64m")).await.unwrap();
        presets::create(&control, &admin, "large", &json!({"cpu": 5, "mem": "1g", "unknown": 1}), None).await.unwrap();
        assert!(matches!(presets::create(&control, &admin, "large", &slots, None).await, Err(Error::Integrity(_))));
        assert_eq!(text(presets::modify(&control, &admin, "large", None, None).await), "nothing to update");
        let bad = presets::modify(&control, &admin, "large", None, Some("xx")).await;
        assert_eq!(text(bad), "('Unconvertible value', 'xx')");

        let doc = presets::check(&control, &user, None, "default").await.unwrap();
        assert_eq!(doc["keypair_limits"], json!({"cpu": "Infinity", "mem": "Infinity", "cuda.device": "Infinity"}));
        assert_eq!(doc["keypair_using"], json!({"cpu": "0", "mem": "0", "cuda.device": "0"}));
        assert_eq!(doc["scaling_groups"]["default"]["remaining"], json!({"cpu": "0", "mem": "0", "cuda.device": "0"}));
        assert_eq!(doc["group_limits"], json!({"cpu": "NaN", "mem": "NaN", "cuda.device": "NaN"}));
        assert!(doc["presets"].as_array().unwrap().iter().all(|p| p["allocatable"] == json!(false)));

        let mut tx = db.store.begin().await.unwrap();
        for id in ["i-1", "i-2"] {
            agents::register(&mut tx, &registration(id), Timestamp::now()).await.unwrap();
            let capacity = BTreeMap::from([("cpu".to_owned(), 4000), ("mem".to_owned(), 8 << 30)]);
            agents::set_capacity(&mut tx, &id.into(), &json!({"cpu": "4", "mem": "8589934592"}), &capacity)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        control
            .config_tree()
            .set(&[("config/api/resources/group_resource_visibility".into(), "true".into())])
            .await
            .unwrap();
        let doc = presets::check(&control, &user, Some("default"), "default").await.unwrap();
        assert_eq!(doc["scaling_group_remaining"], json!({"cpu": "8", "mem": "17179869184", "cuda.device": "0"}));
        assert_eq!(doc["group_using"]["cpu"], json!("0"));
        let fits: Vec<_> =
            doc["presets"].as_array().unwrap().iter().map(|p| (p["name"].clone(), p["allocatable"].clone())).collect();
        assert_eq!(fits, [(json!("large"), json!(false)), (json!("medium"), json!(true))]);
        assert_eq!(doc["presets"][1]["shared_memory"], json!("67108864"));

        assert_eq!(text(presets::check(&control, &user, Some("nope"), "default").await), "Unknown scaling group");
        assert_eq!(text(presets::check(&control, &user, None, "nope").await), "Unknown user group");
        let names = scaling_groups::names_for(&control, &user, "default").await.unwrap();
        assert_eq!(names, ["default"]);
        presets::delete(&control, &admin, "large").await.unwrap();
        let all = presets::list(&control).await.unwrap();
        assert_eq!(all["presets"][0]["resource_slots"], json!({"cpu": "3", "mem": "1073741824", "cuda.device": "0"}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_groups_images_and_maintenance() {
    for (_db, control) in controls().await {
        let (admin, user) = (who(&control, ADMIN).await, who(&control, USER).await);
        let input = || scaling_groups::ScalingGroupInput {
            driver: "static".into(),
            scheduler: "fifo".into(),
            ..Default::default()
        };
        let row = scaling_groups::create(&control, &admin, "g1", input()).await.unwrap();
        assert!(row.is_active && row.is_public && !row.use_host_network);
        let bad = scaling_groups::ScalingGroupInput { scheduler_opts: Some(json!({"nonsense": 1})), ..input() };
        assert!(matches!(scaling_groups::create(&control, &admin, "g2", bad).await, Err(Error::InvalidParams { .. })));
        let with = store::scaling_groups::Associate::Domain("default");
        scaling_groups::associate(&control, &admin, "g1", with).await.unwrap();
        assert!(matches!(scaling_groups::associate(&control, &admin, "g1", with).await, Err(Error::Integrity(_))));
        assert_eq!(scaling_groups::names_for(&control, &user, "default").await.unwrap(), ["default", "g1"]);
        let hide = scaling_groups::ModifyScalingGroupInput { is_public: Some(false), ..Default::default() };
        scaling_groups::modify(&control, &admin, "g1", hide).await.unwrap();
        assert_eq!(scaling_groups::names_for(&control, &user, PROJECT).await.unwrap(), ["default"]);

        // What projects may use is known to everybody of their domain, and to superadmins.
        let input_of = |domain: &str| projects::ProjectInput { domain_name: domain.into(), ..Default::default() };
        domains::create(&control, &admin, "d1", Default::default()).await.unwrap();
        scaling_groups::create(&control, &admin, "g3", input()).await.unwrap();
        let domain_admin = who(&control, DOMAIN_ADMIN).await;
        for (domain, visible) in [("default", [true, true, true]), ("d1", [false, false, true])] {
            let theirs = projects::create(&control, &admin, "theirs", input_of(domain)).await.unwrap();
            let with = store::scaling_groups::Associate::Project(theirs.id);
            scaling_groups::associate(&control, &admin, "g3", with).await.unwrap();
            for (caller, visible) in [&user, &domain_admin, &admin].into_iter().zip(visible) {
                let names = scaling_groups::names_for(&control, caller, &theirs.id.to_string()).await.unwrap();
                assert_eq!(names.contains(&"g3".to_owned()), visible, "{domain} {}", caller.email);
            }
        }
        scaling_groups::disassociate(&control, &admin, Some("g1"), with).await.unwrap();
        assert!(matches!(
            scaling_groups::disassociate(&control, &admin, Some("g1"), with).await,
            Err(Error::NotFound { .. })
        ));
        scaling_groups::delete(&control, &admin, "g1").await.unwrap();

        let image = images::visible(&control, &user, "python", "x86_64").await.unwrap();
        images::check_registry(std::slice::from_ref(&image.registry), &image).unwrap();
        images::alias(&control, &admin, "py", &image.name, "x86_64").await.unwrap();
        assert!(matches!(images::alias(&control, &admin, "py", "python", "x86_64").await, Err(Error::Integrity(_))));
        assert_eq!(images::resolve(&control, "py", "x86_64").await.unwrap(), image);
        images::dealias(&control, &admin, "py").await.unwrap();
        assert_eq!(text(images::dealias(&control, &admin, "py").await), "No such alias");
        let no_registry = domains::ModifyDomainInput { allowed_docker_registries: Some(vec![]), ..Default::default() };
        domains::modify(&control, &admin, "default", no_registry).await.unwrap();
        assert!(images::check_registry(&[], &image).is_err());
        assert_eq!(images::list(&control, &user, None).await.unwrap(), []);
        assert_eq!(images::list(&control, &admin, None).await.unwrap().len(), 2);
        assert_eq!(images::list(&control, &admin, Some(true)).await.unwrap().len(), 0);
        images::forget(&control, &admin, "python", "x86_64").await.unwrap();
        assert!(images::resolve(&control, "python", "x86_64").await.is_err());

        assert_eq!(manager::status(&control).await, manager::ManagerStatus::Running);
        manager::set_status(&control, manager::ManagerStatus::Frozen).await.unwrap();
        assert!(matches!(manager::require_running(&control).await, Err(Error::ServerFrozen)));
        manager::require_serving(&control).await.unwrap();
        let doc = manager::status_document(&control, (6, "20230315")).await.unwrap();
        assert_eq!((&doc["status"], &doc["active_sessions"]), (&json!("frozen"), &json!(0)));
        assert_eq!(manager::announcement(&control).await, None);
        assert!(manager::set_announcement(&control, true, None).await.is_err());
        manager::set_announcement(&control, true, Some("hi")).await.unwrap();
        assert_eq!(manager::announcement(&control).await.as_deref(), Some("hi"));
        manager::set_announcement(&control, false, None).await.unwrap();
        assert_eq!(manager::announcement(&control).await, None);

        let mut types = config::vfolder_types(&control).await;
        types.sort();
        assert_eq!(types, ["group", "user"]);
        assert_eq!(config::docker_registries(&control).await["conf-registry"], "http://127.0.0.1:55000/");
        assert_eq!(config::resource_slots(&control), json!({"cpu": "count", "mem": "bytes", "cuda.device": "count"}));
    }
}

/// Statements that some work takes.
async fn statements<T>(control: &Control, work: impl Future<Output = T>) -> (T, u64) {
    let before = control.store().statements();
    let done = work.await;
    (done, control.store().statements() - before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_all_the_time_is_read_once_a_change() {
    for (_db, control) in controls().await {
        let (admin, user) = (who(&control, ADMIN).await, who(&control, USER).await);
        let names = || async { scaling_groups::names_for(&control, &user, "default").await.unwrap() };
        assert_eq!(names().await, ["default"]);
        assert_eq!(statements(&control, names()).await, (vec!["default".to_owned()], 0));

        let input = scaling_groups::ScalingGroupInput {
            driver: "static".into(),
            scheduler: "fifo".into(),
            ..Default::default()
        };
        scaling_groups::create(&control, &admin, "g1", input).await.unwrap();
        let with = store::scaling_groups::Associate::Keypair(&user.access_key);
        scaling_groups::associate(&control, &admin, "g1", with).await.unwrap();
        assert_eq!(names().await, ["default", "g1"]);
        let rename = projects::ModifyProjectInput { name: Some("renamed".into()), ..Default::default() };
        projects::modify(&control, &admin, PROJECT.parse().unwrap(), rename).await.unwrap();
        assert_eq!(names().await, ["default", "g1"], "an unknown project adds none and takes none away");
        scaling_groups::delete(&control, &admin, "g1").await.unwrap();
        assert_eq!(names().await, ["default"]);

        let scope = store::lists::keypairs::Scope { access_key: Some(user.access_key.clone()), ..Default::default() };
        let shown = || async { control.identity().keypair(&scope).await.unwrap().unwrap() };
        let before = shown().await;
        assert_eq!(statements(&control, shown()).await.1, 0);
        auth::update_full_name(&control, &user, "Another Name").await.unwrap();
        assert_eq!(shown().await.full_name.as_deref(), Some("Another Name"));
        keypairs::set_ssh_keypair(&control, &user, "ssh-rsa new", "private").await.unwrap();
        let after = shown().await;
        assert_ne!(before.ssh_public_key, after.ssh_public_key);
        assert_eq!(after.ssh_public_key.as_deref(), Some("ssh-rsa new\n"));
    }
}
