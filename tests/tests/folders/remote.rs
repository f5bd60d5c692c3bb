//! Folders of a storage proxy of the reference's, which is reached over TLS: what it is told, and whom it tells nothing.

use hyper::StatusCode;
use quarterdeck_tests::authority::Authority;
use quarterdeck_tests::client::{Answer, Client};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::receiver::{Heard, Receiver, Reply};
use quarterdeck_tests::{ADMIN, USER};
use serde_json::{Value, json};

/// The proxy's volume as a folder host.
const FAR: &str = "far:volume1";
const SECRET: &str = "between server and proxy";
const CLIENT_API: &str = "https://files.example.org";

/// What the manager's API of a storage proxy answers.
fn answer(heard: &Heard) -> Reply {
    if heard.header("x-backendai-storage-auth-token") != SECRET {
        return Some((StatusCode::FORBIDDEN, "403: Forbidden".to_owned()));
    }
    let volume =
        json!({"name": "volume1", "backend": "vfs", "path": "/far", "fsprefix": ".", "capabilities": ["vfolder"]});
    let document = match (heard.method.as_str(), heard.path.as_str()) {
        ("GET", "/volumes") => json!({ "volumes": [volume] }),
        ("GET", "/folder/fs-usage") => json!({"capacity_bytes": 1000, "used_bytes": 400}),
        ("POST", "/quota-scope" | "/folder/create" | "/folder/file/mkdir") => {
            return Some((StatusCode::NO_CONTENT, String::new()));
        }
        ("POST", "/folder/file/list") => json!({ "items": [] }),
        ("POST", "/folder/file/upload") => json!({"token": "a ticket"}),
        _ => return Some((StatusCode::NOT_FOUND, "404: Not Found".to_owned())),
    };
    Some((StatusCode::OK, document.to_string()))
}

async fn set(admin: &Client, key: &str, value: &str) {
    let key = format!("volumes/proxies/far/{key}");
    admin.post("/config/set", &json!({"key": key, "value": value})).await.unwrap().ok().unwrap();
}

/// Has everybody of the domain use the proxy's volume.
async fn grant(admin: &Client) {
    let mutation =
        "mutation($props: ModifyDomainInput!) { modify_domain(name: \"default\", props: $props) { ok msg } }";
    let hosts = json!({FAR: ["create-vfolder", "modify-vfolder", "upload-file"]}).to_string();
    let done = admin.gql(mutation, json!({"props": {"allowed_vfolder_hosts": hosts}})).await.unwrap();
    assert_eq!(done["modify_domain"]["ok"], true, "{done}");
}

async fn is_offered(user: &Client) -> bool {
    let hosts = user.get("/folders/_/hosts").await.unwrap().ok().unwrap();
    hosts["allowed"].as_array().unwrap().contains(&json!(FAR))
}

async fn make(user: &Client, name: &str) -> Answer {
    user.post("/folders", &json!({"name": name, "host": FAR})).await.unwrap()
}

async fn a_proxy_is_trusted(database: &Database) {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours").unwrap();
    let others = Authority::new(dir.path(), "others").unwrap();
    let proxy = Receiver::start_tls(ours.vouch().unwrap(), answer).await.unwrap();
    let data = dir.path().join("server");

    // The server trusts whoever issued the proxy's certificate.
    let certificate = ours.certificate();
    let trusting = [("SSL_CERT_FILE", certificate.to_str().unwrap())];
    let mut server = Server::start_with(database, &data, &trusting).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    for (key, value) in [("client_api", CLIENT_API), ("secret", SECRET), ("manager_api", proxy.url.as_str())] {
        set(&admin, key, value).await;
    }
    grant(&admin).await;
    assert!(is_offered(&user).await);
    let folder = make(&user, "remote").await.ok().unwrap();
    user.post("/folders/remote/mkdir", &json!({"path": "sub"})).await.unwrap().ok().unwrap();
    let files = user.get("/folders/remote/files").await.unwrap().ok().unwrap();
    assert_eq!(files["items"], json!([]));
    let ask = json!({"path": "sub/file.bin", "size": 5});
    let ticket = user.post("/folders/remote/request-upload", &ask).await.unwrap().ok().unwrap();
    assert_eq!((&ticket["token"], &ticket["url"]), (&json!("a ticket"), &json!(format!("{CLIENT_API}/upload"))));
    let told: Vec<(String, Value)> = proxy.heard().iter().map(|heard| (heard.path.clone(), heard.json())).collect();
    let created = &told.iter().find(|(path, _)| path == "/folder/create").unwrap().1;
    let scope = folder["quota_scope_id"].as_str().unwrap();
    assert_eq!(created["volume"], "volume1");
    assert_eq!(created["vfid"], format!("{scope}/{}", folder["id"].as_str().unwrap()));
    server.assert_well().await.unwrap();
    server.process.stop().unwrap();
    drop(server);
    let before = proxy.heard().len();

    // It trusts somebody else, and doesn't give away the secret.
    let certificate = others.certificate();
    let mut server = Server::again_with(database, &data, &[("SSL_CERT_FILE", certificate.to_str().unwrap())]).unwrap();
    let (admin, user) = (server.client(ADMIN), server.client(USER));
    assert!(!is_offered(&user).await);
    let refused = make(&user, "nowhere").await;
    assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", refused.body);
    let log = std::fs::read_to_string(&server.process.log).unwrap();
    let place = proxy.url.trim_start_matches("https://");
    let why =
        format!("far: {place} can't be reached: its certificate is refused: no authority that we trust issued it");
    let told = |level: &str| log.lines().any(|line| line.contains(level) && line.contains(&why));
    assert!(told("WARN") && told("ERROR"), "{log}");
    let names = user.get("/folders").await.unwrap().ok().unwrap();
    assert_eq!(names.as_array().unwrap().len(), 1, "{names}");
    assert_eq!(proxy.heard().len(), before, "it was told something");

    // Unless its administrator says that any certificate is good.
    set(&admin, "ssl_verify", "false").await;
    assert!(is_offered(&user).await);
    make(&user, "anyhow").await.ok().unwrap();
    server.process.stop().unwrap();
}

#[tokio::test]
async fn a_storage_proxy_is_trusted_for_its_certificate_on_sqlite() {
    a_proxy_is_trusted(&Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn a_storage_proxy_is_trusted_for_its_certificate_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        a_proxy_is_trusted(&database).await;
    }
}
