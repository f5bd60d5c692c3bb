//! A signed client, written from the protocol's description.

use anyhow::{Context as _, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::{Client as Http, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::KeyPair;

const VERSION: &str = "v6.20230315";

/// Somebody who talks to a server.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: String,
    keys: KeyPair,
    http: Http<HttpConnector, Full<Bytes>>,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body, as JSON if it is that.
    pub body: Value,
    /// The body as it came.
    pub bytes: Bytes,
}

impl Answer {
    /// The JSON body of a success.
    ///
    /// # Errors
    /// With the whole answer when it isn't one.
    pub fn ok(self) -> anyhow::Result<Value> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        bail!("{}: {}", self.status, String::from_utf8_lossy(&self.bytes))
    }
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The headers of a signed request.
pub fn signed_headers(
    method: &str,
    path: &str,
    authority: &str,
    content_type: &str,
    keys: KeyPair,
) -> [(&'static str, String); 5] {
    let now = chrono::Utc::now();
    let date = now.to_rfc3339_opts(chrono::SecondsFormat::Micros, false);
    let canonical = format!(
        "{method}\n{path}\n{date}\nhost:{authority}\ncontent-type:{content_type}\nx-backendai-version:{VERSION}\n{}",
        hex(&Sha256::digest(b""))
    );
    let key = mac(keys.secret.as_bytes(), now.format("%Y%m%d").to_string().as_bytes());
    let key = mac(&key, authority.as_bytes());
    let signature = hex(&mac(&key, canonical.as_bytes()));
    [
        ("Host", authority.to_owned()),
        ("Date", date),
        ("Content-Type", content_type.to_owned()),
        ("X-BackendAI-Version", VERSION.to_owned()),
        ("Authorization", format!("BackendAI signMethod=HMAC-SHA256, credential={}:{signature}", keys.access)),
    ]
}

impl Client {
    /// A client of `endpoint` (`http://HOST:PORT`) with a key pair.
    pub fn new(endpoint: &str, keys: KeyPair) -> Self {
        // Servers under test are killed and restarted: a kept connection would outlive them.
        let http = Http::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Self { endpoint: endpoint.trim_end_matches('/').to_owned(), keys, http }
    }

    /// Sends a signed request.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> anyhow::Result<Answer> {
        let authority = self.endpoint.split("://").nth(1).context("endpoint without scheme")?;
        let mut request = Request::builder().method(method.clone()).uri(format!("{}{path}", self.endpoint));
        for (name, value) in signed_headers(method.as_str(), path, authority, content_type, self.keys) {
            request = request.header(name, value);
        }
        let response = self.http.request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, body, bytes })
    }

    /// A signed GET whose answer is read as it comes, with more headers.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn open(
        &self,
        path: &str,
        more: &[(&'static str, String)],
    ) -> anyhow::Result<hyper::Response<hyper::body::Incoming>> {
        let authority = self.endpoint.split("://").nth(1).context("endpoint without scheme")?;
        let mut request = Request::builder().uri(format!("{}{path}", self.endpoint));
        let signed = signed_headers("GET", path, authority, "application/octet-stream", self.keys);
        for (name, value) in signed.iter().chain(more) {
            request = request.header(*name, value);
        }
        Ok(self.http.request(request.body(Full::new(Bytes::new()))?).await?)
    }

    /// GET with a JSON body, as the official client asks for reports.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get_with(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, "application/json", Bytes::from(body.to_string())).await
    }

    /// GET.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, "application/octet-stream", Bytes::new()).await
    }

    /// POST with a JSON body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, "application/json", Bytes::from(body.to_string())).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, path, "application/octet-stream", Bytes::new()).await
    }

    /// GraphQL: the `data` of a query without errors.
    ///
    /// # Errors
    /// When there are any.
    pub async fn gql(&self, query: &str, variables: Value) -> anyhow::Result<Value> {
        let body = self.post("/admin/gql", &json!({"query": query, "variables": variables})).await?.ok()?;
        match body.get("errors") {
            Some(errors) => bail!("{errors}"),
            None => Ok(body["data"].clone()),
        }
    }

    /// Enqueues a session of the seeded Python image, without waiting for it.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn enqueue(&self, name: &str, resources: Value) -> anyhow::Result<String> {
        let body = json!({
            "name": name, "image": crate::PYTHON_IMAGE, "architecture": "x86_64", "enqueueOnly": true,
            "config": {"resources": resources, "scaling_group": "default"},
        });
        let created = self.post("/session", &body).await?.ok()?;
        Ok(created["sessionId"].as_str().context("no sessionId in the answer")?.to_owned())
    }

    /// Fields of a session, by GraphQL.
    ///
    /// # Errors
    /// When the query fails, or there is no such session.
    pub async fn session(&self, id: &str, fields: &str) -> anyhow::Result<Value> {
        let query = format!("query($i: UUID!) {{ compute_session(id: $i) {{ {fields} }} }}");
        let row = self.gql(&query, json!({"i": id})).await?["compute_session"].clone();
        anyhow::ensure!(!row.is_null(), "no session {id}");
        Ok(row)
    }

    /// Waits until exactly so many agents are alive.
    ///
    /// # Errors
    /// When they aren't within a minute.
    pub async fn await_agents(&self, count: usize) -> anyhow::Result<()> {
        crate::wait::until(&format!("{count} agents to join"), std::time::Duration::from_secs(60), || async {
            let agents = self.gql("{ agents(status: \"ALIVE\") { id } }", json!({})).await?;
            let alive = agents["agents"].as_array().map_or(0, Vec::len);
            if alive == count { Ok(Some(())) } else { bail!("{alive} are there") }
        })
        .await
    }

    /// What is occupied on each agent, by the books; slots of which nothing is used are left out.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn occupancy(&self) -> anyhow::Result<serde_json::Map<String, Value>> {
        let data = self.gql("{ agents { id occupied_slots } }", json!({})).await?;
        let mut map = serde_json::Map::new();
        for agent in data["agents"].as_array().context("no list of agents")? {
            let slots: serde_json::Map<String, Value> =
                serde_json::from_str(agent["occupied_slots"].as_str().unwrap_or("{}"))?;
            let used: serde_json::Map<_, _> = slots.into_iter().filter(|(_, amount)| amount != "0").collect();
            map.insert(agent["id"].as_str().unwrap_or_default().to_owned(), used.into());
        }
        Ok(map)
    }

    /// Waits until a session's status is one of `wanted`; its status.
    ///
    /// # Errors
    /// When it isn't in time.
    pub async fn await_status(
        &self,
        id: &str,
        wanted: &[&str],
        timeout: std::time::Duration,
    ) -> anyhow::Result<String> {
        crate::wait::until(&format!("session {id} to become {wanted:?}"), timeout, || async {
            let row = self.session(id, "status status_info status_data").await?;
            let status = row["status"].as_str().unwrap_or_default().to_owned();
            if wanted.contains(&status.as_str()) { Ok(Some(status)) } else { bail!("{row}") }
        })
        .await
    }
}
