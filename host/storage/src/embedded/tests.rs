#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt as _, symlink};

use bytes::Bytes;
use futures::TryStreamExt as _;
use proptest::prelude::*;
use quarterdeck_model::VfolderId;

use super::*;
use crate::Problem;

struct Lab {
    dir: tempfile::TempDir,
    storage: Embedded,
    place: Place,
}

/// A storage with one folder.
async fn lab() -> Lab {
    lab_with(3_600).await
}

async fn lab_with(token_seconds: u64) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let storage = Embedded::open(EmbeddedSettings {
        volumes: BTreeMap::from([("v".to_owned(), dir.path().join("volume"))]),
        secret: "test-secret".to_owned(),
        token_lifetime: Duration::from_secs(token_seconds),
        max_upload_size: 1 << 20,
        scandir_limit: 1_000,
        client_api: None,
    })
    .unwrap();
    std::fs::write(dir.path().join("outside.txt"), "outside").unwrap();
    std::fs::write(dir.path().join("volume/neighbour.txt"), "neighbour").unwrap();
    let place = fresh();
    storage.create(&place).await.unwrap();
    Lab { dir, storage, place }
}

fn fresh() -> Place {
    Place {
        volume: "v".to_owned(),
        folder: FolderPath { scope: "9b000000000040008000000000000004".to_owned(), id: VfolderId::new() },
    }
}

impl Lab {
    /// The folder's root, as a session has it.
    async fn root(&self) -> PathBuf {
        PathBuf::from(self.storage.mount_path(&self.place, ".").await.unwrap())
    }

    async fn token(&self, path: &str, size: u64) -> UploadClaims {
        let token = self.storage.upload_token(&self.place, path, size, Limits::default()).await.unwrap();
        self.storage.read_upload_token(&token).unwrap()
    }

    async fn put(&self, path: &str, content: &str) {
        let claims = self.token(path, content.len() as u64).await;
        send(&self.storage, claims, None, content).await.unwrap();
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<_> =
            self.storage.list(&self.place, path).await.unwrap().into_iter().map(|e| e.name).collect();
        names.sort();
        names
    }

    async fn open(&self, path: &str, directory: Option<&str>, archive: bool) -> Result<Opened> {
        let token = self.storage.download_token(&self.place, path, archive).await?;
        let claims = self.storage.read_download_token(&token).unwrap();
        self.storage.open_download(&claims, directory, archive).await
    }

    async fn content(&self, path: &str) -> String {
        let Opened::File(file) = self.open(path, None, false).await.unwrap() else { panic!("{path} is no file") };
        let size = file.size;
        let pieces: Vec<Bytes> = file.stream(0, size).try_collect().await.unwrap();
        String::from_utf8(pieces.concat()).unwrap()
    }
}

async fn send(
    storage: &Embedded,
    claims: UploadClaims,
    offset: Option<u64>,
    content: &str,
) -> Result<Receipt, UploadError> {
    let mut upload = storage.upload(claims, None, offset, Some(content.len() as u64)).await?;
    upload.write(Bytes::copy_from_slice(content.as_bytes())).await?;
    upload.finish().await
}

fn problem(error: Error) -> Problem {
    match error {
        Error::Refused(problem) => problem,
        other => panic!("{other}"),
    }
}

fn errno(error: Error) -> i64 {
    problem(error).data["errno"].as_i64().unwrap()
}

#[tokio::test]
async fn folders_lie_where_the_reference_has_them() {
    let lab = lab().await;
    let root = lab.root().await;
    let hex = lab.place.folder.id.0.simple().to_string();
    let expected = format!("volume/{}/{}/{}/{}", lab.place.folder.scope, &hex[..2], &hex[2..4], &hex[4..]);
    assert_eq!(root, lab.dir.path().canonicalize().unwrap().join(expected));
    assert_eq!(std::fs::metadata(&root).unwrap().mode() & 0o777, 0o755);
    assert_eq!(std::fs::read_to_string(lab.dir.path().join("volume/version.txt")).unwrap(), "3");
    assert_eq!(problem(lab.storage.create(&lab.place).await.unwrap_err()).status, 409);
    lab.put("d/f.txt", "x").await;
    lab.storage.delete(&lab.place).await.unwrap();
    lab.storage.delete(&lab.place).await.unwrap();
    assert!(!root.exists() && !root.parent().unwrap().exists());
    assert_eq!(problem(lab.storage.list(&lab.place, "").await.unwrap_err()).status, 404);
}

#[tokio::test]
async fn directories_and_files() {
    let lab = lab().await;
    let Lab { storage, place, .. } = &lab;
    storage.mkdir(place, "a/b", true, false).await.unwrap();
    let exists = problem(storage.mkdir(place, "a/b", true, false).await.unwrap_err());
    assert_eq!(exists.msg.as_deref(), Some("File exists"));
    assert_eq!(Json::Object(exists.data), json!({"errno": 17, "paths": ["a/b"]}));
    storage.mkdir(place, "a/b", true, true).await.unwrap();
    assert_eq!(errno(storage.mkdir(place, "x/y", false, false).await.unwrap_err()), 2);
    assert_eq!(errno(storage.list(place, "nowhere").await.unwrap_err()), 2);
    lab.put("a/f.txt", "one").await;
    assert_eq!(errno(storage.list(place, "a/f.txt").await.unwrap_err()), 20);
    assert_eq!(lab.names("a").await, ["b", "f.txt"]);
    assert_eq!(lab.names("").await, ["a"]);

    storage.rename(place, "a/f.txt", "g.txt").await.unwrap();
    assert_eq!(errno(storage.rename(place, "a/f.txt", "h.txt").await.unwrap_err()), 2);
    assert!(storage.rename(place, "a/g.txt", "x/y").await.is_err());
    // Into a directory, onto a file, and not into nothing.
    storage.move_file(place, "a/g.txt", "a/b").await.unwrap();
    assert_eq!(lab.content("a/b/g.txt").await, "one");
    lab.put("other", "two").await;
    storage.move_file(place, "a/b/g.txt", "other").await.unwrap();
    assert_eq!(lab.content("other").await, "one");
    let missing = problem(storage.move_file(place, "other", "no/where").await.unwrap_err());
    assert_eq!((missing.data["errno"].as_i64(), &missing.data["paths"]), (Some(2), &json!(["no/where"])));
    assert_eq!(problem(storage.move_file(place, "gone", "x").await.unwrap_err()).data["paths"], json!(["gone"]));

    assert_eq!(errno(storage.remove(place, &["a".to_owned()], false).await.unwrap_err()), 21);
    storage.remove(place, &["a".to_owned(), "other".to_owned()], true).await.unwrap();
    assert_eq!(errno(storage.remove(place, &["a".to_owned()], true).await.unwrap_err()), 2);
    storage.remove(place, &[], false).await.unwrap();
    assert_eq!(lab.names("").await, Vec::<String>::new());
    assert_eq!(storage.fetch(place, "gone").await.map_err(problem).unwrap_err().status, 404);
}

#[tokio::test]
async fn uploads_come_in_pieces() {
    let lab = lab().await;
    let claims = lab.token("d/f.txt", 10).await;
    assert_eq!(lab.storage.receipt(&claims).await.unwrap(), Receipt { offset: 0, length: 10 });
    assert_eq!(send(&lab.storage, claims.clone(), Some(0), "0123").await.unwrap().offset, 4);
    // The same piece again, one from further on, and too much at once.
    let again = send(&lab.storage, claims.clone(), Some(0), "0123").await.unwrap_err();
    assert!(matches!(again, UploadError::Offset(Receipt { offset: 4, .. })));
    assert!(matches!(send(&lab.storage, claims.clone(), Some(6), "67").await, Err(UploadError::Offset(_))));
    assert!(matches!(send(&lab.storage, claims.clone(), Some(4), "4567890").await, Err(UploadError::TooLong(_))));
    let mut endless = lab.storage.upload(claims.clone(), None, Some(4), None).await.unwrap();
    endless.write(Bytes::from_static(b"4567")).await.unwrap();
    assert!(matches!(endless.write(Bytes::from_static(b"8901")).await, Err(UploadError::TooLong(_))));
    drop(endless);
    assert_eq!(lab.storage.receipt(&claims).await.unwrap().offset, 4);
    // One sender at a time; what one sent that was cut off stays.
    let mut first = lab.storage.upload(claims.clone(), None, Some(4), None).await.unwrap();
    assert!(matches!(lab.storage.upload(claims.clone(), None, Some(4), None).await, Err(UploadError::Busy)));
    first.write(Bytes::from_static(b"45")).await.unwrap();
    first.break_off().await.unwrap();
    assert_eq!(lab.names("").await, Vec::<String>::new());
    // Another process goes on where this one stopped.
    let storage = Embedded::open(lab.storage.settings().clone()).unwrap();
    assert_eq!(storage.receipt(&claims).await.unwrap().offset, 6);
    assert_eq!(send(&storage, claims.clone(), Some(6), "6789").await.unwrap().offset, 10);
    assert_eq!(lab.content("d/f.txt").await, "0123456789");
    assert_eq!(std::fs::metadata(lab.root().await.join("d/f.txt")).unwrap().mode() & 0o777, 0o644);
    assert!(!lab.root().await.join(".upload").exists());
    // An upload that ended is gone, whoever has its token still.
    assert_eq!(problem(lab.storage.receipt(&claims).await.unwrap_err()).status, 404);
    assert!(matches!(send(&storage, claims, None, "x").await, Err(UploadError::Storage(_))));
}

#[tokio::test]
async fn uploads_of_nothing_and_of_too_much() {
    let lab = lab().await;
    let claims = lab.token("empty", 0).await;
    assert_eq!(lab.content("empty").await, "");
    send(&lab.storage, claims, Some(0), "").await.unwrap();
    assert_eq!(lab.content("empty").await, "");
    let huge = lab.storage.upload_token(&lab.place, "huge", 1 << 30, Limits::default()).await;
    assert_eq!(problem(huge.unwrap_err()).status, 400);
    // A directory isn't replaced by a file.
    lab.storage.mkdir(&lab.place, "dir", true, false).await.unwrap();
    let claims = lab.token("dir", 1).await;
    assert!(matches!(send(&lab.storage, claims, None, "x").await, Err(UploadError::Storage(_))));
    assert_eq!(lab.names("").await, ["dir", "empty"]);
    // Neither folder nor owner get more than they may.
    for limits in [Limits { folder: Some(5_000), scope: None }, Limits { folder: None, scope: Some(5_000) }] {
        let token = lab.storage.upload_token(&lab.place, "f", 6_000, limits).await.unwrap();
        let claims = lab.storage.read_upload_token(&token).unwrap();
        let refused = send(&lab.storage, claims, None, &"x".repeat(6_000)).await;
        assert!(matches!(refused, Err(UploadError::Storage(Error::Refused(p))) if p.status == 413));
    }
    let small = lab.storage.upload_token(&lab.place, "small", 3, Limits { folder: Some(1 << 20), scope: None }).await;
    send(&lab.storage, lab.storage.read_upload_token(&small.unwrap()).unwrap(), None, "abc").await.unwrap();
}

#[tokio::test]
async fn quotas_are_kept_by_what_was_counted_a_moment_ago() {
    let lab = lab().await;
    let (storage, place, second) = (&lab.storage, &lab.place, fresh());
    storage.create(&second).await.unwrap();
    let whole = async |place: &Place, path: &str, limits: Limits| {
        let token = storage.upload_token(place, path, 3_000, limits).await.unwrap();
        send(storage, storage.read_upload_token(&token).unwrap(), None, &"x".repeat(3_000)).await.is_ok()
    };
    let room = async |place: &Place, limits: Limits| storage.room(place, 3_000, limits).await.unwrap();
    let limits = Limits { folder: Some(10_000), scope: None };
    for path in ["a", "b", "c"] {
        assert_eq!(room(place, limits).await, Room::Enough, "{path}");
        assert!(whole(place, path, limits).await, "{path}");
    }
    // What came in counts at once, and so does what went: nobody is refused by an old count.
    assert_eq!(room(place, limits).await, Room::FolderFull);
    assert!(!whole(place, "d", limits).await);
    std::fs::remove_file(lab.root().await.join("a")).unwrap();
    assert_eq!(room(place, limits).await, Room::Enough);
    // An owner's folders count together, each for itself as well; directories have a size, too.
    let used = 6_000 + 3 * 4_096;
    let owner = Limits { folder: Some(10_000), scope: Some(used + 4 * 4_096 + 3_500) };
    assert_eq!(room(&second, owner).await, Room::Enough);
    assert!(whole(&second, "e", owner).await);
    assert_eq!(room(&second, Limits { scope: Some(9_000), ..owner }).await, Room::OwnerFull);
    assert_eq!(room(place, Limits { folder: Some(8_999), ..owner }).await, Room::FolderFull);
    assert_eq!(room(place, Limits { folder: Some(9_000), scope: None }).await, Room::Enough);
}

#[tokio::test]
async fn nobody_waits_for_pipes() {
    let lab = lab().await;
    let root = lab.root().await;
    lab.put("d/f", "x").await;
    for name in ["pipe", "d/pipe"] {
        nix::unistd::mkfifo(&root.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let claims = lab.token("f", 1).await;
    let session = root.join(".upload").join(&claims.session);
    std::fs::remove_file(&session).unwrap();
    nix::unistd::mkfifo(&session, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let tried = async {
        assert_eq!(problem(lab.storage.fetch(&lab.place, "pipe").await.unwrap_err()).status, 404);
        assert_eq!(problem(lab.open("pipe", None, false).await.unwrap_err()).status, 400);
        let inner = lab.storage.inner.folder(&lab.place).unwrap();
        assert!(files::open(&inner, "pipe").is_err() && files::open(&inner, "d/f").is_ok());
        assert_eq!(problem(lab.storage.receipt(&claims).await.unwrap_err()).status, 404);
        assert!(matches!(send(&lab.storage, claims, None, "x").await, Err(UploadError::Storage(_))));
        let Opened::Archive(archive) = lab.open(".", None, true).await.unwrap() else { panic!("no archive") };
        archive.stream().try_collect::<Vec<Bytes>>().await.unwrap();
        lab.storage.duplicate(&lab.place, &fresh()).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), tried).await.unwrap();
}

#[tokio::test]
async fn expired_tokens_open_nothing() {
    let lab = lab_with(0).await;
    let upload = lab.storage.upload_token(&lab.place, "f", 1, Limits::default()).await.unwrap();
    let download = lab.storage.download_token(&lab.place, "f", false).await.unwrap();
    let expired = "cannot decode the given value as JWT: Signature has expired";
    assert_eq!(lab.storage.read_upload_token(&upload).unwrap_err().0, expired);
    assert_eq!(lab.storage.read_download_token(&download).unwrap_err().0, expired);
    // One kind isn't good for the other, nor that of another server.
    let lab = super::tests::lab().await;
    let upload = lab.storage.upload_token(&lab.place, "f", 1, Limits::default()).await.unwrap();
    assert!(lab.storage.read_download_token(&upload).is_err());
    let other = EmbeddedSettings { secret: "another".to_owned(), ..lab.storage.settings().clone() };
    assert!(Embedded::open(other).unwrap().read_upload_token(&upload).is_err());
}

#[tokio::test]
async fn links_lead_nowhere_else() {
    let lab = lab().await;
    let (root, place) = (lab.root().await, &lab.place);
    std::fs::create_dir(root.join("sub")).unwrap();
    std::fs::write(root.join("sub/in.txt"), "inside").unwrap();
    symlink(lab.dir.path(), root.join("out")).unwrap();
    symlink("../../../../../..", root.join("up")).unwrap();
    symlink(lab.dir.path().join("outside.txt"), root.join("file")).unwrap();
    symlink("sub", root.join("within")).unwrap();
    // What leads out can be seen and removed as what it is, and nothing else.
    for path in ["out", "up", "out/volume", "up/outside.txt", "file"] {
        assert_eq!(problem(lab.open(path, None, true).await.unwrap_err()).status, 404, "{path}");
        assert!(lab.storage.fetch(place, path).await.is_err(), "{path}");
        assert!(lab.storage.list(place, path).await.is_err(), "{path}");
        assert!(lab.storage.mkdir(place, &format!("{path}/new"), true, true).await.is_err(), "{path}");
        assert!(lab.storage.move_file(place, "sub/in.txt", &format!("{path}/x")).await.is_err(), "{path}");
    }
    for path in ["out/stolen", "up/stolen", "out/volume/neighbour.txt"] {
        let asked = lab.storage.upload_token(place, path, 3, Limits::default()).await;
        if let Ok(token) = asked {
            let claims = lab.storage.read_upload_token(&token).unwrap();
            assert!(send(&lab.storage, claims, None, "bad").await.is_err(), "{path}");
        }
    }
    assert!(lab.storage.mount_path(place, "out").await.is_err());
    // A link that stays inside is a way like any other; removing it leaves what it leads to.
    assert_eq!(lab.content("within/in.txt").await, "inside");
    let kinds: Vec<_> = lab.storage.list(place, "").await.unwrap().into_iter().map(|e| (e.name, e.kind)).collect();
    assert!(kinds.contains(&("within".to_owned(), "SYMLINK".to_owned())));
    let links = ["out", "up", "file", "within"].map(str::to_owned);
    lab.storage.remove(place, &links, true).await.unwrap();
    assert_eq!(lab.names("").await, ["sub"]);
    assert_eq!(std::fs::read_to_string(lab.dir.path().join("outside.txt")).unwrap(), "outside");
    assert_eq!(lab.content("sub/in.txt").await, "inside");
}

#[tokio::test]
async fn the_storage_keeps_its_own_places() {
    let lab = lab().await;
    let claims = lab.token("f", 4).await;
    let session = format!(".upload/{}", claims.session);
    for path in [".upload", &session, "x/../.upload"] {
        assert!(lab.storage.list(&lab.place, path).await.is_err(), "{path}");
        assert!(lab.storage.remove(&lab.place, &[path.to_owned()], true).await.is_err(), "{path}");
        assert!(lab.open(path, None, true).await.is_err(), "{path}");
    }
    assert!(lab.open(&claims.session, Some(".upload"), false).await.is_err());
    for path in ["", ".", "x/.."] {
        assert!(lab.storage.remove(&lab.place, &[path.to_owned()], true).await.is_err(), "{path:?}");
    }
    assert_eq!(lab.names("").await, Vec::<String>::new());
    assert_eq!(lab.storage.usage(&lab.place).await.unwrap(), Usage { file_count: 0, used_bytes: 0 });
}

#[tokio::test]
async fn whole_trees() {
    let lab = lab().await;
    let root = lab.root().await;
    lab.put("a/b/c.txt", &"abc".repeat(1_000)).await;
    lab.put("d.txt", "d").await;
    std::fs::create_dir(root.join("empty")).unwrap();
    symlink("a/b", root.join("link")).unwrap();
    std::fs::set_permissions(root.join("d.txt"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let usage = lab.storage.usage(&lab.place).await.unwrap();
    assert_eq!(usage.file_count, 6);
    assert!(usage.used_bytes >= 3_001 && lab.storage.used_bytes(&lab.place).await.unwrap() == usage.used_bytes);

    let copy = fresh();
    lab.storage.duplicate(&lab.place, &copy).await.unwrap();
    let copied = PathBuf::from(lab.storage.mount_path(&copy, ".").await.unwrap());
    assert_eq!(std::fs::read_to_string(copied.join("a/b/c.txt")).unwrap().len(), 3_000);
    let (from, to) = (std::fs::metadata(root.join("d.txt")).unwrap(), std::fs::metadata(copied.join("d.txt")).unwrap());
    assert_eq!((from.mode(), from.modified().unwrap()), (to.mode(), to.modified().unwrap()));
    assert_eq!(std::fs::read_link(copied.join("link")).unwrap(), Path::new("a/b"));
    assert_eq!(lab.storage.usage(&copy).await.unwrap().file_count, 6);

    // Uploads under way are at a folder's root; below it the name is anybody's, and counts.
    lab.put("a/.upload/large", &"x".repeat(10_000)).await;
    assert!(lab.storage.usage(&lab.place).await.unwrap().used_bytes >= 13_001);
    let of_scope = || {
        let dir = lab.storage.inner.volume("v").unwrap().dir.open_dir(&lab.place.folder.scope).unwrap();
        tree::bytes_with_part(&dir, BELOW_SCOPE, Path::new("none")).0
    };
    let (in_folder, in_scope) = (lab.storage.used_bytes(&lab.place).await.unwrap(), of_scope());
    std::fs::create_dir_all(root.join(".upload")).unwrap();
    std::fs::write(root.join(".upload/begun"), "x".repeat(10_000)).unwrap();
    assert_eq!((lab.storage.used_bytes(&lab.place).await.unwrap(), of_scope()), (in_folder, in_scope));
    lab.put("b/.upload/large", &"x".repeat(10_000)).await;
    assert!(of_scope() >= in_scope + 10_000);
    assert_eq!(problem(lab.storage.duplicate(&lab.place, &copy).await.unwrap_err()).status, 409);
    let elsewhere = Place { volume: "w".to_owned(), ..fresh() };
    assert!(lab.storage.duplicate(&lab.place, &elsewhere).await.is_err());

    let Opened::Archive(archive) = lab.open(".", None, true).await.unwrap() else { panic!("no archive") };
    let bytes: Vec<Bytes> = archive.stream().try_collect().await.unwrap();
    let path = lab.dir.path().join("all.zip");
    std::fs::write(&path, bytes.concat()).unwrap();
    let check = "import sys, zipfile, json; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; \
                 print(json.dumps({i.filename: [i.file_size, z.read(i)[:3].decode()] for i in z.infolist()}))";
    let python = std::process::Command::new("python3").args(["-c", check]).arg(&path).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let entries: Json = serde_json::from_slice(&python.stdout).unwrap();
    let expected = json!({
        "a/b/c.txt": [3000, "abc"], "d.txt": [1, "d"], "empty/": [0, ""],
        "a/.upload/large": [10_000, "xxx"], "b/.upload/large": [10_000, "xxx"],
    });
    assert_eq!(entries, expected);
    assert_eq!(problem(lab.open("a", None, false).await.unwrap_err()).status, 400);
}

#[tokio::test]
async fn a_tree_of_any_depth_is_removed() {
    let lab = lab().await;
    let root = lab.root().await;
    // Deeper than any path can be written.
    let mut dir = Dir::open_ambient_dir(&root, ambient_authority()).unwrap();
    for level in 0..3_000 {
        dir.create_dir("deep").unwrap();
        dir.write(format!("f{level}"), "x").unwrap();
        dir = dir.open_dir("deep").unwrap();
    }
    dir.create_dir("locked").unwrap();
    dir.set_permissions("locked", cap_std::fs::Permissions::from_mode(0)).unwrap();
    lab.storage.usage(&lab.place).await.unwrap();
    lab.storage.delete(&lab.place).await.unwrap();
    assert!(!root.exists());
    assert_eq!(std::fs::read_dir(lab.dir.path().join("volume").join(WORK)).unwrap().count(), 0);
}

#[tokio::test]
async fn what_was_left_behind_is_tidied_up() {
    let lab = lab().await;
    let claims = lab.token("f", 4).await;
    lab.storage.maintain().await.unwrap();
    assert!(lab.storage.receipt(&claims).await.is_ok());
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(72 * 3_600);
    let aged = |path: PathBuf| std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    aged(lab.root().await.join(".upload").join(&claims.session));
    let left = lab.dir.path().join("volume").join(WORK).join("copy-x");
    std::fs::create_dir_all(left.join("y")).unwrap();
    aged(left.clone());
    lab.storage.maintain().await.unwrap();
    assert!(lab.storage.receipt(&claims).await.is_err() && !left.exists());
    assert!(!lab.root().await.join(".upload").exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever paths are asked for, and whatever links a session leaves behind, nothing outside of the folder is read,
    /// made, changed or removed.
    #[test]
    fn nothing_leaves_its_folder(
        links in prop::collection::vec(("[a-c]", "(\\.\\./){0,8}[a-c./]{0,6}|/[a-z]{0,4}|/etc"), 0..5),
        paths in prop::collection::vec("(\\.\\./){0,3}[a-c./]{0,8}|/[a-z/]{0,6}|\\.upload/?[a-c]?", 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lab = lab().await;
            let root = lab.root().await;
            for (name, target) in links {
                let _ = symlink(target, root.join(name));
            }
            let before = outside(&lab, &root);
            for path in &paths {
                let (storage, place) = (&lab.storage, &lab.place);
                let _ = storage.mkdir(place, path, true, true).await;
                for archive in [false, true] {
                    match lab.open(path, None, archive).await {
                        Ok(Opened::File(file)) => {
                            let size = file.size;
                            let content: Vec<Bytes> = file.stream(0, size).try_collect().await.unwrap();
                            prop_assert!(content.concat().is_empty() || content.concat() == b"mine", "{path}");
                        }
                        Ok(Opened::Archive(archive)) => {
                            let bytes: Vec<Bytes> = archive.stream().try_collect().await.unwrap();
                            let text = bytes.concat();
                            prop_assert!(!text.windows(9).any(|w| w == b"neighbour" || w == b"outside.t"), "{path}");
                        }
                        Err(_) => {}
                    }
                }
                if let Ok(token) = storage.upload_token(place, path, 4, Limits::default()).await {
                    let claims = storage.read_upload_token(&token).unwrap();
                    for directory in [Some(path.as_str()), None] {
                        if let Ok(mut upload) = storage.upload(claims.clone(), directory, None, None).await
                            && upload.write(Bytes::from_static(b"mine")).await.is_ok()
                        {
                            let _ = upload.finish().await;
                        }
                    }
                }
                let _ = storage.move_file(place, path, "b/c").await;
                let _ = storage.move_file(place, "a", path).await;
                let _ = storage.rename(place, path, "c").await;
                let _ = storage.list(place, path).await;
                let _ = storage.remove(place, std::slice::from_ref(path), true).await;
            }
            let _ = lab.storage.duplicate(&lab.place, &fresh()).await;
            lab.storage.delete(&lab.place).await.unwrap();
            let after = outside(&lab, &root);
            prop_assert_eq!(before, after);
            Ok(())
        })?;
    }
}

/// Everything around a folder: paths and contents, without what the storage itself keeps there.
fn outside(lab: &Lab, root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut pending) = (Vec::new(), vec![lab.dir.path().canonicalize().unwrap()]);
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let own = path == root || root.starts_with(&path);
            if path.is_dir() && !path.is_symlink() {
                let is_scope = path.components().any(|c| c.as_os_str() == lab.place.folder.scope.as_str());
                if !own && (is_scope || path.ends_with(WORK)) {
                    continue;
                }
                if path != root {
                    pending.push(path);
                }
            } else {
                found.push((path.clone(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}
