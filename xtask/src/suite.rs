//! `cargo xtask test`: everything, on both databases.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use quarterdeck_tests::database::Database;
use quarterdeck_tests::engine::{self, Engine};
use quarterdeck_tests::postgres::{Cluster, URL_VARIABLE};
use quarterdeck_tests::process::{Server, quarterdeck};
use quarterdeck_tests::{ADMIN, root};

use crate::prerequisites::{ClientVenv, container_engine, postgresql, wasm_target};
use crate::run::{cargo, run, say, step, timed};

/// What is built and tried, libraries included unless they say that they have no tests. Benchmarks are for `bench`, and
/// nothing in the documentation of these crates is run.
const TARGETS: [&str; 2] = ["--bins", "--tests"];

/// Runs all tests.
pub(crate) fn run_all(long: bool) -> anyhow::Result<()> {
    let start = Instant::now();
    wasm_target()?;
    postgresql()?;
    let venv = ClientVenv::ready()?;
    crate::guests::build()?;
    let tools = crate::authors::Tools::ready()?;
    crate::authors::examples(&tools)?;
    timed("Building", || run(cargo().args(["build", "--workspace", "--locked"]).args(TARGETS)))?;

    crate::authors::play_examples()?;
    crate::authors::templates(&tools)?;

    step("Starting a private PostgreSQL");
    let cluster = Cluster::start()?;
    say(&cluster.url());
    let engine = container_engine();

    let scale = if long { "long" } else { "ci" };
    timed("Tests of every crate, and of real processes", || {
        let mut tests = cargo();
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(TARGETS);
        tests.env(URL_VARIABLE, cluster.url()).env("QUARTERDECK_TEST_SCALE", scale);
        tests.env("QUARTERDECK_TEST_PYTHON", venv.python());
        if let Some(engine) = &engine {
            tests.env(engine::SOCKET_VARIABLE, engine.socket());
        }
        run(&mut tests)
    })?;

    for kind in ["sqlite", "postgres"] {
        timed(&format!("The official client's conformance suite on {kind}"), || {
            let database = match kind {
                "sqlite" => Database::sqlite()?,
                _ => on_cluster(&cluster)?,
            };
            conformance(&venv, &database, Kernels::Processes, &[])
        })?;
    }
    if let Some(socket) = engine.as_ref().map(Engine::socket).or_else(engine::found) {
        timed("The official client's conformance suite with containers", || {
            conformance(&venv, &Database::sqlite()?, Kernels::Containers(&socket), &[])
        })?;
    }
    step(&format!("All tests passed in {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// What authors of policies get, alone.
pub(crate) fn authors_alone() -> anyhow::Result<()> {
    crate::guests::build()?;
    let tools = crate::authors::Tools::ready()?;
    crate::authors::examples(&tools)?;
    timed("Building", || run(cargo().args(["build", "--package", "quarterdeck"])))?;
    crate::authors::play_examples()?;
    crate::authors::templates(&tools)
}

/// Where kernels of the conformance suite run.
#[derive(Clone, Copy)]
enum Kernels<'a> {
    Processes,
    /// Of the engine at that socket.
    Containers(&'a Path),
}

/// The conformance suite alone, with arguments for pytest.
pub(crate) fn conformance_alone(kind: &str, runtime: &str, pytest: &[String]) -> anyhow::Result<()> {
    wasm_target()?;
    let venv = ClientVenv::ready()?;
    timed("Building", || run(cargo().args(["build", "--package", "quarterdeck"])))?;
    let (engine, socket);
    let kernels = match runtime {
        "process" => Kernels::Processes,
        "docker" => {
            engine = container_engine();
            socket = engine.as_ref().map(Engine::socket).or_else(engine::found).context("there is no engine")?;
            Kernels::Containers(&socket)
        }
        other => bail!("--runtime {other}: use process or docker"),
    };
    let conformance = |venv: &ClientVenv, database: &Database| conformance(venv, database, kernels, pytest);
    match kind {
        "sqlite" => conformance(&venv, &Database::sqlite()?),
        "postgres" => {
            postgresql()?;
            let cluster = Cluster::start()?;
            conformance(&venv, &on_cluster(&cluster)?)
        }
        other => bail!("--database {other}: use sqlite or postgres"),
    }
}

fn on_cluster(cluster: &Cluster) -> anyhow::Result<Database> {
    Database::postgres_on(&cluster.url())
}

/// Starts server and agent and lets the official client judge them.
fn conformance(venv: &ClientVenv, database: &Database, kernels: Kernels<'_>, pytest: &[String]) -> anyhow::Result<()> {
    let suite = root().join("tests/conformance");
    let seed: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(suite.join("seed.json"))?)?;
    let dir = tempfile::Builder::new().prefix("quarterdeck-conformance-").tempdir()?;
    let server = Server::start(database, &dir.path().join("server"))?;
    let (slots, home) = ("cpu=8,mem=16g", dir.path().join("agent"));
    let _agent = match kernels {
        Kernels::Processes => server.agent("i-conformance", "process", slots, &home)?,
        Kernels::Containers(socket) => {
            // The images are ours, whatever digests the seed gives them.
            let setting = ["config", "set", "config/docker/image/auto_pull", "tag", "--database", &database.url];
            quarterdeck(&setting, &[])?;
            let names: Vec<&str> =
                seed["images"].as_array().into_iter().flatten().filter_map(|image| image["name"].as_str()).collect();
            engine::make_image(socket, &venv.python(), &names)?;
            server.contained_agent("i-conformance", socket, slots, &home)?
        }
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let admin = server.client(ADMIN);
        quarterdeck_tests::wait::until("the agent to join", Duration::from_secs(30), || async {
            let agents = admin.gql("{ agents(status: \"ALIVE\") { id } }", serde_json::json!({})).await?;
            Ok(agents["agents"].as_array().filter(|a| !a.is_empty()).map(|_| ()))
        })
        .await
    })?;

    let mut command = Command::new(venv.python());
    command.current_dir(&suite).args(["-m", "pytest", "-q", "--timeout", "90", "-p", "no:cacheprovider"]);
    for (name, value) in seed["environment"].as_object().context("`environment` in seed.json")? {
        command.env(name, value.as_str().unwrap_or_default());
    }
    command.env("CONF_ENDPOINT", &server.url).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args(pytest);
    if let Err(error) = run(&mut command) {
        println!("{}", server.process.tail());
        return Err(error);
    }
    Ok(())
}
