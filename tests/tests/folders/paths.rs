//! What no path and no link gives: anything beside the folder.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hyper::StatusCode;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::transfers::Ticket;
use quarterdeck_tests::wait;
use serde_json::json;

use crate::HOST;
use crate::lab::{encoded, lab};

async fn no_path_leads_out_of_a_folder(database: &Database) {
    let lab = lab(database, "").await;
    let before = lab.around();
    let (long, deep) = ("x".repeat(300), "d/".repeat(2_500));
    let theirs = lab.theirs.display().to_string();
    let up = format!("../../../../{}/in.txt", lab.theirs.strip_prefix(&lab.volume).unwrap().display());
    for path in [
        "..",
        "../",
        "../neighbour.txt",
        "../../../../neighbour.txt",
        "sub/../../x",
        "sub/./../../x",
        "./..",
        "/",
        "/etc/passwd",
        "//etc/passwd",
        "in.txt\0.png",
        "\0",
        ".upload",
        ".upload/x",
        "sub/../.upload/x",
        &long,
        &deep,
        &theirs,
        &up,
    ] {
        lab.cannot_be_read(path).await;
        lab.cannot_be_written(path).await;
        lab.cannot_be_moved(path).await;
        let rename = json!({"target_path": "in.txt", "new_name": path});
        let renamed = lab.ask("POST", "/folders/mine/rename-file", &rename).await;
        lab.refused(&format!("rename to {path:?}"), renamed.status, &renamed.bytes);

        // The directory that a ticket's bearer adds is no way either.
        let upload = Ticket::upload(&lab.user, "mine", "new.txt", 3).await.unwrap();
        let download = Ticket::download(&lab.user, "mine", "in.txt").await.unwrap();
        let query = format!("dst_dir={}", encoded(path));
        let fetched = lab.fetch(path, &download.address_with(&query)).await;
        lab.refused(&format!("fetch from {path:?}"), fetched.status, &fetched.body);
        let sent = lab.transfers.patch(&upload.address_with(&query), 0, "bad").await.unwrap();
        lab.refused(&format!("send into {path:?}"), sent.status, &sent.body);
    }
    // What is encoded is a name like any other, and stays where it is.
    for path in ["%2e%2e%2fx", "..%2fx", "..\\x", "%00", "....", "~", "$HOME", "*", "ü/%2e%2e/\u{202e}x"] {
        let made = lab.ask("POST", "/folders/mine/mkdir", &json!({ "path": path })).await;
        assert_eq!(made.status, StatusCode::CREATED, "{path}");
        assert!(lab.root.join(path).is_dir(), "{path}");
        lab.transfers.put(&lab.user, "mine", &format!("{path}/f"), b"mine").await.unwrap();
        assert_eq!(std::fs::read(lab.root.join(path).join("f")).unwrap(), b"mine");
    }
    // Neither is a folder's name a path.
    for name in ["..%2Fmine", "%2e%2e", "mine%00", "mine%2Fsub", &encoded("/etc/passwd"), &"y".repeat(5_000)] {
        let answer = lab.ask("GET", &format!("/folders/{name}/files"), &json!({"path": ""})).await;
        lab.refused(name, answer.status, &answer.bytes);
    }
    assert_eq!(lab.around(), before);
    assert_eq!(std::fs::read_to_string(lab.root.join("in.txt")).unwrap(), "inside");
    lab.server.assert_well().await.unwrap();
}

#[tokio::test]
async fn no_path_leads_out_of_a_folder_on_sqlite() {
    no_path_leads_out_of_a_folder(&Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn no_path_leads_out_of_a_folder_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        no_path_leads_out_of_a_folder(&database).await;
    }
}

async fn what_sessions_leave_in_folders_is_no_way_out(database: &Database) {
    let lab = lab(database, "").await;
    let before = lab.around();
    let outside = lab.dir.path().join("outside");
    let plant = |target: &Path, name: &str| symlink(target, lab.root.join(name)).unwrap();
    plant(&outside, "out");
    plant(&outside.join("secret.txt"), "file");
    plant(Path::new("../../../.."), "up");
    plant(&lab.theirs, "theirs");
    plant(Path::new("/proc/self"), "proc");
    plant(Path::new("loop"), "loop");
    plant(&outside.join("new.txt"), "dangling");
    let pipe = lab.root.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();

    for path in ["out", "up", "theirs", "proc", "loop"] {
        lab.cannot_be_read(path).await;
        lab.cannot_be_written(&format!("{path}/planted")).await;
    }
    for path in ["out/secret.txt", "up/neighbour.txt", "theirs/in.txt", "proc/environ", "file", "dangling", "pipe"] {
        lab.cannot_be_read(path).await;
    }
    for path in ["out/secret.txt", "up/neighbour.txt", "theirs/in.txt", "theirs/sub", "loop/x"] {
        lab.cannot_be_moved(path).await;
    }
    let download = Ticket::download(&lab.user, "mine", "secret.txt").await.unwrap();
    let fetched = lab.fetch("out", &download.address_with("dst_dir=out")).await;
    lab.refused("fetch from out", fetched.status, &fetched.body);
    let upload = Ticket::upload(&lab.user, "mine", "planted", 3).await.unwrap();
    let sent = lab.transfers.patch(&upload.address_with("dst_dir=out"), 0, "bad").await.unwrap();
    lab.refused("send into out", sent.status, &sent.body);

    // A file takes a link's place; what the link leads to stays.
    for name in ["file", "dangling"] {
        lab.transfers.put(&lab.user, "mine", name, b"mine").await.unwrap();
        assert!(!lab.root.join(name).is_symlink());
    }
    // Neither archives nor copies nor counts follow links.
    let whole = Ticket::download(&lab.user, "mine", ".").await.unwrap();
    let archive = lab.fetch("the archive", &whole.address_with("archive=true")).await;
    assert_eq!(archive.status, StatusCode::OK);
    let zip = lab.dir.path().join("mine.zip");
    std::fs::write(&zip, &archive.body).unwrap();
    let read =
        "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\n[print(i, z.read(i)) for i in sorted(z.namelist())]";
    let listed = Command::new("python3").args(["-c", read]).arg(&zip).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed, "dangling b'mine'\nfile b'mine'\nin.txt b'inside'\nsub/ b''\n");
    let info = lab.ask("GET", "/folders/mine", &json!(null)).await.ok().unwrap();
    assert_eq!(info["num_files"], 10, "{info}");
    lab.ask("POST", "/folders/mine/update-options", &json!({"cloneable": true})).await.ok().unwrap();
    let copy = lab.ask("POST", "/folders/mine/clone", &json!({"target_name": "copy", "target_host": HOST})).await;
    assert_eq!(copy.status, StatusCode::CREATED, "{}", copy.body);
    wait::until("the copy", Duration::from_secs(30), || async {
        let list = lab.user.get("/folders").await?.ok()?;
        Ok(list.as_array().filter(|all| all.iter().any(|f| f["name"] == "copy")).map(drop))
    })
    .await
    .unwrap();
    let listed = lab.ask("GET", "/folders/copy/files", &json!({"path": ""})).await.ok().unwrap();
    let kind =
        |name: &str| listed["items"].as_array().unwrap().iter().find(|i| i["name"] == name).unwrap()["type"].clone();
    assert_eq!((kind("out"), kind("in.txt")), (json!("SYMLINK"), json!("FILE")));

    // An upload's own place can't be turned elsewhere.
    let upload = Ticket::upload(&lab.user, "mine", "new.txt", 3).await.unwrap();
    let sessions = lab.root.join(".upload");
    for entry in std::fs::read_dir(&sessions).unwrap().map(|e| e.unwrap().path()) {
        std::fs::remove_file(&entry).unwrap();
        symlink(outside.join("secret.txt"), &entry).unwrap();
    }
    let sent = lab.transfers.patch(&upload.address(), 0, "bad").await.unwrap();
    lab.refused("send to a link", sent.status, &sent.body);
    std::fs::remove_dir_all(&sessions).unwrap();
    symlink(&outside, &sessions).unwrap();
    let asked = lab.ask("POST", "/folders/mine/request-upload", &json!({"path": "new.txt", "size": 3})).await;
    lab.refused("ask to send to a link", asked.status, &asked.bytes);

    for name in ["mine", "copy"] {
        assert_eq!(lab.ask("DELETE", &format!("/folders/{name}"), &json!(null)).await.status, StatusCode::NO_CONTENT);
    }
    wait::until("the folders to go", Duration::from_secs(30), || async {
        Ok((lab.user.get("/folders").await?.ok()? == json!([])).then_some(()))
    })
    .await
    .unwrap();
    assert!(!lab.root.exists());
    assert_eq!(lab.around(), before);
    lab.server.assert_well().await.unwrap();
}

#[tokio::test]
async fn what_sessions_leave_in_folders_is_no_way_out_on_sqlite() {
    what_sessions_leave_in_folders_is_no_way_out(&Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn what_sessions_leave_in_folders_is_no_way_out_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        what_sessions_leave_in_folders_is_no_way_out(&database).await;
    }
}
