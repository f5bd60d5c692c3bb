//! The HTTP side: REST and GraphQL in the words of the reference's clients.
//!
//! A request passes, in this order: the table of routes (404, 405), the API version, the signature,
//! the rate limit, the caller's role, the server's status, its parameters, and then the handler, which
//! calls `control` and writes down what came of it. There are no rules of its own here.

pub mod auth;
pub mod call;
mod cors;
pub mod graphql;
mod metrics;
pub mod openapi;
mod ops;
pub mod params;
mod rest;
pub mod route;
mod serve;
pub mod sse;
pub mod storage;
pub mod version;
pub mod wire;

#[cfg(test)]
mod http_tests;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use quarterdeck_control::Control;

use crate::auth::ratelimit::RateLimiter;
use crate::metrics::HttpMetrics;
use crate::route::Table;
use crate::serve::{Dispatcher, RequestIds};

/// How this host presents itself over HTTP.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Whether clients reach it over TLS.
    pub tls: bool,
    /// Whether `/metrics` is answered.
    pub metrics: bool,
    /// Unsigned POSTs (logins, sign-ups) allowed to one client address in a rolling window of 900 seconds.
    pub anonymous_rate_limit: i64,
    /// The port at which folders' files are served apart from the API; with it, if there is none.
    pub storage_port: Option<u16>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self { tls: false, metrics: true, anonymous_rate_limit: 1000, storage_port: None }
    }
}

/// What all requests share.
pub(crate) struct App {
    control: Control,
    settings: ApiSettings,
    table: Table,
    limiter: RateLimiter,
    /// The windows of addresses that don't sign.
    strangers: RateLimiter,
    schema: graphql::Schema,
    metrics: HttpMetrics,
    ids: RequestIds,
    started: Instant,
}

/// The whole API. Serve it with connect info (`into_make_service_with_connect_info::<SocketAddr>()`):
/// rate limits and address lists need to know the peer.
pub fn router(control: Control, settings: ApiSettings) -> Router {
    let table = Table::new(rest::routes());
    let metrics = HttpMetrics::new(&control, &table);
    let app = App {
        schema: graphql::schema(control.clone()),
        control,
        settings,
        table,
        limiter: RateLimiter::default(),
        strangers: RateLimiter::default(),
        metrics,
        ids: RequestIds::default(),
        started: Instant::now(),
    };
    let files = storage::Files(app.control.clone());
    Router::new().nest_service(storage::PREFIX, files).fallback_service(Dispatcher(Arc::new(app)))
}
