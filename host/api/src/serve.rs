//! From a request to its answer: the order of the checks.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use futures::FutureExt as _;
use http::header::{HeaderName, ORIGIN, SERVER};
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use quarterdeck_control::audit::{self, Act, Actor, Via};
use quarterdeck_control::{error_logs, manager};
use uuid::Uuid;

use crate::auth::{self, ratelimit};
use crate::call::{Answer, Call};
use crate::route::{Access, Found, Gate, Route};
use crate::version::Version;
use crate::wire::{AUTH_FAILED, Problem, RATE_LIMIT_EXCEEDED, URL_NOT_FOUND};
use crate::{App, cors};

const PRODUCT: HeaderValue = HeaderValue::from_static("BackendAI");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const WINDOW: HeaderName = HeaderName::from_static("x-ratelimit-window");
const WINDOW_VALUE: HeaderValue = HeaderValue::from_static("900");
/// What anonymous routes say, whoever calls them how often.
const ANONYMOUS_LIMIT: HeaderValue = HeaderValue::from_static("1000");

/// Bodies up to this many bytes are read before anything else, so that an answer that doesn't need them leaves the
/// connection fit for the next request.
const EAGER: u64 = 64 << 10;
/// A client that doesn't send the body that it announced isn't waited for longer.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// The service behind every path.
#[derive(Clone)]
pub(crate) struct Dispatcher(pub(crate) Arc<App>);

impl tower::Service<Request<Body>> for Dispatcher {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let app = self.0.clone();
        Box::pin(async move { Ok(serve(app, request).await) })
    }
}

/// Names of requests: what the client sent, or a number after a word that tells hosts and restarts apart.
pub(crate) struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        let mut prefix = Uuid::new_v4().simple().to_string();
        prefix.truncate(10);
        Self { prefix, next: AtomicU64::new(1) }
    }
}

impl RequestIds {
    fn of(&self, parts: &Parts) -> HeaderValue {
        let given = parts
            .headers
            .get(REQUEST_ID)
            .filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(|b| b.is_ascii_graphic()));
        given.cloned().unwrap_or_else(|| {
            let id = format!("{}-{:x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed));
            HeaderValue::from_str(&id).unwrap_or(ANONYMOUS_LIMIT)
        })
    }
}

async fn serve(app: Arc<App>, request: Request<Body>) -> Response {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let body = settled(body).await;
    let request_id = app.ids.of(&parts);
    let origin = parts.headers.get(ORIGIN).cloned();
    let is_preflight = parts.method == Method::OPTIONS;
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let mut known_route = None;
    let (answer, is_routed) = match app.table.find(&parts.method, parts.uri.path()) {
        Found::Route(index, route, args) => {
            known_route = Some((index, route));
            let call = checked(&app, route, parts, body, args, &request_id);
            // A panic is a bug, but it is this request's problem and not the connection's.
            let answer = std::panic::AssertUnwindSafe(call).catch_unwind().await;
            (answer.unwrap_or_else(|_| Err(Problem::internal("the handler panicked"))), true)
        }
        Found::OtherMethods(_) if is_preflight => {
            (cors::preflight(&app.table, parts.uri.path(), &parts.headers), false)
        }
        Found::OtherMethods(methods) => (Err(Problem::method_not_allowed(allow(&methods))), true),
        Found::Nothing => {
            let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
            (Err(Problem::new(URL_NOT_FOUND).data(path.into())), false)
        }
    };
    let mut response = answer.unwrap_or_else(|problem| problem.into_response(request_id.to_str().unwrap_or_default()));
    app.metrics.count(known_route, response.status(), begun.elapsed());
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        let id = request_id.to_str().unwrap_or_default();
        remember(&app, format!("{method} {}: internal error, request {id}", uri.path()), uri.path());
    }
    let headers = response.headers_mut();
    headers.insert(SERVER, PRODUCT);
    headers.insert(REQUEST_ID, request_id);
    if let Some(origin) = origin.filter(|_| is_routed) {
        cors::expose(headers, origin);
    }
    response
}

/// Notes in the log of errors that the server failed; the answer doesn't wait for it.
fn remember(app: &App, message: String, path: &str) {
    let (control, path) = (app.control.clone(), path.to_owned());
    tokio::spawn(async move {
        let status = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
        if let Err(error) = error_logs::record_failure(&control, &message, &path, status).await {
            tracing::warn!(%error, "a failure isn't in the log of errors");
        }
    });
}

/// Takes in a body of known, small size. One that breaks off is left to fail where it is read.
async fn settled(body: Body) -> Body {
    let size = body.size_hint().exact();
    if !size.is_some_and(|size| (1..=EAGER).contains(&size)) {
        return body;
    }
    match tokio::time::timeout(BODY_PATIENCE, body.collect()).await {
        Ok(Ok(whole)) => Body::from(whole.to_bytes()),
        _ => Body::from_stream(futures::stream::once(async {
            Err::<bytes::Bytes, _>(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
        })),
    }
}

/// The value of `Allow`.
fn allow(methods: &[&Method]) -> String {
    let mut names: Vec<_> = methods.iter().map(|m| m.as_str()).chain(["OPTIONS"]).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Version, signature, rate limit, role, status; then the handler.
async fn checked(
    app: &Arc<App>,
    route: &Route,
    parts: Parts,
    body: Body,
    args: Vec<String>,
    request_id: &HeaderValue,
) -> Answer {
    let version = Version::of(&parts.headers)?;
    let mut call = Call { app: app.clone(), parts, body, version, caller: None, args };
    let now_ms = u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if route.access == Access::Anonymous {
        // Passwords are hashed for them, which costs.
        if call.parts.method == Method::POST {
            check_stranger(app, &call.parts, now_ms)?;
        }
        check_gate(app, route.gate).await?;
        let mut response = handled(route, call, request_id).await?;
        limits(&mut response, ANONYMOUS_LIMIT, ANONYMOUS_LIMIT);
        return Ok(response);
    }
    call.caller = auth::authenticate(&app.control, &call.parts, &version).await?;
    let Some(caller) = call.caller.clone() else {
        return Err(unauthorized());
    };
    let left = app.limiter.count(caller.access_key.as_str(), caller.rate_limit, now_ms);
    // As clients know it: without a word on when to come back.
    let left = left.ok_or_else(|| Problem::new(RATE_LIMIT_EXCEEDED))?;
    if !route.access.admits(Some(&caller)) {
        return Err(unauthorized());
    }
    check_gate(app, route.gate).await?;
    let mut response = handled(route, call, request_id).await?;
    limits(&mut response, HeaderValue::from(caller.rate_limit), HeaderValue::from(left));
    Ok(response)
}

/// Lets the handler do its work. What it changes stands in the audit under the caller's name.
async fn handled(route: &Route, call: Call, request_id: &HeaderValue) -> Answer {
    if matches!(call.parts.method, Method::GET | Method::HEAD) {
        return (route.handler)(call).await;
    }
    let address = auth::client::address(&call.parts, &call.control().settings().trusted_proxies);
    let actor = Actor {
        address: address.ok().flatten().map(|address| address.to_string()),
        request: request_id.to_str().ok().map(str::to_owned),
        ..call.caller.as_deref().map(audit::actor).unwrap_or_default()
    };
    let mut act = Act::new(Via::Rest, actor, format!("{} {}", route.method, route.path));
    if !call.args.is_empty() {
        act = act.on(call.args.join("/"));
    }
    audit::scope(act, (route.handler)(call)).await
}

/// Who doesn't sign is counted by address.
fn check_stranger(app: &App, parts: &Parts, now_ms: u64) -> Result<(), Problem> {
    let Some(address) = auth::client::address(parts, &app.control.settings().trusted_proxies)? else { return Ok(()) };
    let network = auth::client::household(address).to_string();
    let left = app.strangers.count(&network, app.settings.anonymous_rate_limit, now_ms);
    let too_often = || Problem::new(RATE_LIMIT_EXCEEDED).retry_after(ratelimit::WINDOW_SECONDS);
    left.map(drop).ok_or_else(too_often)
}

fn unauthorized() -> Problem {
    Problem::new(AUTH_FAILED).msg("Unauthorized access")
}

fn limits(response: &mut Response, limit: HeaderValue, remaining: HeaderValue) {
    debug_assert_eq!(WINDOW_VALUE, HeaderValue::from(ratelimit::WINDOW_SECONDS));
    let headers = response.headers_mut();
    headers.insert(LIMIT, limit);
    headers.insert(REMAINING, remaining);
    headers.insert(WINDOW, WINDOW_VALUE);
}

/// Whether a route works in the server's present status.
async fn check_gate(app: &App, gate: Gate) -> Result<(), Problem> {
    match gate {
        Gate::Open => Ok(()),
        Gate::Reads => Ok(manager::require_serving(&app.control).await?),
        Gate::Writes => Ok(manager::require_running(&app.control).await?),
    }
}
