//! One way to talk to two databases.
//!
//! Statements are written once, with numbered parameters (`$1`), in the SQL that SQLite and
//! PostgreSQL share. Only five column types exist (`TEXT`, `BIGINT`, `DOUBLE PRECISION`, `BOOLEAN`,
//! `BYTEA`), so that a value reads back alike from both: ids and JSON documents are `TEXT`,
//! instants are `BIGINT` microseconds since the Unix epoch. Where the dialects part, the pair of
//! texts stands side by side in [`Stmt::dialect`].
//!
//! How many rows are wanted is bound as `LIMIT CAST($1 AS BIGINT)`: SQLite looks at the value of a bare `LIMIT $1` when it
//! plans, and plans again each time that it is bound, which costs more than many a statement.

mod embedded;
mod row;
mod served;
mod tx;

use std::borrow::Cow;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;

use crate::audit::Act;
use crate::changes::Change;
use crate::error::{Error, Result};
use crate::set;
use crate::testing::Fuse;

use embedded::Lanes;
pub(crate) use embedded::{Connection, File};
pub use row::{Cell, Row, SqliteRow};
use served::Served;
pub(crate) use served::WATCHFUL;
pub use tx::Tx;
use tx::TxInner;

/// Which database a statement runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The embedded default.
    Sqlite,
    /// For several hosts.
    Postgres,
}

/// A typed parameter; `None` is SQL `NULL` of that type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `TEXT`
    Text(Option<String>),
    /// `BIGINT`
    Int(Option<i64>),
    /// `DOUBLE PRECISION`
    Real(Option<f64>),
    /// `BOOLEAN`
    Bool(Option<bool>),
    /// `BYTEA`
    Bytes(Option<Vec<u8>>),
}

macro_rules! values {
    ($($variant:ident <- $($ty:ty => $conv:expr),+;)+) => {$($(
        impl From<$ty> for Value {
            fn from(v: $ty) -> Self { Value::$variant(Some(($conv)(v))) }
        }
        impl From<Option<$ty>> for Value {
            fn from(v: Option<$ty>) -> Self { Value::$variant(v.map($conv)) }
        }
    )+)+};
}
values! {
    Text <- String => |v| v, &str => |v: &str| v.to_owned(), &String => |v: &String| v.clone(),
            serde_json::Value => |v: serde_json::Value| v.to_string(),
            &serde_json::Value => |v: &serde_json::Value| v.to_string();
    Int <- i64 => |v| v, i32 => i64::from, u32 => i64::from;
    Real <- f64 => |v| v;
    Bool <- bool => |v| v;
    Bytes <- Vec<u8> => |v| v, &[u8] => |v: &[u8]| v.to_vec();
}

/// A statement and its parameters.
#[derive(Clone, Debug)]
pub struct Stmt {
    sqlite: Cow<'static, str>,
    postgres: Option<Cow<'static, str>>,
    args: Vec<Value>,
}

impl Stmt {
    /// A statement that both databases understand.
    pub fn new(sql: &'static str) -> Self {
        Self { sqlite: sql.into(), postgres: None, args: Vec::new() }
    }

    /// A statement whose text differs between the databases. Parameters are shared.
    pub fn dialect(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite: sqlite.into(), postgres: Some(postgres.into()), args: Vec::new() }
    }

    /// This statement, with `suffix` appended where it runs on PostgreSQL (row locks: SQLite's only
    /// writer needs none).
    #[must_use]
    pub fn on_postgres(mut self, suffix: &str) -> Self {
        let sql = self.postgres.as_deref().unwrap_or(&self.sqlite);
        self.postgres = Some(format!("{sql} {suffix}").into());
        self
    }

    /// A statement assembled from fixed fragments. Never put user text in `sql`: bind it.
    pub fn assembled(sql: String) -> Self {
        Self { sqlite: sql.into(), postgres: None, args: Vec::new() }
    }

    /// As [`Stmt::dialect`], assembled from fixed fragments.
    pub fn assembled_dialect(sqlite: String, postgres: String) -> Self {
        Self { sqlite: sqlite.into(), postgres: Some(postgres.into()), args: Vec::new() }
    }

    /// A statement over a list of texts, bound as parameter `$1`: `{list}` in `sql` stands for it, as in
    /// `WHERE id IN {list}`.
    pub fn among<T: std::fmt::Display>(sql: &str, members: impl IntoIterator<Item = T>) -> Self {
        // No stored text has a NUL, so a member with one matches nothing; PostgreSQL couldn't read the list.
        let members: Vec<String> = members.into_iter().map(|m| m.to_string()).filter(|m| !m.contains('\0')).collect();
        Self::assembled_dialect(set::with_list(sql, Dialect::Sqlite), set::with_list(sql, Dialect::Postgres))
            .bind(serde_json::Value::from(members))
    }

    /// Binds the next numbered parameter.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Binds several parameters, in order.
    #[must_use]
    pub fn bind_all(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.args.extend(values);
        self
    }

    /// Whether a statement that yields rows changes some, too (`… RETURNING`).
    fn writes(&self) -> bool {
        let text = self.sqlite.trim_start();
        let begins = |word: &str| text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
        ["INSERT", "UPDATE", "DELETE"].into_iter().any(begins) || (begins("WITH") && text.contains("RETURNING"))
    }

    fn into_parts(self, dialect: Dialect) -> (Cow<'static, str>, Vec<Value>) {
        let text = match (dialect, self.postgres) {
            (Dialect::Postgres, Some(sql)) => sql,
            _ => self.sqlite,
        };
        (text, self.args)
    }
}

fn arguments(args: Vec<Value>) -> Result<PgArguments> {
    let mut out = PgArguments::default();
    for arg in args {
        match arg {
            // SQLite would store it, PostgreSQL can't: both refuse it, as the request's mistake.
            Value::Text(Some(v)) if v.contains('\0') => return Err(Error::NulInText),
            Value::Text(v) => out.add(v),
            Value::Int(v) => out.add(v),
            Value::Real(v) => out.add(v),
            Value::Bool(v) => out.add(v),
            Value::Bytes(v) => out.add(v),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(out)
}

/// What runs statements: a transaction, or the read side of a store.
pub trait Sql: Send {
    /// The database behind it.
    fn dialect(&self) -> Dialect;
    /// Runs a statement; the number of rows it changed.
    fn execute(&mut self, stmt: Stmt) -> impl Future<Output = Result<u64>> + Send;
    /// Runs a query; all its rows.
    fn fetch_all(&mut self, stmt: Stmt) -> impl Future<Output = Result<Vec<Row>>> + Send;
    /// Runs a query; its first row.
    fn fetch_optional(&mut self, stmt: Stmt) -> impl Future<Output = Result<Option<Row>>> + Send {
        async move { Ok(self.fetch_all(stmt).await?.into_iter().next()) }
    }
    /// Runs a query that always yields a row.
    fn fetch_one(&mut self, stmt: Stmt) -> impl Future<Output = Result<Row>> + Send {
        async move { self.fetch_optional(stmt).await?.ok_or(Error::Sqlx(sqlx::Error::RowNotFound)) }
    }
    /// Whether somebody wants to know what changes: the audit, of the act that is under way.
    fn is_watched(&self) -> bool {
        false
    }
    /// Keeps a change for whoever wants to know it.
    fn note(&mut self, _change: Change) {}
}

/// The pools of one database.
#[derive(Clone, Debug)]
pub(crate) enum Pools {
    /// SQLite.
    Sqlite {
        file: Arc<File>,
        /// For single statements that only read.
        single: Lanes,
        /// For transactions that only read.
        read: Lanes,
        /// SQLite has one writer; a single lane queues for it fairly.
        write: Lanes,
        fuse: Option<Fuse>,
    },
    /// PostgreSQL.
    Postgres(Served),
}

/// Where a host may die that a test has put a fuse in: before each statement that writes, and on both sides of a commit.
async fn burn(fuse: &Option<Fuse>) {
    if let Some(fuse) = fuse {
        fuse.burn().await;
    }
}

/// How many statements a connection keeps prepared: more than the host has, those for lists of every kind aside.
const STATEMENTS: usize = 512;

impl Pools {
    /// Opens `sqlite://PATH` or `postgres://…`.
    pub(crate) async fn open(url: &str, options: &crate::Options) -> Result<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Pools::Postgres(Served::open(url, options.connections).await?));
        }
        let Some(path) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) else {
            return Err(Error::BadUrl(url.split("://").next().unwrap_or_default().to_owned()));
        };
        let (file, writer) = File::create(Path::new(path), options.sync_full).await?;
        let at_once = options.connections.clamp(1, 4);
        Ok(Pools::Sqlite {
            single: Lanes::new(file.clone(), at_once, Vec::new()),
            read: Lanes::new(file.clone(), at_once, Vec::new()),
            write: Lanes::new(file.clone(), 1, vec![writer]),
            file,
            fuse: options.fuse.clone(),
        })
    }

    /// Ends all connections.
    pub(crate) async fn close(&self) {
        match self {
            Pools::Sqlite { file, single, read, write, .. } => {
                single.close().await;
                read.close().await;
                // The writer comes last: it finds nothing more to copy, or copies it.
                file.close().await;
                write.close().await;
            }
            Pools::Postgres(served) => served.close().await,
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Pools::Sqlite { .. } => Dialect::Sqlite,
            Pools::Postgres(_) => Dialect::Postgres,
        }
    }

    pub(crate) async fn begin(&self, act: Option<Arc<Act>>, counter: Counter) -> Result<Tx> {
        let inner = match self {
            Pools::Sqlite { write, fuse, .. } => {
                burn(fuse).await;
                TxInner::Sqlite(write.begin("BEGIN IMMEDIATE").await?, fuse.clone())
            }
            Pools::Postgres(served) => TxInner::Postgres(served.begin("BEGIN").await?),
        };
        Ok(Tx::new(inner, act, counter))
    }
}

impl Pools {
    /// A transaction whose statements all see one state. It must not write.
    pub(crate) async fn begin_read(&self, counter: Counter) -> Result<Tx> {
        let inner = match self {
            Pools::Sqlite { read, .. } => TxInner::Sqlite(read.begin("BEGIN DEFERRED").await?, None),
            Pools::Postgres(served) => {
                TxInner::Postgres(served.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
            }
        };
        Ok(Tx::new(inner, None, counter))
    }
}

/// How many statements ran on a database, through whichever handle of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads outside a transaction; each statement sees the newest committed state.
#[derive(Clone, Debug)]
pub struct Reader(pub(crate) Arc<Reading>);

/// What readers share. They stand in many futures, which they keep small this way.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) pools: Pools,
    pub(crate) counter: Counter,
}

impl Sql for Reader {
    fn dialect(&self) -> Dialect {
        self.0.pools.dialect()
    }
    async fn execute(&mut self, stmt: Stmt) -> Result<u64> {
        self.0.counter.add();
        match &self.0.pools {
            Pools::Sqlite { write, fuse, .. } => {
                burn(fuse).await;
                let changed = write.take().await?.execute(stmt).await;
                burn(fuse).await;
                changed
            }
            Pools::Postgres(served) => served.execute(stmt).await,
        }
    }
    async fn fetch_all(&mut self, stmt: Stmt) -> Result<Vec<Row>> {
        self.0.counter.add();
        match &self.0.pools {
            Pools::Sqlite { write, .. } if stmt.writes() => write.take().await?.rows(stmt).await,
            Pools::Sqlite { single, .. } => single.take().await?.rows(stmt).await,
            Pools::Postgres(served) => served.rows(stmt).await,
        }
    }
    async fn fetch_optional(&mut self, stmt: Stmt) -> Result<Option<Row>> {
        match &self.0.pools {
            Pools::Sqlite { single, .. } if !stmt.writes() => {
                self.0.counter.add();
                single.take().await?.row(stmt).await
            }
            _ => Ok(self.fetch_all(stmt).await?.into_iter().next()),
        }
    }
}
