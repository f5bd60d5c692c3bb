//! Commands at the server's console, through the real binary, on databases of both kinds, beside real servers.
#![allow(clippy::unwrap_used, missing_docs)]

mod import;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Server, binary};
use quarterdeck_tests::{ADMIN, KeyPair, USER, wait};
use serde_json::{Value, json};

/// What a run of the binary left.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// Standard output of a run that ended well.
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Standard error of a run that ended with `code`.
    fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        self.err
    }
}

/// Runs a command on a database; nobody is at the keyboard.
fn run(database: &Database, args: &[&str]) -> Ran {
    run_in(database, args, Path::new("."))
}

fn run_in(database: &Database, args: &[&str], dir: &Path) -> Ran {
    let output = Command::new(binary().unwrap())
        .args(args)
        .env("QUARTERDECK_DATABASE", &database.url)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn leaked(text: &Value) -> &'static str {
    Box::leak(text.as_str().unwrap().to_owned().into_boxed_str())
}

/// The keys that a command shows once.
fn keys(shown: &Value) -> KeyPair {
    KeyPair { access: leaked(&shown["access_key"]), secret: leaked(&shown["secret_key"]) }
}

/// Waits until a signed call is answered with `status`.
async fn answered(server: &Server, keys: KeyPair, status: u16) {
    let client = server.client(keys);
    wait::until(&format!("{status} for {}", keys.access), Duration::from_secs(10), || async {
        let answer = client.get("/auth?echo=here").await?;
        Ok((answer.status.as_u16() == status).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_fresh_installation_is_administered_beside_its_server() {
    let dir = tempfile::tempdir().unwrap();
    for (i, db) in Database::each().unwrap().iter().enumerate() {
        let missing = run(db, &["init", "--email", "root@site.test", "--password-file", "/nonexistent"]);
        assert!(missing.fails(1).contains("/nonexistent"));
        let root = run(db, &["init", "--email", "root@site.test", "--json"]).json();
        assert!(root["password"].as_str().unwrap().len() >= 24);
        assert!(run(db, &["init"]).fails(1).contains("has a superadmin already: root@site.test"));
        let root = keys(&root);

        let server = Server::again(db, &dir.path().join(i.to_string())).unwrap();
        answered(&server, root, 200).await;

        // Users and key pairs: a server that runs follows within a second.
        let secrets = dir.path().join("password");
        std::fs::write(&secrets, "a secret word\n").unwrap();
        let file = secrets.display().to_string();
        let create = ["user", "create", "ada@site.test", "--project", "default", "--password-file", &file, "--json"];
        let ada = run(db, &create).json();
        assert_eq!((ada["password"].is_null(), &ada["projects"]), (true, &json!(["default"])));
        let ada_keys = keys(&ada);
        answered(&server, ada_keys, 200).await;
        let login =
            json!({"type": "keypair", "domain": "default", "username": "ada@site.test", "password": "a secret word"});
        let login = server.client(root).post("/auth/authorize", &login).await.unwrap().ok().unwrap();
        assert_eq!(login["data"]["access_key"], ada["access_key"]);
        run(db, &["keypair", "deactivate", ada_keys.access]).ok();
        answered(&server, ada_keys, 401).await;
        run(db, &["keypair", "activate", ada_keys.access]).ok();
        answered(&server, ada_keys, 200).await;
        let rotate = ["keypair", "rotate", ada_keys.access];
        assert!(run(db, &rotate).fails(1).contains("--yes"));
        let rotated = keys(&run(db, &[&rotate[..], &["--yes", "--json"]].concat()).json());
        answered(&server, ada_keys, 401).await;
        answered(&server, rotated, 200).await;
        let another = run(db, &["keypair", "create", "ada@site.test", "--rate-limit", "77", "--json"]).json();
        assert_eq!((&another["rate_limit"], &another["is_admin"]), (&json!(77), &json!(false)));
        let modified = ["keypair", "modify", another["access_key"].as_str().unwrap(), "--admin", "true", "--json"];
        assert_eq!(run(db, &modified).json()["is_admin"], true);
        run(db, &["keypair", "delete", another["access_key"].as_str().unwrap(), "--yes"]).ok();

        let list = run(db, &["user", "list", "--filter", "role == \"USER\"", "--json"]).json();
        assert_eq!(list.as_array().unwrap().iter().map(|u| u["email"].clone()).collect::<Vec<_>>(), ["ada@site.test"]);
        assert!(run(db, &["user", "list", "--filter", "colour == 1"]).fails(1).contains("Query filter parsing error"));
        let table = run(db, &["user", "list", "--order", "email"]).ok();
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[0].contains("EMAIL") && lines[1].contains("ada@site.test") && lines[2].contains("root@site.test")
        );
        let ada =
            run(db, &["user", "modify", "ada@site.test", "--role", "admin", "--full-name", "Ada", "--json"]).json();
        assert_eq!((&ada["role"], &ada["full_name"]), (&json!("admin"), &json!("Ada")));
        assert!(run(db, &["user", "password", "ada@site.test"]).ok().contains("shown this once"));
        assert!(run(db, &["user", "create", "ada@site.test"]).fails(1).contains("duplicate key"));
        assert!(
            run(db, &["user", "modify", "nobody@site.test", "--role", "user"])
                .fails(4)
                .contains("no such user: nobody@site.test")
        );
        assert!(run(db, &["user", "modify", "ada@site.test", "--role", "boss"]).fails(1).contains("boss"));
        assert!(
            run(db, &["user", "create", "eve@site.test", "--project", "nope"]).fails(4).contains("no such project")
        );

        // Domains, projects and members.
        run(
            db,
            &[
                "domain",
                "create",
                "lab",
                "--slots",
                "cpu=10,mem=1t",
                "--registry",
                "cr.site.test",
                "--vfolder-host",
                "local:v1=all",
            ],
        )
        .ok();
        let lab = run(db, &["domain", "show", "lab", "--json"]).json();
        assert_eq!(lab["total_resource_slots"], json!({"cpu": "10", "mem": "1099511627776"}));
        assert_eq!(lab["allowed_vfolder_hosts"]["local:v1"].as_array().unwrap().len(), 8);
        assert!(run(db, &["domain", "create", "bad name"]).fails(1).contains("slug"));
        run(db, &["project", "create", "vision", "--domain", "lab"]).ok();
        let stranger = run(db, &["project", "add-member", "vision", "ada@site.test", "--domain", "lab"]);
        assert!(stranger.fails(1).contains("only users of the project's domain"));
        run(db, &["user", "create", "bob@lab.test", "--domain", "lab"]).ok();
        run(db, &["project", "add-member", "vision", "bob@lab.test", "--domain", "lab"]).ok();
        let members = run(db, &["project", "members", "vision", "--domain", "lab", "--json"]).json();
        assert_eq!(members[0]["email"], "bob@lab.test");
        assert!(
            run(db, &["domain", "purge", "lab", "--yes"]).fails(1).contains("There are users bound to the domain.")
        );
        run(db, &["project", "remove-member", "vision", "bob@lab.test", "--domain", "lab"]).ok();
        run(db, &["project", "modify", "vision", "--domain", "lab", "--rename", "sight", "--active", "false"]).ok();

        // Resource policies, scaling groups, images, presets.
        run(db, &["policy", "create", "small", "--slots", "cpu=1", "--unspecified", "limited", "--max-sessions", "2"])
            .ok();
        run(db, &["policy", "modify", "small", "--idle-timeout", "60"]).ok();
        let small = run(db, &["policy", "show", "small", "--json"]).json();
        assert_eq!((&small["default_for_unspecified"], &small["idle_timeout"]), (&json!("LIMITED"), &json!(60)));
        assert!(run(db, &["policy", "delete", "default", "--yes"]).fails(1).contains("foreign key"));
        run(db, &["policy", "delete", "small", "--yes"]).ok();
        run(db, &["scaling-group", "create", "gpu", "--scheduler-opts", "{\"pending_timeout\": \"1h\"}"]).ok();
        assert!(
            run(db, &["scaling-group", "modify", "gpu", "--scheduler-opts", "{\"colour\": 1}"])
                .fails(1)
                .contains("colour")
        );
        for with in
            [&["--domain", "lab"][..], &["--keypair", ada_keys.access], &["--project", "sight", "--of-domain", "lab"]]
        {
            run(db, &[&["scaling-group", "associate", "gpu"][..], with].concat()).ok();
        }
        let gpu = run(db, &["scaling-group", "show", "gpu", "--json"]).json();
        assert_eq!((&gpu["domains"], &gpu["keypairs"]), (&json!(["lab"]), &json!([ada_keys.access])));
        assert_eq!(gpu["projects"][0]["name"], "sight");
        run(db, &["scaling-group", "dissociate", "gpu", "--domain", "lab"]).ok();
        assert!(run(db, &["scaling-group", "dissociate", "gpu", "--domain", "lab"]).fails(4).contains("no such"));
        assert!(run(db, &["scaling-group", "associate", "gpu"]).fails(2).contains("--domain"));
        run(db, &["scaling-group", "delete", "gpu", "--yes"]).ok();
        run(db, &["image", "add", "local/python:3", "--alias", "python"]).ok();
        run(db, &["image", "alias", "py", "python"]).ok();
        run(db, &["image", "limit", "local/python:3", "cpu=1:4", "mem=128m"]).ok();
        let image = run(db, &["image", "show", "py", "--json"]).json();
        assert_eq!(image["aliases"], json!(["py", "python"]));
        assert_eq!(image["resource_limits"], json!({"cpu": {"min": "1", "max": "4"}, "mem": {"min": "128m"}}));
        run(db, &["image", "dealias", "py"]).ok();
        run(db, &["image", "forget", "python", "--yes"]).ok();
        assert!(run(db, &["image", "show", "python"]).fails(4).contains("no such environment image: python"));
        assert!(run(db, &["image", "rescan", "cr.nowhere"]).fails(1).contains("It is an unknown registry."));
        run(db, &["image", "rescan"]).ok();
        run(db, &["preset", "create", "tiny", "cpu=1,mem=1g", "--shared-memory", "64m"]).ok();
        run(db, &["preset", "modify", "tiny", "--shared-memory", ""]).ok();
        assert_eq!(run(db, &["preset", "list", "--json"]).json()[0]["shared_memory"], Value::Null);
        run(db, &["preset", "delete", "tiny", "--yes"]).ok();

        // The shared configuration.
        let visibility = "config/api/resources/group_resource_visibility";
        run(db, &["config", "set", visibility, "true"]).ok();
        assert_eq!(run(db, &["config", "get", visibility]).ok().trim(), "true");
        run(
            db,
            &[
                "config",
                "set",
                "config/docker/registry/cr.x",
                "--object",
                "{\"\": \"http://cr.x\", \"password\": \"pssst\"}",
            ],
        )
        .ok();
        let tree = run(db, &["config", "tree", "config/docker"]).ok();
        assert!(tree.contains("config/docker/registry/cr.x = http://cr.x") && !tree.contains("pssst"), "{tree}");
        assert!(run(db, &["config", "tree", "--secrets"]).ok().contains("pssst"));
        run(db, &["config", "delete", "config/docker", "--subtree", "--yes"]).ok();
        run(db, &["config", "get", "config/docker/registry/cr.x"]).fails(4);

        // Deleting and purging.
        run(db, &["user", "delete", "bob@lab.test", "--yes"]).ok();
        run(db, &["user", "purge", "bob@lab.test", "--yes"]).ok();
        run(db, &["project", "purge", "sight", "--domain", "lab", "--yes"]).ok();
        run(db, &["domain", "delete", "lab", "--yes"]).ok();
        run(db, &["domain", "purge", "lab", "--yes"]).ok();
        assert_eq!(run(db, &["domain", "list", "--json"]).json().as_array().unwrap().len(), 1);

        let check = run(db, &["db", "check", "--json"]).json();
        assert_eq!((&check["sound"], &check["findings"]), (&json!(true), &json!([])));
        server.assert_well().await.unwrap_or_else(|e| assert!(e.to_string().contains("401"), "{e}"));
    }
}

#[tokio::test]
async fn a_backup_taken_while_serving_fills_either_kind() {
    let dir = tempfile::tempdir().unwrap();
    for (i, db) in Database::each().unwrap().iter().enumerate() {
        let server = Server::start(db, &dir.path().join(format!("from-{i}"))).unwrap();
        let user = server.client(USER);
        let session = user.enqueue("before", json!({"cpu": 1, "mem": "256m"})).await.unwrap();
        let file = dir.path().join(format!("{i}.backup"));
        let name = file.display().to_string();
        // Writers go on meanwhile, and what they write is whole in the backup or not in it.
        let writing = async {
            for n in 0..10 {
                user.enqueue(&format!("during-{n}"), json!({"cpu": 1, "mem": "256m"})).await.unwrap();
            }
        };
        let backup = tokio::task::spawn_blocking({
            let (url, name) = (db.url.clone(), name.clone());
            move || quarterdeck_tests::process::quarterdeck(&["db", "backup", &name, "--database", &url], &[])
        });
        let (_, backup) = tokio::join!(writing, backup);
        backup.unwrap().unwrap();
        assert!(run(db, &["db", "backup", &name]).fails(1).contains("--force"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "everybody's keys are in it");

        for (j, to) in Database::each().unwrap().iter().enumerate() {
            run(to, &["db", "restore", &name]).ok();
            assert!(run(to, &["db", "restore", &name]).fails(1).contains("in use"));
            let check = run(to, &["db", "check"]);
            assert_eq!(check.code, 0, "{check:?}");
            let restored = Server::again(to, &dir.path().join(format!("to-{i}-{j}"))).unwrap();
            let row = restored.client(ADMIN).session(&session, "name status").await.unwrap();
            assert_eq!((&row["name"], &row["status"]), (&json!("before"), &json!("PENDING")));
            // What the database counts up goes on.
            restored.client(USER).enqueue("after", json!({"cpu": 1, "mem": "256m"})).await.unwrap();
            restored.assert_well().await.unwrap();
        }
    }
}

#[test]
fn a_mistyped_database_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("typo.sqlite");
    let url = format!("sqlite://{}", path.display());
    for args in [&["user", "list"][..], &["db", "check"], &["config", "tree"]] {
        let output = Command::new(binary().unwrap()).args(args).args(["--database", &url]).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && err.contains("there is no database at"), "{err}");
    }
    assert!(!path.exists());
}

#[test]
fn the_file_of_keys_and_the_configuration_file() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::sqlite().unwrap();
    run_in(&db, &["init", "--env-file", "admin.env", "--endpoint", "http://here:1"], dir.path()).ok();
    let text = std::fs::read_to_string(dir.path().join("admin.env")).unwrap();
    assert!(text.contains("export BACKEND_ENDPOINT='http://here:1'\n") && text.contains("export BACKEND_SECRET_KEY='"));
    assert!(run_in(&db, &["init", "--env-file", "admin.env"], dir.path()).fails(1).contains("admin.env"));

    std::fs::write(dir.path().join("good.toml"), run(&db, &["config", "example"]).ok()).unwrap();
    assert_eq!(run_in(&db, &["config", "check", "good.toml"], dir.path()).ok(), "good.toml: ok\n");
    std::fs::write(dir.path().join("bad.toml"), "listen = \"127.0.0.1:0\"\nheartbeat = 3\n").unwrap();
    let bad = run_in(&db, &["config", "check", "bad.toml"], dir.path());
    assert_eq!((bad.code, bad.out.as_str()), (3, "bad.toml:2: heartbeat: there is no such key\n"));
    let serve = run_in(&db, &["serve", "--config", "bad.toml", "--data-dir", "data"], dir.path());
    assert!(serve.fails(1).contains("bad.toml: 2: heartbeat: there is no such key"));
    let schema: Value = run(&db, &["config", "schema"]).json();
    let schema = jsonschema::validator_for(&schema).unwrap();
    assert!(
        schema.is_valid(&json!({"listen": "127.0.0.1:1", "recorded_rounds": 0, "plugin_trusted_keys": {"a": "b"}}))
    );
    assert!(!schema.is_valid(&json!({"lisen": "127.0.0.1:1"})));
    assert!(!schema.is_valid(&json!({"idle_interval_seconds": 0})));
}
