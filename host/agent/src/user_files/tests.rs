#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

const SECRET: &str = "nobody's business";

/// A work directory beside things that are nobody's business, with links that lead there.
fn yard() -> (tempfile::TempDir, UserFiles) {
    let yard = tempfile::tempdir().unwrap();
    let work = yard.path().join("work");
    fs::create_dir_all(work.join("a/b")).unwrap();
    fs::create_dir(yard.path().join("outside")).unwrap();
    fs::write(yard.path().join("outside/secret"), SECRET).unwrap();
    fs::write(work.join("a/b/inner"), "inner").unwrap();
    fs::write(work.join("plain"), "plain").unwrap();
    symlink("../outside", work.join("out")).unwrap();
    symlink(yard.path().join("outside/secret"), work.join("far")).unwrap();
    symlink("a/b", work.join("near")).unwrap();
    symlink("../../..", work.join("a/b/up")).unwrap();
    symlink("loop", work.join("loop")).unwrap();
    nix::unistd::mkfifo(&work.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let files = UserFiles::open(&work).unwrap();
    (yard, files)
}

fn put(files: &UserFiles, path: &str, data: &[u8]) -> Result<(), Failure> {
    let mut incoming = files.create(path, data.len() as u64)?;
    incoming.write(data)?;
    incoming.finish()
}

fn get(files: &UserFiles, path: &str) -> Result<String, Failure> {
    let (mut file, size) = files.read(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text.len() as u64, size);
    Ok(text)
}

/// Entries of a tar: name → content.
fn entries(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let mut entries = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        entries.insert(name, text);
    }
    entries
}

#[test]
fn paths_are_as_users_know_them() {
    let (yard, files) = yard();
    let work = yard.path().join("work").display().to_string();
    for path in ["plain", "./plain", "/home/work/plain", "~/plain", "a/../plain", &format!("{work}/plain")] {
        assert_eq!(get(&files, path).unwrap(), "plain", "{path}");
    }
    assert_eq!(get(&files, "near/inner").unwrap(), "inner");
    for path in [
        "",
        ".",
        "/",
        "..",
        "/etc/passwd",
        "/home/work/../x",
        "out/secret",
        "far",
        "a/b/up/outside/secret",
        "loop",
        "pipe",
        "absent",
        "plain/x",
        "x\0y",
    ] {
        assert!(get(&files, path).is_err(), "{path:?}");
    }
}

#[test]
fn files_come_in_whole_or_not_at_all() {
    let (yard, files) = yard();
    let work = yard.path().join("work");
    put(&files, "new/deep/file", b"1").unwrap();
    put(&files, "/home/work/plain", b"replaced").unwrap();
    assert_eq!(fs::read(work.join("new/deep/file")).unwrap(), b"1");
    assert_eq!(fs::read(work.join("plain")).unwrap(), b"replaced");
    // A link is replaced, not followed.
    put(&files, "far", b"near").unwrap();
    assert_eq!(fs::read_to_string(yard.path().join("outside/secret")).unwrap(), SECRET);
    for path in ["a", "", "..", "out/x", "a/b/up/x", "plain/x", "/etc/x"] {
        assert!(put(&files, path, b"no").is_err(), "{path}");
    }
    let mut short = files.create("short", 5).unwrap();
    short.write(b"123").unwrap();
    assert!(short.finish().is_err());
    let mut long = files.create("long", 1).unwrap();
    assert!(long.write(b"12").is_err());
    drop(long);
    let left: Vec<_> = fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".upload") && name != "short"), "{left:?}");
    assert_eq!(fs::read_dir(yard.path().join("outside")).unwrap().count(), 1);
}

#[test]
fn listings_show_what_lies_there() {
    let (_yard, files) = yard();
    let list = files.list(".").unwrap();
    let names: Vec<_> = list.as_array().unwrap().iter().map(|row| row["filename"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "far", "loop", "near", "out", "pipe", "plain"]);
    let plain = &list[6];
    assert_eq!((&plain["mode"], &plain["size"]), (&json!("-rw-r--r--"), &json!(5)));
    let keys: Vec<_> = plain.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["mode", "size", "ctime", "mtime", "atime", "filename"]);
    assert!(
        list[0]["mode"].as_str().unwrap().starts_with("drwx") && list[1]["mode"].as_str().unwrap().starts_with('l')
    );
    assert_eq!(files.list("near").unwrap().as_array().unwrap().len(), 2);
    for path in ["out", "plain", "absent", "/etc"] {
        assert!(files.list(path).is_err(), "{path}");
    }
}

#[test]
fn archives_hold_files_under_their_own_names() {
    let (_yard, files) = yard();
    assert_eq!(entries(&files.tar("a/b/inner", 100).unwrap()), BTreeMap::from([("inner".into(), "inner".into())]));
    let all = entries(&files.tar(".", 100).unwrap());
    let names: Vec<_> = all.keys().map(String::as_str).collect();
    // Links that lead out, and what is no file, stay behind.
    assert_eq!(names, ["work", "work/a", "work/a/b", "work/a/b/inner", "work/loop", "work/near", "work/plain"]);
    assert!(files.tar(".", 9).is_err());
    assert!(files.tar("out", 100).is_err());
    let long = "n".repeat(200);
    put(&files, &format!("{long}/{long}"), b"long").unwrap();
    assert_eq!(entries(&files.tar(&long, 100).unwrap())[&format!("{long}/{long}")], "long");
}

#[test]
fn commits_are_whole_or_absent_and_tell_of_their_progress() {
    let (yard, files) = yard();
    fs::write(yard.path().join("work/large"), vec![7; 5 << 20]).unwrap();
    let target = yard.path().join("commits/user/x.tar.gz");
    assert!(files.commit(&target, |_| false).is_err());
    assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 0);
    let mut told = Vec::new();
    files
        .commit(&target, |done| {
            told.push(done);
            true
        })
        .unwrap();
    assert!(told.len() >= 4 && told.is_sorted(), "{told:?}");
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(&target).unwrap()).read_to_end(&mut tar).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let names: Vec<_> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert!(names.contains(&"large".to_owned()) && names.contains(&"a/b/up".to_owned()), "{names:?}");
    assert_eq!(files.size().unwrap(), (5 << 20) + 10);
}

/// Paths made of what is there, of what leads out, and of noise.
fn paths() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("".to_owned()),
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("out".to_owned()),
        Just("far".to_owned()),
        Just("near".to_owned()),
        Just("up".to_owned()),
        Just("outside".to_owned()),
        Just("secret".to_owned()),
        Just("loop".to_owned()),
        Just("home/work".to_owned()),
        Just("proc/self/root".to_owned()),
        "[^/]{0,8}",
    ];
    (any::<bool>(), prop::collection::vec(part, 0..8))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_path_leads_out(path in paths()) {
        let (yard, files) = yard();
        if let Ok((mut file, _)) = files.read(&path) {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            prop_assert!(text == "plain" || text == "inner", "{path:?} is {text:?}");
        }
        if let Ok(tar) = files.tar(&path, 1000) {
            prop_assert!(!String::from_utf8_lossy(&tar).contains(SECRET));
        }
        if let Ok(list) = files.list(&path) {
            prop_assert!(!list.to_string().contains("secret"));
        }
        let _ = put(&files, &path, b"x");
        let outside: Vec<_> = fs::read_dir(yard.path().join("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert_eq!(outside, ["secret"]);
        prop_assert_eq!(fs::read_to_string(yard.path().join("outside/secret")).unwrap(), SECRET);
        prop_assert_eq!(fs::read_dir(yard.path()).unwrap().count(), 2);
    }
}
