//! The official client's command line, unmodified, against real processes on both databases.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quarterdeck_tests::database::Database;
use quarterdeck_tests::official::{OfficialClient, PYTHON_VARIABLE};
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, PYTHON_IMAGE, USER};

/// The session that the client told of.
fn session_id(output: &str) -> String {
    output.split_whitespace().find(|w| w.len() == 36 && w.matches('-').count() == 4).unwrap().to_owned()
}

async fn whole_life(database: Database) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start(&database, &dir.path().join("server"))?;
    let Some(cli) = OfficialClient::installed(&server.url, USER, &dir.path().join("home"))? else {
        eprintln!("skipped: {PYTHON_VARIABLE} doesn't name a Python that has the official client");
        return Ok(());
    };
    let _agent = server.agent("i-official", "process", "cpu=4,mem=4g", &dir.path().join("agent"))?;
    server.client(ADMIN).await_agents(1).await?;
    let user = server.client(USER);

    let size = ["-r", "cpu=1", "-r", "mem=512m"];
    let created = cli.run(&[&["session", "create", "--name", "first"], &size[..], &[PYTHON_IMAGE]].concat())?.ok()?;
    let id = session_id(&created);
    assert!(created.contains("is created and ready"), "{created}");

    // The same name again is the same session.
    let again = cli.run(&[&["session", "create", "--name", "first"], &size[..], &[PYTHON_IMAGE]].concat())?.ok()?;
    assert!(again.contains(&id) && again.contains("already running"), "{again}");

    // Code runs in it, and what it leaves stays.
    let ran = cli.run(&["run", "--name", "first", "-c", "x = 6 * 7; print('hello', x)", PYTHON_IMAGE])?.ok()?;
    assert!(
        ran.contains("Reusing session first") && ran.contains("hello 42\n") && ran.contains("exit code = 0"),
        "{ran}"
    );

    // The client itself ends well; it shows how the code ended.
    let ran = cli.run(&["run", "--name", "first", "-c", "raise ValueError(f'boom {x}')", PYTHON_IMAGE])?.ok()?;
    assert!(ran.contains("ValueError: boom 42") && ran.contains("exit code = 1"), "{ran}");
    let ran = cli.run(&["run", "--name", "first", "-c", "import sys; sys.exit(3)", PYTHON_IMAGE])?.ok()?;
    assert!(ran.contains("exit code = 3"), "{ran}");

    let listed = cli.run(&["ps"])?.ok()?;
    assert!(listed.contains(&id) && listed.contains("RUNNING") && listed.contains(PYTHON_IMAGE), "{listed}");
    let names = cli.run(&["session", "list", "--name-only"])?.ok()?;
    assert!(names.lines().any(|l| l.trim() == "first"), "{names}");

    let info = cli.run(&["session", "info", &id])?.ok()?;
    assert!(info.contains("first") && info.contains("RUNNING") && info.contains("i-official"), "{info}");

    let logs = cli.run(&["session", "logs", "first"])?.ok()?;
    assert!(
        logs.contains("hello 42") && logs.contains("ValueError: boom 42") && logs.contains("End of logs"),
        "{logs}"
    );

    let renamed = cli.run(&["session", "rename", "first", "second"])?.ok()?;
    assert!(renamed.contains("Session renamed to second"), "{renamed}");
    let listed = cli.run(&["ps", "--plain"])?.ok()?;
    assert!(listed.contains("second") && !listed.contains("first"), "{listed}");

    // A batch session ends by itself.
    let batch = ["session", "create", "--type", "batch", "-c", "echo from the batch", "--name", "batch"];
    let created = cli.run(&[&batch[..], &size[..], &[PYTHON_IMAGE]].concat())?.ok()?;
    user.await_status(&session_id(&created), &["TERMINATED"], Duration::from_secs(30)).await?;
    let dead = cli.run(&["ps", "--dead", "--plain"])?.ok()?;
    let row = dead.lines().find(|l| l.starts_with("batch")).unwrap();
    assert!(row.contains("TERMINATED") && row.contains("SUCCESS") && row.contains("task-finished"), "{row}");
    let logs = cli.run(&["session", "logs", "batch"])?.ok()?;
    assert!(logs.contains("from the batch"), "{logs}");

    let destroyed = cli.run(&["session", "destroy", "second"])?.ok()?;
    assert!(destroyed.contains("Done"), "{destroyed}");
    user.await_status(&id, &["TERMINATED"], Duration::from_secs(30)).await?;
    let dead = cli.run(&["ps", "--dead"])?.ok()?;
    assert!(dead.contains("second") && dead.contains("user-requested"), "{dead}");

    assert_eq!(server.logged_errors()?, [""; 0]);

    // Mistakes are told.
    let unknown = cli.run(&["session", "destroy", "nothing-there"])?;
    assert_eq!(unknown.code, Some(1), "{}", unknown.output);
    assert!(unknown.output.contains("No such session"), "{}", unknown.output);
    let image = cli.run(&["session", "create", "--name", "wrong", "no-such/image:1"])?;
    assert_eq!(image.code, Some(1), "{}", image.output);
    assert!(image.output.contains("404") && image.output.contains("image"), "{}", image.output);
    Ok(())
}

#[tokio::test]
async fn a_session_lives_on_sqlite() {
    whole_life(Database::sqlite().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_session_lives_on_postgresql() {
    if let Some(database) = Database::postgres().unwrap() {
        whole_life(database).await.unwrap();
    }
}
