//! Databases for tests: made on demand, migrated, gone with their last handle.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::Notify;

use crate::{Dialect, Options, Store};

/// Names the server on which tests may create PostgreSQL databases, as a URL.
pub const POSTGRES_VARIABLE: &str = "QUARTERDECK_TEST_POSTGRES";

/// Stops a host at a write to its database as `kill -9` would: whatever comes to that point stands still for ever.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<Wick>);

#[derive(Debug)]
struct Wick {
    /// Points that are still passed; negative: it isn't lit.
    left: AtomicI64,
    blown: Notify,
}

impl Default for Wick {
    fn default() -> Self {
        Self { left: AtomicI64::new(-1), blown: Notify::new() }
    }
}

impl Fuse {
    /// Lights it: `points` points are still passed.
    pub fn light(&self, points: u32) {
        self.0.left.store(i64::from(points), Ordering::SeqCst);
    }

    /// Puts it out, unless it has blown.
    pub fn put_out(&self) {
        let _ = self.0.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| (left > 0).then_some(-1));
    }

    /// Whether it has blown.
    pub fn has_blown(&self) -> bool {
        self.0.left.load(Ordering::SeqCst) == 0
    }

    /// Resolves when it blows.
    pub async fn blown(&self) {
        self.0.blown.notified().await;
    }

    /// A point where the host may die.
    pub(crate) async fn burn(&self) {
        let step = |left| if left > 0 { Some(left - 1) } else { None };
        if self.0.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step).is_err_and(|left| left < 0) {
            return;
        }
        if self.has_blown() {
            self.0.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

enum Cleanup {
    Directory(PathBuf),
    Database { server: String, name: String },
}

/// A database of one test. Keep it as long as the store is in use.
pub struct TestDb {
    /// The open, migrated, empty store.
    pub store: Store,
    /// Where it is, for those who open it again.
    pub url: String,
    cleanup: Cleanup,
}

impl std::fmt::Debug for TestDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDb").field("url", &self.url).finish_non_exhaustive()
    }
}

impl TestDb {
    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        self.store.dialect()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        match &self.cleanup {
            Cleanup::Directory(dir) => {
                let _ = std::fs::remove_dir_all(dir);
            }
            Cleanup::Database { server, name } => {
                let (server, drop) = (server.clone(), format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"));
                // The test's runtime can't be waited for from here; it may be ending, too.
                let cleaner = std::thread::spawn(move || {
                    let Ok(rt) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
                    rt.block_on(async {
                        if let Ok(mut connection) = PgConnection::connect(&server).await {
                            let _ = sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await;
                        }
                    });
                });
                let _ = cleaner.join();
            }
        }
    }
}

/// An empty SQLite database in a temporary directory.
///
/// # Panics
/// When it can't be made: tests can't go on then.
#[allow(clippy::expect_used, reason = "a helper of tests")]
pub async fn sqlite() -> TestDb {
    let dir = std::env::temp_dir().join(format!("quarterdeck-test-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&dir).expect("a temporary directory can be made");
    let url = format!("sqlite://{}", dir.join("test.db").display());
    let store = Store::open(&url, &Options::default()).await.expect("SQLite opens");
    store.migrate().await.expect("the migrations run on SQLite");
    TestDb { store, url, cleanup: Cleanup::Directory(dir) }
}

/// An empty PostgreSQL database on the server that [`POSTGRES_VARIABLE`] names; `None` when it is not set.
///
/// # Panics
/// When it can't be made: tests can't go on then.
#[allow(clippy::expect_used, reason = "a helper of tests")]
pub async fn postgres() -> Option<TestDb> {
    let server = std::env::var(POSTGRES_VARIABLE).ok().filter(|url| !url.is_empty())?;
    let name = format!("qd_test_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&server).await.expect("the test server answers");
    // template0 is never in use, so that tests can do this at the same time.
    let create = format!("CREATE DATABASE \"{name}\" TEMPLATE template0");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.expect("a database can be created");
    let _ = connection.close().await;
    let (base, query) = server.split_once('?').map_or((server.as_str(), None), |(b, q)| (b, Some(q)));
    let authority = base.find("://").map_or(0, |i| i + 3);
    let root = base[authority..].find('/').map_or(base, |i| &base[..authority + i]);
    let url = format!("{root}/{name}{}", query.map(|q| format!("?{q}")).unwrap_or_default());
    let store = Store::open(&url, &Options { connections: 4, ..Options::default() }).await.expect("PostgreSQL opens");
    store.migrate().await.expect("the migrations run on PostgreSQL");
    Some(TestDb { store, url, cleanup: Cleanup::Database { server, name } })
}

/// An empty database of every kind there is here.
///
/// # Panics
/// As [`sqlite`] and [`postgres`].
pub async fn databases() -> Vec<TestDb> {
    let mut all = vec![sqlite().await];
    all.extend(postgres().await);
    all
}
