//! A request on its way to a handler, and the answers that handlers give.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use http_body::Body as _;
use quarterdeck_control::{Control, Principal, audit};
use serde::Serialize;
use serde_json::Value;

use crate::App;
use crate::auth::client;
use crate::params::{self, Params};
use crate::version::Version;
use crate::wire::{AUTH_FAILED, BAD_REQUEST, Problem};

/// What a handler gives back.
pub type Answer = Result<Response, Problem>;

/// Bodies that are read as a whole must be shorter than this.
const BODY_LIMIT: usize = 1 << 20;
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A request that passed the checks of its route.
pub struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) parts: Parts,
    pub(crate) body: Body,
    pub(crate) version: Version,
    pub(crate) caller: Option<Arc<Principal>>,
    pub(crate) args: Vec<String>,
}

impl Call {
    /// The host's mind.
    pub fn control(&self) -> &Control {
        &self.app.control
    }

    /// What the server at large holds for handlers.
    pub(crate) fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Who calls.
    ///
    /// # Errors
    /// A problem on routes that admit anybody.
    pub fn caller(&self) -> Result<Arc<Principal>, Problem> {
        self.caller.clone().ok_or_else(|| Problem::new(AUTH_FAILED).msg("Unauthorized access"))
    }

    /// What stood in place of the path's `index`th `{…}`.
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// The API version that the request asks for.
    pub fn version(&self) -> Version {
        self.version
    }

    /// A header's text, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Where the request comes from.
    ///
    /// # Errors
    /// A problem when that can't be told.
    pub fn client_address(&self) -> Result<IpAddr, Problem> {
        client::address(&self.parts, &self.control().settings().trusted_proxies)?
            .ok_or_else(|| Problem::new(AUTH_FAILED).msg("Not allowed IP address"))
    }

    /// The parameters: of the body if there is one, else of the query. The audit hears of them, in case they change
    /// something.
    ///
    /// # Errors
    /// A problem when the body is too large or malformed.
    pub async fn params(&mut self) -> Result<Params, Problem> {
        let params = self.untold_params().await?;
        if let Some(act) = audit::current() {
            params.tell(&act);
        }
        Ok(params)
    }

    /// As [`Call::params`], for those who tell the audit themselves.
    ///
    /// # Errors
    /// As [`Call::params`].
    pub(crate) async fn untold_params(&mut self) -> Result<Params, Problem> {
        let body = self.bytes().await?;
        if body.is_empty() {
            return Ok(Params::from_query(self.parts.uri.query().unwrap_or_default()));
        }
        Params::from_body(&body, self.is_yaml())
    }

    /// The body as JSON of any shape.
    ///
    /// # Errors
    /// A problem when it is too large or malformed.
    pub async fn json_body(&mut self) -> Result<Value, Problem> {
        let body = self.bytes().await?;
        params::read_body(&body, self.is_yaml())
    }

    /// The body.
    ///
    /// # Errors
    /// A problem when it is too large or breaks off.
    pub async fn bytes(&mut self) -> Result<Bytes, Problem> {
        self.bytes_below(BODY_LIMIT).await
    }

    /// The body, which must be shorter than `limit`.
    ///
    /// # Errors
    /// A problem when it is too large or breaks off.
    pub async fn bytes_below(&mut self, limit: usize) -> Result<Bytes, Problem> {
        if self.body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let body = std::mem::replace(&mut self.body, Body::empty());
        axum::body::to_bytes(body, limit - 1).await.map_err(|error| {
            tracing::debug!(%error, "a body was not read");
            Problem::new(BAD_REQUEST)
        })
    }

    fn is_yaml(&self) -> bool {
        let media_type = self.header("content-type").split(';').next().unwrap_or_default().trim();
        media_type.eq_ignore_ascii_case("text/yaml")
    }
}

/// An answer in JSON.
///
/// # Errors
/// A problem when the value can't be written as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).map_err(|error| Problem::internal(error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// 200 with JSON.
///
/// # Errors
/// As [`json`].
pub fn ok(value: &impl Serialize) -> Answer {
    json(StatusCode::OK, value)
}

/// 201 with JSON.
///
/// # Errors
/// As [`json`].
pub fn created(value: &impl Serialize) -> Answer {
    json(StatusCode::CREATED, value)
}

/// 204.
///
/// # Errors
/// None; it is the shape of a handler's last line.
pub fn no_content() -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
