//! Files of folders on their way in and out, as the published protocol has them.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::{Client as Http, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::client::Client;

/// A permission to send or fetch one file.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// What proves it.
    pub token: String,
    /// Where it is used.
    pub url: String,
}

impl Ticket {
    /// What was handed out.
    ///
    /// # Errors
    /// When it is no ticket.
    pub fn of(answer: &Value) -> anyhow::Result<Self> {
        let text = |key: &str| answer[key].as_str().map(str::to_owned).with_context(|| format!("no ticket: {answer}"));
        Ok(Self { token: text("token")?, url: text("url")? })
    }

    /// A ticket to send a file of so many bytes.
    ///
    /// # Errors
    /// When none is given.
    pub async fn upload(client: &Client, folder: &str, path: &str, size: u64) -> anyhow::Result<Self> {
        let ask = json!({ "path": path, "size": size });
        Self::of(&client.post(&format!("/folders/{folder}/request-upload"), &ask).await?.ok()?)
    }

    /// A ticket to fetch a file or directory.
    ///
    /// # Errors
    /// When none is given.
    pub async fn download(client: &Client, folder: &str, path: &str) -> anyhow::Result<Self> {
        let ask = json!({ "path": path });
        Self::of(&client.post(&format!("/folders/{folder}/request-download"), &ask).await?.ok()?)
    }

    /// The address to use it at.
    pub fn address(&self) -> String {
        format!("{}?token={}", self.url, self.token)
    }

    /// The address with more parameters, which are encoded already.
    pub fn address_with(&self, query: &str) -> String {
        format!("{}&{query}", self.address())
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// A header's text; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// How much is stored, as an upload's answer says it.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn offset(&self) -> anyhow::Result<u64> {
        let text = self.header("upload-offset");
        text.parse().with_context(|| format!("{}, no offset: {:?}", self.status, self.headers))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Somebody who holds tickets; nothing is signed.
#[derive(Clone, Debug)]
pub struct Transfers {
    http: Http<HttpConnector, Full<Bytes>>,
}

impl Default for Transfers {
    fn default() -> Self {
        // Servers under test are killed and restarted: a kept connection would outlive them.
        Self { http: Http::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http() }
    }
}

impl Transfers {
    /// Sends a request.
    ///
    /// # Errors
    /// When no whole answer comes.
    pub async fn send(
        &self,
        method: Method,
        address: &str,
        headers: &[(&'static str, String)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Reply> {
        let mut request = Request::builder().method(method).uri(address);
        for (name, value) in headers {
            request = request.header(HeaderName::from_static(name), value);
        }
        let response = self.http.request(request.body(Full::new(body.into()))?).await?;
        let (parts, body) = response.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    /// Fetches what a ticket is for.
    ///
    /// # Errors
    /// When no whole answer comes.
    pub async fn get(&self, address: &str, headers: &[(&'static str, String)]) -> anyhow::Result<Reply> {
        self.send(Method::GET, address, headers, Bytes::new()).await
    }

    /// Fetches into a file, and hangs up once `most` bytes are there; status and number of bytes.
    ///
    /// # Errors
    /// When the answer breaks off, or the file can't be written.
    pub async fn fetch(
        &self,
        address: &str,
        headers: &[(&'static str, String)],
        file: &mut std::fs::File,
        most: u64,
    ) -> anyhow::Result<(StatusCode, u64)> {
        let mut request = Request::get(address);
        for (name, value) in headers {
            request = request.header(HeaderName::from_static(name), value);
        }
        let response = self.http.request(request.body(Full::default())?).await?;
        let (status, mut body, mut fetched) = (response.status(), response.into_body(), 0);
        while fetched < most
            && let Some(frame) = body.frame().await
        {
            if let Ok(bytes) = frame?.into_data() {
                file.write_all(&bytes)?;
                fetched += bytes.len() as u64;
            }
        }
        Ok((status, fetched))
    }

    /// How far an upload is.
    ///
    /// # Errors
    /// When there is none.
    pub async fn offset(&self, ticket: &Ticket) -> anyhow::Result<u64> {
        let reply = self.send(Method::HEAD, &ticket.address(), &[], Bytes::new()).await?;
        ensure!(reply.status == StatusCode::OK, "HEAD: {}", reply.status);
        reply.offset()
    }

    /// Sends a piece of an upload.
    ///
    /// # Errors
    /// When no whole answer comes.
    pub async fn patch(&self, address: &str, offset: u64, piece: impl Into<Bytes>) -> anyhow::Result<Reply> {
        let headers = [
            ("tus-resumable", "1.0.0".to_owned()),
            ("upload-offset", offset.to_string()),
            ("content-type", "application/offset+octet-stream".to_owned()),
        ];
        self.send(Method::PATCH, address, &headers, piece).await
    }

    /// Puts a small file into a folder.
    ///
    /// # Errors
    /// When it isn't taken.
    pub async fn put(&self, client: &Client, folder: &str, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let ticket = Ticket::upload(client, folder, path, content.len() as u64).await?;
        let reply = self.patch(&ticket.address(), 0, content.to_vec()).await?;
        ensure!(reply.status == StatusCode::NO_CONTENT, "{}: {}", reply.status, reply.text());
        Ok(())
    }
}

/// Begins a piece of `length` bytes, of which only `sent` go out: the server waits for the others.
///
/// # Errors
/// When the server can't be reached.
pub fn begin_piece(ticket: &Ticket, offset: u64, length: usize, sent: &[u8]) -> anyhow::Result<TcpStream> {
    let place = ticket.url.split("://").nth(1).context("an address without scheme")?;
    let (authority, path) = place.split_once('/').context("an address without path")?;
    let mut stream = TcpStream::connect(authority)?;
    let head = format!(
        "PATCH /{path}?token={} HTTP/1.1\r\nHost: {authority}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\r\n",
        ticket.token
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(sent)?;
    Ok(stream)
}

/// Where a folder's root is below the directory of its volume; `folder` is the answer to its creation.
///
/// # Errors
/// When that has no id.
pub fn root_of(volume: &Path, folder: &Value) -> anyhow::Result<PathBuf> {
    let text = |key: &str| folder[key].as_str().with_context(|| format!("no {key}: {folder}"));
    let (scope, id) = (text("quota_scope_id")?, text("id")?);
    ensure!(id.len() == 32, "{id} is no id");
    Ok(volume.join(scope).join(&id[..2]).join(&id[2..4]).join(&id[4..]))
}

/// A file's SHA-256, by `sha256sum`: unoptimised code would take its time for large ones.
///
/// # Errors
/// When it can't be read.
pub fn sha256(path: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum").arg("-b").arg(path).output().context("sha256sum")?;
    ensure!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("sha256sum told nothing")?.to_owned())
}

/// Every file and link below a directory, relative to it; links aren't followed.
///
/// # Errors
/// When a directory can't be read.
pub fn files_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut pending) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
