//! A server with a secret beside everything that its user may see.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::transfers::{Reply, Ticket, Transfers, files_below, root_of};
use quarterdeck_tests::wait::within;
use quarterdeck_tests::{DOMAIN_ADMIN, USER};
use serde_json::{Value, json};

use crate::HOST;

const SECRET: &str = "what nobody may read";

/// A server with a folder of the user's, another one's folder, and things beside both.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Server,
    pub(crate) user: Client,
    pub(crate) transfers: Transfers,
    /// Where volumes keep folders.
    pub(crate) volume: PathBuf,
    /// The user's folder `mine`.
    pub(crate) root: PathBuf,
    /// The domain administrator's folder `theirs`.
    pub(crate) theirs: PathBuf,
}

pub(crate) async fn lab(database: &Database, configuration: &str) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("quarterdeck.toml");
    std::fs::write(&file, configuration).unwrap();
    let env = [("QUARTERDECK_CONFIG", file.to_str().unwrap())];
    let server = Server::start_with(database, &dir.path().join("server"), &env).unwrap();
    let (user, transfers) = (server.client(USER), Transfers::default());
    let volume = server.data_dir.join("volumes/volume1");
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    std::fs::write(dir.path().join("outside/secret.txt"), SECRET).unwrap();
    std::fs::write(volume.join("neighbour.txt"), SECRET).unwrap();
    let mut roots = Vec::new();
    let other = server.client(DOMAIN_ADMIN);
    for (client, name, content) in [(&user, "mine", "inside"), (&other, "theirs", SECRET)] {
        let made = client.post("/folders", &json!({"name": name, "host": HOST})).await.unwrap().ok().unwrap();
        roots.push(root_of(&volume, &made).unwrap());
        transfers.put(client, name, "in.txt", content.as_bytes()).await.unwrap();
        client.post(&format!("/folders/{name}/mkdir"), &json!({"path": "sub"})).await.unwrap().ok().unwrap();
    }
    let [root, theirs] = roots.try_into().unwrap();
    Lab { dir, server, user, transfers, volume, root, theirs }
}

impl Lab {
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        send(&self.user, method, path, body).await
    }

    /// Every file around the user's folder, with its content.
    pub(crate) fn around(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let outside = self.dir.path().join("outside");
        let mut all = BTreeMap::new();
        for dir in [&self.volume, &outside] {
            let paths = files_below(dir).unwrap().into_iter().map(|path| dir.join(path));
            all.extend(paths.filter(|p| !p.starts_with(&self.root)).map(|p| (p.clone(), std::fs::read(p).unwrap())));
        }
        all
    }

    /// Checks that an answer tells nothing of what lies elsewhere.
    #[track_caller]
    pub(crate) fn tells_nothing(&self, what: &str, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let place = self.dir.path().to_str().unwrap();
        assert!(!text.contains(SECRET) && !text.contains(place), "{what} tells {text}");
    }

    /// Checks that an answer is a refusal that clients can read.
    #[track_caller]
    pub(crate) fn refused(&self, what: &str, status: StatusCode, body: &[u8]) {
        assert!(status.is_client_error(), "{what}: {status} {}", String::from_utf8_lossy(body));
        assert!(serde_json::from_slice::<Value>(body).is_ok_and(|b| b.is_object()), "{what}: no problem document");
        self.tells_nothing(what, body);
    }

    pub(crate) async fn fetch(&self, what: &str, address: &str) -> Reply {
        within(what, self.transfers.get(address, &[])).await
    }

    /// Tries to read a path by every way there is.
    pub(crate) async fn cannot_be_read(&self, path: &str) {
        let list = self.ask("GET", "/folders/mine/files", &json!({ "path": path })).await;
        self.refused(&format!("list {path:?}"), list.status, &list.bytes);
        let ask = self.ask("POST", "/folders/mine/request-download", &json!({ "path": path })).await;
        if !ask.status.is_success() {
            return self.refused(&format!("ask for {path:?}"), ask.status, &ask.bytes);
        }
        let ticket = Ticket::of(&ask.body).unwrap();
        for address in [ticket.address(), ticket.address_with("archive=true")] {
            let reply = self.fetch(path, &address).await;
            self.refused(&format!("fetch {path:?}"), reply.status, &reply.body);
        }
    }

    /// Tries to write to a path by every way there is.
    pub(crate) async fn cannot_be_written(&self, path: &str) {
        let mkdir = self.ask("POST", "/folders/mine/mkdir", &json!({"path": path, "exist_ok": true})).await;
        self.refused(&format!("make {path:?}"), mkdir.status, &mkdir.bytes);
        let ask = self.ask("POST", "/folders/mine/request-upload", &json!({"path": path, "size": 3})).await;
        if ask.status.is_success() {
            let ticket = Ticket::of(&ask.body).unwrap();
            let reply = self.transfers.patch(&ticket.address(), 0, "bad").await.unwrap();
            self.refused(&format!("send to {path:?}"), reply.status, &reply.body);
        } else {
            self.refused(&format!("ask to send to {path:?}"), ask.status, &ask.bytes);
        }
        let moved = self.ask("POST", "/folders/mine/move-file", &json!({"src": "in.txt", "dst": path})).await;
        self.refused(&format!("move to {path:?}"), moved.status, &moved.bytes);
    }

    /// Tries to take away what is at a path.
    pub(crate) async fn cannot_be_moved(&self, path: &str) {
        for (method, route, body) in [
            ("POST", "move-file", json!({"src": path, "dst": "stolen"})),
            ("POST", "rename-file", json!({"target_path": path, "new_name": "stolen"})),
            ("DELETE", "delete-files", json!({"files": [path], "recursive": true})),
        ] {
            let answer = self.ask(method, &format!("/folders/mine/{route}"), &body).await;
            self.refused(&format!("{route} of {path:?}"), answer.status, &answer.bytes);
        }
    }
}

pub(crate) async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Answer {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let what = format!("{method} {path}");
    within(&what, client.send(method, path, "application/json", Bytes::from(body.to_string()))).await
}

pub(crate) fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
