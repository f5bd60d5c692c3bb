//! Connections to PostgreSQL that are given up in the middle of something, lost, or closed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use quarterdeck_store::testing::{TestDb, postgres};
use quarterdeck_store::{Options, Sql as _, Stmt, Store};

/// Another host on the database, with so few connections.
async fn host(db: &TestDb, connections: u32) -> Store {
    Store::open(&db.url, &Options { connections, ..Options::default() }).await.unwrap()
}

async fn number(store: &Store, stmt: Stmt) -> quarterdeck_store::Result<i64> {
    store.reader().fetch_one(stmt).await?.get("n")
}

/// Connections to this database beside the one that asks, and those of the test's own store.
async fn others(asker: &Store, db: &TestDb) -> i64 {
    let stmt = Stmt::new(
        "SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    db.store.close().await;
    number(asker, stmt).await.unwrap()
}

#[tokio::test]
async fn a_statement_that_was_given_up_leaves_its_connection_in_order() {
    let Some(db) = postgres().await else { return };
    let host = host(&db, 1).await;
    for i in 0..20 {
        let slow = number(&host, Stmt::new("SELECT CAST(7 AS BIGINT) AS n, pg_sleep(0.05)"));
        // At different points; on a slow machine some of them may be through.
        let _ = tokio::time::timeout(Duration::from_millis(i), slow).await;
        assert_eq!(number(&host, Stmt::new("SELECT CAST($1 AS BIGINT) AS n").bind(i as i64)).await.unwrap(), i as i64);
    }
}

#[tokio::test]
async fn a_transaction_that_was_dropped_is_undone_at_once() {
    let Some(db) = postgres().await else { return };
    let host = host(&db, 2).await;
    let insert = || Stmt::new("INSERT INTO domains (name, created_at, modified_at) VALUES ('d', 1, 1)");
    for give_up in [false, true] {
        let mut tx = host.begin().await.unwrap();
        tx.execute(insert()).await.unwrap();
        if give_up {
            let slow = tx.execute(Stmt::new("SELECT pg_sleep(2)"));
            assert!(tokio::time::timeout(Duration::from_millis(20), slow).await.is_err());
        }
        drop(tx);
        // It waits for the first one's end.
        let mut tx = host.begin().await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), tx.execute(insert())).await.unwrap().unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(number(&host, Stmt::new("SELECT COUNT(*) AS n FROM domains")).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_connection_that_was_lost_is_replaced() {
    let Some(db) = postgres().await else { return };
    let host = host(&db, 1).await;
    let me = Stmt::new("SELECT CAST(pg_backend_pid() AS BIGINT) AS n");
    let before = number(&host, me.clone()).await.unwrap();
    let end = Stmt::new("SELECT pg_terminate_backend(CAST($1 AS INT))").bind(before);
    db.store.reader().fetch_all(end).await.unwrap();
    // Whoever has it next finds that out.
    let since = Instant::now();
    let after = loop {
        match number(&host, me.clone()).await {
            Ok(after) => break after,
            Err(error) => assert!(since.elapsed() < Duration::from_secs(10), "{error}"),
        }
    };
    assert_ne!(before, after);
}

#[tokio::test]
async fn closing_waits_for_what_is_under_way_and_leaves_no_connection() {
    let Some(db) = postgres().await else { return };
    let (host, asker) = (host(&db, 4).await, host(&db, 1).await);
    let mut tx = host.begin().await.unwrap();
    number(&host, Stmt::new("SELECT CAST(1 AS BIGINT) AS n")).await.unwrap();
    let closing = tokio::spawn({
        let host = host.clone();
        async move { host.close().await }
    });
    // Nobody gets a connection any more.
    while number(&host, Stmt::new("SELECT CAST(1 AS BIGINT) AS n")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    tx.execute(Stmt::new("INSERT INTO domains (name, created_at, modified_at) VALUES ('d', 1, 1)")).await.unwrap();
    tx.commit().await.unwrap();
    closing.await.unwrap();
    assert_eq!(number(&asker, Stmt::new("SELECT COUNT(*) AS n FROM domains")).await.unwrap(), 1);
    let since = Instant::now();
    while others(&asker, &db).await > 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "connections are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
