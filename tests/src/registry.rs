//! An image registry that speaks Docker's protocol of version 2, with tokens, pages and redirections, and the listings of
//! Harbor (both versions) and of Docker Hub.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Whom the registry knows.
pub const USER: &str = "scanner";
/// Their password.
pub const PASSWORD: &str = "s3cret";
/// `scanner:s3cret`, as it is sent.
const BASIC: &str = "Basic c2Nhbm5lcjpzM2NyZXQ=";
/// Names on a page, whatever is asked for.
const PAGE: usize = 2;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn digest(bytes: &Bytes) -> String {
    let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{digest}")
}

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// They needn't.
    Open,
    /// By name and password at each call.
    Basic,
    /// By a token, which is given for name and password.
    Token,
}

/// What it has, and how it behaves.
#[derive(Debug)]
pub struct Shelf {
    guard: Guard,
    /// Repository → tag → digest of the manifest.
    tags: BTreeMap<String, BTreeMap<String, String>>,
    /// Digest → content.
    blobs: BTreeMap<String, Bytes>,
    /// The next call for a manifest fails in passing.
    stumble: AtomicBool,
    busy: AtomicUsize,
    busiest: AtomicUsize,
    /// How long reading a manifest takes.
    delay: Duration,
}

impl Shelf {
    /// An empty one.
    pub fn new(guard: Guard) -> Self {
        Self {
            guard,
            tags: BTreeMap::new(),
            blobs: BTreeMap::new(),
            stumble: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            delay: Duration::ZERO,
        }
    }

    /// Takes time over each manifest, and fails one in passing.
    #[must_use]
    pub fn slow(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self.stumble = AtomicBool::new(true);
        self
    }

    fn put(&mut self, document: &Value) -> String {
        let bytes = Bytes::from(document.to_string());
        let digest = digest(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    /// The manifest of an image with these labels; `old` writes them where old builders did.
    fn image(&mut self, architecture: &str, labels: &Value, old: bool) -> String {
        let config = if old {
            json!({"architecture": architecture, "os": "linux", "container_config": {"Labels": labels}, "config": {"Labels": {}}})
        } else {
            json!({"architecture": architecture, "os": "linux", "config": {"Labels": labels}})
        };
        let config = self.put(&config);
        self.put(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"digest": config, "size": 100},
            "layers": [{"digest": format!("sha256:{}", "a".repeat(64)), "size": 1000}, {"digest": "x", "size": 23}],
        }))
    }

    /// Adds an image.
    pub fn add(&mut self, repository: &str, tag: &str, architecture: &str, labels: &Value) {
        let digest = self.image(architecture, labels, tag.contains("old"));
        self.tags.entry(repository.to_owned()).or_default().insert(tag.to_owned(), digest);
    }

    /// Adds an image that engines can run: its configuration, and its layers as compressed archives.
    pub fn add_built(&mut self, repository: &str, tag: &str, config: Bytes, layers: Vec<Bytes>) {
        let mut part = |kind: &str, bytes: Bytes| {
            let (digest, size) = (digest(&bytes), bytes.len());
            self.blobs.insert(digest.clone(), bytes);
            json!({"mediaType": kind, "digest": digest, "size": size})
        };
        let config = part("application/vnd.docker.container.image.v1+json", config);
        let layers: Vec<_> =
            layers.into_iter().map(|layer| part("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)).collect();
        let digest = self.put(&json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}));
        self.tags.entry(repository.to_owned()).or_default().insert(tag.to_owned(), digest);
    }

    /// Adds a tag that stands for several images, and an attestation that is none.
    pub fn add_list(&mut self, repository: &str, tag: &str, architectures: &[&str], labels: &Value) {
        let mut entries: Vec<Value> = architectures
            .iter()
            .map(|name| json!({"digest": self.image(name, labels, false), "platform": {"architecture": name, "os": "linux"}}))
            .collect();
        entries.push(json!({"digest": "sha256:0", "platform": {"architecture": "unknown", "os": "unknown"}}));
        let list = self.put(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
        }));
        self.tags.entry(repository.to_owned()).or_default().insert(tag.to_owned(), list);
    }

    /// Adds a tag that can't be read.
    pub fn add_broken(&mut self, repository: &str, tag: &str) {
        let digest = self.put(&json!({"schemaVersion": 1, "signatures": []}));
        self.tags.entry(repository.to_owned()).or_default().insert(tag.to_owned(), digest);
    }
}

/// A running registry; it ends with its runtime.
#[derive(Debug)]
pub struct Registry {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    shelf: Arc<Shelf>,
}

impl Registry {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(shelf: Shelf) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shelf = Arc::new(shelf);
        let (served, own_url) = (Arc::clone(&shelf), url.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shelf, url) = (Arc::clone(&served), own_url.clone());
                let service = hyper::service::service_fn(move |request| {
                    let (shelf, url) = (Arc::clone(&shelf), url.clone());
                    async move { Ok::<_, Infallible>(answer(&shelf, &url, &request).await) }
                });
                tokio::spawn(async move {
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { url, shelf })
    }

    /// The most manifests that were asked for at the same time.
    pub fn busiest(&self) -> usize {
        self.shelf.busiest.load(Ordering::SeqCst)
    }
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn document(value: &Value) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(value.to_string())))
}

/// A page of a listing after `last`, with the way to the next.
fn page(names: &BTreeSet<&String>, key: &str, path: &str, query: &str) -> Response<Full<Bytes>> {
    let last = query.split('&').find_map(|pair| pair.strip_prefix("last="));
    let after: Vec<_> = names.iter().filter(|name| last.is_none_or(|last| name.as_str() > last)).collect();
    let shown = &after[..after.len().min(PAGE)];
    let mut response = document(&json!({"name": "x", key: shown}));
    if after.len() > PAGE {
        let link = format!("<{path}?n={PAGE}&last={}>; rel=\"next\"", shown[PAGE - 1]);
        response.headers_mut().insert("link", link.parse().expect("a header"));
    }
    response
}

async fn answer(shelf: &Shelf, url: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let authorization = request.headers().get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if path == "/auth" {
        let scope = query.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap_or_default();
        // Engines name an account, others a program.
        let is_named = query.contains("client_id=docker") || query.contains(&format!("account={USER}"));
        let fits = query.contains("service=test-registry") && is_named;
        return match authorization {
            BASIC if fits => {
                document(&json!({"token": scope.replace("%3A", ":").replace("%2F", "/"), "expires_in": 60}))
            }
            _ => plain(StatusCode::UNAUTHORIZED),
        };
    }
    if let Some(digest) = path.strip_prefix("/storage/") {
        // Storage of somebody else's: it takes no credentials.
        return match shelf.blobs.get(digest) {
            Some(bytes) if authorization.is_empty() => Response::new(Full::new(bytes.clone())),
            _ => plain(StatusCode::BAD_REQUEST),
        };
    }
    if let Some(rest) = path.strip_prefix("/api/v2.0/projects/") {
        return if authorization == BASIC { harbor(shelf, rest) } else { plain(StatusCode::UNAUTHORIZED) };
    }
    if path == "/api/projects" || path == "/api/repositories" {
        return if authorization == BASIC { old_harbor(shelf, path, query) } else { plain(StatusCode::UNAUTHORIZED) };
    }
    // Docker Hub lists without credentials, at another address than that of its images.
    if let Some(user) = path.strip_prefix("/listing/v2/repositories/") {
        return hub(shelf, url, user.trim_end_matches('/'), query);
    }
    let repository = path.strip_prefix("/v2/").unwrap_or_default();
    let repository =
        ["/tags/", "/manifests/", "/blobs/"].iter().find_map(|part| repository.split_once(part)).map_or("", |r| r.0);
    let scope =
        if repository.is_empty() { "registry:catalog:*".to_owned() } else { format!("repository:{repository}:pull") };
    let admitted = match shelf.guard {
        Guard::Open => authorization.is_empty(),
        Guard::Basic => authorization == BASIC,
        Guard::Token => authorization == format!("Bearer {scope}"),
    };
    if !admitted {
        let mut response = plain(StatusCode::UNAUTHORIZED);
        let challenge = match shelf.guard {
            Guard::Token => format!("Bearer realm=\"{url}/auth\",service=\"test-registry\",scope=\"{scope}\""),
            _ => "Basic realm=\"test\"".to_owned(),
        };
        response.headers_mut().insert("www-authenticate", challenge.parse().expect("a header"));
        return response;
    }
    if path == "/v2/" {
        return document(&json!({}));
    }
    if path == "/v2/_catalog" {
        return page(&shelf.tags.keys().collect(), "repositories", path, query);
    }
    let Some(tags) = shelf.tags.get(repository) else { return plain(StatusCode::NOT_FOUND) };
    let last = path.rsplit('/').next().unwrap_or_default();
    if path.ends_with("/tags/list") {
        return page(&tags.keys().collect(), "tags", path, query);
    }
    if path.contains("/blobs/") {
        let mut response = plain(StatusCode::TEMPORARY_REDIRECT);
        let target = format!("{}/storage/{last}", url.replace("127.0.0.1", "localhost"));
        response.headers_mut().insert("location", target.parse().expect("a header"));
        return response;
    }
    if shelf.stumble.swap(false, Ordering::SeqCst) {
        return plain(StatusCode::SERVICE_UNAVAILABLE);
    }
    let busy = shelf.busy.fetch_add(1, Ordering::SeqCst) + 1;
    shelf.busiest.fetch_max(busy, Ordering::SeqCst);
    tokio::time::sleep(shelf.delay).await;
    shelf.busy.fetch_sub(1, Ordering::SeqCst);
    let digest = tags.get(last).map_or(last, String::as_str);
    let Some(bytes) = shelf.blobs.get(digest) else { return plain(StatusCode::NOT_FOUND) };
    let mut response = Response::new(Full::new(bytes.clone()));
    // Engines go by these, and not by what they read.
    let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if let Some(kind) = manifest["mediaType"].as_str() {
        response.headers_mut().insert("content-type", kind.parse().expect("a header"));
    }
    response.headers_mut().insert("docker-content-digest", digest.parse().expect("a header"));
    response
}

/// Harbor's listings below `/api/v2.0/projects/`.
fn harbor(shelf: &Shelf, rest: &str) -> Response<Full<Bytes>> {
    let Some((project, rest)) = rest.split_once("/repositories") else { return plain(StatusCode::NOT_FOUND) };
    if rest.is_empty() {
        let prefix = format!("{project}/");
        let names: Vec<_> =
            shelf.tags.keys().filter(|name| name.starts_with(&prefix)).map(|n| json!({"name": n})).collect();
        return document(&names.into());
    }
    let name = rest.trim_start_matches('/').trim_end_matches("/artifacts").replace("%252F", "/");
    match shelf.tags.get(&format!("{project}/{name}")) {
        Some(tags) => {
            let artifacts: Vec<_> = tags.keys().map(|tag| json!({"digest": "x", "tags": [{"name": tag}]})).collect();
            document(&artifacts.into())
        }
        None => plain(StatusCode::NOT_FOUND),
    }
}

/// The value of a query's parameter.
fn given<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// A page of what there is by number, and the number of the next.
fn numbered<'a, T>(all: &'a [T], query: &str) -> (&'a [T], Option<usize>) {
    let page: usize = given(query, "page").and_then(|text| text.parse().ok()).unwrap_or(1);
    let begin = (page.max(1) - 1) * PAGE;
    let end = (begin + PAGE).min(all.len());
    (all.get(begin..end).unwrap_or_default(), (end < all.len()).then_some(page + 1))
}

/// Harbor's listings before version 2: projects have numbers, by which their repositories are asked for.
fn old_harbor(shelf: &Shelf, path: &str, query: &str) -> Response<Full<Bytes>> {
    let projects: BTreeSet<_> = shelf.tags.keys().filter_map(|name| name.split_once('/')).map(|n| n.0).collect();
    let all: Vec<Value> = if path == "/api/projects" {
        projects.iter().enumerate().map(|(n, name)| json!({"project_id": n + 1, "name": name})).collect()
    } else {
        let wanted = given(query, "project_id").and_then(|text| text.parse::<usize>().ok());
        let Some(project) = wanted.and_then(|n| projects.iter().nth(n.wrapping_sub(1))) else {
            return plain(StatusCode::NOT_FOUND);
        };
        let of_project = shelf.tags.iter().filter(|(name, _)| name.split_once('/').is_some_and(|n| n.0 == *project));
        of_project
            .enumerate()
            .map(|(n, (name, tags))| json!({"id": n, "name": name, "tags_count": tags.len()}))
            .collect()
    };
    let (shown, next) = numbered(&all, query);
    let mut response = document(&shown.into());
    if let Some(next) = next {
        let others: String =
            query.split('&').filter(|pair| !pair.starts_with("page=")).map(|pair| format!("&{pair}")).collect();
        let link = format!("<{path}?page={next}{others}>; rel=\"next\"");
        response.headers_mut().insert("link", link.parse().expect("a header"));
    }
    response
}

/// Docker Hub's listing of what a user has, by names without the user's.
fn hub(shelf: &Shelf, url: &str, user: &str, query: &str) -> Response<Full<Bytes>> {
    let prefix = format!("{user}/");
    let all: Vec<_> = shelf
        .tags
        .keys()
        .filter_map(|name| name.strip_prefix(&prefix))
        .map(|name| json!({"user": user, "name": name, "is_private": false}))
        .collect();
    let (shown, next) = numbered(&all, query);
    let next = next.map(|page| format!("{url}/listing/v2/repositories/{user}/?page={page}&page_size={PAGE}"));
    document(&json!({"count": all.len(), "next": next, "previous": null, "results": shown}))
}
