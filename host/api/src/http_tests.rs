//! The whole way of a request, without a socket: router, checks and problem documents.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::OnceLock;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use quarterdeck_control::manager::{self, ManagerStatus};
use quarterdeck_control::{Control, Settings, seed};
use quarterdeck_model::{Timestamp, UserStatus};
use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
use quarterdeck_store::testing::{self, TestDb};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::auth::date;
use crate::auth::signing::{Hash, Signed, sign};
use crate::{ApiSettings, router};

const HOST: &str = "127.0.0.1:8081";
const ADMIN: Key = Key("AKIACONFADMIN0000001", "confAdminSecret0000000000000000000000001");
const USER: Key = Key("AKIACONFUSER00000003", "confUserSecret00000000000000000000000003");

#[derive(Clone, Copy)]
struct Key(&'static str, &'static str);

struct Server {
    router: Router,
    control: Control,
    _db: TestDb,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    fn is(&self, status: u16, slug: &str, msg: &str) {
        let kind = self.body["type"].as_str().unwrap_or_default();
        assert_eq!((self.status, kind), (status, &*format!("https://api.backend.ai/probs/{slug}")), "{}", self.body);
        assert_eq!(self.body["msg"].as_str().unwrap_or_default(), msg);
        assert!(self.headers.get("x-ratelimit-limit").is_none(), "problems don't tell limits");
    }

    #[track_caller]
    fn is_ok(&self) -> &Value {
        assert_eq!(self.status / 100, 2, "{}", self.body);
        &self.body
    }
}

async fn server() -> Server {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let new = || Runtime::new(RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() }).unwrap();
    let plugins = RUNTIME.get_or_init(new).clone();
    let seed: Value = serde_json::from_str(include_str!("../../../tests/conformance/seed.json")).unwrap();
    let db = testing::sqlite().await;
    seed::load(&db.store, &seed).await.unwrap();
    let control = Control::new(db.store.clone(), plugins, Settings::default()).await.unwrap();
    control.identity().refresh().await.unwrap();
    Server { router: router(control.clone(), ApiSettings::default()), control, _db: db }
}

/// A request that may be spoilt before it is sent.
fn request(method: Method, target: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::new(body.into());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().unwrap();
    request.headers_mut().insert("host", HOST.parse().unwrap());
    request.headers_mut().insert("x-backendai-version", "v6.20230315".parse().unwrap());
    request.headers_mut().insert("date", Timestamp::now().iso().parse().unwrap());
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000))));
    request
}

/// Signs a request as it is now.
fn signed(key: Key, mut request: Request<Body>) -> Request<Body> {
    let header = |name: &str| request.headers().get(name).map_or("", |v| v.to_str().unwrap());
    let parts = Signed {
        method: request.method().as_str().as_bytes(),
        target: request.uri().path_and_query().unwrap().as_str().as_bytes(),
        date: header("date").as_bytes(),
        day: date::parse(header("date")).unwrap().day,
        host: header("host").as_bytes(),
        content_type: b"application/octet-stream",
        version_header: "x-backendai-version",
        version: header("x-backendai-version"),
    };
    let signature = sign(Hash::Sha256, key.1.as_bytes(), &parts);
    let signature = std::str::from_utf8(signature.as_bytes()).unwrap();
    let value = format!("BackendAI signMethod=HMAC-SHA256, credential={}:{signature}", key.0);
    request.headers_mut().insert("authorization", value.parse().unwrap());
    request
}

fn get(key: Key, target: &str) -> Request<Body> {
    signed(key, request(Method::GET, target, Body::empty()))
}

fn post(key: Key, target: &str, body: &Value) -> Request<Body> {
    signed(key, request(Method::POST, target, body.to_string()))
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

impl Server {
    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(parts.headers["server"], "BackendAI");
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or(Value::Null) };
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }
}

#[tokio::test]
async fn checks_come_in_their_order() {
    let server = server().await;
    // Each request has every fault from its line on.
    let spoilt = |target: &str| with(request(Method::PUT, target, "{"), "x-backendai-version", "garbage");
    server.send(spoilt("/nope?x=1")).await.is(404, "url-not-found", "");
    server.send(spoilt("/auth/authorize")).await.is(405, "method-not-allowed", "");
    server.send(spoilt("/manager/status")).await.is(400, "generic-bad-request", "Unsupported API version.");
    let put = || request(Method::PUT, "/manager/status", "{");
    let undated = with(put(), "date", "junk");
    server.send(undated).await.is(400, "invalid-auth-params", "Date/time sync error");
    server.send(put()).await.is(401, "auth-failed", "Unauthorized access");
    server.send(signed(USER, put())).await.is(401, "auth-failed", "Unauthorized access");
    server.send(signed(ADMIN, put())).await.is(400, "invalid-api-params", "Malformed body");

    manager::set_status(&server.control, ManagerStatus::Frozen).await.unwrap();
    let rename = |key| signed(key, request(Method::POST, "/session/nobody/rename", "{"));
    let frozen = server.send(rename(USER)).await;
    frozen.is(503, "server-frozen", "");
    server.send(request(Method::POST, "/session/x/rename", "{")).await.is(401, "auth-failed", "Unauthorized access");
    manager::set_status(&server.control, ManagerStatus::Running).await.unwrap();
    server.send(rename(USER)).await.is(400, "invalid-api-params", "Malformed body");
    let unknown = request(Method::POST, "/session/nobody/rename?name=else-1", Body::empty());
    let unknown = server.send(signed(USER, unknown)).await;
    unknown.is(404, "object-not-found", "Session (id=nobody) does not exist.");
}

#[tokio::test]
async fn signatures_and_what_is_wrong_with_them() {
    let server = server().await;
    let echo = || request(Method::GET, "/auth?echo=hello", Body::empty());
    let good = server.send(signed(USER, echo())).await;
    assert_eq!(good.is_ok(), &json!({"authorized": "yes", "echo": "hello"}));

    let changed = with(signed(USER, echo()), "host", "evil.example.com");
    server.send(changed).await.is(401, "auth-failed", "Signature mismatch");
    let ghost = signed(Key("AKIANOSUCHACCESSKEY0", USER.1), echo());
    server.send(ghost).await.is(401, "auth-failed", "Access key not found");
    let unversioned = with(echo(), "x-backendai-version", "");
    let unversioned = server.send(signed(USER, unversioned)).await;
    unversioned.is(400, "invalid-auth-params", "API version missing in request headers");
    for (header, status, slug, msg) in [
        ("BackendAI", 400, "invalid-auth-params", "Malformed authorization header"),
        ("Basic a=b", 400, "invalid-auth-params", "Invalid authorization type name"),
        ("BackendAI abc", 400, "invalid-auth-params", "Missing or malformed authorization parameters"),
        (
            "BackendAI signMethod=HMAC-SHA256, credential=AKIACONFUSER00000003:é",
            401,
            "auth-failed",
            "Signature mismatch",
        ),
        (
            "BackendAI signMethod=HMAC-SHAKE_128, credential=AKIACONFUSER00000003:00",
            400,
            "invalid-auth-params",
            "Unsupported request signing method (hash type)",
        ),
        ("BackendAI signMethod=HMAC-SHAKE_128, credential=AKIANOBODY:00", 401, "auth-failed", "Access key not found"),
    ] {
        let mut request = echo();
        let value = http::HeaderValue::from_bytes(header.as_bytes()).unwrap();
        request.headers_mut().insert("authorization", value);
        server.send(request).await.is(status, slug, msg);
    }
}

#[tokio::test]
async fn anonymous_routes_look_at_no_signature() {
    let server = server().await;
    let odd = with(request(Method::GET, "/manager/announcement", Body::empty()), "authorization", "nonsense");
    let reply = server.send(with(odd, "date", "yesterday")).await;
    assert_eq!(reply.is_ok(), &json!({"enabled": false, "message": ""}));
    let limits = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-window"].map(|name| reply.header(name));
    assert_eq!(limits, ["1000", "1000", "900"]);
}

#[tokio::test]
async fn limits_count_refused_requests() {
    let server = server().await;
    let mut tx = server.control.store().begin().await.unwrap();
    let change = quarterdeck_store::keypairs::KeypairChanges { rate_limit: Some(2), ..Default::default() };
    quarterdeck_store::keypairs::update(&mut tx, USER.0, &change).await.unwrap();
    quarterdeck_store::revisions::bump(&mut tx, "identity").await.unwrap();
    tx.commit().await.unwrap();
    server.control.identity().refresh().await.unwrap();
    for left in ["1", "0"] {
        let reply = server.send(get(USER, "/auth?echo=x")).await;
        assert_eq!((reply.header("x-ratelimit-limit"), reply.header("x-ratelimit-remaining")), ("2", left));
    }
    let refused = server.send(get(USER, "/auth?echo=x")).await;
    refused.is(429, "rate-limit-exceeded", "");
    for header in ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-window"] {
        assert_eq!(refused.header(header), "", "{header}");
    }
    // Before the role is looked at, and without touching others.
    server.send(get(USER, "/config/docker-registries")).await.is(429, "rate-limit-exceeded", "");
    server.send(get(ADMIN, "/auth?echo=x")).await.is_ok();
}

#[tokio::test]
async fn strangers_are_counted_by_their_address() {
    let server = server().await;
    let settings = ApiSettings { anonymous_rate_limit: 2, ..ApiSettings::default() };
    let server = Server { router: router(server.control.clone(), settings), ..server };
    let login = || request(Method::POST, "/auth/authorize", "{");
    let from = |address: &str| with(login(), "x-forwarded-for", address);
    for _ in 0..2 {
        server.send(from("192.0.2.7")).await.is(400, "invalid-api-params", "Malformed body");
    }
    let refused = server.send(from("192.0.2.7")).await;
    refused.is(429, "rate-limit-exceeded", "");
    assert_eq!(refused.header("retry-after"), "900");
    // What the client puts in front of its own address changes nothing; nor does another path.
    server.send(from("192.0.2.8, 192.0.2.7")).await.is(429, "rate-limit-exceeded", "");
    let signup = with(request(Method::POST, "/auth/signup", "{"), "x-forwarded-for", "192.0.2.7");
    server.send(signup).await.is(429, "rate-limit-exceeded", "");
    // Others may, and so may those who only read or who sign.
    server.send(from("192.0.2.9")).await.is(400, "invalid-api-params", "Malformed body");
    let read = request(Method::GET, "/manager/announcement", Body::empty());
    server.send(with(read, "x-forwarded-for", "192.0.2.7")).await.is_ok();
    server.send(with(get(USER, "/auth?echo=x"), "x-forwarded-for", "192.0.2.7")).await.is_ok();
    // An address of IPv6 is as good as its neighbour.
    for (address, status) in [("2001:db8::1", 400), ("2001:db8::2", 400), ("2001:db8::3", 429), ("2001:db8:0:1::", 400)]
    {
        assert_eq!(server.send(from(address)).await.status, status, "{address}");
    }
}

#[tokio::test]
async fn pages_of_any_origin_may_call() {
    let server = server().await;
    let origin = "http://console.example.com";
    let reply = server.send(with(get(USER, "/auth?echo=x"), "origin", origin)).await;
    assert_eq!(reply.header("access-control-allow-origin"), origin);
    assert!(reply.header("access-control-expose-headers").contains("x-ratelimit-remaining"));
    let refused = server.send(with(request(Method::GET, "/auth", Body::empty()), "origin", origin)).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, origin));
    let unknown = server.send(with(request(Method::GET, "/nope", Body::empty()), "origin", origin)).await;
    assert_eq!((unknown.status, unknown.header("access-control-allow-origin")), (404, ""));

    let ask = |target: &str, method: &str| {
        let asked = with(request(Method::OPTIONS, target, Body::empty()), "origin", origin);
        let asked = with(asked, "access-control-request-headers", "authorization, x-backendai-version");
        with(asked, "access-control-request-method", method)
    };
    for (target, method) in [("/auth/authorize", "POST"), ("/folders", "GET"), ("/session/abcd", "DELETE")] {
        let reply = server.send(ask(target, method)).await;
        assert_eq!((reply.status, reply.header("access-control-allow-methods")), (200, method));
        assert_eq!(reply.header("access-control-allow-headers"), "AUTHORIZATION,X-BACKENDAI-VERSION");
    }
    server.send(ask("/auth/authorize", "DELETE")).await.is(400, "generic-bad-request", "");
    server.send(ask("/nope", "GET")).await.is(404, "url-not-found", "");
    server.send(request(Method::OPTIONS, "/auth", Body::empty())).await.is(400, "generic-bad-request", "");
}

#[tokio::test]
async fn methods_must_fit() {
    let server = server().await;
    let reply = server.send(request(Method::DELETE, "/auth", Body::empty())).await;
    reply.is(405, "method-not-allowed", "");
    assert_eq!(reply.header("allow"), "GET, OPTIONS, POST");
    server.send(request(Method::HEAD, "/auth", Body::empty())).await.is(405, "method-not-allowed", "");
    let overridden = with(request(Method::GET, "/auth/signout", Body::empty()), "x-method-override", "POST");
    server.send(overridden).await.is(405, "method-not-allowed", "");
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let server = server().await;
    let body = |size: usize| {
        let mut text = r#"{"echo":""#.to_owned();
        text.extend(std::iter::repeat_n('x', size - text.len() - 2));
        text + r#""}"#
    };
    let echo = |body: Body| signed(USER, request(Method::POST, "/auth", body));
    server.send(echo(body((1 << 20) - 1).into())).await.is_ok();
    server.send(echo(body(1 << 20).into())).await.is(400, "generic-bad-request", "");
    let chunks = futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 50_000])));
    server.send(echo(Body::from_stream(chunks))).await.is(400, "generic-bad-request", "");
}

#[tokio::test]
async fn parameters_come_from_the_body_or_else_the_query() {
    let server = server().await;
    let reply = server.send(get(USER, "/auth?echo=a+b%26%C3%A9&echo=second")).await;
    assert_eq!(reply.is_ok()["echo"], "a b&é");
    let reply = server.send(post(USER, "/auth?echo=query", &json!({"echo": "body"}))).await;
    assert_eq!(reply.is_ok()["echo"], "body");
    let reply = server.send(post(USER, "/auth", &json!({"bogus": 1}))).await;
    reply.is(400, "invalid-api-params", "Input validation error");
    assert_eq!(reply.body["data"], json!({"echo": "is required", "bogus": "bogus is not allowed key"}));
    server.send(post(USER, "/auth", &json!([1]))).await.is(400, "invalid-api-params", "Malformed body");
    let session = json!({"name": "x", "config": {"mounts": "y"}});
    let reply = server.send(post(USER, "/session", &session)).await;
    reply.is(400, "invalid-api-params", "Input validation error");
    let named: Vec<_> = reply.body["data"].as_object().unwrap().keys().cloned().collect();
    assert!(["name", "image", "config"].iter().all(|name| named.iter().any(|n| n == name)), "{named:?}");
}

#[tokio::test]
async fn requests_have_names() {
    let server = server().await;
    let named = server.send(with(request(Method::GET, "/", Body::empty()), "x-request-id", "trace-7")).await;
    assert_eq!(named.header("x-request-id"), "trace-7");
    let one = server.send(request(Method::GET, "/", Body::empty())).await;
    let two = server.send(with(request(Method::GET, "/", Body::empty()), "x-request-id", "not a name")).await;
    assert!(!one.header("x-request-id").is_empty());
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    assert_ne!(two.header("x-request-id"), "not a name");
}

#[tokio::test]
async fn users_may_be_confined_to_networks() {
    let server = server().await;
    let mut tx = server.control.store().begin().await.unwrap();
    let user = server.control.identity().credential(USER.0).await.unwrap().unwrap().principal.user_id;
    let change = quarterdeck_store::users::UserChanges {
        allowed_client_ip: Some(vec!["10.200.0.0/16".to_owned()]),
        ..Default::default()
    };
    quarterdeck_store::users::update(&mut tx, user, &change, Timestamp::now()).await.unwrap();
    quarterdeck_store::revisions::bump(&mut tx, "identity").await.unwrap();
    tx.commit().await.unwrap();
    server.control.identity().refresh().await.unwrap();
    let from = |forwarded: &str| with(get(USER, "/auth?echo=x"), "x-forwarded-for", forwarded);
    server.send(from("10.200.3.4")).await.is_ok();
    server.send(from("10.201.3.4")).await.is(401, "auth-failed", "'10.201.3.4' is not allowed IP address");
    server.send(from("10.200.3.4, 10.201.3.4")).await.is(401, "auth-failed", "'10.201.3.4' is not allowed IP address");
    server.send(from("junk")).await.is(400, "invalid-auth-params", "junk is invalid IP address value");
    server.send(get(USER, "/auth?echo=x")).await.is(401, "auth-failed", "'127.0.0.1' is not allowed IP address");
    let mut stranger = from("10.200.3.4");
    stranger.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 40_000))));
    server.send(stranger).await.is(401, "auth-failed", "'192.0.2.1' is not allowed IP address");
}

#[tokio::test]
async fn accounts_that_are_switched_off_sign_nothing() {
    let server = server().await;
    server.send(get(USER, "/auth?echo=x")).await.is_ok();
    let mut tx = server.control.store().begin().await.unwrap();
    let user = server.control.identity().credential(USER.0).await.unwrap().unwrap().principal.user_id;
    let change = quarterdeck_store::users::UserChanges { status: Some(UserStatus::Inactive), ..Default::default() };
    quarterdeck_store::users::update(&mut tx, user, &change, Timestamp::now()).await.unwrap();
    quarterdeck_store::revisions::bump(&mut tx, "identity").await.unwrap();
    tx.commit().await.unwrap();
    server.control.identity().refresh().await.unwrap();
    server.send(get(USER, "/auth?echo=x")).await.is(401, "auth-failed", "Access key not found");
}

#[tokio::test]
async fn roles_are_looked_at_before_anything_else() {
    let server = server().await;
    server.send(request(Method::GET, "/services", Body::empty())).await.is(401, "auth-failed", "Unauthorized access");
    server.send(get(USER, "/services")).await.is_ok();
    server.send(get(USER, "/resource/watcher")).await.is(401, "auth-failed", "Unauthorized access");
}

#[tokio::test]
async fn operators_are_told_how_it_stands() {
    let server = server().await;
    server.send(request(Method::GET, "/healthz", Body::empty())).await.is_ok();
    let idle = server.send(request(Method::GET, "/readyz", Body::empty())).await;
    assert_eq!((idle.status, &idle.body["ready"]), (503, &json!(false)), "no loop has begun");
    let metrics = server.send(request(Method::GET, "/metrics", Body::empty())).await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    let hidden = ApiSettings { metrics: false, ..ApiSettings::default() };
    let router = router(server.control.clone(), hidden);
    let reply = router.oneshot(request(Method::GET, "/metrics", Body::empty())).await.unwrap();
    assert_eq!(reply.status(), StatusCode::NOT_FOUND);
}

/// A hook that is in front of every request, and out of order.
async fn lock_everybody_out(server: &Server) {
    use quarterdeck_control::store::plugins::{self, BindingRow, RevisionRow};
    use quarterdeck_control::store::revisions;
    use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, RevisionStatus, Target};

    let digest = "d0".repeat(32);
    let revision = RevisionRow {
        digest: digest.clone(),
        name: "gate".to_owned(),
        version: "1.0.0".to_owned(),
        kind: Some(PluginKind::Hook),
        summary: String::new(),
        info: json!({"events": ["PRE_AUTH_MIDDLEWARE"]}),
        size_bytes: 0,
        builtin: false,
        status: RevisionStatus::Suspended,
        status_reason: Some("failed 5 times in a row".to_owned()),
        uploaded_by: "admin@conf.test".to_owned(),
        uploaded_at: Timestamp::now(),
    };
    let binding = BindingRow {
        id: "gate".to_owned(),
        kind: PluginKind::Hook,
        plugin: "gate".to_owned(),
        target: Target::everywhere(),
        digest,
        config: json!({}),
        position: None,
        mode: BindingMode::Live,
        failure_policy: FailurePolicy::FailClosed,
        bound_by: "admin@conf.test".to_owned(),
        bound_at: Timestamp::now(),
    };
    let mut tx = server.control.store().begin().await.unwrap();
    plugins::insert_revision(&mut tx, &revision, b"").await.unwrap();
    plugins::upsert_binding(&mut tx, &binding).await.unwrap();
    revisions::bump(&mut tx, revisions::BINDINGS).await.unwrap();
    tx.commit().await.unwrap();
    server.control.policies().refresh().await.unwrap();
}

#[tokio::test]
async fn a_broken_hook_locks_nobody_out_of_its_repair() {
    let server = server().await;
    lock_everybody_out(&server).await;
    for key in [ADMIN, USER] {
        assert_eq!(server.send(get(key, "/auth/role")).await.status, 400, "everybody is refused");
    }
    let told = server.send(request(Method::GET, "/readyz", Body::empty())).await;
    let fault = told.body["faults"].as_array().unwrap().iter().find(|f| f.as_str().unwrap().contains("gate"));
    assert!(fault.is_some_and(|f| f.as_str().unwrap().contains("5 times in a row")), "{}", told.body);
    let plugin = &told.body["plugins"][0];
    assert_eq!((&plugin["plugin"], &plugin["blocks"]), (&json!("gate"), &json!(true)), "{}", told.body);

    // Superadmins come through, with a good signature alone; nobody else does.
    server.send(get(ADMIN, "/plugins")).await.is_ok();
    assert_eq!(server.send(get(USER, "/plugins")).await.status, 400);
    assert_eq!(server.send(get(Key(ADMIN.0, "guessed"), "/plugins")).await.status, 400);
    assert_eq!(server.send(request(Method::GET, "/plugins", Body::empty())).await.status, 400);
    assert_eq!(server.send(get(ADMIN, "/pluginsx")).await.status, 404);

    let unbind = json!({"plugin": "gate", "target": {"kind": "everywhere"}});
    let request = signed(ADMIN, request(Method::DELETE, "/plugins/bindings", unbind.to_string()));
    server.send(request).await.is_ok();
    server.send(get(USER, "/auth/role")).await.is_ok();
    let told = server.send(self::request(Method::GET, "/readyz", Body::empty())).await;
    assert_eq!(told.body["plugins"], json!([]), "{}", told.body);
}

#[tokio::test]
async fn exports_are_compressed_for_those_who_can_read_it() {
    let server = server().await;
    for (query, accepted, encoding, media_type) in [
        ("", "", "", "application/x-ndjson"),
        ("", "gzip, ZSTD;q=0.5", "zstd", "application/x-ndjson"),
        ("", "gzip, zstd;q=0", "", "application/x-ndjson"),
        ("?compression=zstd", "", "", "application/zstd"),
        ("?compression=none", "br", "", "application/x-ndjson"),
    ] {
        let request = get(ADMIN, &format!("/plugins/rounds/export{query}"));
        let reply = server.send(with(request, "accept-encoding", accepted)).await;
        let got = (reply.status, reply.header("content-encoding"), reply.header("content-type"));
        assert_eq!(got, (200, encoding, media_type), "{query} {accepted}");
    }
    let nonsense = server.send(get(ADMIN, "/plugins/rounds/export?id=1,x")).await;
    nonsense.is(400, "invalid-api-params", "Input validation error");
}
