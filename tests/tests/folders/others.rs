//! Nobody gets at the folders of others, by whatever route.

use hyper::{Method, StatusCode};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::transfers::files_below;
use quarterdeck_tests::{ADMIN, DOMAIN_ADMIN};
use serde_json::{Value, json};

use crate::HOST;
use crate::lab::{lab, send};

const STRANGER: &str = "9b000000-0000-4000-8000-000000000002";
const NO_ONE: &str = "00000000-0000-4000-8000-000000000000";

/// Every route that names a folder, with what makes sense for it.
fn routes() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("GET", "", json!(null)),
        ("DELETE", "", json!(null)),
        ("POST", "/rename", json!({"new_name": "taken-over"})),
        ("POST", "/update-options", json!({"cloneable": true, "permission": "wd"})),
        ("POST", "/clone", json!({"target_name": "copy", "target_host": HOST})),
        ("POST", "/mkdir", json!({"path": "planted"})),
        ("POST", "/request-upload", json!({"path": "planted", "size": 3})),
        ("POST", "/request-download", json!({"path": "in.txt"})),
        ("POST", "/move-file", json!({"src": "in.txt", "dst": "out.txt"})),
        ("POST", "/rename-file", json!({"target_path": "in.txt", "new_name": "out.txt"})),
        ("POST", "/rename_file", json!({"target_path": "in.txt", "new_name": "out.txt"})),
        ("DELETE", "/delete-files", json!({"files": ["in.txt"]})),
        ("DELETE", "/delete_files", json!({"files": ["in.txt"]})),
        ("GET", "/files", json!({"path": ""})),
        ("POST", "/invite", json!({"perm": "rw", "emails": ["admin@conf.test"]})),
        ("POST", "/leave", json!({})),
        ("POST", "/leave", json!({"shared_user_uuid": "9b000000-0000-4000-8000-000000000003"})),
        ("POST", "/share", json!({"permission": "wd", "emails": ["user@conf.test"]})),
        ("DELETE", "/unshare", json!({"emails": ["user@conf.test"]})),
    ]
}

/// Every route that names a folder by its id, or is for superadmins alone.
fn routes_by_id(id: &str) -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("GET", "/folders/_/quota", json!({"folder_host": HOST, "id": id})),
        ("POST", "/folders/_/quota", json!({"folder_host": HOST, "id": id, "input": {"size_bytes": 1}})),
        ("GET", "/folders/_/usage", json!({"folder_host": HOST, "id": id})),
        ("GET", "/folders/_/used-bytes", json!({"folder_host": HOST, "id": id})),
        ("POST", "/folders/_/shared", json!({"vfolder": id, "user": STRANGER, "perm": "wd"})),
        ("POST", "/folders/_/change-ownership", json!({"vfolder": id, "user_email": "domain-admin@conf.test"})),
        ("DELETE", "/folders", json!({ "id": id })),
        ("GET", "/folders/_/all-hosts", json!(null)),
        ("GET", "/folders/_/all_hosts", json!(null)),
        ("GET", "/folders/_/perf-metric", json!({"folder_host": HOST})),
        ("GET", "/folders/_/fstab", json!({})),
        ("GET", "/folders/_/mounts", json!(null)),
        ("POST", "/folders/_/mounts", json!({"name": "x", "fs_location": "y"})),
        ("DELETE", "/folders/_/mounts", json!({"name": "x"})),
    ]
}

async fn others_folders(database: Database) {
    let lab = lab(&database, "").await;
    let (other, admin) = (lab.server.client(DOMAIN_ADMIN), lab.server.client(ADMIN));
    let mine = lab.user.get("/folders").await.unwrap().ok().unwrap();
    let theirs = other.get("/folders").await.unwrap().ok().unwrap();
    let before = lab.around();
    let inside = files_below(&lab.root).unwrap();

    // By name: nobody reaches another one's folder, superadmins and domain administrators neither.
    for (client, who, name) in
        [(&lab.user, "user", "theirs"), (&other, "admin", "mine"), (&admin, "superadmin", "mine")]
    {
        for (method, route, body) in routes() {
            let what = format!("{method} /folders/{name}{route} by {who}");
            let answer = send(client, method, &format!("/folders/{name}{route}"), &body).await;
            lab.refused(&what, answer.status, &answer.bytes);
            let is_for_admins = matches!(route, "/share" | "/unshare") && who == "user";
            let expected = if is_for_admins { StatusCode::UNAUTHORIZED } else { StatusCode::NOT_FOUND };
            assert_eq!(answer.status, expected, "{what}: {}", answer.body);
        }
    }
    // By id.
    for (client, id) in [(&lab.user, &theirs[0]["id"]), (&other, &mine[0]["id"])] {
        let id = id.as_str().unwrap();
        for (method, path, body) in routes_by_id(id) {
            let answer = send(client, method, path, &body).await;
            lab.refused(&format!("{method} {path}"), answer.status, &answer.bytes);
        }
        let ask = json!({ "vfolder_id": id });
        let shared = send(client, "GET", "/folders/_/shared", &ask).await.ok().unwrap();
        assert_eq!(shared, json!({"shared": []}));
    }
    let listed = lab.ask("GET", "/folders", &json!({"owner_user_email": "domain-admin@conf.test"})).await;
    lab.refused("the folders of another", listed.status, &listed.bytes);

    // Invitations of others can't be taken, changed or withdrawn.
    let invite = json!({"perm": "ro", "emails": ["admin@conf.test"]});
    lab.ask("POST", "/folders/mine/invite", &invite).await.ok().unwrap();
    let list = admin.get("/folders/invitations/list").await.unwrap().ok().unwrap();
    let id = list["invitations"][0]["id"].as_str().unwrap().to_owned();
    let accepted = send(&other, "POST", "/folders/invitations/accept", &json!({ "inv_id": id })).await;
    assert_eq!(accepted.status, StatusCode::NOT_FOUND);
    let withdrawn = send(&other, "DELETE", "/folders/invitations/delete", &json!({ "inv_id": id })).await;
    assert_eq!(withdrawn.status, StatusCode::FORBIDDEN);
    send(&other, "POST", &format!("/folders/invitations/update/{id}"), &json!({"perm": "wd"})).await;
    for path in ["/folders/invitations/list", "/folders/invitations/list-sent", "/folders/invitations/list_sent"] {
        assert_eq!(other.get(path).await.unwrap().ok().unwrap(), json!({"invitations": []}));
    }
    let kept = admin.get("/folders/invitations/list").await.unwrap().ok().unwrap();
    assert_eq!(kept["invitations"][0]["perm"], "ro");
    let unknown = send(&other, "POST", "/folders/invitations/accept", &json!({ "inv_id": NO_ONE })).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);

    // Who may read may read, and nothing else.
    send(&admin, "POST", "/folders/invitations/accept", &json!({ "inv_id": id })).await.ok().unwrap();
    // (Leaving comes last, and a copy needs its owner's leave.)
    for (method, route, body) in routes().into_iter().filter(|(_, route, _)| *route != "/leave") {
        let answer = send(&admin, method, &format!("/folders/mine{route}"), &body).await;
        let may = matches!((method, route), ("GET", "" | "/files") | ("POST", "/request-download"));
        assert_eq!(answer.status.is_success(), may, "{method} {route}: {} {}", answer.status, answer.body);
        let still = send(&admin, "GET", "/folders/mine", &json!(null)).await;
        assert_eq!(still.status, StatusCode::OK, "after {method} {route}");
    }
    send(&admin, "POST", "/folders/mine/leave", &json!({})).await.ok().unwrap();
    assert_eq!(send(&admin, "GET", "/folders/mine", &json!(null)).await.status, StatusCode::NOT_FOUND);

    // Without a signature there is nothing at all.
    for (method, route, body) in routes() {
        let path = format!("{}/folders/mine{route}", lab.server.url);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("x-backendai-version", "v6.20230315".to_owned()),
            ("date", chrono::Utc::now().to_rfc3339()),
        ];
        let reply = lab.transfers.send(method.clone(), &path, &headers, body.to_string()).await.unwrap();
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        lab.tells_nothing(&path, &reply.body);
    }
    assert_eq!(lab.user.get("/folders").await.unwrap().ok().unwrap(), mine);
    assert_eq!(other.get("/folders").await.unwrap().ok().unwrap(), theirs);
    assert_eq!((lab.around(), files_below(&lab.root).unwrap()), (before, inside));
    lab.server.assert_well().await.unwrap();
}

#[tokio::test]
async fn nobody_gets_at_the_folders_of_others_on_sqlite() {
    others_folders(Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn nobody_gets_at_the_folders_of_others_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        others_folders(database).await;
    }
}
