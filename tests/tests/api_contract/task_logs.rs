//! What tasks of sessions have written to their logs is read from the user's folder for it.

use quarterdeck_tests::database::Database;
use quarterdeck_tests::process::Server;
use quarterdeck_tests::{ADMIN, USER};
use serde_json::json;

use crate::routes::problem;

#[tokio::test]
async fn logs_of_tasks_are_files_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sqlite().unwrap();
    let server = Server::start(&database, &dir.path().join("server")).unwrap();
    let user = server.client(USER);
    let (kernel, hex) = ("0f6c1c1e-7d0e-4a3e-9f3a-5f6f2d8d9f10", "0f6c1c1e7d0e4a3e9f3a5f6f2d8d9f10");
    let path = format!("/session/_/logs?taskId={kernel}");

    let answer = user.get(&path).await.unwrap();
    assert_eq!((answer.status.as_u16(), problem(&answer)), (404, "object-not-found"), "{answer:?}");
    assert_eq!(answer.body["data"], json!({"vfolder_name": ".logs"}));

    let folder = json!({"name": ".logs", "host": "local:volume1"});
    user.post("/folders", &folder).await.unwrap().ok().unwrap();
    let answer = user.get(&path).await.unwrap();
    assert_eq!((answer.status.as_u16(), problem(&answer)), (404, "storage-proxy-error"), "{answer:?}");

    let place = format!("task/{}/{}", &hex[..2], &hex[2..4]);
    user.post("/folders/.logs/mkdir", &json!({"path": place})).await.unwrap().ok().unwrap();
    let directory = find(&server.data_dir.join("volumes"), &place).unwrap();
    std::fs::write(directory.join(format!("{}.log", &hex[4..])), "what the task said\n").unwrap();
    for name in ["taskId", "task_id", "session_name", "sessionName"] {
        let answer = user.get(&format!("/session/_/logs?{name}={kernel}")).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.bytes[..]), (200, b"what the task said\n".as_slice()), "{name}");
    }
    let answer = server.client(ADMIN).get(&path).await.unwrap();
    assert_eq!(problem(&answer), "object-not-found", "logs are their user's: {answer:?}");
    server.assert_well().await.unwrap();
}

/// The directory below `root` whose path ends so.
fn find(root: &std::path::Path, end: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(root)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .find_map(|path| if path.ends_with(end) { Some(path) } else { find(&path, end) })
}
