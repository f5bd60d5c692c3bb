//! A signed client of our own API, for the commands that talk to a running server.

use anyhow::{Context as _, bail};
use clap::Args;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

/// API version that the client signs for.
const API_VERSION: &str = "v6.20230315";

/// Which server, and as whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct EndpointArgs {
    /// The server's address (else `BACKEND_ENDPOINT`)
    #[arg(long, env = "QUARTERDECK_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,
    /// Access key (else `BACKEND_ACCESS_KEY`)
    #[arg(long, env = "QUARTERDECK_ACCESS_KEY", value_name = "KEY")]
    access_key: Option<String>,
    /// Secret key; better given by the environment (else `BACKEND_SECRET_KEY`)
    #[arg(long, env = "QUARTERDECK_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    secret_key: Option<String>,
}

/// Talks to one server as one key pair.
#[derive(Debug)]
pub(crate) struct ApiClient {
    endpoint: String,
    authority: String,
    access_key: String,
    secret_key: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl ApiClient {
    /// Takes endpoint and credentials from flags, our environment names, or the official client's.
    pub(crate) fn new(args: &EndpointArgs) -> anyhow::Result<Self> {
        let pick = |given: &Option<String>, other: &str, what: &str| -> anyhow::Result<String> {
            given.clone().or_else(|| std::env::var(other).ok()).filter(|v| !v.is_empty()).with_context(|| {
                format!("no {what}: set QUARTERDECK_{} or {other}", other.trim_start_matches("BACKEND_"))
            })
        };
        let endpoint = pick(&args.endpoint, "BACKEND_ENDPOINT", "endpoint")?.trim_end_matches('/').to_owned();
        let uri: hyper::Uri = endpoint.parse().with_context(|| format!("endpoint {endpoint}"))?;
        if uri.scheme_str() != Some("http") {
            bail!(
                "endpoint {endpoint}: only http:// is spoken here; run the command on the server's side of its TLS proxy"
            );
        }
        let authority = uri.authority().with_context(|| format!("endpoint {endpoint} has no host"))?.to_string();
        Ok(Self {
            endpoint,
            authority,
            access_key: pick(&args.access_key, "BACKEND_ACCESS_KEY", "access key")?,
            secret_key: pick(&args.secret_key, "BACKEND_SECRET_KEY", "secret key")?,
            http: Client::builder(TokioExecutor::new()).build_http(),
        })
    }

    /// Sends JSON (or nothing) and reads JSON.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Json>) -> anyhow::Result<Json> {
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        self.send(method, path, "application/json", bytes).await
    }

    /// Sends bytes and reads JSON. A problem document becomes an error that shows what it says.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Json> {
        self.send_with(method, path, content_type, &[], body).await
    }

    /// As [`ApiClient::send`], with more headers.
    pub(crate) async fn send_with(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> anyhow::Result<Json> {
        let response = self.request(method, path, content_type, headers, body).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let document: Json =
            if bytes.is_empty() { Json::Null } else { serde_json::from_slice(&bytes).unwrap_or(Json::Null) };
        if !status.is_success() {
            bail!("{}", problem(status, &document));
        }
        Ok(document)
    }

    /// Fetches bytes of any length, piece by piece. A problem document becomes an error as in [`ApiClient::send`].
    pub(crate) async fn download(
        &self,
        path: &str,
        take: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let response = self.request(Method::GET, path, "application/json", &[], Bytes::new()).await?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let bytes = body.collect().await?.to_bytes();
            bail!("{}", problem(status, &serde_json::from_slice(&bytes).unwrap_or(Json::Null)));
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the answer breaks off")?;
            if let Some(bytes) = frame.data_ref() {
                take(bytes)?;
            }
        }
        Ok(())
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let date = chrono::Utc::now();
        let raw_date = date.to_rfc3339_opts(chrono::SecondsFormat::Micros, false);
        let signature = self.sign(&method, path, content_type, &raw_date, &date.format("%Y%m%d").to_string());
        let request = headers
            .iter()
            .fold(Request::builder(), |request, (name, value)| request.header(*name, value))
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header("Host", &self.authority)
            .header("Date", &raw_date)
            .header("Content-Type", content_type)
            .header("X-BackendAI-Version", API_VERSION)
            .header("User-Agent", concat!("quarterdeck/", env!("CARGO_PKG_VERSION")))
            .header(
                "Authorization",
                format!("BackendAI signMethod=HMAC-SHA256, credential={}:{signature}", self.access_key),
            )
            .body(Full::new(body))?;
        self.http.request(request).await.with_context(|| format!("{} doesn't answer", self.endpoint))
    }

    fn sign(&self, method: &Method, path: &str, content_type: &str, date: &str, day: &str) -> String {
        let canonical = format!(
            "{method}\n{path}\n{date}\nhost:{}\ncontent-type:{content_type}\nx-backendai-version:{API_VERSION}\n{}",
            self.authority,
            hex(&Sha256::digest(b"")),
        );
        let key = mac(self.secret_key.as_bytes(), day.as_bytes());
        let key = mac(&key, self.authority.as_bytes());
        hex(&mac(&key, canonical.as_bytes()))
    }
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn problem(status: StatusCode, document: &Json) -> String {
    let title = document.get("title").and_then(Json::as_str).unwrap_or("the server refused");
    let mut out = format!("{title} ({})", status.as_u16());
    if let Some(msg) = document.get("msg").and_then(Json::as_str) {
        out.push_str(": ");
        out.push_str(msg);
    }
    if let Some(data) = document.get("data").filter(|data| !is_told(data, &out)) {
        out.push_str(&format!(" {data}"));
    }
    out
}

/// Whether the words say already what is wrong with each field.
fn is_told(data: &Json, words: &str) -> bool {
    let said = |(field, problem): (&String, &Json)| {
        words.contains(field.as_str()) && problem.as_str().is_some_and(|problem| words.contains(problem))
    };
    data.as_object().is_some_and(|fields| fields.iter().all(said))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_are_told_once() {
        let problem = |msg: &str, data: Json| {
            problem(StatusCode::BAD_REQUEST, &json!({"title": "Wrong.", "msg": msg, "data": data}))
        };
        let told = problem("it refuses /a: no number", json!({"/a": "no number"}));
        assert_eq!(told, "Wrong. (400): it refuses /a: no number");
        let more = problem("Input validation error", json!({"name": "is required"}));
        assert_eq!(more, r#"Wrong. (400): Input validation error {"name":"is required"}"#);
    }

    #[test]
    fn signs_like_the_official_client() {
        let client = ApiClient::new(&EndpointArgs {
            endpoint: Some("http://127.0.0.1:8081".to_owned()),
            access_key: Some("AKIAIOSFODNN7EXAMPLE".to_owned()),
            secret_key: Some("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
        })
        .unwrap();
        let signature = client.sign(
            &Method::GET,
            "/auth?echo=hello",
            "application/octet-stream",
            "2026-01-15T09:30:00.123456+00:00",
            "20260115",
        );
        assert_eq!(signature, "571ae246d58ee6a71e29fe11a9176ec0b1fff19e8f04273fb19b382103914d4a");
    }
}
