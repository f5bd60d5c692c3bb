//! The client of a storage proxy against a server that speaks the manager's API as `spec/storage-proxy.md` tells it.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use quarterdeck_model::VfolderId;
use quarterdeck_model::vfolder::FolderPath;
use quarterdeck_storage::{Error, FsUsage, Limits, Place, Proxy, ProxySettings, Storage as _, Usage};
use serde_json::{Value, json};

const SECRET: &str = "manager-secret";

type Calls = Arc<Mutex<Vec<(String, Value)>>>;

/// What the proxy answers: by `METHOD path`, status and body; a body that is a JSON string is sent as plain text.
type Script = HashMap<&'static str, (u16, Value)>;

async fn answer(request: Request<Incoming>, script: Arc<Script>, calls: Calls) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let text = |status: u16, text: &str| {
        let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
        Response::builder().status(status).header("content-type", "text/plain").body(body).unwrap()
    };
    if parts.headers.get("x-backendai-storage-auth-token").is_none_or(|token| token != SECRET) {
        return text(403, "403: Forbidden");
    }
    let body = body.collect().await.unwrap().to_bytes();
    let parameters = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let key = format!("{} {}", parts.method, parts.uri.path());
    calls.lock().unwrap().push((key.clone(), parameters));
    match script.get(key.as_str()) {
        None => text(404, "404: Not Found"),
        Some((status, Value::String(plain))) => text(*status, plain),
        Some((status, Value::Null)) => Response::builder().status(*status).body(Full::default()).unwrap(),
        Some((status, document)) => {
            let body = Full::new(Bytes::from(document.to_string()));
            Response::builder().status(*status).header("content-type", "application/json").body(body).unwrap()
        }
    }
}

/// A proxy that answers as told, and what it was asked.
async fn proxy(script: Script, secret: &str) -> (Proxy, Calls) {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (script, calls) = (Arc::new(script), Calls::default());
    let kept = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (script, calls) = (Arc::clone(&script), Arc::clone(&kept));
            let service = service_fn(move |request| {
                let (script, calls) = (Arc::clone(&script), Arc::clone(&calls));
                async move { Ok::<_, Infallible>(answer(request, script, calls).await) }
            });
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let settings = ProxySettings {
        name: "far".to_owned(),
        manager_api: format!("http://{address}/"),
        client_api: "https://files.example.org".to_owned(),
        secret: secret.to_owned(),
        ssl_verify: true,
    };
    (Proxy::new(settings), calls)
}

fn place() -> Place {
    let id = VfolderId("0486c0c6-0a58-440c-8489-9feceae17a4d".parse().unwrap());
    let folder = FolderPath { scope: "9b000000000040008000000000000004".to_owned(), id };
    Place { volume: "volume1".to_owned(), folder }
}

const VFID: &str = "9b000000000040008000000000000004/0486c0c60a58440c84899feceae17a4d";

fn asked(calls: &Calls) -> Vec<(String, Value)> {
    std::mem::take(&mut calls.lock().unwrap())
}

fn sent(calls: &Calls) -> (String, Value) {
    let mut all = asked(calls);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[tokio::test]
async fn every_call_is_spoken_as_the_contract_says() {
    let entry = json!({
        "name": "f", "type": "FILE", "symlink_target": "",
        "stat": {"mode": 33188, "size": 3, "created": "2026-01-01T00:00:00+00:00", "modified": "2026-01-01T00:00:00+00:00"},
    });
    let script = HashMap::from([
        (
            "GET /volumes",
            (
                200,
                json!({"volumes": [{"name": "volume1", "backend": "vfs", "path": "/mnt/v", "fsprefix": ".", "capabilities": ["vfolder"]}]}),
            ),
        ),
        ("GET /volume/hwinfo", (200, json!({"status": "healthy", "status_info": null, "metadata": {}}))),
        ("GET /folder/fs-usage", (200, json!({"capacity_bytes": 100, "used_bytes": 40}))),
        // The scope is there already, which the original answers so.
        ("POST /quota-scope", (500, json!("500 Internal Server Error\n\nServer got itself in trouble"))),
        ("POST /folder/create", (204, Value::Null)),
        ("POST /folder/delete", (204, Value::Null)),
        ("POST /folder/clone", (204, Value::Null)),
        ("GET /folder/mount", (200, json!({"path": "/mnt/v/x"}))),
        ("GET /folder/usage", (200, json!({"file_count": 3, "used_bytes": 8192}))),
        ("GET /folder/used-bytes", (200, json!({"used_bytes": 12288}))),
        ("POST /folder/file/mkdir", (204, Value::Null)),
        ("POST /folder/file/list", (200, json!({ "items": [entry] }))),
        ("POST /folder/file/rename", (204, Value::Null)),
        ("POST /folder/file/move", (204, Value::Null)),
        ("POST /folder/file/delete", (200, json!({"status": "ok"}))),
        ("POST /folder/file/fetch", (200, json!("content"))),
        ("POST /folder/file/upload", (200, json!({"token": "up"}))),
        ("POST /folder/file/download", (200, json!({"token": "down"}))),
    ]);
    let (proxy, calls) = proxy(script, SECRET).await;
    let place = place();
    let folder = |more: Value| {
        let mut all = json!({"volume": "volume1", "vfid": VFID});
        all.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        all
    };

    assert_eq!(proxy.volumes().await.unwrap()[0].path, "/mnt/v");
    assert_eq!(sent(&calls), ("GET /volumes".to_owned(), Value::Null));
    assert_eq!(proxy.fs_usage("volume1").await.unwrap(), FsUsage { capacity_bytes: 100, used_bytes: 40 });
    assert_eq!(sent(&calls), ("GET /folder/fs-usage".to_owned(), json!({"volume": "volume1"})));
    assert_eq!(proxy.hardware("volume1").await.unwrap()["status"], "healthy");
    asked(&calls);

    proxy.create(&place).await.unwrap();
    let scope = json!({"volume": "volume1", "qsid": place.folder.scope, "options": null});
    let made =
        [("POST /quota-scope".to_owned(), scope), ("POST /folder/create".to_owned(), folder(json!({"options": null})))];
    assert_eq!(asked(&calls), made);
    proxy.delete(&place).await.unwrap();
    assert_eq!(sent(&calls), ("POST /folder/delete".to_owned(), folder(json!({}))));
    proxy.duplicate(&place, &place).await.unwrap();
    let clone =
        json!({"src_volume": "volume1", "src_vfid": VFID, "dst_volume": "volume1", "dst_vfid": VFID, "options": null});
    assert_eq!(asked(&calls)[1], ("POST /folder/clone".to_owned(), clone));

    assert_eq!(proxy.mount_path(&place, ".").await.unwrap(), "/mnt/v/x");
    assert_eq!(sent(&calls).1, folder(json!({"subpath": "."})));
    assert_eq!(proxy.usage(&place).await.unwrap(), Usage { file_count: 3, used_bytes: 8192 });
    assert_eq!(proxy.used_bytes(&place).await.unwrap(), 12288);
    asked(&calls);

    proxy.mkdir(&place, "a", true, false).await.unwrap();
    assert_eq!(sent(&calls).1, folder(json!({"relpath": "a", "parents": true, "exist_ok": false})));
    assert_eq!(proxy.list(&place, "").await.unwrap()[0].name, "f");
    assert_eq!(sent(&calls).1, folder(json!({"relpath": ""})));
    proxy.rename(&place, "a", "b").await.unwrap();
    assert_eq!(sent(&calls).1, folder(json!({"relpath": "a", "new_name": "b"})));
    proxy.move_file(&place, "a", "b").await.unwrap();
    assert_eq!(sent(&calls).1, folder(json!({"src_relpath": "a", "dst_relpath": "b"})));
    proxy.remove(&place, &["a".to_owned()], true).await.unwrap();
    assert_eq!(sent(&calls).1, folder(json!({"relpaths": ["a"], "recursive": true})));
    assert_eq!(proxy.fetch(&place, "a").await.unwrap(), b"content");
    asked(&calls);
    assert_eq!(proxy.upload_token(&place, "a", 5, Limits::default()).await.unwrap(), "up");
    assert_eq!(sent(&calls), ("POST /folder/file/upload".to_owned(), folder(json!({"relpath": "a", "size": 5}))));
    assert_eq!(proxy.download_token(&place, "a", false).await.unwrap(), "down");
    assert_eq!(sent(&calls).1, folder(json!({"relpath": "a", "archive": false, "unmanaged_path": null})));
    assert_eq!(proxy.client_api(), Some("https://files.example.org"));
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let script = HashMap::from([
        ("POST /folder/file/mkdir", (400, json!({"msg": "File exists", "errno": 17, "paths": ["a/b"]}))),
        ("POST /folder/file/list", (500, json!("500 Internal Server Error\n\nServer got itself in trouble"))),
        ("GET /volume/quota", (400, Value::Null)),
    ]);
    let (proxy, calls) = proxy(script, SECRET).await;
    let place = place();
    match proxy.mkdir(&place, "a/b", true, false).await.unwrap_err() {
        Error::Refused(problem) => {
            assert_eq!(problem.msg.as_deref(), Some("File exists"));
            assert_eq!(Value::Object(problem.data), json!({"errno": 17, "paths": ["a/b"]}));
        }
        other => panic!("{other}"),
    }
    let failed = proxy.list(&place, "").await.unwrap_err().to_string();
    assert_eq!(failed, "Storage proxy responded with 500 Internal Server Error");
    assert!(proxy.quota(&place, 0).await.unwrap_err().to_string().starts_with("Storage proxy responded with 400"));
    asked(&calls);
    // What an original proxy doesn't look at isn't sent to it.
    for path in ["/etc/passwd", "../x", "a/../../x", "a\0"] {
        assert!(proxy.upload_token(&place, path, 1, Limits::default()).await.is_err(), "{path}");
        assert!(proxy.download_token(&place, path, false).await.is_err(), "{path}");
        assert!(proxy.mkdir(&place, path, true, true).await.is_err(), "{path}");
        assert!(proxy.move_file(&place, "a", path).await.is_err(), "{path}");
        assert!(proxy.remove(&place, &[path.to_owned()], true).await.is_err(), "{path}");
        assert!(proxy.fetch(&place, path).await.is_err(), "{path}");
    }
    proxy.remove(&place, &[], false).await.unwrap();
    assert!(asked(&calls).is_empty());
}

#[tokio::test]
async fn a_wrong_secret_and_a_dead_proxy() {
    let (stranger, _) = proxy(HashMap::new(), "wrong").await;
    let refused = stranger.volumes().await.unwrap_err().to_string();
    assert_eq!(refused, "Storage proxy responded with 403 Forbidden");
    let settings = ProxySettings {
        name: "gone".to_owned(),
        manager_api: "http://127.0.0.1:1".to_owned(),
        client_api: String::new(),
        secret: String::new(),
        ssl_verify: false,
    };
    assert!(matches!(Proxy::new(settings).volumes().await, Err(Error::Unreachable(_))));
}
