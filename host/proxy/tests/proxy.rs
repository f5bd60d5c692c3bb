//! The proxy between real clients and real replicas.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use quarterdeck_proxy::token::{self, Claims};
use quarterdeck_proxy::{Proxy, ProxyOptions, Replica, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

struct Backend {
    addr: SocketAddr,
    hits: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// Answers with its name, the path and the body; `/slow` takes a while; an upgrade to `echo` echoes.
async fn backend(name: &'static str) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (hits, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let (counted, stopped) = (Arc::clone(&hits), stop.clone());
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stopped.cancelled() => return,
                accepted = listener.accept() => accepted.unwrap().0,
            };
            let (hits, stopped) = (Arc::clone(&counted), stopped.clone());
            tokio::spawn(async move {
                let service = service_fn(move |mut request: Request<Incoming>| {
                    hits.fetch_add(1, Ordering::SeqCst);
                    async move {
                        if request.headers().contains_key("upgrade") {
                            let upgrade = hyper::upgrade::on(&mut request);
                            tokio::spawn(async move {
                                let mut io = TokioIo::new(upgrade.await.unwrap());
                                let mut buffer = [0; 64];
                                while let Ok(n) = io.read(&mut buffer).await {
                                    if n == 0 || io.write_all(&buffer[..n]).await.is_err() {
                                        return;
                                    }
                                }
                            });
                            let answer = Response::builder()
                                .status(101)
                                .header("connection", "upgrade")
                                .header("upgrade", "echo");
                            return Ok::<_, Infallible>(answer.body(Full::new(Bytes::new())).unwrap());
                        }
                        if request.uri().path() == "/slow" {
                            tokio::time::sleep(Duration::from_millis(300)).await;
                        }
                        let path = request.uri().path_and_query().unwrap().to_string();
                        let auth = request.headers().contains_key("authorization");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let text = format!("{name} {path} auth={auth} {}", String::from_utf8_lossy(&body));
                        Ok(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::select! {
                    _ = connection => {}
                    () = stopped.cancelled() => {}
                }
            });
        }
    });
    Backend { addr, hits, stop }
}

const ID: Uuid = Uuid::from_u128(7);

fn service(is_public: bool, replicas: &[(SocketAddr, f64)]) -> Service {
    let replica = |(addr, weight): &(SocketAddr, f64)| Replica {
        route: Uuid::from_u128(addr.port().into()),
        authority: addr.to_string(),
        weight: *weight,
    };
    Service { id: ID, name: "svc".to_owned(), is_public, replicas: replicas.iter().map(replica).collect() }
}

struct Front {
    proxy: Proxy,
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    shutdown: CancellationToken,
}

async fn front() -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::new("secret", ProxyOptions::default(), None);
    let shutdown = CancellationToken::new();
    tokio::spawn(proxy.clone().serve(listener, shutdown.clone()));
    Front { proxy, base, client: Client::builder(TokioExecutor::new()).build_http(), shutdown }
}

impl Front {
    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header("authorization", format!("BackendAI {token}"));
        }
        let answer = self.client.request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap();
        let status = answer.status();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }
}

#[tokio::test]
async fn requests_reach_replicas_without_the_prefix() {
    let (a, front) = (backend("a").await, front().await);
    front.proxy.update(vec![service(true, &[(a.addr, 1.0)])]);
    assert_eq!(front.ask("GET", "/e/svc/x/y?z=1", None, "").await.1, "a /x/y?z=1 auth=false ");
    assert_eq!(front.ask("POST", &format!("/e/{ID}"), None, "hello").await.1, "a / auth=false hello");
    assert_eq!(front.ask("GET", "/e/svc?q=1", None, "").await.1, "a /?q=1 auth=false ");
    assert_eq!(front.ask("GET", "/e/other/", None, "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(front.ask("GET", "/", None, "").await.0, StatusCode::NOT_FOUND);
    assert!(front.ask("GET", "/status", None, "").await.1.contains("v2"));
    let large = "x".repeat(3 << 20);
    assert_eq!(front.ask("POST", "/e/svc/", None, &large).await.1.len(), "a / auth=false ".len() + large.len());
}

#[tokio::test]
async fn private_services_need_their_token() {
    let (a, front) = (backend("a").await, front().await);
    front.proxy.update(vec![service(false, &[(a.addr, 1.0)])]);
    let token = |endpoint_id, exp| token::issue(b"secret", &Claims { endpoint_id, user_uuid: Uuid::nil(), exp });
    assert_eq!(front.ask("GET", "/e/svc/", None, "").await.0, StatusCode::UNAUTHORIZED);
    for bad in [token(ID, 1), token(Uuid::nil(), i64::MAX), "nonsense".to_owned()] {
        assert_eq!(front.ask("GET", "/e/svc/", Some(&bad), "").await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(a.hits.load(Ordering::SeqCst), 0);
    let (status, text) = front.ask("GET", "/e/svc/", Some(&token(ID, i64::MAX)), "").await;
    // The token is the proxy's: replicas, which users write, don't see it.
    assert_eq!((status, text.as_str()), (StatusCode::OK, "a / auth=false "));
}

#[tokio::test]
async fn a_dead_replica_costs_nobody_a_request() {
    let (a, b, front) = (backend("a").await, backend("b").await, front().await);
    front.proxy.update(vec![service(true, &[(a.addr, 1.0), (b.addr, 1.0)])]);
    for _ in 0..10 {
        assert_eq!(front.ask("POST", "/e/svc/", None, "x").await.0, StatusCode::OK);
    }
    assert_eq!((a.hits.load(Ordering::SeqCst), b.hits.load(Ordering::SeqCst)), (5, 5));
    a.stop.cancel();
    // Its connections are closed before the next request comes.
    while TcpStream::connect(a.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        assert_eq!(front.ask("GET", "/e/svc/", None, "").await.0, StatusCode::OK);
    }
    b.stop.cancel();
    while TcpStream::connect(b.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(front.ask("GET", "/e/svc/", None, "").await.0, StatusCode::BAD_GATEWAY);
    front.proxy.update(vec![service(true, &[])]);
    assert_eq!(front.ask("GET", "/e/svc/", None, "").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_draining_replica_ends_what_it_began_and_gets_nothing_new() {
    let (a, b, front) = (backend("a").await, backend("b").await, Arc::new(front().await));
    front.proxy.update(vec![service(true, &[(a.addr, 1.0)])]);
    let begun = tokio::spawn({
        let front = Arc::clone(&front);
        async move { front.ask("GET", "/e/svc/slow", None, "").await }
    });
    while a.hits.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    front.proxy.update(vec![service(true, &[(b.addr, 1.0)])]);
    for _ in 0..5 {
        assert!(front.ask("GET", "/e/svc/", None, "").await.1.starts_with("b "));
    }
    front.shutdown.cancel();
    assert!(begun.await.unwrap().1.starts_with("a /slow"));
    assert_eq!(a.hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn upgrades_are_followed() {
    let (a, front) = (backend("a").await, front().await);
    front.proxy.update(vec![service(true, &[(a.addr, 1.0)])]);
    let mut stream = TcpStream::connect(front.base.trim_start_matches("http://")).await.unwrap();
    stream
        .write_all(b"GET /e/svc/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(String::from_utf8(head).unwrap().starts_with("HTTP/1.1 101"));
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
}

#[tokio::test]
async fn http2_clients_are_served_too() {
    let (a, front) = (backend("a").await, front().await);
    front.proxy.update(vec![service(true, &[(a.addr, 1.0)])]);
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = Request::post(format!("{}/e/svc/h2", front.base)).body(Full::new(Bytes::from("two"))).unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "a /h2 auth=false two");
}
