//! SQLite within this process.
//!
//! A statement is a function call: what is known to be short runs on the task that asks, without the way to another thread
//! and back, which costs more than most statements do. What is long, or not known yet, runs on a thread for blocking work
//! (see [`costs`]). Statements don't keep a thread waiting for a lock that another process has: the task sleeps.
//!
//! What is committed stands in the file's log (WAL) first. SQLite would copy the log into the file in the middle of a
//! commit now and then, with several waits for the disk; here that happens beside (see [`wal`]).

mod costs;
mod lanes;
#[cfg(test)]
mod tests;
mod wal;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{ErrorCode, OpenFlags, Statement, ffi};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};

use super::row::SqliteRow;
use super::{Dialect, STATEMENTS, Stmt, Value};
use crate::error::{Error, Result};

use costs::Costs;
pub(crate) use lanes::{Lane, Lanes};
use wal::Wal;

/// How long a lock that another process has is waited for, in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest pause before a lock is tried again.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How long those who read are waited for while nobody writes, for the log to begin anew.
const READERS: Duration = Duration::from_millis(250);

/// The log's file isn't kept larger than this once it is copied, in bytes.
const LOG_KEPT: u32 = 64 << 20;

/// A database file of this host, and how it is opened.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    sync_full: bool,
    costs: Costs,
    wal: Wal,
}

impl File {
    /// Opens the file, or makes it; the first connection.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub(crate) async fn create(path: &Path, sync_full: bool) -> Result<(Arc<Self>, Connection)> {
        let file = Arc::new(Self { path: path.to_owned(), sync_full, costs: Costs::default(), wal: Wal::default() });
        let connection = file.clone().open_beside(OpenFlags::SQLITE_OPEN_CREATE).await?;
        Ok((file, connection))
    }

    /// A further connection.
    ///
    /// # Errors
    /// [`Error::Open`], for instance because the file is gone.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Connection> {
        self.clone().open_beside(OpenFlags::empty()).await
    }

    async fn open_beside(self: Arc<Self>, how: OpenFlags) -> Result<Connection> {
        let opened = tokio::task::spawn_blocking(move || {
            self.open(how).map_err(|source| Error::Open { path: self.path.clone(), source })
        });
        opened.await?
    }

    /// A connection of the driver that knows migrations. Whoever asks for it closes it.
    ///
    /// # Errors
    /// [`Error::Sqlx`] when the file can't be opened.
    pub(crate) async fn for_migrations(&self) -> Result<SqliteConnection> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .synchronous(if self.sync_full { SqliteSynchronous::Full } else { SqliteSynchronous::Normal })
            .foreign_keys(true)
            .busy_timeout(PATIENCE);
        Ok(SqliteConnection::connect_with(&options).await?)
    }

    /// Waits until no other process has this lock, which goes with what is returned. It is the directory that is locked: a
    /// handle of the file itself would take SQLite's own locks along when it is closed.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) async fn lock(&self) -> Result<std::fs::File> {
        let path = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let locked = tokio::task::spawn_blocking(move || {
            let lock = || {
                let dir = std::fs::File::open(&path)?;
                dir.lock()?;
                Ok(dir)
            };
            lock().map_err(|source| Error::File { path: path.clone(), source })
        });
        locked.await?
    }

    /// Whether this is the file at `path`, by whatever name.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let of = |path: &Path| std::fs::canonicalize(path).ok();
        of(path).is_some_and(|path| of(&self.path) == Some(path))
    }

    /// Whether the commit of changes that comes now waits for the disk. Whoever asks makes it.
    fn waits_to_commit(&self) -> bool {
        self.wal.begins_anew() || self.sync_full
    }

    /// Ends what copies the log. What is copied already stays so; the last connection to the file copies the rest.
    pub(crate) async fn close(self: &Arc<Self>) {
        let file = self.clone();
        let _ = tokio::task::spawn_blocking(move || file.wal.close()).await;
    }

    /// Opens the file; blocks.
    fn open(&self, how: OpenFlags) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | how;
        let mut connection = rusqlite::Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(PATIENCE)?;
        let pragmas = format!(
            "PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; PRAGMA synchronous = {}; PRAGMA temp_store = MEMORY;
             PRAGMA journal_size_limit = {LOG_KEPT}; PRAGMA wal_autocheckpoint = 0",
            if self.sync_full { "FULL" } else { "NORMAL" }
        );
        let since = Instant::now();
        // A file that is made a WAL one doesn't ask the time-out that others get.
        while let Err(error) = connection.execute_batch(&pragmas) {
            if !is_busy(&error) || since.elapsed() >= PATIENCE {
                return Err(error);
            }
            std::thread::sleep(LONGEST_PAUSE);
        }
        // It isn't an error for SQLite when there is no log; here who reads must not hold up who writes.
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        if mode != "wal" {
            let why = format!("a write-ahead log is impossible there, the journal's mode is `{mode}`");
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(why)));
        }
        // From now on it is the tasks that wait, not the threads.
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        wal::watch(&mut connection);
        Ok(Connection { inner: Box::new(Mutex::new(connection)) })
    }
}

/// A statement to run.
#[derive(Debug)]
struct Job {
    text: Cow<'static, str>,
    args: Vec<Value>,
    want: Want,
}

/// What is wanted of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// The number of rows it changed.
    Changes,
    /// Its rows.
    Rows,
    /// Its first row.
    First,
}

/// What a statement did.
#[derive(Debug, Default)]
struct Answer {
    /// The number of rows it changed; for one that only reads, 0.
    changed: u64,
    rows: Vec<SqliteRow>,
}

impl Job {
    /// # Errors
    /// [`Error::NulInText`].
    fn new(stmt: Stmt, want: Want) -> Result<Self> {
        let (text, args) = stmt.into_parts(Dialect::Sqlite);
        // SQLite would store it, PostgreSQL can't: both refuse it, as the request's mistake.
        if args.iter().any(|arg| matches!(arg, Value::Text(Some(text)) if text.contains('\0'))) {
            return Err(Error::NulInText);
        }
        Ok(Self { text, args, want })
    }

    /// How large its parameters are, in bytes, fixed-size ones aside.
    fn size(&self) -> usize {
        let sizes = self.args.iter().map(|arg| match arg {
            Value::Text(Some(text)) => text.len(),
            Value::Bytes(Some(bytes)) => bytes.len(),
            _ => 0,
        });
        sizes.sum()
    }
}

/// A connection to the file.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Never locked: whoever has the connection has it alone. Futures that are shared may hold it this way, and are small.
    inner: Box<Mutex<rusqlite::Connection>>,
}

impl Connection {
    /// A number that is another one each time that somebody else has written to the file. Looks at memory that the
    /// processes share.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub(crate) fn data_version(&mut self) -> Result<i64> {
        let mut statement = self.inner.get_mut().prepare_cached("PRAGMA data_version")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    fn run(&mut self, job: &Job) -> rusqlite::Result<Answer> {
        let connection = &*self.inner.get_mut();
        let mut statement = connection.prepare_cached(&job.text)?;
        bind(&mut statement, &job.args)?;
        let writes = !statement.readonly();
        let (mut answer, mut names) = (Answer::default(), None);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            match job.want {
                Want::Changes => {}
                Want::Rows => answer.rows.push(SqliteRow::copy(row, &mut names)?),
                Want::First => {
                    answer.rows.push(SqliteRow::copy(row, &mut names)?);
                    break;
                }
            }
        }
        drop(rows);
        if writes {
            answer.changed = connection.changes();
        }
        Ok(answer)
    }

    fn is_in_transaction(&mut self) -> bool {
        !self.inner.get_mut().is_autocommit()
    }

    /// Undoes a transaction that nobody ended. Whether the connection can be used again.
    fn settle(&mut self) -> bool {
        if self.is_in_transaction()
            && let Err(error) = self.inner.get_mut().execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a transaction couldn't be undone: its connection is given up");
        }
        !self.is_in_transaction()
    }

    /// Copies the log into the file as far as nobody who reads needs it as it is; blocks. `alone`: nobody writes, so that
    /// those who read are waited for, a moment, for the log to begin anew. The log's pages, and those of them that are in
    /// the file now.
    fn copy_wal(&mut self, alone: bool) -> rusqlite::Result<(u32, u32)> {
        let connection = self.inner.get_mut();
        // Both are -1 where there is no log.
        let pages = |number: i64| u32::try_from(number).unwrap_or_default();
        let how = if alone { "PRAGMA wal_checkpoint(RESTART)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        connection.busy_timeout(if alone { READERS } else { Duration::ZERO })?;
        let copied = connection.query_row(how, [], |row| Ok((pages(row.get(1)?), pages(row.get(2)?))));
        connection.busy_timeout(Duration::ZERO)?;
        copied
    }
}

/// Binds `$n`, which SQLite takes for names in the order in which they occur, to the value of that number. Not each value
/// need be used.
fn bind(statement: &mut Statement<'_>, args: &[Value]) -> rusqlite::Result<()> {
    for place in 1..=statement.parameter_count() {
        let name = statement.parameter_name(place).unwrap_or_default();
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let Some(arg) = number.and_then(|number| args.get(number.checked_sub(1)?)) else {
            return Err(rusqlite::Error::InvalidParameterName(name.to_owned()));
        };
        match arg {
            Value::Text(v) => statement.raw_bind_parameter(place, v.as_deref()),
            Value::Int(v) => statement.raw_bind_parameter(place, v),
            Value::Real(v) => statement.raw_bind_parameter(place, v),
            Value::Bool(v) => statement.raw_bind_parameter(place, v),
            Value::Bytes(v) => statement.raw_bind_parameter(place, v.as_deref()),
        }?;
    }
    Ok(())
}

/// Whether another connection has a lock that this statement needs. A read transaction that wants to write but sees an old
/// state is busy for ever, so it isn't meant.
fn is_busy(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|e| e.code == ErrorCode::DatabaseBusy && e.extended_code != ffi::SQLITE_BUSY_SNAPSHOT)
}
