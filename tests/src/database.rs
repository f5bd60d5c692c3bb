//! Throw-away databases of both kinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::postgres;

/// A database for one test. It goes with its last clone; each server on it holds one.
#[derive(Clone, Debug)]
pub struct Database {
    /// What `--database` takes.
    pub url: String,
    kind: Arc<Kind>,
}

#[derive(Debug)]
enum Kind {
    Sqlite(#[allow(dead_code, reason = "held until the database goes")] tempfile::TempDir),
    Postgres { server: String, name: String },
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Database {
    /// A SQLite file in a directory of its own.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn sqlite() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("quarterdeck-db-").tempdir()?;
        Ok(Self {
            url: format!("sqlite://{}", dir.path().join("test.sqlite").display()),
            kind: Arc::new(Kind::Sqlite(dir)),
        })
    }

    /// A database on the server that `QUARTERDECK_TEST_POSTGRES` names; `None` without that variable.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn postgres() -> anyhow::Result<Option<Self>> {
        std::env::var(postgres::URL_VARIABLE).ok().map(|server| Self::postgres_on(&server)).transpose()
    }

    /// A database on the PostgreSQL server with this URL.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn postgres_on(server: &str) -> anyhow::Result<Self> {
        let name = format!("qd_it_{}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        postgres::psql(server, &format!("CREATE DATABASE {name}"))?;
        let base = server.rsplit_once('/').map_or(server, |(base, _)| base);
        let url = format!("{base}/{name}");
        Ok(Self { url, kind: Arc::new(Kind::Postgres { server: server.to_owned(), name }) })
    }

    /// Runs SQL in a PostgreSQL database, by `psql`.
    ///
    /// # Errors
    /// When a statement fails, or it is a SQLite database.
    pub fn execute(&self, sql: &str) -> anyhow::Result<()> {
        anyhow::ensure!(matches!(*self.kind, Kind::Postgres { .. }), "{} is no PostgreSQL database", self.url);
        postgres::psql(&self.url, sql)
    }

    /// One of each kind that is available here.
    ///
    /// # Errors
    /// When one can't be made.
    pub fn each() -> anyhow::Result<Vec<Self>> {
        let mut all = vec![Self::sqlite()?];
        all.extend(Self::postgres()?);
        Ok(all)
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        if let Self::Postgres { server, name } = self
            && let Err(error) = postgres::psql(server, &format!("DROP DATABASE {name} WITH (FORCE)"))
        {
            eprintln!("database {name} stays behind: {error:#}");
        }
    }
}
