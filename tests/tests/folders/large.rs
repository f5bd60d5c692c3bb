//! A large file on its way in, whose sender and server are killed; and its way out, in parts and within an archive.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hyper::StatusCode;
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::transfers::{Ticket, Transfers, begin_piece, files_below, root_of, sha256};
use quarterdeck_tests::{USER, scale, wait};
use serde_json::json;

use crate::person::{Person, noise};
use crate::{HOST, MIB};

const PATIENCE: Duration = Duration::from_secs(60);
/// So much more memory a server may ever have had after files of any size went through it, in bytes.
const BUFFERS: u64 = 48 << 20;

/// Asks for a ticket, tells it, and sends a file in pieces.
const SEND: &str = r#"
import json, sys
from ai.backend.client.request import Request
from ai.backend.client.session import AsyncSession
from aiotusclient.client import TusClient
import asyncio, os
from yarl import URL

async def main():
    async with AsyncSession():
        ask = Request("POST", "/folders/large/request-upload")
        ask.set_json({"path": "deep/large.bin", "size": os.path.getsize("large.bin")})
        async with ask.fetch() as answer:
            ticket = await answer.json()
    print(json.dumps(ticket), flush=True)
    url = URL(ticket["url"]).with_query({"token": ticket["token"]})
    with open("large.bin", "rb") as file:
        uploader = TusClient().async_uploader(file_stream=file, url=url, chunk_size=1 << 20)
        await uploader.upload()

asyncio.run(main())
"#;

/// A piece of a file.
fn piece_of(path: &Path, at: u64, length: usize) -> Vec<u8> {
    let mut file = std::fs::File::open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    let mut piece = Vec::with_capacity(length);
    file.take(length as u64).read_to_end(&mut piece).unwrap();
    piece
}

/// Waits until an upload has so many bytes.
async fn await_offset(transfers: &Transfers, ticket: &Ticket, least: u64) -> u64 {
    wait::until(&format!("{least} bytes to arrive"), PATIENCE, || async {
        let stored = transfers.offset(ticket).await?;
        anyhow::ensure!(stored >= least, "{stored} are there");
        Ok(Some(stored))
    })
    .await
    .unwrap()
}

async fn large_files_arrive(database: &Database) {
    let dir = tempfile::tempdir().unwrap();
    let played = RefCell::default();
    let mut server = Server::start(database, &dir.path().join("server")).unwrap();
    let Some(user) = Person::new(&server, USER, dir.path().join("user"), &played) else { return };
    let (api, transfers) = (server.client(USER), Transfers::default());
    let folder = api.post("/folders", &json!({"name": "large", "host": HOST})).await.unwrap().ok().unwrap();
    let root = root_of(&server.data_dir.join("volumes/volume1"), &folder).unwrap();

    let size = scale(64, 2048) * MIB;
    let source = user.home.join("large.bin");
    let mut file = std::fs::File::create(&source).unwrap();
    for number in 0..size / (64 * MIB) {
        file.write_all(&noise(number as u64, 64 * MIB)).unwrap();
    }
    drop(file);
    let (size, expected) = (size as u64, sha256(&source).unwrap());

    // The official client is killed on its way.
    let mut sender = user.cli.start_python(SEND).unwrap();
    let mut line = String::new();
    BufReader::new(sender.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ticket = Ticket::of(&serde_json::from_str(&line).unwrap()).unwrap();
    await_offset(&transfers, &ticket, 2 * MIB as u64).await;
    sender.kill().unwrap();
    sender.wait().unwrap();
    assert_eq!(api.get("/folders/large/files").await.unwrap().ok().unwrap()["items"], json!([]));

    // What it sent stays; a piece that breaks off is kept as far as it came, to the byte.
    let mut stored = await_settled(&transfers, &ticket).await;
    assert!(stored < size, "the client was too fast to be killed");
    let half = 3 * MIB + 333;
    let torn = begin_piece(&ticket, stored, 8 * MIB, &piece_of(&source, stored, half)).unwrap();
    await_offset(&transfers, &ticket, stored + 2 * MIB as u64).await;
    let refused = transfers.patch(&ticket.address(), stored, "x").await.unwrap();
    assert_eq!(refused.status, StatusCode::LOCKED, "two senders at once");
    drop(torn);
    stored += half as u64;
    assert_eq!(await_offset(&transfers, &ticket, stored).await, stored);
    let again = transfers.patch(&ticket.address(), stored - 1, "x").await.unwrap();
    assert_eq!((again.status, again.offset().unwrap()), (StatusCode::CONFLICT, stored));

    // The server is killed while it takes a piece.
    let torn = begin_piece(&ticket, stored, 16 * MIB, &piece_of(&source, stored, 10 * MIB)).unwrap();
    await_offset(&transfers, &ticket, stored + 8 * MIB as u64).await;
    server.process.kill9().unwrap();
    drop(torn);
    server.restart().unwrap();
    let at_rest = server.process.peak_memory().unwrap();
    let after = transfers.offset(&ticket).await.unwrap();
    assert!((stored + 8 * MIB as u64..=stored + 10 * MIB as u64).contains(&after), "{after} after {stored}");
    stored = after;
    assert_eq!(std::fs::read_dir(root.join(".upload")).unwrap().count(), 1);
    while stored < size {
        let piece = piece_of(&source, stored, 16 * MIB);
        let length = piece.len() as u64;
        let reply = transfers.patch(&ticket.address(), stored, piece).await.unwrap();
        assert_eq!((reply.status, reply.offset().unwrap()), (StatusCode::NO_CONTENT, stored + length));
        stored += length;
    }
    assert_eq!(sha256(&root.join("deep/large.bin")).unwrap(), expected);
    assert!(!root.join(".upload").exists());
    let over = transfers.send(hyper::Method::HEAD, &ticket.address(), &[], "").await.unwrap();
    assert_eq!(over.status, StatusCode::NOT_FOUND);

    parts(&api, &transfers, &source).await;
    archive(&api, &transfers, dir.path(), &source).await;
    torn_download(&api, &transfers, dir.path(), (size, &expected)).await;
    whole(&user, &expected);
    let peak = server.process.peak_memory().unwrap();
    eprintln!("{} MiB: the server had {} MiB at rest, {} MiB at most", size >> 20, at_rest >> 20, peak >> 20);
    assert!(peak < at_rest + BUFFERS, "the server had {peak} bytes, {at_rest} before");
    server.assert_well().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_arrive_whoever_dies_on_the_way_on_sqlite() {
    large_files_arrive(&Database::sqlite().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_arrive_whoever_dies_on_the_way_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        large_files_arrive(&database).await;
    }
}

/// Waits until nobody writes to an upload any more.
async fn await_settled(transfers: &Transfers, ticket: &Ticket) -> u64 {
    wait::until("the killed sender's piece to be put away", PATIENCE, || async {
        // One byte too far: refused in any case, and only by the lock while somebody writes.
        let reply = transfers.patch(&ticket.address(), u64::MAX >> 1, "x").await?;
        Ok((reply.status == StatusCode::CONFLICT).then(|| reply.offset()))
    })
    .await
    .unwrap()
    .unwrap()
}

/// Parts of a file, as players and resuming clients ask for them.
async fn parts(api: &Client, transfers: &Transfers, source: &Path) {
    let ticket = Ticket::download(api, "large", "deep/large.bin").await.unwrap();
    let size = std::fs::metadata(source).unwrap().len();
    let range = |text: &str| ("range", format!("bytes={text}"));
    let all = [
        ("3000000-4999999".to_owned(), 3_000_000, 2_000_000),
        (format!("{}-", size - 1_000), size - 1_000, 1_000),
        ("-77".to_owned(), size - 77, 77),
    ];
    let mut modified = String::new();
    for (text, start, length) in all {
        let reply = transfers.get(&ticket.address(), &[range(&text)]).await.unwrap();
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{text}");
        let told = format!("bytes {start}-{}/{size}", start + length as u64 - 1);
        assert_eq!(reply.header("content-range"), told);
        assert!(reply.body == piece_of(source, start, length), "{text} has other bytes");
        modified = reply.header("last-modified").to_owned();
    }
    let beyond = transfers.get(&ticket.address(), &[range(&format!("{size}-"))]).await.unwrap();
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, format!("bytes */{size}").as_str()));
    let resumed = transfers.get(&ticket.address(), &[range("5-9"), ("if-range", modified)]).await.unwrap();
    assert_eq!((resumed.status, &resumed.body[..]), (StatusCode::PARTIAL_CONTENT, &piece_of(source, 5, 5)[..]));
}

/// A download that breaks off in the middle and goes on from there.
async fn torn_download(api: &Client, transfers: &Transfers, dir: &Path, (size, expected): (u64, &str)) {
    let ticket = Ticket::download(api, "large", "deep/large.bin").await.unwrap();
    let path = dir.join("fetched.bin");
    let mut file = std::fs::File::create(&path).unwrap();
    let (status, first) = transfers.fetch(&ticket.address(), &[], &mut file, size / 2 + 1).await.unwrap();
    assert!(status == StatusCode::OK && first > size / 2 && first < size, "{status}, {first} bytes");
    let range = [("range", format!("bytes={first}-"))];
    let (status, rest) = transfers.fetch(&ticket.address(), &range, &mut file, u64::MAX).await.unwrap();
    assert_eq!((status, first + rest), (StatusCode::PARTIAL_CONTENT, size));
    assert_eq!(sha256(&path).unwrap(), expected);
    std::fs::remove_file(path).unwrap();
}

/// A directory as an archive, read by somebody else's program.
async fn archive(api: &Client, transfers: &Transfers, dir: &Path, source: &Path) {
    let content = piece_of(source, 0, 3 * MIB + 1);
    transfers.put(api, "large", "pack/data.bin", &content).await.unwrap();
    transfers.put(api, "large", "pack/er/ünï.txt", b"in the archive").await.unwrap();
    let ticket = Ticket::download(api, "large", "pack").await.unwrap();
    let refused = transfers.get(&ticket.address(), &[]).await.unwrap();
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let reply = transfers.get(&ticket.address_with("archive=true"), &[]).await.unwrap();
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/zip"));
    let (path, unpacked) = (dir.join("pack.zip"), dir.join("unpacked"));
    std::fs::write(&path, &reply.body).unwrap();
    let unpack = Command::new("python3").args(["-m", "zipfile", "-e"]).args([&path, &unpacked]).output().unwrap();
    assert!(unpack.status.success(), "{}", String::from_utf8_lossy(&unpack.stderr));
    assert_eq!(files_below(&unpacked).unwrap(), [Path::new("data.bin"), Path::new("er/ünï.txt")]);
    assert!(std::fs::read(unpacked.join("data.bin")).unwrap() == content, "the archive has other bytes");
}

/// The whole file, by the official client.
fn whole(user: &Person<'_>, expected: &str) {
    let down = user.home.join("down");
    std::fs::create_dir_all(down.join("deep")).unwrap();
    user.does(&["vfolder", "download", "large", "-b", down.to_str().unwrap(), "deep/large.bin"], &["Done."]);
    assert_eq!(sha256(&down.join("deep/large.bin")).unwrap(), expected);
}
