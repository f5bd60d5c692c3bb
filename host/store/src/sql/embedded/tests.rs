#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::task::JoinHandle;

use super::*;
use crate::error::Violation;
use crate::sql::{Pools, Reader, Row, Sql as _};
use crate::{Options, Store};

struct Db {
    store: Store,
    dir: tempfile::TempDir,
}

impl Db {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let store = Store::open(&url, &Options::default()).await.unwrap();
        let table = "CREATE TABLE t (id BIGINT PRIMARY KEY, body BYTEA, CONSTRAINT small CHECK (id < 1000000000))";
        store.reader().execute(Stmt::new(table)).await.unwrap();
        Self { store, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("test.db")
    }

    fn reader(&self) -> Reader {
        self.store.reader()
    }

    async fn rows(&self) -> i64 {
        self.reader().fetch_one(Stmt::new("SELECT COUNT(*) AS n FROM t")).await.unwrap().get("n").unwrap()
    }

    /// As another process has it.
    fn elsewhere(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }

    fn lanes(&self) -> (Arc<File>, Lanes, Lanes) {
        let Pools::Sqlite { file, single, write, .. } = &self.store.pools else { unreachable!("it is SQLite") };
        (file.clone(), single.clone(), write.clone())
    }
}

fn insert(id: i64) -> Stmt {
    Stmt::new("INSERT INTO t (id) VALUES ($1)").bind(id)
}

/// Takes seconds.
fn insert_many() -> Stmt {
    Stmt::new(
        "INSERT INTO t (id) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000)
         SELECT i FROM n",
    )
}

/// Counts how often its task came by, once each millisecond at best.
fn ticker() -> (Arc<AtomicU32>, JoinHandle<()>) {
    let ticks = Arc::new(AtomicU32::new(0));
    let counted = ticks.clone();
    let task = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (ticks, task)
}

#[tokio::test]
async fn parameters_go_by_their_numbers() {
    let db = Db::new().await;
    // Several times: as what is unknown, and as what is in the connection's cache.
    for round in 0..3_i64 {
        let stmt = Stmt::new("SELECT $3 AS c, $1 AS a, $3 || $1 AS both").bind("a").bind(round).bind("c");
        let row = db.reader().fetch_one(stmt).await.unwrap();
        let get = |name: &str| row.get::<String>(name).unwrap();
        assert_eq!((get("a"), get("c"), get("both")), ("a".to_owned(), "c".to_owned(), "ca".to_owned()));
        assert_eq!(row.columns(), ["c", "a", "both"]);
    }
    let marks: Vec<String> = (1..=300).rev().map(|i| format!("${i}")).collect();
    let stmt = Stmt::assembled(format!("SELECT {} AS first, $12 AS twelve", marks.join(" * 0 + ")));
    let row = db.reader().fetch_one(stmt.bind_all((1..=300_i64).map(crate::Value::from))).await.unwrap();
    assert_eq!((row.get::<i64>("first").unwrap(), row.get::<i64>("twelve").unwrap()), (1, 12));

    for unbound in ["SELECT $2 AS a", "SELECT $0 AS a", "SELECT ? AS a", "SELECT $x AS a"] {
        let error = db.reader().fetch_all(Stmt::new(unbound).bind(1_i64)).await.unwrap_err();
        assert!(matches!(error, Error::Sqlite(rusqlite::Error::InvalidParameterName(_))), "{unbound}: {error}");
    }
    // What a statement was given isn't there when it is run again.
    let stmt = || Stmt::new("SELECT $1 AS a");
    db.reader().fetch_all(stmt().bind("secret")).await.unwrap();
    db.reader().fetch_all(stmt()).await.unwrap_err();
}

#[tokio::test]
async fn each_type_reads_back_and_no_other() {
    let db = Db::new().await;
    let types = "CREATE TABLE types (t TEXT, i BIGINT, r DOUBLE PRECISION, b BOOLEAN, y BYTEA, n TEXT)";
    db.reader().execute(Stmt::new(types)).await.unwrap();
    let stmt = Stmt::new("INSERT INTO types (t, i, r, b, y, n) VALUES ($1, $2, $3, $4, $5, $6)");
    let stmt = stmt.bind("ä\u{1F600}").bind(i64::MIN).bind(2.0).bind(true).bind(vec![0_u8, 255]).bind(None::<String>);
    assert_eq!(db.reader().execute(stmt).await.unwrap(), 1);
    let row: Row = db.reader().fetch_one(Stmt::new("SELECT * FROM types")).await.unwrap();
    assert_eq!(row.get::<String>("t").unwrap(), "ä\u{1F600}");
    assert_eq!(row.get::<i64>("i").unwrap(), i64::MIN);
    assert!((row.get::<f64>("r").unwrap() - 2.0).abs() < f64::EPSILON);
    assert!(row.get::<bool>("b").unwrap());
    assert_eq!(row.get::<Vec<u8>>("y").unwrap(), [0, 255]);
    assert_eq!(row.get::<Option<String>>("n").unwrap(), None);
    assert_eq!(row.get::<Option<Vec<u8>>>("y").unwrap(), Some(vec![0, 255]));

    let wrong = [
        row.get::<i64>("t").unwrap_err(),
        row.get::<i32>("i").unwrap_err(),
        row.get::<String>("n").unwrap_err(),
        row.get::<bool>("y").unwrap_err(),
        row.get::<String>("nothing").unwrap_err(),
    ];
    for error in wrong {
        assert!(matches!(error, Error::Sqlite(_)), "{error}");
    }
    // Of two columns of one name it is the last one, as with PostgreSQL.
    let row = db.reader().fetch_one(Stmt::new("SELECT 1 AS a, 2 AS a, 3 AS ab")).await.unwrap();
    assert_eq!(row.get::<i64>("a").unwrap(), 2);
}

#[tokio::test]
async fn columns_are_those_that_the_table_has_now() {
    let db = Db::new().await;
    db.reader().execute(insert(1)).await.unwrap();
    let columns = || async { db.reader().fetch_one(Stmt::new("SELECT * FROM t")).await.unwrap().columns() };
    assert_eq!(columns().await, ["id", "body"]);
    db.elsewhere().execute_batch("ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'x'").unwrap();
    assert_eq!(columns().await, ["id", "body", "more"]);
}

#[tokio::test]
async fn nul_is_refused_before_anything_runs() {
    let db = Db::new().await;
    let stmt = || Stmt::new("INSERT INTO t (id, body) VALUES (1, $1)").bind("a\0b");
    assert!(matches!(db.reader().execute(stmt()).await, Err(Error::NulInText)));
    let mut tx = db.store.begin().await.unwrap();
    assert!(matches!(tx.execute(stmt()).await, Err(Error::NulInText)));
    tx.execute(insert(2)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.rows().await, 1);
}

#[tokio::test]
async fn violations_are_told_apart() {
    let db = Db::new().await;
    db.reader().execute(insert(1)).await.unwrap();
    db.reader().execute(Stmt::new("CREATE TABLE c (id BIGINT NOT NULL REFERENCES t (id))")).await.unwrap();
    let child = |id: Option<i64>| Stmt::new("INSERT INTO c (id) VALUES ($1)").bind(id);
    for (stmt, kind, name) in [
        (insert(1), Violation::Unique, "t.id"),
        (insert(2_000_000_000), Violation::Check, "small"),
        (child(None), Violation::NotNull, "c.id"),
        (child(Some(2)), Violation::ForeignKey, "FOREIGN KEY"),
    ] {
        let error = db.reader().execute(stmt).await.unwrap_err();
        let (found, told) = error.violation().unwrap();
        assert_eq!(found, kind, "{told}");
        assert!(told.contains(name), "{told}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn what_changes_nothing_says_so() {
    let db = Db::new().await;
    let mut tx = db.store.begin().await.unwrap();
    assert_eq!(tx.execute(insert(1)).await.unwrap(), 1);
    assert_eq!(tx.execute(Stmt::new("SELECT 1")).await.unwrap(), 0);
    tx.begin_part().await.unwrap();
    assert_eq!(tx.execute(Stmt::new("UPDATE t SET id = id + 1")).await.unwrap(), 1);
    tx.end_part(false).await.unwrap();
    assert_eq!(tx.execute(Stmt::new("DELETE FROM t WHERE id = 2")).await.unwrap(), 0);
    tx.commit().await.unwrap();
    // Rows of a statement that writes come from the only writer, too.
    let stmt = Stmt::new("DELETE FROM t WHERE id > 0 RETURNING id");
    assert_eq!(db.reader().fetch_optional(stmt).await.unwrap().unwrap().get::<i64>("id").unwrap(), 1);
    assert_eq!(db.rows().await, 0);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_undone() {
    let db = Db::new().await;
    for _ in 0..3 {
        let mut tx = db.store.begin().await.unwrap();
        tx.execute(insert(1)).await.unwrap();
        drop(tx);
    }
    let mut tx = db.store.begin().await.unwrap();
    tx.execute(insert(1)).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(db.rows().await, 0);
    // Also after SQLite has done so itself.
    let mut tx = db.store.begin().await.unwrap();
    tx.execute(Stmt::new("INSERT OR ROLLBACK INTO t (id) VALUES (2000000000)")).await.unwrap_err();
    tx.rollback().await.unwrap();
    // Its lock is free as well.
    db.elsewhere().execute("INSERT INTO t (id) VALUES (2)", []).unwrap();
    assert_eq!(db.rows().await, 1);
}

#[tokio::test]
async fn a_statement_that_nobody_waits_for_ends_alone_and_is_undone() {
    let db = Db::new().await;
    let mut tx = db.store.begin().await.unwrap();
    tx.execute(insert(1_000_000)).await.unwrap();
    tokio::time::timeout(Duration::from_millis(5), tx.execute(insert_many())).await.unwrap_err();
    // The rest mustn't be written without it.
    assert!(matches!(tx.execute(insert(1_000_001)).await, Err(Error::GivenUp)));
    assert!(matches!(tx.commit().await, Err(Error::GivenUp)));
    // The next writer begins when the statement has ended.
    let mut tx = db.store.begin().await.unwrap();
    assert_eq!(tx.execute(insert(1)).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(db.rows().await, 1);
    let (_, _, write) = db.lanes();
    assert_eq!(write.idle(), 1, "the only writer came back");
}

#[tokio::test]
async fn what_sqlite_has_undone_itself_is_not_continued() {
    let db = Db::new().await;
    let mut tx = db.store.begin().await.unwrap();
    tx.execute(insert(1)).await.unwrap();
    tx.execute(Stmt::new("INSERT OR ROLLBACK INTO t (id) VALUES (1)")).await.unwrap_err();
    assert!(matches!(tx.execute(insert(2)).await, Err(Error::GivenUp)));
    assert!(matches!(tx.commit().await, Err(Error::GivenUp)));
    assert_eq!(db.rows().await, 0);
}

#[tokio::test]
async fn long_statements_leave_the_thread_to_others() {
    let db = Db::new().await;
    let (ticks, task) = ticker();
    assert_eq!(db.reader().execute(insert_many()).await.unwrap(), 400_000);
    assert!(ticks.load(Ordering::Relaxed) > 20, "{ticks:?}");
    // So do many short ones.
    db.reader().fetch_all(insertless()).await.unwrap();
    ticks.store(0, Ordering::Relaxed);
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        db.reader().fetch_all(insertless()).await.unwrap();
    }
    assert!(ticks.load(Ordering::Relaxed) > 3, "{ticks:?}");
    task.abort();
}

fn insertless() -> Stmt {
    Stmt::new("SELECT id FROM t WHERE id = $1").bind(17_i64)
}

#[tokio::test]
async fn another_processs_lock_is_waited_for_by_tasks() {
    let db = Db::new().await;
    // Known to be short, so that it is tried in place.
    for id in 0..10 {
        db.reader().execute(insert(id)).await.unwrap();
    }
    let other = db.elsewhere();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t (id) VALUES (100)").unwrap();
    let (ticks, task) = ticker();
    let single = tokio::spawn({
        let mut reader = db.reader();
        async move { reader.execute(insert(101)).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!single.is_finished());
    assert!(ticks.load(Ordering::Relaxed) > 20, "{ticks:?}");
    // Who reads doesn't wait.
    assert_eq!(db.rows().await, 10);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(single.await.unwrap().unwrap(), 1);

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        other.execute_batch("ROLLBACK").unwrap();
    });
    let mut tx = db.store.begin().await.unwrap();
    tx.execute(insert(102)).await.unwrap();
    tx.commit().await.unwrap();
    release.join().unwrap();
    assert_eq!(db.rows().await, 13);
    task.abort();
}

#[tokio::test]
async fn closing_waits_for_who_is_at_work() {
    let db = Db::new().await;
    let mut tx = db.store.begin().await.unwrap();
    tx.execute(insert(1)).await.unwrap();
    let (_, single, _) = db.lanes();
    let lane = single.take().await.unwrap();
    let closing = tokio::spawn({
        let store = db.store.clone();
        async move { store.close().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(lane);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!closing.is_finished());
    tx.commit().await.unwrap();
    closing.await.unwrap();
    assert!(matches!(db.reader().fetch_all(insertless()).await, Err(Error::Sqlx(sqlx::Error::PoolClosed))));
    assert!(matches!(db.store.begin().await, Err(Error::Sqlx(sqlx::Error::PoolClosed))));
    // The file is whole by itself.
    let names: Vec<_> = std::fs::read_dir(db.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["test.db"]);
    let rows: i64 = db.elsewhere().query_row("SELECT COUNT(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn the_log_is_copied_and_begins_anew() {
    let db = Db::new().await;
    // Far more pages than the log may have, at 256 pages a statement.
    for id in 0..60 {
        let stmt = Stmt::new("INSERT INTO t (id, body) VALUES ($1, $2)").bind(id).bind(vec![7; 1 << 20]);
        db.reader().execute(stmt).await.unwrap();
    }
    let log = || std::fs::metadata(db.dir.path().join("test.db-wal")).unwrap().len();
    assert!(log() < 50 << 20, "the log has {} bytes", log());
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(db.path()).unwrap().len() < 40 << 20 {
        assert!(Instant::now() < deadline, "the log isn't copied");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(db.rows().await, 60);
}

#[tokio::test]
async fn nothing_is_copied_into_a_closed_file() {
    let db = Db::new().await;
    let (file, ..) = db.lanes();
    db.store.close().await;
    std::fs::remove_file(db.path()).unwrap();
    file.copy_wal(false);
    file.connect().await.unwrap_err();
    assert!(!db.path().exists(), "only its first connection makes a file");
}

#[tokio::test]
async fn a_file_that_cant_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "no database, but more than its header would be: ".repeat(4)).unwrap();
    for (path, why) in [(text, "not a database"), (dir.path().join("none/x.db"), "unable to open")] {
        let error = Store::open(&format!("sqlite://{}", path.display()), &Options::default()).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&path.display().to_string()) && said.contains(why), "{said}");
    }
    let error = Store::open("sqlite::memory:", &Options::default()).await.unwrap_err().to_string();
    assert!(error.contains("write-ahead log is impossible"), "{error}");
}
