//! Every command of the official client about folders, from their making to their end, on both databases.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::transfers::{files_below, sha256};
use quarterdeck_tests::{ADMIN, DOMAIN_ADMIN, USER, wait};
use serde_json::{Value, json};

use crate::person::{Person, noise};
use crate::{HOST, MIB};

const PATIENCE: Duration = Duration::from_secs(60);

fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn same(one: &Path, other: &Path) {
    assert_eq!(sha256(one).unwrap(), sha256(other).unwrap(), "{} and {}", one.display(), other.display());
}

/// Folders themselves: hosts, making, looking, their options.
fn making(user: &Person<'_>) {
    user.does(&["vfolder", "list-hosts"], &["Usable hosts: local:volume1"]);
    user.does(&["vfolder", "list-allowed-types"], &["'user'", "'group'"]);
    let make = ["vfolder", "create", "docs", HOST, "--usage-mode", "data", "--cloneable"];
    user.does(&make, &["Virtual folder \"docs\" is created."]);
    user.may_not(&["vfolder", "create", "docs", HOST], &["already exists"]);
    user.may_not(&["vfolder", "create", ".ssh", HOST], &["reserved"]);
    user.may_not(&["vfolder", "create", "elsewhere", "nobody:nothing"], &["nobody:nothing"]);
    user.may_not(&["vfolder", "create", "taken", "/etc", "--unmanaged"], &["Insufficient permission"]);
    user.may_not(&["vfolder", "create", "ours", HOST, "-g", "default"], &["no permission"]);
    user.does(&["vfolder", "list"], &["docs", HOST, "ready"]);
    let listed = user.cli.does(&["--output", "json", "vfolder", "list"], &["\"docs\""]);
    assert!(listed.contains("\"total_count\": 1"), "{listed}");
    let about =
        ["\"docs\"", "Owner: True", "Permission: rw", "Number of files: 0", "Usage Mode: data", "Allowed: True"];
    user.does(&["vfolder", "info", "docs"], &about);
    user.may_not(&["vfolder", "info", "nothing"], &["No such virtual folder"]);
}

/// What is in them.
fn files(user: &Person<'_>) {
    let home = &user.home;
    write(&home.join("a.bin"), noise(1, 3 * MIB + 17));
    write(&home.join("empty"), "");
    write(&home.join("ünï code & 100%.txt"), "names are names");
    user.does(&["vfolder", "upload", "docs", "a.bin", "empty", "ünï code & 100%.txt"], &["Done."]);
    user.does(&["vfolder", "ls", "docs"], &["a.bin", "3145745", "-rw-r--r--", "empty", "ünï code & 100%.txt"]);
    // The client would start a directory's upload with what is above it.
    let base = home.join("base");
    write(&base.join("tree/one.txt"), "one");
    write(&base.join("tree/deep/two.bin"), noise(2, 100_000));
    user.may_not(&["vfolder", "upload", "docs", "-b", base.to_str().unwrap(), "tree"], &["recursive"]);
    user.does(&["vfolder", "upload", "docs", "-r", "-b", base.to_str().unwrap(), "tree"], &["Done."]);
    user.does(&["vfolder", "ls", "docs", "tree"], &["one.txt", "deep", "drwxr-xr-x"]);
    user.does(&["vfolder", "ls", "docs", "nowhere"], &["No such file or directory"]);

    let down = home.join("down");
    std::fs::create_dir_all(down.join("tree/deep")).unwrap();
    let all = ["a.bin", "empty", "ünï code & 100%.txt", "tree/deep/two.bin"];
    let fetch = ["vfolder", "download", "docs", "-b", down.to_str().unwrap()];
    user.does(&[&fetch[..], &all].concat(), &["Done."]);
    same(&home.join("a.bin"), &down.join("a.bin"));
    same(&base.join("tree/deep/two.bin"), &down.join("tree/deep/two.bin"));
    assert_eq!(std::fs::read_to_string(down.join(all[2])).unwrap(), "names are names");
    assert_eq!(std::fs::metadata(down.join("empty")).unwrap().len(), 0);
    user.may_not(&[&fetch[..], &["a.bin"]].concat(), &["already exists"]);
    user.may_not(&[&fetch[..], &["missing", "--max-retries", "2"]].concat(), &["failed after 2 retries"]);
    // Both are unfinished in the client itself: it fails before it asks a server.
    user.may_not(&["vfolder", "request-download", "docs", "a.bin"], &["request_download"]);
    user.may_not(&["vfolder", "cp", "a.bin", "docs:b.bin"], &["NotImplementedError"]);

    user.does(&["vfolder", "mkdir", "docs", "x"], &["Done."]);
    user.may_not(&["vfolder", "mkdir", "docs", "x"], &["File exists"]);
    user.does(&["vfolder", "mkdir", "docs", "-e", "x"], &["Done."]);
    user.may_not(&["vfolder", "mkdir", "docs", "y/z"], &["No such file or directory"]);
    user.does(&["vfolder", "mkdir", "docs", "-p", "y/z"], &["Done."]);
    user.does(&["vfolder", "mv", "docs", "a.bin", "y/z"], &["Moved."]);
    user.does(&["vfolder", "rename-file", "docs", "y/z/a.bin", "b.bin"], &["Renamed."]);
    user.does(&["vfolder", "ls", "docs", "y/z"], &["b.bin", "3145745"]);
    user.may_not(&["vfolder", "rename-file", "docs", "y/z/a.bin", "c.bin"], &["No such file or directory"]);
    user.may_not(&["vfolder", "mv", "docs", "a.bin", "x"], &["No such file or directory"]);
    user.may_not_when_told(&["vfolder", "rm", "docs", "y"], "n\n", &["Cancelled"]);
    user.may_not_when_told(&["vfolder", "rm", "docs", "y"], "y\n", &["Is a directory"]);
    user.does_when_told(&["vfolder", "rm", "docs", "empty", "x", "-r"], "y\n", &["Done."]);
    let left = user.does(&["vfolder", "ls", "docs"], &["y", "tree"]);
    assert!(!left.contains("empty") && !left.contains(".upload"), "{left}");
}

/// Copies, other names, other options.
async fn changing(user: &Person<'_>, api: &Client) {
    user.does(&["vfolder", "rename", "docs", "papers"], &["Renamed."]);
    user.may_not(&["vfolder", "rename", "papers", ".ssh"], &["reserved"]);
    user.does(&["vfolder", "clone", "papers", "copy", HOST], &["Cloning the vfolder is complete."]);
    let found = wait::until("the copy", PATIENCE, || async {
        let list = api.get("/folders").await?.ok()?;
        let is_copy = |folder: &&Value| folder["name"] == "copy" && folder["status"] == "ready";
        Ok(list.as_array().and_then(|all| all.iter().find(is_copy)).cloned())
    });
    found.await.unwrap();
    let into = user.home.join("copied");
    std::fs::create_dir_all(into.join("y/z")).unwrap();
    user.does(&["vfolder", "download", "copy", "-b", into.to_str().unwrap(), "y/z/b.bin"], &["Done."]);
    same(&user.home.join("a.bin"), &into.join("y/z/b.bin"));
    user.does(&["vfolder", "update-options", "papers", "-p", "ro", "--set-cloneable", "false"], &["Updated."]);
    user.does(&["vfolder", "info", "papers"], &["Permission: ro", "Clone Allowed: False"]);
    user.does(&["vfolder", "clone", "papers", "again", HOST], &["Clone is not allowed"]);
    user.does(&["vfolder", "update-options", "papers", "-p", "rw"], &["Updated."]);
}

/// Folders for others.
fn sharing(user: &Person<'_>, other: &Person<'_>, admin: &Person<'_>) {
    user.may_not(&["vfolder", "invite", "papers", "nobody@conf.test"], &["No such vfolder invitation"]);
    other.does(&["vfolder", "invitations"], &["No invitations."]);
    other.does(&["vfolder", "ls", "papers"], &["No such virtual folder"]);
    let invite = ["vfolder", "invite", "papers", "domain-admin@conf.test", "-p", "ro"];
    user.does(&invite, &["Invitation sent to:", "domain-admin@conf.test"]);
    user.does(&invite, &["No users found. Invitation was not sent."]);
    other.does_when_told(&["vfolder", "invitations"], "1\nr\n", &["user@conf.test", "read-only", "rejected: papers"]);
    user.does(&invite, &["Invitation sent to:"]);
    other.does_when_told(&["vfolder", "invitations"], "1\na\n", &["You can now access vfolder papers"]);
    other.does(&["vfolder", "ls", "papers"], &["tree"]);
    other.does(&["vfolder", "info", "papers"], &["Owner: False", "Permission: ro"]);
    other.may_not(&["vfolder", "mkdir", "papers", "mine"], &["No such virtual folder"]);
    let into = other.home.join("down");
    std::fs::create_dir_all(into.join("tree")).unwrap();
    other.does(&["vfolder", "download", "papers", "-b", into.to_str().unwrap(), "tree/one.txt"], &["Done."]);
    assert_eq!(std::fs::read_to_string(into.join("tree/one.txt")).unwrap(), "one");

    // What administrators see and change of it.
    let shared = admin.does(&["admin", "vfolder", "list-shared-vfolders"], &["papers", "Permission: ro"]);
    let id = shared.split("ID: ").nth(1).unwrap()[..36].to_owned();
    let whom = "9b000000-0000-4000-8000-000000000002";
    admin.does(&["admin", "vfolder", "update-shared-vf-permission", &id, whom, "-p", "rw"], &["Updated."]);
    admin.does(&["admin", "vfolder", "shared-vfolder-info", &id], &["papers", "Permission: rw", whom]);
    other.does(&["vfolder", "mkdir", "papers", "mine"], &["Done."]);
    admin.does(&["admin", "vfolder", "remove-shared-vf-permission", &id, whom], &["Removed."]);
    other.does(&["vfolder", "ls", "papers"], &["No such virtual folder"]);
    user.does(&invite, &["Invitation sent to:"]);
    other.does_when_told(&["vfolder", "invitations"], "1\na\n", &["You can now access"]);
    user.does(&["vfolder", "leave", "papers"], &["You cannot leave a virtual folder you own."]);
    other.does(&["vfolder", "leave", "papers"], &["Left the shared virtual folder \"papers\"."]);
    other.does(&["vfolder", "ls", "papers"], &["No such virtual folder"]);

    // A project's.
    admin.does(&["vfolder", "create", "team", HOST, "-g", "default", "-p", "ro"], &["is created"]);
    user.does(&["vfolder", "info", "team"], &["Owner: False", "Permission: ro", "Ownership Type: group"]);
    user.may_not(&["vfolder", "mkdir", "team", "mine"], &["No such virtual folder"]);
    admin.does(&["vfolder", "share", "team", "user@conf.test", "-p", "rw"], &["Shared with rw permission to:"]);
    user.does(&["vfolder", "mkdir", "team", "mine"], &["Done."]);
    admin.does(&["vfolder", "unshare", "team", "user@conf.test"], &["Unshared from:", "user@conf.test"]);
    user.may_not(&["vfolder", "mkdir", "team", "theirs"], &["No such virtual folder"]);
    user.does(&["vfolder", "leave", "team"], &["You cannot leave a group virtual folder."]);
    user.may_not(&["vfolder", "delete", "team"], &["not owned by myself"]);
}

/// What only administrators do.
fn administration(admin: &Person<'_>, user: &Person<'_>) {
    admin.does(&["admin", "vfolder", "list"], &["papers", "team", "user@conf.test"]);
    let filter = ["admin", "vfolder", "list", "--filter", "name == \"team\"", "--order", "-created_at"];
    let filtered = admin.does(&filter, &["team"]);
    assert!(!filtered.contains("papers"), "{filtered}");
    admin.does(&["admin", "vfolder", "list-hosts"], &["Mounted hosts: local:volume1"]);
    user.may_not(&["admin", "vfolder", "list-hosts"], &["Unauthorized access"]);
    admin.may_not(&["admin", "vfolder", "perf-metric", HOST], &["Unsupported operation"]);
    admin.does(&["admin", "vfolder", "get-fstab-contents"], &["manager"]);
    admin.does(&["admin", "vfolder", "list-mounts"], &["manager", "success : True"]);
    admin.does(&["admin", "vfolder", "mount-host", "10.0.0.1:/x", "x"], &["manager"]);
    admin.does(&["admin", "vfolder", "umount-host", "x"], &["manager"]);
    let info = user.does(&["vfolder", "info", "copy"], &["Owner: True"]);
    let id = info.split("ID: ").nth(1).unwrap()[..32].to_owned();
    let give = ["admin", "vfolder", "change-vfolder-ownership", &id, "admin@conf.test"];
    user.may_not(&give, &["Unauthorized access"]);
    admin.does(&give, &["Now ownership of VFolder"]);
    user.may_not(&["vfolder", "info", "copy"], &["No such virtual folder"]);
    admin.does(&["vfolder", "ls", "copy"], &["tree"]);
    admin.does(&["vfolder", "create", "outside", "/srv/data", "--unmanaged"], &["is created"]);
    admin.does(&["vfolder", "ls", "outside"], &["can't be reached"]);
}

/// Their end: nothing of them stays.
async fn ending(user: &Person<'_>, admin: &Person<'_>, server: &Server) {
    user.does(&["vfolder", "delete", "papers"], &["Deleted."]);
    for name in ["copy", "team", "outside"] {
        admin.does(&["vfolder", "delete", name], &["Deleted."]);
    }
    let api = server.client(ADMIN);
    wait::until("the folders to go", PATIENCE, || async {
        let query = "{ vfolder_list(limit: 5, offset: 0) { total_count } }";
        let left = api.gql(query, json!({})).await?;
        Ok((left["vfolder_list"]["total_count"] == 0).then_some(()))
    })
    .await
    .unwrap();
    user.may_not(&["vfolder", "delete", "papers"], &["No such virtual folder"]);
    let volume = server.data_dir.join("volumes/volume1");
    assert_eq!(files_below(&volume).unwrap(), [Path::new("version.txt")]);
}

/// The commands that the client has.
const COMMANDS: &str = r"
from ai.backend.cli.loader import load_entry_points
main = load_entry_points()
for path in ('vfolder', 'admin vfolder'):
    group = main
    for part in path.split():
        group = group.commands[part]
    for name in group.commands:
        print(path, name)
";

async fn every_command(database: Database) {
    let dir = tempfile::tempdir().unwrap();
    let played = RefCell::default();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let person = |name: &str, keys| Person::new(&server, keys, dir.path().join(name), &played);
    let Some(user) = person("user", USER) else { return };
    let (other, admin) = (person("other", DOMAIN_ADMIN).unwrap(), person("admin", ADMIN).unwrap());

    making(&user);
    files(&user);
    changing(&user, &server.client(USER)).await;
    sharing(&user, &other, &admin);
    administration(&admin, &user);
    ending(&user, &admin, &server).await;

    let known = user.cli.python(COMMANDS).unwrap().ok().unwrap();
    let missing: Vec<_> = known.lines().filter(|command| !played.borrow().contains(*command)).collect();
    assert_eq!(missing, [""; 0], "commands that nobody tried");
    assert_eq!(server.logged_errors().unwrap(), [""; 0]);
}

#[tokio::test]
async fn every_command_on_sqlite() {
    every_command(Database::sqlite().unwrap()).await;
}

#[tokio::test]
async fn every_command_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        every_command(database).await;
    }
}
