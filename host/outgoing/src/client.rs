//! Requests and their answers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderName, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::ext::ReasonPhrase;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use url::Url;

use crate::address::Reach;
use crate::connect::Connector;
use crate::error::{Error, Result};
use crate::tls::{self, Certificates};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("quarterdeck/", env!("CARGO_PKG_VERSION")));
const TIMEOUT: Duration = Duration::from_secs(30);
const LIMIT: usize = 4 << 20;

/// Calls others. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: Http<HttpsConnector<Connector>, Full<Bytes>>,
}

impl Client {
    /// A client that reaches so far.
    pub fn new(reach: Reach, certificates: Certificates) -> Self {
        let mut builder = Http::builder(TokioExecutor::new());
        if matches!(reach, Reach::Public(_)) {
            // Each call is checked anew.
            builder.pool_max_idle_per_host(0);
        }
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(certificates))
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector { reach: Arc::new(reach) });
        Self { http: builder.build(connector) }
    }

    /// Sends a request and reads its whole answer, whatever its status.
    ///
    /// # Errors
    /// [`Error`], unless an answer came.
    pub async fn send(&self, request: Request) -> Result<Response> {
        let (host, after) = (place(&request.url), request.timeout);
        tokio::time::timeout(after, self.chase(request)).await.unwrap_or(Err(Error::Timeout { host, after }))
    }

    /// Follows redirections as far as the request wants.
    async fn chase(&self, mut request: Request) -> Result<Response> {
        loop {
            let response = self.once(&request).await?;
            let target =
                response.header(LOCATION.as_str()).filter(|_| matches!(response.status, 301..=303 | 307 | 308));
            let Some(target) = target.filter(|_| request.redirects > 0 && request.method == Method::GET) else {
                return Ok(response);
            };
            let next = request.url.join(target).map_err(|_| Error::Url(target.to_owned()))?;
            if !matches!(next.scheme(), "http" | "https")
                || (request.url.scheme() == "https" && next.scheme() == "http")
            {
                return Err(Error::Protocol {
                    host: place(&request.url),
                    reason: format!("it redirects to {}, which is less safe", place(&next)),
                });
            }
            if next.origin() != request.url.origin() {
                // Credentials are for the one who was asked.
                let accept = request.headers.remove(ACCEPT);
                request.headers.clear();
                request.headers.extend(accept.map(|value| (Some(ACCEPT), value)));
            }
            request.url = next;
            request.redirects -= 1;
        }
    }

    async fn once(&self, request: &Request) -> Result<Response> {
        let host = place(&request.url);
        let mut outgoing = http::Request::builder().method(request.method.clone()).uri(request.url.as_str());
        if let Some(headers) = outgoing.headers_mut() {
            headers.insert(USER_AGENT, AGENT);
            headers.extend(request.headers.clone());
        }
        let outgoing =
            outgoing.body(Full::new(request.body.clone())).map_err(|_| Error::Url(request.url.to_string()))?;
        let answer = self.http.request(outgoing).await.map_err(|error| told(&host, &error))?;
        let (mut parts, body) = answer.into_parts();
        let body = Limited::new(body, request.limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Error::TooLarge { host: host.clone(), limit: request.limit }
            } else {
                Error::Protocol { host: host.clone(), reason: error.to_string() }
            }
        })?;
        Ok(Response {
            url: request.url.clone(),
            status: parts.status.as_u16(),
            reason: parts.extensions.remove::<ReasonPhrase>(),
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }
}

/// The error below an error of the HTTP client that says most.
fn told(host: &str, error: &hyper_util::client::legacy::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut deepest = error.to_string();
    while let Some(cause) = source {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return ours.clone();
        }
        deepest = tls::refusal(cause).unwrap_or_else(|| cause.to_string());
        source = cause.source();
    }
    if error.is_connect() {
        Error::Unreachable { host: host.to_owned(), reason: deepest }
    } else {
        Error::Protocol { host: host.to_owned(), reason: deepest }
    }
}

/// Host and port, without what a URL may hold of secrets.
fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
    limit: usize,
    redirects: u8,
}

impl Request {
    /// Any request; `body` goes with every method, as some protocols want it.
    ///
    /// # Errors
    /// [`Error::Url`] for an address that can't be called.
    pub fn new(method: Method, url: Url, body: impl Into<Bytes>) -> Result<Self> {
        let callable = matches!(url.scheme(), "http" | "https") && url.has_host();
        // Credentials in addresses would end up in logs.
        if !callable || !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Url(format!("{}://{}", url.scheme(), place(&url))));
        }
        let body = body.into();
        Ok(Self { method, url, headers: HeaderMap::new(), body, timeout: TIMEOUT, limit: LIMIT, redirects: 0 })
    }

    /// A GET.
    ///
    /// # Errors
    /// [`Error::Url`] for an address that can't be called.
    pub fn get(url: Url) -> Result<Self> {
        Self::new(Method::GET, url, Bytes::new())
    }

    /// A POST.
    ///
    /// # Errors
    /// As [`Request::get`].
    pub fn post(url: Url, body: impl Into<Bytes>) -> Result<Self> {
        Self::new(Method::POST, url, body)
    }

    /// Asks for something's end.
    ///
    /// # Errors
    /// [`Error::Url`] when the address can't be called.
    pub fn delete(url: Url) -> Result<Self> {
        Self::new(Method::DELETE, url, Bytes::new())
    }

    /// With a header; `name` in lower case.
    ///
    /// # Errors
    /// [`Error::Header`] for a value that can't be sent.
    pub fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value).map_err(|_| Error::Header(name))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// With a user's name and password.
    #[must_use]
    pub fn basic(self, user: &str, password: &str) -> Self {
        self.secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    /// With a token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.secret(&format!("Bearer {token}"))
    }

    fn secret(mut self, value: &str) -> Self {
        // A token with line breaks is no token: without it the other side says so.
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            self.headers.insert(AUTHORIZATION, value);
        }
        self
    }

    /// With another time limit than 30 seconds; `Duration::MAX` is none.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With another limit on the answer's size than 4 MiB.
    #[must_use]
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Follows so many redirections (a GET only); without, none.
    #[must_use]
    pub fn follow(mut self, redirects: u8) -> Self {
        self.redirects = redirects;
        self
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    url: Url,
    status: u16,
    reason: Option<ReasonPhrase>,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What its status is called: the other side's own words, else the usual ones.
    pub fn reason(&self) -> String {
        let own = self.reason.as_ref().map(|reason| String::from_utf8_lossy(reason.as_bytes()));
        let usual = || StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        own.filter(|text| !text.is_empty())
            .map_or_else(|| usual().unwrap_or_default().to_owned(), std::borrow::Cow::into_owned)
    }

    /// What was asked for in the end.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header.
    pub fn header_values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// Its body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON.
    ///
    /// # Errors
    /// [`Error::Protocol`] when it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Protocol {
            host: place(&self.url),
            reason: format!("the answer makes no sense: {error}"),
        })
    }

    /// The answer, if its status is one of success.
    ///
    /// # Errors
    /// [`Error::Status`].
    pub fn success(self) -> Result<Self> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        Err(Error::Status { url: format!("{}{}", place(&self.url), self.url.path()), status: self.status })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::Router;
    use axum::http::header;
    use axum::response::Redirect;
    use axum::routing::{get, post};

    use super::*;

    async fn server() -> Url {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let away = format!("http://localhost:{port}/echo");
        let router = Router::new()
            .route("/echo", get(|headers: HeaderMap| async move { format!("{:?}", headers.get(AUTHORIZATION)) }))
            .route("/away", get(move || async move { Redirect::temporary(&away) }))
            .route("/home", get(|| async { Redirect::temporary("/echo") }))
            .route("/round", get(|| async { Redirect::temporary("/round") }))
            .route("/file", get(|| async { Redirect::temporary("file:///etc/passwd") }))
            .route("/big", get(|| async { vec![b'x'; 5000] }))
            .route("/slow", get(std::future::pending::<()>))
            .route("/post", post(|body: String| async move { (StatusCode::CREATED, [(header::ETAG, "e")], body) }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://127.0.0.1:{port}/").parse().unwrap()
    }

    #[tokio::test]
    async fn answers_are_read_whole_within_limits() {
        let base = server().await;
        let client = Client::new(Reach::Anywhere, Certificates::Checked);
        let request = |path: &str| Request::get(base.join(path).unwrap()).unwrap();
        let answer = client.send(Request::post(base.join("post").unwrap(), "body").unwrap()).await.unwrap();
        assert_eq!((answer.status(), answer.header("etag"), answer.text().as_str()), (201, Some("e"), "body"));
        assert!(matches!(client.send(request("big").at_most(4999)).await, Err(Error::TooLarge { limit: 4999, .. })));
        assert_eq!(client.send(request("big").at_most(5000)).await.unwrap().body().len(), 5000);
        let late = client.send(request("slow").within(Duration::from_millis(50))).await;
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        assert!(matches!(
            client.send(request("none")).await.unwrap().success(),
            Err(Error::Status { status: 404, .. })
        ));
        let nobody = client.send(Request::get("http://127.0.0.1:1/".parse().unwrap()).unwrap()).await;
        assert!(matches!(nobody, Err(Error::Unreachable { .. })), "{nobody:?}");
    }

    #[tokio::test]
    async fn redirections_are_followed_as_far_as_wanted_and_credentials_stay() {
        let base = server().await;
        let client = Client::new(Reach::Anywhere, Certificates::Checked);
        let send = async |path: &str, follow: u8| {
            client.send(Request::get(base.join(path).unwrap()).unwrap().bearer("t").follow(follow)).await
        };
        assert_eq!(send("home", 0).await.unwrap().status(), 307);
        assert_eq!(send("home", 1).await.unwrap().text(), "Some(Sensitive)".replace("Sensitive", "\"Bearer t\""));
        assert_eq!(send("away", 1).await.unwrap().text(), "None");
        assert_eq!(send("round", 5).await.unwrap().status(), 307);
        assert!(matches!(send("file", 1).await, Err(Error::Protocol { .. })));
    }

    #[tokio::test]
    async fn users_reach_public_addresses_only() {
        let base = server().await;
        let send = async |client: &Client, url: Url| client.send(Request::get(url).unwrap()).await;
        let public = Client::new(Reach::Public(Vec::new()), Certificates::Checked);
        let port = base.port().unwrap();
        for url in [base.to_string(), format!("http://localhost:{port}/"), format!("http://[::ffff:127.0.0.1]:{port}/")]
        {
            let refused = send(&public, url.parse().unwrap()).await;
            assert!(matches!(refused, Err(Error::Refused(_))), "{url}: {refused:?}");
        }
        let home = Client::new(Reach::Public(vec!["127.0.0.0/8".parse().unwrap()]), Certificates::Checked);
        assert_eq!(send(&home, base.join("echo").unwrap()).await.unwrap().status(), 200);
        for bad in ["ftp://example.org/", "http://user:pw@example.org/", "data:text/plain,x"] {
            assert!(matches!(Request::get(bad.parse().unwrap()), Err(Error::Url(_))), "{bad}");
        }
    }
}
