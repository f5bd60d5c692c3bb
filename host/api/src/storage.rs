//! Where clients send and fetch the files of folders on the server's own volumes (`spec/storage-proxy.md` §4).
//!
//! Two resources, `upload` and `download`, each opened by a token in the query; nothing here knows users. They are below
//! `/storage` on the API's listener, or alone on one of their own.

mod download;
mod upload;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use quarterdeck_control::Control;
use quarterdeck_control::storage::{Embedded, Error};
use serde_json::{Map, Value, json};

use crate::auth::client;
use crate::call::Call;
use crate::params::Params;

/// Where the API's listener has it.
pub(crate) const PREFIX: &str = "/storage";

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The service for a listener of its own, where it is at the root.
pub fn router(control: Control) -> Router {
    Router::new().fallback_service(Files(control))
}

/// The service itself.
#[derive(Clone)]
pub(crate) struct Files(pub(crate) Control);

impl tower::Service<Request<Body>> for Files {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let control = self.0.clone();
        Box::pin(async move { Ok(serve(&control, request).await) })
    }
}

async fn serve(control: &Control, request: Request<Body>) -> Response {
    let Some(storage) = control.embedded_storage() else { return text(StatusCode::NOT_FOUND, "404: Not Found") };
    let (parts, body) = request.into_parts();
    match (parts.uri.path(), &parts.method) {
        ("/upload", &Method::OPTIONS) => upload::options(storage),
        ("/upload", &Method::HEAD) => upload::head(storage, &parts).await,
        ("/upload", &Method::PATCH) => upload::patch(storage, &parts, body).await,
        ("/upload", _) => not_allowed("HEAD,OPTIONS,PATCH"),
        ("/download", &Method::GET) => download::get(storage, &parts).await,
        ("/download", &Method::OPTIONS) => download::preflight(&parts),
        ("/download", _) => not_allowed("GET,OPTIONS"),
        _ => text(StatusCode::NOT_FOUND, "404: Not Found"),
    }
}

/// The base address at which the caller of the API reaches the files: by the name under which it reached the API.
pub(crate) fn base_of(call: &Call) -> String {
    let settings = &call.app().settings;
    let host = match call.header(HOST.as_str()) {
        "" => call.parts.uri.authority().map_or("localhost", http::uri::Authority::as_str),
        host => host,
    };
    match settings.storage_port {
        // A listener of its own speaks plain HTTP.
        Some(port) => {
            let name = host.parse::<http::uri::Authority>().map(|a| a.host().to_owned());
            format!("http://{}:{port}", name.unwrap_or_else(|_| "localhost".to_owned()))
        }
        None => {
            let secure = settings.tls || is_forwarded_securely(call);
            format!("{}://{host}{PREFIX}", if secure { "https" } else { "http" })
        }
    }
}

/// Whether a proxy that we believe took the request over TLS.
fn is_forwarded_securely(call: &Call) -> bool {
    let peer = call.parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let trusted = &call.control().settings().trusted_proxies;
    let believed = peer.is_some_and(|ConnectInfo(peer)| client::is_in(trusted, peer.ip().to_canonical()));
    believed && call.header("x-forwarded-proto").eq_ignore_ascii_case("https")
}

fn text(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    response
}

fn not_allowed(methods: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn document(status: StatusCode, document: &Value) -> Response {
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response
}

/// A problem of this service's own.
fn problem(status: StatusCode, slug: &str, title: &str) -> Response {
    document(status, &json!({ "type": format!("https://api.backend.ai/probs/storage/{slug}"), "title": title }))
}

/// Parameters that are wrong.
fn invalid(faults: Map<String, Value>) -> Response {
    let problem = json!({
        "type": "https://api.backend.ai/probs/storage/invalid-api-params",
        "title": "Invalid API parameters",
        "data": faults,
    });
    document(StatusCode::BAD_REQUEST, &problem)
}

/// What the storage answered when it couldn't.
fn refused(error: Error) -> Response {
    match error {
        Error::Refused(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            document(status, &problem.document())
        }
        error => {
            tracing::error!(%error, "the storage failed");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "The storage failed.")
        }
    }
}

/// The parameters of a request, which are in its query only.
fn parameters(parts: &Parts) -> Params {
    Params::from_query(parts.uri.query().unwrap_or_default())
}

/// Reads the token among the parameters, and ends their reading.
fn token<T>(
    storage: &Embedded,
    mut params: Params,
    read: impl FnOnce(&Embedded, &str) -> Result<T, quarterdeck_control::storage::TokenError>,
) -> Result<T, Box<Response>> {
    let token = params.required(&["token"], crate::params::kinds::text);
    let mut faults = params.into_faults();
    let claims = if faults.contains_key("token") {
        None
    } else {
        read(storage, &token).map_err(|error| faults.insert("token".to_owned(), error.0)).ok()
    };
    match claims {
        Some(claims) if faults.is_empty() => Ok(claims),
        _ => Err(Box::new(invalid(faults))),
    }
}
