//! `cargo xtask demo`: the main job, for real, narrated.
//!
//! A server and two agents start on free ports; the *unmodified* official client starts a session,
//! runs Python in it, reads its logs and lists it; then a different scheduling policy is dropped
//! onto the live server and places the next session elsewhere; it is rolled back; all is destroyed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quarterdeck_tests::client::Client;
use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER};
use serde_json::json;

use crate::prerequisites::ClientVenv;
use crate::run::{cargo, run, say, step, timed};

/// What the demo runs in its first session.
const CODE: &str = "import platform, os\nprint('hello from Python', platform.python_version(), 'in', os.path.basename(os.getcwd()))\nprint(sum(i * i for i in range(1000)))";

/// Runs it.
pub(crate) fn run_demo() -> anyhow::Result<()> {
    crate::prerequisites::wasm_target()?;
    let venv = ClientVenv::ready()?;
    crate::guests::build()?;
    timed("Building the server", || run(cargo().args(["build", "--package", "quarterdeck", "--locked"])))?;

    let start = Instant::now();
    let dir = tempfile::Builder::new().prefix("quarterdeck-demo-").tempdir()?;
    step("Starting a server on a fresh SQLite database, and two agents that run real processes");
    let database = Database::sqlite()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    say(&format!("API on {}, agents at {}", server.url, server.rpc));
    // Of different size, so that policies have something to disagree on.
    let _big = server.agent("i-big", "process", "cpu=8,mem=8g", &dir.path().join("big"))?;
    let _small = server.agent("i-small", "process", "cpu=2,mem=2g", &dir.path().join("small"))?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin = server.client(ADMIN);
    runtime.block_on(agents_alive(&admin, 2))?;
    say("both agents are ALIVE");

    let cli = Cli { program: venv.cli(), endpoint: server.url.clone(), home: dir.path().join("home") };
    std::fs::create_dir_all(&cli.home)?;

    step("The official client starts a session");
    cli.show(&["session", "create", "--name", "demo-one", "-r", "cpu=1", "-r", "mem=512m", PYTHON_IMAGE])?;
    let first = runtime.block_on(placement(&admin, "demo-one"))?;
    say(&format!("the built-in policy `fifo` placed it on {first} (the agent with the larger capacity)"));

    step("It runs Python code in the session");
    let output = cli.show(&["run", "--name", "demo-one", "-c", CODE, PYTHON_IMAGE])?;
    ensure!(output.contains("hello from Python") && output.contains("332833500"), "the code's output is missing");

    step("It shows the session's logs");
    let logs = cli.show(&["session", "logs", "demo-one"])?;
    ensure!(logs.contains("332833500"), "the log lacks what the code printed");

    step("It lists sessions");
    let list = cli.show(&["session", "list"])?;
    ensure!(list.contains("demo-one") && list.contains("RUNNING"), "the running session is not listed");

    step("A different policy is dropped onto the live server: pack sessions onto the fullest agent that fits");
    let wasm = quarterdeck_tests::guests::best_fit()?.display().to_string();
    shown_command("quarterdeck plugin push best_fit.wasm");
    server.cli(&["plugin", "push", &wasm])?;
    shown_command("quarterdeck plugin bind best-fit --scaling-group default");
    server.cli(&["plugin", "bind", "best-fit", "--scaling-group", "default"])?;
    print!("{}", server.cli(&["plugin", "list"])?);
    ensure!(
        runtime.block_on(status(&admin, "demo-one"))? == "RUNNING",
        "the running session must not notice the change of policy"
    );

    step("The official client starts another session of the same size");
    cli.show(&["session", "create", "--name", "demo-two", "-r", "cpu=1", "-r", "mem=512m", PYTHON_IMAGE])?;
    let second = runtime.block_on(placement(&admin, "demo-two"))?;
    say(&format!("`best-fit` placed it on {second}"));

    step("Both decisions");
    say(&format!("demo-one  fifo      {first}"));
    say(&format!("demo-two  best-fit  {second}"));
    ensure!(first == "i-big" && second == "i-small", "the two policies were expected to disagree");

    step("The policy is rolled back");
    shown_command("quarterdeck plugin rollback --scaling-group default");
    server.cli(&["plugin", "rollback", "--scaling-group", "default"])?;
    print!("{}", server.cli(&["plugin", "list"])?);

    step("Everything is destroyed");
    cli.show(&["session", "destroy", "demo-one", "demo-two"])?;
    for name in ["demo-one", "demo-two"] {
        let status = runtime.block_on(quarterdeck_tests::wait::until(
            "the session to end",
            Duration::from_secs(30),
            || async {
                let status = status(&admin, name).await?;
                Ok((status == "TERMINATED").then_some(status))
            },
        ))?;
        say(&format!("{name}: {status}"));
    }
    step(&format!("Done in {:.0} s, apart from building", start.elapsed().as_secs_f64()));
    Ok(())
}

struct Cli {
    program: PathBuf,
    endpoint: String,
    home: PathBuf,
}

impl Cli {
    /// Runs the official client as the seeded user, showing what it prints.
    fn show(&self, args: &[&str]) -> anyhow::Result<String> {
        let shown: Vec<&str> = args.iter().map(|a| if a.contains('\n') { "'…'" } else { a }).collect();
        shown_command(&format!("backend.ai {}", shown.join(" ")));
        let output = Command::new(&self.program)
            .args(args)
            .env("BACKEND_ENDPOINT", &self.endpoint)
            .env("BACKEND_ENDPOINT_TYPE", "api")
            .env("BACKEND_ACCESS_KEY", USER.access)
            .env("BACKEND_SECRET_KEY", USER.secret)
            .env("BACKEND_DOMAIN", "default")
            .env("BACKEND_GROUP", "default")
            // The client keeps state below the home directory; ours must stay as it is.
            .env("HOME", &self.home)
            .env("NO_COLOR", "1")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .context("the official client")?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            println!("      {line}");
        }
        ensure!(output.status.success(), "the official client failed: backend.ai {}", args.join(" "));
        Ok(text)
    }
}

fn shown_command(text: &str) {
    println!("    $ {text}");
}

async fn agents_alive(admin: &Client, count: usize) -> anyhow::Result<()> {
    quarterdeck_tests::wait::until("the agents to join", Duration::from_secs(30), || async {
        let agents = admin.gql("{ agents(status: \"ALIVE\") { id } }", json!({})).await?;
        let alive = agents["agents"].as_array().map_or(0, Vec::len);
        Ok((alive == count).then_some(()))
    })
    .await
}

async fn row(admin: &Client, name: &str) -> anyhow::Result<serde_json::Value> {
    let query = "query($f: String) { compute_session_list(limit: 1, offset: 0, filter: $f) \
                 { items { ... on ComputeSession { status containers { agent } } } } }";
    let data = admin.gql(query, json!({"f": format!("name == \"{name}\"")})).await?;
    Ok(data["compute_session_list"]["items"][0].clone())
}

async fn status(admin: &Client, name: &str) -> anyhow::Result<String> {
    Ok(row(admin, name).await?["status"].as_str().unwrap_or_default().to_owned())
}

async fn placement(admin: &Client, name: &str) -> anyhow::Result<String> {
    let row = row(admin, name).await?;
    ensure!(row["status"] == "RUNNING", "{name} is not running: {row}");
    Ok(row["containers"][0]["agent"].as_str().context("the session has no agent")?.to_owned())
}
