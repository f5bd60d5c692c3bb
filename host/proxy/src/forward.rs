//! A request's way to a replica and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;

use crate::headers;
use crate::table::{Entry, Service, Table, Target};
use crate::token::{self, TokenError};

/// Bodies up to this size are kept, so that another replica can be tried when one can't be reached.
const REPLAYED: u64 = 256 * 1024;
/// Replicas tried for one request at most.
const TRIES: usize = 3;

/// What goes over the wire in either direction.
pub(crate) type Body = Either<Incoming, Full<Bytes>>;

/// Hears of requests that were answered.
pub trait Observe: Send + Sync {
    /// `service` answered with `status` after `elapsed`, counted until the answer's head.
    fn answered(&self, service: &str, status: u16, elapsed: Duration);
}

/// How the proxy behaves.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// How long a replica may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long it may take until its answer begins.
    pub response_timeout: Duration,
    /// How long a connection to a replica is kept for the next request.
    pub idle_timeout: Duration,
    /// Connections of clients at once; more wait to be accepted.
    pub connections: usize,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(20),
            connections: 10_000,
        }
    }
}

/// The app proxy. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    table: ArcSwap<Table>,
    secret: Vec<u8>,
    options: ProxyOptions,
    observer: Option<Arc<dyn Observe>>,
}

/// What one thread forwards with: the proxy, and connections to replicas of the thread's own.
pub(crate) struct Forwarder {
    proxy: Proxy,
    client: Client<HttpConnector, Body>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

/// Why a request got no answer of a service; the text is the caller's.
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
}

const NO_SERVICE: Refusal =
    Refusal { status: StatusCode::NOT_FOUND, kind: "object-not-found", title: "No such service." };
const NO_REPLICA: Refusal = Refusal {
    status: StatusCode::SERVICE_UNAVAILABLE,
    kind: "service-unavailable",
    title: "The service has no healthy replica now.",
};
const UNREACHABLE: Refusal =
    Refusal { status: StatusCode::BAD_GATEWAY, kind: "bad-gateway", title: "The service's replica broke off." };
const TOO_SLOW: Refusal =
    Refusal { status: StatusCode::GATEWAY_TIMEOUT, kind: "gateway-timeout", title: "The service took too long." };

fn unauthorized(error: Option<TokenError>) -> Refusal {
    let title = match error {
        None => "The service needs a token.",
        Some(TokenError::Invalid) => "The token is not valid.",
        Some(TokenError::Expired) => "The token has expired.",
        Some(TokenError::Foreign) => "The token is for another service.",
    };
    Refusal { status: StatusCode::UNAUTHORIZED, kind: "auth-failed", title }
}

impl Refusal {
    fn answer(&self) -> Response<Body> {
        let body = json!({ "type": format!("https://api.backend.ai/probs/{}", self.kind), "title": self.title });
        let mut response = Response::new(Either::Right(Full::new(Bytes::from(body.to_string()))));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json; charset=utf-8"));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

fn plain(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(value.to_string()))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

impl Proxy {
    /// A proxy that knows no service yet. `secret` signs the tokens of services that aren't public.
    pub fn new(secret: impl Into<Vec<u8>>, options: ProxyOptions, observer: Option<Arc<dyn Observe>>) -> Self {
        let table = ArcSwap::from_pointee(Table::empty());
        Self { inner: Arc::new(Inner { table, secret: secret.into(), options, observer }) }
    }

    /// Takes the newest table. Requests under way go on.
    pub fn update(&self, services: Vec<Service>) {
        let next = self.inner.table.load().next(services);
        self.inner.table.store(Arc::new(next));
    }

    pub(crate) fn options(&self) -> &ProxyOptions {
        &self.inner.options
    }

    /// Whether a request may reach the service: it is public, or a token opens it.
    fn admit(&self, entry: &Entry, authorization: Option<&HeaderValue>) -> Result<(), Refusal> {
        if entry.service.is_public {
            return Ok(());
        }
        let text = authorization.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = ["Bearer ", "BackendAI "].iter().find_map(|scheme| {
            let head = text.get(..scheme.len())?;
            head.eq_ignore_ascii_case(scheme).then(|| text[scheme.len()..].trim())
        });
        let token = token.ok_or_else(|| unauthorized(None))?;
        token::check(&self.inner.secret, token, entry.service.id).map(drop).map_err(|e| unauthorized(Some(e)))
    }
}

impl Forwarder {
    /// To be made on the thread that uses it.
    pub(crate) fn new(proxy: Proxy) -> Self {
        let options = proxy.options();
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .build(connector);
        Self { proxy, client }
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let begun = std::time::Instant::now();
        let path = request.uri().path();
        let Some(rest) = path.strip_prefix("/e/") else {
            return match path {
                "/status" => plain(&json!({ "api_version": "v2" })),
                "/healthz" => plain(&json!({ "status": "ok" })),
                _ => NO_SERVICE.answer(),
            };
        };
        let name = rest.split('/').next().unwrap_or_default();
        let decoded = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        let inner = &self.proxy.inner;
        let table = inner.table.load_full();
        let Some(entry) = table.find(&decoded) else { return NO_SERVICE.answer() };
        let prefix = format!("/e/{name}");
        let response = match self.proxy.admit(entry, request.headers().get(AUTHORIZATION)) {
            Ok(()) => self.pass_on(&table, entry, request, peer, &prefix).await,
            Err(refusal) => Err(refusal),
        };
        let response = response.unwrap_or_else(|refusal| refusal.answer());
        if let Some(observer) = &inner.observer {
            observer.answered(&entry.service.name, response.status().as_u16(), begun.elapsed());
        }
        response
    }

    async fn pass_on(
        &self,
        table: &Table,
        entry: &Entry,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        prefix: &str,
    ) -> Result<Response<Body>, Refusal> {
        let upgrade = (request.version() == Version::HTTP_11).then(|| headers::upgrade(request.headers())).flatten();
        let on_upgrade = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let host = parts
            .headers
            .get(HOST)
            .cloned()
            .or_else(|| parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()));
        headers::strip_hop(&mut parts.headers);
        headers::forwarded(&mut parts.headers, peer, host, prefix, !entry.service.is_public);
        if let Some(protocol) = upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol);
        }
        let mut body = Outgoing::of(body).await?;
        let mut tried: Vec<Arc<Target>> = Vec::new();
        loop {
            let Some(target) = table.pick(entry, &tried) else {
                return Err(if tried.is_empty() { NO_REPLICA } else { UNREACHABLE });
            };
            let Some(sent) = body.take() else { return Err(UNREACHABLE) };
            let request = outgoing(&parts, &target, prefix, sent)?;
            let answer = tokio::time::timeout(self.proxy.options().response_timeout, self.client.request(request));
            match answer.await {
                Err(_) => return Err(TOO_SLOW),
                Ok(Ok(response)) => return Ok(returned(response, on_upgrade)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, service = entry.service.name, replica = target.authority, "a replica failed");
                    // What never reached a replica may go to another; what may have been begun only if that does no harm.
                    let untouched = error.is_connect();
                    if untouched {
                        table.suspect(&target);
                    }
                    if !(untouched || is_safe(&parts.method)) || tried.len() + 1 >= TRIES || !body.is_replayable() {
                        return Err(UNREACHABLE);
                    }
                    tried.push(target);
                }
            }
        }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A request's body on its way to replicas.
enum Outgoing {
    /// It can be sent once.
    Stream(Option<Incoming>),
    /// It is kept.
    Kept(Bytes),
}

impl Outgoing {
    async fn of(body: Incoming) -> Result<Self, Refusal> {
        const BROKEN: Refusal =
            Refusal { status: StatusCode::BAD_REQUEST, kind: "bad-request", title: "The request's body broke off." };
        if body.is_end_stream() {
            return Ok(Self::Kept(Bytes::new()));
        }
        match body.size_hint().exact() {
            Some(size) if size <= REPLAYED => {
                let limit = usize::try_from(size).unwrap_or_default();
                let kept = Limited::new(body, limit).collect().await.map_err(|_| BROKEN)?;
                Ok(Self::Kept(kept.to_bytes()))
            }
            _ => Ok(Self::Stream(Some(body))),
        }
    }

    fn take(&mut self) -> Option<Body> {
        match self {
            Self::Kept(bytes) => Some(Either::Right(Full::new(bytes.clone()))),
            Self::Stream(body) => body.take().map(Either::Left),
        }
    }

    fn is_replayable(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

fn outgoing(parts: &Parts, target: &Target, prefix: &str, body: Body) -> Result<Request<Body>, Refusal> {
    const MALFORMED: Refusal =
        Refusal { status: StatusCode::BAD_REQUEST, kind: "bad-request", title: "The request's path is malformed." };
    let full = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let rest = full.strip_prefix(prefix).unwrap_or(full);
    let path = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let uri = Uri::builder().scheme("http").authority(target.authority.as_str()).path_and_query(path).build();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri.map_err(|_| MALFORMED)?;
    *request.headers_mut() = parts.headers.clone();
    Ok(request)
}

/// The replica's answer, as the client gets it. After 101 both ends are joined.
fn returned(mut response: Response<Incoming>, on_upgrade: Option<hyper::upgrade::OnUpgrade>) -> Response<Body> {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = switches.then(|| response.headers().get(UPGRADE).cloned()).flatten();
    if let (true, Some(client)) = (switches, on_upgrade) {
        let replica = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(client), Ok(replica)) = tokio::join!(client, replica) else { return };
            let (mut client, mut replica) = (TokioIo::new(client), TokioIo::new(replica));
            // Either end may hang up at any time.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut replica).await;
        });
    }
    headers::strip_hop(response.headers_mut());
    if let Some(protocol) = protocol {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, protocol);
    }
    response.map(Either::Left)
}
