//! How fast files go into folders and come out again, beside `cp` on the same disk in the same run. Each figure includes
//! the SHA-256 of what arrived.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use quarterdeck_tests::USER;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::postgres::Cluster;
use quarterdeck_tests::process::Server;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::bench::{build, runtime};
use crate::prerequisites::postgresql;
use crate::run::{say, step};

/// The file's size in MiB.
const SIZE: usize = 512;
/// The official client's pieces.
const PIECE: usize = 16 << 20;
/// Each is measured so often; the best counts.
const TIMES: usize = 3;
/// Of `cp` with its SHA-256, in percent.
const TARGET: f64 = 70.0;

type Http = Client<HttpConnector, Full<Bytes>>;

/// Builds for release and measures.
pub(crate) fn alone() -> anyhow::Result<()> {
    build()?;
    all(&runtime()?)
}

/// Measures on both databases, the binary that was chosen.
pub(crate) fn all(runtime: &Runtime) -> anyhow::Result<()> {
    step("Files of folders beside cp on the same disk, on SQLite");
    transfers(runtime, &Database::sqlite()?)?;
    postgresql()?;
    step("Files of folders beside cp on the same disk, on PostgreSQL");
    let cluster = Cluster::start()?;
    transfers(runtime, &Database::postgres_on(&cluster.url())?)
}

/// Measures both ways.
fn transfers(runtime: &Runtime, database: &Database) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("quarterdeck-bench-").tempdir()?;
    let dir = dir.path();
    let server = Server::start(database, &dir.join("folders"))?;
    let source = dir.join("source.bin");
    noise(&source)?;
    let expected = sha256(&source)?;
    let http: Http = Client::builder(TokioExecutor::new()).build_http();

    let mut copied = Vec::new();
    for _ in 0..TIMES {
        let target = dir.join("copied.bin");
        let start = Instant::now();
        ensure!(Command::new("cp").arg(&source).arg(&target).status()?.success(), "cp");
        ensure!(sha256(&target)? == expected, "the copy differs");
        copied.push(start.elapsed());
        std::fs::remove_file(target)?;
    }
    let (mut up, mut down) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let user = server.client(USER);
        user.post("/folders", &json!({"name": "bench", "host": "local:volume1"})).await?.ok()?;
        for round in 0..TIMES {
            let name = format!("noise-{round}.bin");
            let ask = json!({"path": name, "size": SIZE << 20});
            let url = ticket(&user, "upload", &ask).await?;
            let start = Instant::now();
            upload(&http, &url, &source).await?;
            let stored =
                find(&server.data_dir.join("volumes"), &name).context("the uploaded file isn't on the volume")?;
            ensure!(sha256(&stored)? == expected, "the uploaded file differs");
            up.push(start.elapsed());

            let url = ticket(&user, "download", &json!({ "path": name })).await?;
            let target = dir.join("fetched.bin");
            let start = Instant::now();
            download(&http, &url, &target).await?;
            ensure!(sha256(&target)? == expected, "the downloaded file differs");
            down.push(start.elapsed());
            std::fs::remove_file(target)?;
            std::fs::remove_file(stored)?;
        }
        anyhow::Ok(())
    })?;
    let best = |times: &[Duration]| times.iter().min().map_or(f64::INFINITY, Duration::as_secs_f64);
    let baseline = best(&copied);
    say(&format!("cp and SHA-256:       {:.0} MiB/s", SIZE as f64 / baseline));
    for (what, times) in [("upload and SHA-256:  ", &up), ("download and SHA-256:", &down)] {
        let (seconds, share) = (best(times), baseline / best(times) * 100.0);
        say(&format!("{what} {:.0} MiB/s, {share:.0} % of cp (target {TARGET:.0} %)", SIZE as f64 / seconds));
    }
    Ok(())
}

/// Bytes that don't compress.
fn noise(path: &Path) -> anyhow::Result<()> {
    let mut random = std::fs::File::open("/dev/urandom")?;
    let mut file = std::fs::File::create(path)?;
    let mut piece = vec![0; 1 << 20];
    for _ in 0..SIZE {
        random.read_exact(&mut piece)?;
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    ensure!(output.status.success(), "sha256sum {}", path.display());
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

async fn ticket(
    user: &quarterdeck_tests::client::Client,
    deed: &str,
    ask: &serde_json::Value,
) -> anyhow::Result<String> {
    let granted = user.post(&format!("/folders/bench/request-{deed}"), ask).await?.ok()?;
    let text = |key: &str| granted[key].as_str().map(str::to_owned).context("no ticket");
    Ok(format!("{}?token={}", text("url")?, text("token")?))
}

async fn upload(http: &Http, url: &str, source: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(source)?;
    let mut offset = 0;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        std::io::Read::by_ref(&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        let length = piece.len();
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(url)
            .header("Upload-Offset", offset)
            .header("Tus-Resumable", "1.0.0")
            .body(Full::new(Bytes::from(piece)))?;
        let response = http.request(request).await?;
        ensure!(response.status() == StatusCode::NO_CONTENT, "PATCH: {}", response.status());
        response.into_body().collect().await?;
        offset += length;
    }
}

async fn download(http: &Http, url: &str, target: &Path) -> anyhow::Result<()> {
    let response = http.request(Request::get(url).body(Full::default())?).await?;
    ensure!(response.status() == StatusCode::OK, "GET: {}", response.status());
    let mut file = std::fs::File::create(target)?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            file.write_all(&bytes)?;
        }
    }
    Ok(())
}

/// The file of that name somewhere below a directory.
fn find(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).find_map(|path| match path.is_dir() {
        true => find(&path, name),
        false => path.ends_with(name).then_some(path),
    })
}
