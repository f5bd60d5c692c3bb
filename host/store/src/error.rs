//! What can go wrong with the database.

use rusqlite::{ErrorCode, ffi};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no database that we know.
    #[error("unsupported database scheme `{0}`: use sqlite://PATH or postgres://…")]
    BadUrl(String),
    /// The driver or the database refused. Where only this one is named, SQLite says [`Error::Sqlite`].
    #[error("database: {0}")]
    Sqlx(#[from] sqlx::Error),
    /// SQLite refused.
    #[error("database: {}", told(.0))]
    Sqlite(#[from] rusqlite::Error),
    /// SQLite can't open its file, or not as it must be.
    #[error("database {}: {}", .path.display(), told(.source))]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The thread on which SQLite ran a statement ended without an answer: the host is ending, or there is a bug.
    #[error("database: {0}")]
    Thread(#[from] tokio::task::JoinError),
    /// The transaction is undone: a statement of it wasn't waited for, or SQLite undid it when one failed.
    #[error("database: the transaction was undone before its end")]
    GivenUp,
    /// A migration failed, or the database was migrated by a newer release.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Rows changed in between; the same transaction may succeed when tried again.
    #[error("conflict with another transaction over {0}")]
    Conflict(&'static str),
    /// A text has a NUL character, which no database text can hold.
    #[error("a text must not contain a NUL character")]
    NulInText,
    /// A file can't be read, written or locked: a backup, or the directory of a database.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no backup that this release can read.
    #[error("{} is no backup that this release can read: {reason}", .path.display())]
    NoBackup {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A restore needs an empty database; this table has rows.
    #[error("the database is in use: the table `{0}` has rows")]
    NotEmpty(&'static str),
    /// A stored value is not what this release writes.
    #[error("column `{column}` holds something unexpected: {reason}")]
    Corrupt {
        /// The column.
        column: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Which rule of the schema a statement broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A unique or primary key exists already.
    Unique,
    /// A referenced row is missing, or the row is still referenced.
    ForeignKey,
    /// A required value is missing.
    NotNull,
    /// A value is outside its range.
    Check,
}

/// What SQLite says, with its number for what isn't the statement's own fault: the words alone leave open what went wrong.
fn told(error: &rusqlite::Error) -> String {
    match error.sqlite_error() {
        Some(e) if e.code != ErrorCode::ConstraintViolation => format!("{error} (SQLite's code {})", e.extended_code),
        _ => error.to_string(),
    }
}

impl Error {
    /// The rule of the schema that was broken, with the database's name for it.
    pub fn violation(&self) -> Option<(Violation, String)> {
        match self {
            Error::Sqlx(sqlx::Error::Database(e)) => {
                let kind = match e.kind() {
                    sqlx::error::ErrorKind::UniqueViolation => Violation::Unique,
                    sqlx::error::ErrorKind::ForeignKeyViolation => Violation::ForeignKey,
                    sqlx::error::ErrorKind::NotNullViolation => Violation::NotNull,
                    sqlx::error::ErrorKind::CheckViolation => Violation::Check,
                    _ => return None,
                };
                Some((kind, e.constraint().map_or_else(|| e.message().to_owned(), str::to_owned)))
            }
            Error::Sqlite(error @ rusqlite::Error::SqliteFailure(e, _)) => {
                let kind = match e.extended_code {
                    ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => Violation::Unique,
                    ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Violation::ForeignKey,
                    ffi::SQLITE_CONSTRAINT_NOTNULL => Violation::NotNull,
                    ffi::SQLITE_CONSTRAINT_CHECK => Violation::Check,
                    _ => return None,
                };
                // SQLite's message names the columns; its constraints have no other name.
                Some((kind, error.to_string()))
            }
            _ => None,
        }
    }

    /// Whether the same transaction may succeed when tried again.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Sqlx(sqlx::Error::Database(e)) => {
                matches!(e.code().as_deref(), Some("40001" | "40P01" | "5" | "6" | "261" | "517"))
            }
            Error::Sqlite(e) | Error::Open { source: e, .. } => {
                matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
            }
            Error::Conflict(_) => true,
            Error::Sqlx(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => true,
            _ => false,
        }
    }
}
