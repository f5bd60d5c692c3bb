//! The database: the truth that every loop of the host looks at.
//!
//! One module per aggregate; each offers plain `async fn`s over [`Sql`] (a [`Tx`] or a [`Reader`]).
//! This crate knows rows and statements, and no policy.

pub mod agents;
pub mod audit;
pub mod background_tasks;
pub mod backup;
pub mod callbacks;
mod changes;
pub mod check;
pub mod clusters;
pub mod config;
pub mod connections;
pub mod domains;
pub mod dotfiles;
pub mod drops;
pub mod endpoints;
mod error;
pub mod error_logs;
pub mod events;
pub mod history;
pub mod idle;
pub mod images;
pub mod kernels;
pub mod keypairs;
pub mod listing;
pub mod lists;
pub mod live;
pub mod locks;
pub mod meta;
mod migrate;
pub mod notices;
pub mod occupancy;
pub mod plugins;
pub mod presets;
pub mod projects;
pub mod reference;
pub mod resource_policies;
pub mod revisions;
pub mod rounds;
pub mod scaling_groups;
pub mod schedule;
mod schema;
pub mod sessions;
mod set;
pub mod shadow;
pub mod signatures;
pub mod sql;
pub mod templates;
pub mod testing;
mod update;
pub mod usage;
pub mod usage_records;
pub mod users;
pub mod vfolders;
pub mod work;

pub use error::{Error, Result, Violation};
pub use sql::{Dialect, Reader, Row, Sql, Stmt, Tx, Value};

/// How to open a database.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at most (PostgreSQL; SQLite uses one writer and up to four readers).
    pub connections: u32,
    /// SQLite: survive power cuts too (`synchronous=FULL`), at the cost of a disk flush per commit.
    pub sync_full: bool,
    /// SQLite, for tests: where the host that opened it dies.
    pub fuse: Option<testing::Fuse>,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 16, sync_full: false, fuse: None }
    }
}

/// An open database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pools: sql::Pools,
    counter: sql::Counter,
    reader: Reader,
}

impl Store {
    /// Opens `sqlite://PATH` (created when missing) or `postgres://…`.
    ///
    /// # Errors
    /// [`Error::BadUrl`] for another scheme, [`Error::Sqlx`] when it can't be opened.
    pub async fn open(url: &str, options: &Options) -> Result<Self> {
        let (pools, counter) = (sql::Pools::open(url, options).await?, sql::Counter::default());
        let reader = Reader(std::sync::Arc::new(sql::Reading { pools: pools.clone(), counter: counter.clone() }));
        Ok(Self { pools, counter, reader })
    }

    /// Brings the schema up to this release. Idempotent; safe to run from several hosts at once.
    ///
    /// # Errors
    /// [`Error::Migrate`].
    pub async fn migrate(&self) -> Result<()> {
        migrate::run(&self.pools).await
    }

    /// Ends all connections; a database file is then whole by itself.
    pub async fn close(&self) {
        self.pools.close().await;
    }

    /// The database behind it.
    pub fn dialect(&self) -> Dialect {
        self.pools.dialect()
    }

    /// How many statements ran since this store was opened. What lists cost is tested with it.
    pub fn statements(&self) -> u64 {
        self.counter.get()
    }

    /// Reads outside a transaction.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Starts a write transaction. With SQLite it holds the only writer until it ends: do no I/O in between.
    /// What it changes is told to the audit as the act that is under way ([`audit::scope`]), if there is one.
    ///
    /// # Errors
    /// [`Error::Sqlx`].
    pub async fn begin(&self) -> Result<Tx> {
        self.pools.begin(audit::current(), self.counter.clone()).await
    }

    /// As [`Store::begin`], for what is the host's own bookkeeping (counters, marks) even when somebody's request brings
    /// it about: it is nobody's act, so the audit doesn't tell of it.
    ///
    /// # Errors
    /// [`Error::Sqlx`].
    pub async fn begin_bookkeeping(&self) -> Result<Tx> {
        self.pools.begin(None, self.counter.clone()).await
    }

    /// Starts a read transaction: all its statements see one and the same state, and it blocks nobody.
    ///
    /// # Errors
    /// [`Error::Sqlx`].
    pub async fn begin_read(&self) -> Result<Tx> {
        self.pools.begin_read(self.counter.clone()).await
    }

    /// This host's part in choosing who leads which loop.
    pub fn leadership(&self) -> locks::Leadership {
        locks::Leadership::new(self)
    }
}
