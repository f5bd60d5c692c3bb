//! Signed components on a real server, by the commands that admins use.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::{Server, quarterdeck};
use quarterdeck_tests::{ADMIN, guests, wait};
use serde_json::{Value, json};

struct Lab {
    server: Server,
    admin: Client,
    dir: tempfile::TempDir,
    _database: Database,
}

impl Lab {
    fn new(database: Database, config: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("server.toml");
        std::fs::write(&file, config)?;
        std::fs::create_dir(dir.path().join("watched"))?;
        let watched = dir.path().join("watched");
        let env =
            [("QUARTERDECK_CONFIG", file.to_str().unwrap()), ("QUARTERDECK_PLUGIN_DIR", watched.to_str().unwrap())];
        let server = Server::start_with(&database, &dir.path().join("server"), &env)?;
        let admin = server.client(ADMIN);
        Ok(Self { server, admin, dir, _database: database })
    }

    async fn set(&self, key: &str, value: &str) {
        self.admin.post("/config/set", &json!({"key": key, "value": value})).await.unwrap().ok().unwrap();
    }

    /// A component of our own making: `mark` tells it from others.
    fn component(&self, mark: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{mark}.wasm"));
        let component = std::fs::read(guests::best_fit().unwrap()).unwrap();
        std::fs::write(&path, guests::marked(&component, mark)).unwrap();
        path
    }

    fn push(&self, file: &Path, more: &[&str]) -> anyhow::Result<Value> {
        let args = [&["plugin", "push", "--json", file.to_str().unwrap()], more].concat();
        Ok(serde_json::from_str(&self.server.cli(&args)?)?)
    }

    fn refused(&self, file: &Path, more: &[&str], reason: &str) {
        match self.push(file, more) {
            Ok(answer) => panic!("{} went through: {answer}", file.display()),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("(400)") && error.contains(reason), "{error}");
                assert_eq!(error.lines().count(), 1, "{error}");
            }
        }
    }

    fn inspect(&self, digest: &Value) -> Value {
        let shown = self.server.cli(&["plugin", "inspect", "--json", digest.as_str().unwrap()]).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown["revisions"][0].clone()
    }
}

/// A key pair: the secret key's file, and the public key.
fn key(dir: &Path, name: &str) -> (String, String) {
    let path = dir.join(name).display().to_string();
    let public = quarterdeck(&["plugin", "keygen", &path], &[]).unwrap().trim().to_owned();
    (format!("{path}.key"), public)
}

fn sign(file: &Path, key: &str, signature: &Path) {
    let (file, signature) = (file.to_str().unwrap(), signature.to_str().unwrap());
    quarterdeck(&["plugin", "sign", file, "--key", key, "--signature", signature], &[]).unwrap();
}

fn beside(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.minisig", file.display()))
}

async fn tree(database: Database) {
    let lab = Lab::new(database, "").unwrap();
    let (key, public) = key(lab.dir.path(), "release");

    // Nobody asks for signatures at first, and one by a stranger says nothing.
    let unsigned = lab.component("unsigned");
    let digest = lab.push(&unsigned, &[]).unwrap()["revision"]["digest"].clone();
    assert_eq!(lab.inspect(&digest)["signature"], Value::Null);
    let early = lab.component("early");
    sign(&early, &key, &beside(&early));
    let digest = lab.push(&early, &[]).unwrap()["revision"]["digest"].clone();
    assert_eq!(lab.inspect(&digest)["signature"], Value::Null);

    // A key that is trusted gives it a name, also to what is there already.
    lab.set("config/plugins/trusted-keys/release", &public).await;
    assert_eq!(lab.push(&early, &[]).unwrap()["created"], false);
    let signature = lab.inspect(&digest)["signature"].clone();
    assert_eq!(signature["key"], "release");
    assert!(signature["comment"].as_str().unwrap().ends_with("file:early.wasm"), "{signature}");
    let shown = lab.server.cli(&["plugin", "inspect", digest.as_str().unwrap()]).unwrap();
    assert!(shown.contains(&format!("release ({})", signature["key_id"].as_str().unwrap())), "{shown}");
    let other = lab.component("other");
    lab.refused(&other, &["--signature", beside(&early).to_str().unwrap()], "by the key `release`");

    // Required: nothing else comes in, and nothing of it is compiled.
    lab.set("config/plugins/signatures", "required").await;
    lab.refused(&other, &[], "isn't signed");
    let (stranger, _) = self::key(lab.dir.path(), "stranger");
    sign(&other, &stranger, &beside(&other));
    lab.refused(&other, &[], "which this site doesn't trust");
    std::fs::write(beside(&other), "nonsense").unwrap();
    lab.refused(&other, &[], "its signature can't be read");
    let digest = quarterdeck_digest(&other);
    let steps = lab.inspect(&digest.into())["steps"].clone();
    let words: Vec<_> = steps.as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert!(words.contains(&"verified") && !words.contains(&"compiled"), "{steps}");
    sign(&other, &key, &beside(&other));
    assert_eq!(lab.push(&other, &[]).unwrap()["created"], true);

    // What came in before doesn't serve without one; what is shipped with the host does.
    let group = ["--scaling-group", "default"];
    let old = quarterdeck_digest(&unsigned);
    let refusal = lab.server.cli(&["plugin", "bind", &old, group[0], group[1]]).unwrap_err().to_string();
    assert!(refusal.contains("(400)") && refusal.contains("may not serve: it isn't signed"), "{refusal}");
    lab.server.cli(&["plugin", "bind", "drf", group[0], group[1]]).unwrap();
    lab.server.cli(&["plugin", "bind", &quarterdeck_digest(&other), group[0], group[1]]).unwrap();

    // A key that is no longer trusted doesn't help.
    lab.admin
        .post("/config/delete", &json!({"key": "config/plugins/trusted-keys/release"}))
        .await
        .unwrap()
        .ok()
        .unwrap();
    let refusal = lab.server.cli(&["plugin", "bind", &quarterdeck_digest(&early), group[0], group[1]]).unwrap_err();
    assert!(refusal.to_string().contains("doesn't trust"), "{refusal}");
    lab.server.assert_well().await.unwrap();
}

fn quarterdeck_digest(file: &Path) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(std::fs::read(file).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_tree_says_whose_components_are_taken() {
    for database in Database::each().unwrap() {
        tree(database).await;
    }
}

#[tokio::test]
async fn what_the_servers_file_says_cannot_be_loosened() {
    let keys = tempfile::tempdir().unwrap();
    let (release, public) = key(keys.path(), "release");
    let (rogue, rogue_public) = key(keys.path(), "rogue");
    let config = format!("plugin_signatures = \"required\"\n[plugin_trusted_keys]\nrelease = \"{public}\"\n");
    let lab = Lab::new(Database::sqlite().unwrap(), &config).unwrap();
    lab.set("config/plugins/signatures", "off").await;
    lab.set("config/plugins/trusted-keys/rogue", &rogue_public).await;
    let component = lab.component("component");
    lab.refused(&component, &[], "isn't signed");
    sign(&component, &rogue, &beside(&component));
    lab.refused(&component, &[], "doesn't trust");

    // The watched directory is no way around it; a signature beside the file is what it takes.
    let watched = lab.dir.path().join("watched/component.wasm");
    std::fs::copy(&component, &watched).unwrap();
    let state = async |wanted: &str| {
        wait::until(wanted, Duration::from_secs(60), || async {
            let drops = lab.admin.get("/plugins/drops").await?.ok()?;
            Ok((drops["drops"][0]["state"] == wanted).then(|| drops["drops"][0].clone()))
        })
        .await
        .unwrap()
    };
    let refused = state("refused").await;
    assert!(refused["reason"].as_str().unwrap().contains("isn't signed"), "{refused}");
    sign(&component, &release, &beside(&watched));
    state("ok").await;
    let digest = quarterdeck_digest(&component);
    assert_eq!(lab.inspect(&digest.into())["signature"]["key"], "release");
    lab.server.assert_well().await.unwrap();

    // A server that would trust nobody doesn't start.
    let file = keys.path().join("nobody.toml");
    std::fs::write(&file, "plugin_signatures = \"required\"\n").unwrap();
    let data = keys.path().join("data");
    let args = ["serve", "--config", file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let refusal = quarterdeck(&[&args[..], &["--listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0"]].concat(), &[]);
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("plugin_trusted_keys"), "{refusal}");
}
