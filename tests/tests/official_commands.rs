//! The official client's command line from end to end: what people do with it in a day, command by command.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::official::{OfficialClient, PYTHON_VARIABLE};
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER, wait};
use serde_json::{Value, json};

/// The commands that the whole script has at least.
const COMMANDS: usize = 60;
const SIZE: [&str; 4] = ["-r", "cpu=1", "-r", "mem=512m"];

/// Somebody with the client.
struct Person<'a> {
    cli: OfficialClient,
    count: &'a Cell<usize>,
}

impl Person<'_> {
    /// A command that ends well; its output, which has all of `parts`.
    #[track_caller]
    fn does(&self, args: &[&str], parts: &[&str]) -> String {
        self.count.set(self.count.get() + 1);
        self.cli.does(args, parts)
    }

    /// A command that is refused, with all of `parts` in what it says.
    #[track_caller]
    fn may_not(&self, args: &[&str], parts: &[&str]) {
        self.count.set(self.count.get() + 1);
        self.cli.may_not(args, parts);
    }
}

/// The first word of the output that looks like an id.
fn id_in(output: &str) -> String {
    let fits = |word: &&str| word.len() == 36 && word.matches('-').count() == 4;
    output.split(|c: char| !c.is_ascii_hexdigit() && c != '-').find(fits).unwrap().to_owned()
}

/// Sessions: made, worked in, looked at, ended.
async fn sessions(user: &Person<'_>, home: &Path, api: &Client, commits: &Path) {
    let make = ["session", "create", "--name", "daily", "--tag", "e2e", "-e", "COLOUR=teal"];
    let made = user.does(&[&make[..], &SIZE, &[PYTHON_IMAGE]].concat(), &["is created and ready"]);
    let id = id_in(&made);
    user.does(&["session", "list", "--plain"], &["daily", "RUNNING"]);
    user.does(&["--output", "json", "session", "list"], &["\"daily\""]);
    user.does(&["info", &id], &["daily", "e2e", PYTHON_IMAGE]);
    user.does(&["session", "status-history", "daily"], &["'preparing'", "Actual Resource Allocation Time"]);

    // Code: in query mode, and files in batch mode with their phases.
    let code = "import os; print('the colour is', os.environ['COLOUR'])";
    user.does(&["run", "--name", "daily", "-c", code, PYTHON_IMAGE], &["the colour is teal", "exit code = 0"]);
    std::fs::write(home.join("main.py"), "import sys; print('ran', open('built').read()); sys.exit(4)").unwrap();
    std::fs::write(home.join("Makefile"), "all:\n\techo -n mark > built\nclean:\n\trm -f built\n").unwrap();
    let batch = ["run", "--name", "daily", "--build", "*", "--exec", "*", PYTHON_IMAGE, "main.py", "Makefile"];
    user.does(&batch, &["Clean finished", "Build finished", "ran mark", "Execution finished. (exit code = 4)"]);
    let broken = ["run", "--name", "daily", "--build", "false", "--exec", "echo never", PYTHON_IMAGE, "main.py"];
    let output = user.does(&broken, &["Build finished. (exit code = 1)", "exit code = 127"]);
    assert!(!output.contains("never\n"), "{output}");

    // Files.
    std::fs::create_dir_all(home.join("deep/er")).unwrap();
    std::fs::write(home.join("deep/er/data file.txt"), "what went up").unwrap();
    user.does(&["session", "upload", "daily", "deep/er/data file.txt", "main.py"], &["Uploaded."]);
    user.does(&["session", "ls", "daily"], &["main.py", "deep", "drwx", "Makefile"]);
    user.does(&["session", "ls", "daily", "deep/er"], &["data file.txt", "12 Bytes", "-rw-"]);
    user.may_not(&["session", "ls", "daily", "nowhere"], &["No such file or directory"]);
    user.may_not(&["session", "ls", "daily", "/etc"], &["outside"]);
    let into = home.join("down");
    std::fs::create_dir(&into).unwrap();
    let dest = into.display().to_string();
    user.does(&["session", "download", "--dest", &dest, "daily", "deep", "main.py"], &["Downloaded to"]);
    assert_eq!(std::fs::read_to_string(into.join("deep/er/data file.txt")).unwrap(), "what went up");
    assert!(into.join("main.py").exists());
    user.may_not(&["session", "download", "--dest", &dest, "daily", "../../../secret"], &["outside"]);
    std::fs::write(home.join("large"), vec![0; 1 << 20]).unwrap();
    user.may_not(&["session", "upload", "daily", "large"], &["Too large file"]);

    user.does(&["session", "logs", "daily"], &["the colour is teal", "ran mark", "End of logs."]);
    user.does(&["session", "abuse-history", "daily"], &["{}"]);
    terminal(user);
    user.does(&["session", "rename", "daily", "evening"], &["Session renamed to evening."]);
    user.may_not(&["session", "logs", "daily"], &["No such session"]);

    user.does(&["session", "commit", "evening"], &["Request to commit"]);
    wait::until("the archive of the session", Duration::from_secs(30), || async {
        let is_ready = api.get("/session/evening/commit").await?.ok()?["status"] == "ready";
        let archives = std::fs::read_dir(commits)?.filter(|name| {
            name.as_ref().is_ok_and(|name| name.file_name().to_string_lossy().contains("_evening_python-3.9"))
        });
        Ok((is_ready && archives.count() == 1).then_some(()))
    })
    .await
    .unwrap();

    // What was in memory is gone after a restart, what was in files isn't.
    user.does(&["restart", "evening"], &["Done."]);
    let code = "print('colour' in globals(), open('deep/er/data file.txt').read())";
    user.does(&["run", "--name", "evening", "-c", code, PYTHON_IMAGE], &["False what went up"]);

    let second = ["session", "create", "--name", "other", "--enqueue-only", "--depends", &id];
    user.does(&[&second[..], &SIZE, &[PYTHON_IMAGE]].concat(), &["is enqueued for scheduling"]);
    user.does(&["session", "destroy", "other"], &["Done."]);
    user.may_not(&["session", "create", "--name", "evening", "--no-reuse", PYTHON_IMAGE], &["already exists"]);
    let output = user.does(&["session", "destroy", "--stats", "evening"], &["Done."]);
    assert!(output.contains("mem"), "{output}");
    api.await_status(&id, &["TERMINATED"], Duration::from_secs(30)).await.unwrap();
    user.does(&["ps", "--dead", "--plain"], &["evening", "TERMINATED"]);

    let batch = ["create", "--name", "nightly", "--type", "batch", "-c", "echo in the night; exit 3"];
    let made = user.does(&[&batch[..], &SIZE, &[PYTHON_IMAGE]].concat(), &["Session ID"]);
    api.await_status(&id_in(&made), &["TERMINATED"], Duration::from_secs(30)).await.unwrap();
    user.does(&["session", "logs", "nightly"], &["in the night"]);
    user.does(&["ps", "--dead", "--plain"], &["nightly", "FAILURE"]);
    let gone = ["run", "--rm", "--name", "brief", "-c", "print(6*7)"];
    user.does(&[&gone[..], &SIZE, &[PYTHON_IMAGE]].concat(), &["42\n", "Cleaned up the session"]);
}

/// A terminal through the client's library, as its web consoles use it.
const TERMINAL: &str = r#"
import asyncio, base64, json
from ai.backend.client.session import AsyncSession

def keys(text):
    return {"type": "stdin", "chars": base64.b64encode(text.encode()).decode()}

async def until(ws, text):
    shown = b""
    while text.encode() not in shown:
        try:
            message = await asyncio.wait_for(ws.raw_websocket.receive(), 20)
        except asyncio.TimeoutError:
            raise SystemExit(f"{text!r} is not in {shown!r}")
        assert message.type.name == "TEXT", (message, shown)
        frame = json.loads(message.data)
        assert set(frame) == {"type", "data"} and frame["type"] == "out", frame
        shown += base64.b64decode(frame["data"])

async def main():
    async with AsyncSession() as session:
        compute = session.ComputeSession("daily")
        async with compute.stream_pty() as ws:
            await ws.send_json({"type": "resize", "rows": 43, "cols": 111})
            await ws.send_json({"type": "ping"})
            await ws.send_str("nonsense")
            await ws.send_json(keys("stty size\n"))
            await until(ws, "43 111")
            await ws.send_json(keys("MARK=kept\n"))
        # The shell is still there, with what was typed last.
        async with compute.stream_pty() as ws:
            await ws.send_json(keys("echo $MARK-here\n"))
            await until(ws, "kept-here")
            await ws.send_json(keys("echo n''ow; cat\n"))
            await until(ws, "now\r\n")
            await ws.send_json(keys("line\n"))
            await until(ws, "line\r\nline")
            # A shell may drop what is typed before it is back.
            await ws.send_json(keys("\x03"))
            await until(ws, "$ ")
            await ws.send_json(keys("echo ended with $?\n"))
            await until(ws, "ended with 130")
            # A restart from inside: a new shell, the same files.
            await ws.send_json({"type": "restart"})
            await ws.send_json(keys("echo [$MARK] $(ls main.py)\n"))
            await until(ws, "[] main.py")
            await ws.send_json(keys("exit\n"))
            while (message := await asyncio.wait_for(ws.raw_websocket.receive(), 60)).type.name == "TEXT":
                pass
            assert message.type.name == "CLOSE" and message.data == 1000, message
    print("the terminal is well")

asyncio.run(main())
"#;

fn terminal(user: &Person<'_>) {
    let told = user.cli.python(TERMINAL).unwrap().ok().unwrap();
    assert!(told.contains("the terminal is well"), "{told}");
}

/// What people keep: dotfiles and templates.
async fn belongings(user: &Person<'_>, home: &Path) {
    std::fs::write(home.join("vimrc"), "set nu").unwrap();
    user.does(&["dotfile", "create", ".vimrc", "-f", "vimrc", "--perm", "640"], &["created and ready"]);
    user.does(&["dotfile", "list"], &[".vimrc", "640"]);
    std::fs::write(home.join("vimrc"), "set nonu").unwrap();
    user.does(&["dotfile", "update", ".vimrc", "-f", "vimrc", "--perm", "600"], &["updated"]);
    user.does(&["dotfile", "get", ".vimrc"], &["set nonu"]);

    let template = |tag: &str| {
        let template = json!({
            "api_version": "v1", "kind": "taskTemplate", "metadata": {"name": "t", "tag": tag},
            "spec": {
                "kernel": {"image": PYTHON_IMAGE, "environ": {}, "git": null, "run": null},
                "resources": {"cpu": "1", "mem": "256m"}, "scaling_group": "default",
            },
        });
        std::fs::write(home.join("t.json"), json!({"session_templates": [{"template": template}]}).to_string())
            .unwrap();
    };
    template("first");
    let made = user.does(&["session-template", "create", "-f", "t.json"], &["created and ready"]);
    let id = made.split_whitespace().find(|word| word.len() == 32).unwrap().to_owned();
    user.does(&["session-template", "list"], &[&id]);
    user.does(&["session-template", "get", &id], &["first"]);
    template("second");
    user.does(&["session-template", "update", &id, "-f", "t.json"], &["updated"]);
    user.does(&["session-template", "get", "-f", "json", &id], &["second"]);
    // The client's own `create-dottedemplate` fails before it asks a server: its defaults don't fit its options.
    let make = ["session", "create", "--name", "dotted"];
    user.does(&[&make[..], &SIZE, &[PYTHON_IMAGE]].concat(), &["created and ready"]);
    user.does(&["run", "--name", "dotted", "-c", "print(open('.vimrc').read())", PYTHON_IMAGE], &["set nonu"]);
    user.does(&["rm", "dotted"], &["Done."]);
    user.does(&["session-template", "delete", "-f", &id], &["deleted"]);
    user.does(&["dotfile", "delete", "-f", ".vimrc"], &["deleted"]);
    user.does(&["dotfile", "list"], &["no dotfiles"]);
}

/// What administrators look at and change.
async fn administration(admin: &Person<'_>, user: &Person<'_>) {
    user.does(&["config"], &["API endpoint", "Negotiated API version"]);
    admin.does(&["admin", "agent", "list"], &["i-commands", "ALIVE"]);
    admin.does(&["admin", "image", "list"], &["python"]);
    admin.does(&["admin", "domain", "list"], &["default"]);
    admin.does(&["admin", "group", "list"], &["default"]);
    admin.does(&["admin", "scaling", "list"], &["default", "fifo"]);
    admin.does(&["admin", "keypair-resource-policy", "list"], &["default"]);
    admin.does(&["admin", "resource", "query-slots"], &["cpu", "mem"]);
    admin.does(&["admin", "resource", "recalculate-usage"], &[]);
    admin.does(&["admin", "manager", "status"], &["running"]);
    admin.does(&["server-logs", "list"], &[]);

    let email = "user@conf.test";
    let made =
        admin.does(&["--output", "json", "admin", "keypair", "add", email, "default", "-r", "77"], &["access_key"]);
    let start = made.find('{').unwrap();
    let keys: Value = serde_json::from_str(&made[start..]).unwrap();
    let access = keys["keypair"]["access_key"].as_str().unwrap();
    admin.does(&["admin", "keypair", "list"], &[access, "77"]);
    admin.does(&["admin", "keypair", "update", access, "-r", "78"], &[]);
    admin.does(&["admin", "keypair", "list", "--user-id", email], &[access, "78"]);
    admin.does(&["admin", "keypair", "deactivate", access], &[]);
    let active = admin.does(&["admin", "keypair", "list", "--is-active", "true"], &[USER.access]);
    assert!(!active.contains(access), "{active}");
    admin.does(&["admin", "keypair", "activate", access], &[]);
    admin.does(&["admin", "keypair", "list", "--is-active", "true"], &[access]);
    admin.does(&["admin", "keypair", "delete", access], &[]);
    let left = admin.does(&["admin", "keypair", "list"], &[USER.access]);
    assert!(!left.contains(access), "{left}");

    admin.does(&["admin", "etcd", "set", "config/e2e/key", "a value"], &["Successfully set"]);
    admin.does(&["admin", "etcd", "get", "config/e2e/key"], &["a value"]);
    admin.does(&["admin", "etcd", "delete", "config/e2e/key"], &["Successfully deleted"]);
    admin.does(&["admin", "announcement", "update", "-m", "Tea at five"], &[]);
    user.does(&["admin", "announcement", "get"], &["Tea at five"]);
}

#[tokio::test]
async fn the_official_commands_do_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let (home, count) = (dir.path().join("home"), Cell::new(0));
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let person = |keys, home: &Path| {
        let cli = OfficialClient::installed(&server.url, keys, home).unwrap()?;
        Some(Person { cli, count: &count })
    };
    let Some(user) = person(USER, &home) else {
        eprintln!("skipped: {PYTHON_VARIABLE} doesn't name a Python that has the official client");
        return;
    };
    let admin = person(ADMIN, &dir.path().join("admin")).unwrap();
    let state = dir.path().join("agent");
    let _agent = server.agent("i-commands", "process", "cpu=4,mem=4g", &state).unwrap();
    server.client(ADMIN).await_agents(1).await.unwrap();

    let commits = state.join("i-commands/commits/user_conf.test");
    sessions(&user, &home, &server.client(USER), &commits).await;
    belongings(&user, &home).await;
    administration(&admin, &user).await;
    assert!(count.get() >= COMMANDS, "only {} commands", count.get());
    // Uploads and downloads that agents refuse are failures of the kernel to clients, but none of the server.
    assert_eq!(server.logged_errors().unwrap(), [""; 0]);
}
