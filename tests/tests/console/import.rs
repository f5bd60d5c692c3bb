//! `quarterdeck db import` from a database with the reference's schema.

use quarterdeck_tests::KeyPair;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use serde_json::{Value, json};

use super::run;

const ADMIN: KeyPair = KeyPair { access: "AKIAIMPORTADMIN00001", secret: "importAdminSecret00000000000000000000001" };
const ADA: KeyPair = KeyPair { access: "AKIAIMPORTUSER000002", secret: "importUserSecret000000000000000000000002" };

fn import(to: &Database, from: &Database, more: &[&str]) -> Value {
    run(to, &[&["db", "import", &from.url, "--json"][..], more].concat()).json()
}

/// What a report says of one row.
fn said(report: &Value, list: &str, row: &str) -> String {
    let word = if list == "skipped" { "reason" } else { "note" };
    let of = |r: &&Value| r["row"].as_str().is_some_and(|name| name.split(' ').any(|part| part == row));
    let remarks = report[list].as_array().unwrap();
    remarks.iter().filter(of).map(|r| r[word].as_str().unwrap().to_owned()).collect::<Vec<_>>().join("; ")
}

fn sum(report: &Value, what: &str) -> u64 {
    report["tables"].as_object().unwrap().values().map(|counts| counts[what].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn a_database_of_the_reference_is_taken_over() {
    let Some(from) = Database::postgres().unwrap() else { return };
    from.execute(include_str!("reference.sql")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (i, to) in Database::each().unwrap().iter().enumerate() {
        let dry = import(to, &from, &["--dry-run"]);
        assert_eq!((&dry["dry_run"], &dry["schema_revision"]), (&json!(true), &json!("75ea2b136830")));
        assert_eq!(run(to, &["user", "list", "--json"]).json(), json!([]));

        let report = import(to, &from, &[]);
        assert_eq!(report["tables"], dry["tables"]);
        let counts = |table: &str| {
            let c = &report["tables"][table];
            (c["read"].as_u64().unwrap(), c["added"].as_u64().unwrap(), c["skipped"].as_u64().unwrap())
        };
        for (table, expected) in [
            ("keypair_resource_policies", (3, 2, 1)),
            ("domains", (4, 3, 1)),
            ("groups", (4, 2, 2)),
            ("users", (7, 5, 2)),
            ("association_groups_users", (5, 3, 2)),
            ("keypairs", (5, 2, 3)),
            ("scaling_groups", (2, 2, 0)),
            ("sgroups_for_domains", (2, 1, 1)),
            ("sgroups_for_groups", (1, 1, 0)),
            ("sgroups_for_keypairs", (2, 1, 1)),
            ("resource_presets", (2, 1, 1)),
            ("images", (1, 1, 0)),
            ("image_aliases", (2, 1, 1)),
            ("session_templates", (3, 1, 2)),
            ("vfolders", (14, 5, 9)),
            ("vfolder_permissions", (5, 1, 4)),
            ("vfolder_invitations", (5, 2, 3)),
        ] {
            assert_eq!(counts(table), expected, "{table}: {report:#}");
        }
        for (row, reason) in [
            ("broken", "slots"),
            ("lost", "its domain broken isn't there"),
            ("10000000-0000-4000-8000-000000000005", "email is NULL"),
            ("homeless@site.test", "its domain broken isn't there"),
            ("AKIAIMPORTLOST000003", "its policy vanished isn't there"),
            ("AKIAIMPORTMUTE000004", "its user isn't taken over"),
            ("AKIAIMPORTNULL000005", "secret_key is NULL"),
            ("gone", "its scaling group isn't there"),
            ("ghost", "its image isn't taken over"),
            ("old", "it is deleted"),
            (
                "40000000-0000-4000-8000-000000000003",
                "another folder of that name there: 40000000-0000-4000-8000-000000000001",
            ),
            ("orphan", "its owner, the user 10000000-0000-4000-8000-000000000006, isn't taken over"),
            ("past", "status: purged is none"),
            ("bad/name", "its name is none that a folder may have"),
            ("leaving", "10000000000040008000000000000002/40000000000040008000000000000007 on local:volume1"),
            (".bashrc", "its name is reserved"),
            ("astray", "`nowhere` is no <proxy>:<volume>"),
            (".hidden", "must not begin with a dot"),
            ("free", "it has no owner"),
            ("40000000-0000-4000-8000-000000000001", "the user owns the folder"),
            ("40000000-0000-4000-8000-000000000001", "the user has another permission"),
            ("40000000-0000-4000-8000-000000000001", "its user isn't taken over"),
            ("40000000-0000-4000-8000-000000000004", "its folder isn't taken over"),
            ("60000000-0000-4000-8000-000000000003", "pending already"),
            ("nobody@site.test", "its invitee nobody@site.test isn't there"),
            ("60000000-0000-4000-8000-000000000005", "its folder isn't taken over"),
        ] {
            assert!(said(&report, "skipped", row).contains(reason), "{row}: {}", said(&report, "skipped", row));
        }
        for (row, note) in [
            ("scrambled", "without its dotfiles"),
            ("Ada@site.test", "differs only by case from ada@site.test"),
            ("gone@site.test", "unknown kind"),
            ("watcher@site.test", "second factor"),
            ("gpu", "without the option colour"),
            ("copying", "is ready; it was cloning"),
            ("remote:volume2", "1 folders lie there, and the shared configuration has no volumes/proxies/remote"),
        ] {
            assert!(said(&report, "notes", row).contains(note), "{row}: {}", said(&report, "notes", row));
        }
        assert_eq!(report["other_tables"], json!(["error_logs", "sessions"]));

        // As it was: ids, limits, hashes, keys, memberships, associations, dotfiles, templates.
        let default = run(to, &["domain", "show", "default", "--json"]).json();
        assert_eq!(default["total_resource_slots"], json!({"cpu": "100", "mem": "1099511627776"}));
        assert_eq!(default["created_at"], "2021-03-04T05:06:07.891000+00:00");
        assert_eq!(run(to, &["domain", "show", "resting", "--json"]).json()["is_active"], false);
        let ada = run(to, &["user", "show", "ada@site.test", "--json"]).json();
        assert_eq!(ada["id"], "10000000-0000-4000-8000-000000000002");
        assert_eq!(
            (&ada["projects"], &ada["allowed_client_ip"]),
            (&json!(["default", "vision"]), &json!(["127.0.0.0/8", "10.0.0.0/8"]))
        );
        let pair = run(to, &["keypair", "show", ADA.access, "--json"]).json();
        assert_eq!((&pair["resource_policy"], &pair["scaling_groups"]), (&json!("student"), &json!(["gpu"])));
        let gpu = run(to, &["scaling-group", "show", "gpu", "--json"]).json();
        assert_eq!(
            (&gpu["scheduler"], &gpu["scheduler_opts"]["allowed_session_types"]),
            (&json!("drf"), &json!(["batch"]))
        );
        let server = Server::again(to, &dir.path().join(i.to_string())).unwrap();
        let (admin, user) = (server.client(ADMIN), server.client(ADA));
        let login =
            json!({"type": "keypair", "domain": "default", "username": "ada@site.test", "password": "legacy-pw"});
        let login = admin.post("/auth/authorize", &login).await.unwrap().ok().unwrap();
        assert_eq!(login["data"]["access_key"], ADA.access);
        let files = user.get("/domain-config/dotfiles?domain=default").await.unwrap().ok().unwrap();
        assert_eq!(files, json!([{"path": ".vimrc", "permission": "644", "data": "set nu"}]));
        let script = admin.get("/user-config/bootstrap-script").await.unwrap().ok().unwrap();
        assert_eq!(script, json!("echo hello"));
        let templates = user.get("/template/session").await.unwrap().ok().unwrap();
        assert_eq!((templates.as_array().unwrap().len(), &templates[0]["name"]), (1, &json!("small")));
        folders_are_as_they_were(&server, i).await;
        let told = admin.get("/audit?action=db%20import&target=ada%40site.test").await.unwrap().ok().unwrap();
        let changes = told["entries"][0]["changes"].as_array().unwrap();
        let ada = changes.iter().find(|c| c["name"] == "ada@site.test").unwrap();
        assert_eq!(
            (&ada["kind"], &ada["before"], &ada["after"]["password"]),
            (&json!("user"), &Value::Null, &json!("***"))
        );
        assert!(!told.to_string().contains("importUserSecret") && !told.to_string().contains("$2b$"));
        let image = run(to, &["image", "show", "python", "--json"]).json();
        assert_eq!(image["name"], "cr.site.test/stable/python:3.9-ubuntu20.04");
        server.assert_well().await.unwrap_or_else(|e| assert!(e.to_string().contains("401"), "{e}"));

        // Again: nothing is added, and what was changed on either side stays until it is to be brought over.
        run(to, &["domain", "modify", "resting", "--description", "ours"]).ok();
        from.execute("UPDATE keypairs SET rate_limit = 40000 WHERE access_key = 'AKIAIMPORTADMIN00001'").unwrap();
        from.execute("UPDATE keypair_resource_policies SET max_concurrent_sessions = 9 WHERE name = 'student'")
            .unwrap();
        from.execute("UPDATE vfolders SET permission = 'ro' WHERE name = 'work'").unwrap();
        let again = import(to, &from, &[]);
        assert_eq!((sum(&again, "added"), sum(&again, "updated")), (0, 0), "{again:#}");
        assert_eq!(run(to, &["keypair", "show", ADMIN.access, "--json"]).json()["rate_limit"], 30_000);
        let updated = import(to, &from, &["--update"]);
        assert_eq!((sum(&updated, "added"), sum(&updated, "updated")), (0, 3), "{updated:#}");
        assert_eq!(run(to, &["keypair", "show", ADMIN.access, "--json"]).json()["rate_limit"], 40_000);
        assert_eq!(run(to, &["domain", "show", "resting", "--json"]).json()["description"], "ours");
        let login =
            json!({"type": "keypair", "domain": "default", "username": "ada@site.test", "password": "legacy-pw"});
        admin.post("/auth/authorize", &login).await.unwrap().ok().unwrap();
        let twice = import(to, &from, &["--update"]);
        assert_eq!((sum(&twice, "added"), sum(&twice, "updated")), (0, 0), "{twice:#}");

        // Key pairs without a policy of theirs, on demand.
        let refused = run(to, &["db", "import", &from.url, "--fallback-policy", "nope"]);
        assert!(refused.fails(1).contains("there is no policy `nope`"));
        let fallback = import(to, &from, &["--fallback-policy", "student"]);
        assert_eq!(sum(&fallback, "added"), 1);
        assert!(said(&fallback, "notes", "AKIAIMPORTLOST000003").contains("in place of the policy vanished"));

        from.execute("UPDATE vfolders SET permission = 'rw' WHERE name = 'work'").unwrap();
        assert_eq!(run(to, &["db", "check", "--json"]).json()["sound"], true);
        from.execute("UPDATE keypairs SET rate_limit = 30000 WHERE access_key = 'AKIAIMPORTADMIN00001'").unwrap();
        from.execute("UPDATE keypair_resource_policies SET max_concurrent_sessions = 1 WHERE name = 'student'")
            .unwrap();
    }
}

/// Folders, who else may use them, and invitations: under their ids, on their hosts, in their quota scopes.
async fn folders_are_as_they_were(server: &Server, i: usize) {
    let (admin, user) = (server.client(ADMIN), server.client(ADA));
    for owners in ["user", "group"] {
        let set = json!({"key": format!("volumes/_types/{owners}"), "value": ""});
        admin.post("/config/set", &set).await.unwrap().ok().unwrap();
    }
    let list = user.get("/folders").await.unwrap().ok().unwrap();
    let folder = |name: &str| list.as_array().unwrap().iter().find(|f| f["name"] == name).cloned().unwrap_or_default();
    let work = folder("work");
    for (field, expected) in [
        ("id", json!("40000000000040008000000000000001")),
        ("host", json!("local:volume1")),
        ("quota_scope_id", json!("10000000000040008000000000000002")),
        ("status", json!("ready")),
        ("usage_mode", json!("data")),
        ("max_size", json!(1024)),
        ("cloneable", json!(true)),
        ("created_at", json!("2023-04-05 06:07:08.000000+00:00")),
        ("creator", json!("ada@site.test")),
        ("is_owner", json!(true)),
    ] {
        assert_eq!(work[field], expected, "{i}: {field}: {work}");
    }
    assert_eq!((&folder("shared")["group_name"], &folder("shared")["permission"]), (&json!("vision"), &json!("ro")));
    assert_eq!(folder("copying")["host"], "remote:volume2");
    let theirs = admin.get("/folders").await.unwrap().ok().unwrap();
    let of_admin =
        |name: &str| theirs.as_array().unwrap().iter().find(|f| f["name"] == name).cloned().unwrap_or_default();
    assert_eq!((&of_admin("work")["permission"], &of_admin("work")["is_owner"]), (&json!("wd"), &json!(false)));
    assert_eq!(of_admin("early")["quota_scope_id"], "f38dea2350fa42a0b5ae338f5f4693f4");
    let sent = user.get("/folders/invitations/list-sent").await.unwrap().ok().unwrap();
    let sent = sent["invitations"].as_array().unwrap();
    assert_eq!((sent.len(), &sent[0]["id"]), (1, &json!("60000000-0000-4000-8000-000000000002")), "{sent:?}");
}

#[test]
fn what_is_no_such_database_is_refused() {
    let Some(from) = Database::postgres().unwrap() else { return };
    let to = Database::sqlite().unwrap();
    assert!(run(&to, &["db", "import", &from.url]).fails(1).contains("it has no table `domains`"));
    assert!(run(&to, &["db", "import", "mysql://x/y"]).fails(1).contains("unsupported database scheme `mysql`"));
    assert!(run(&to, &["db", "import", "postgres://127.0.0.1:1/x"]).fails(1).contains("the database to import from"));
}
