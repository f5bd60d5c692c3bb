//! Rows, whichever database they came from.

use std::sync::Arc;

use rusqlite::types::{FromSql, FromSqlError, Value as Stored, ValueRef};
use sqlx::postgres::PgRow;
use sqlx::{Column as _, Postgres, Row as _, Type};

use crate::error::{Error, Result};

/// One result row of either database.
#[derive(Debug)]
pub enum Row {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From PostgreSQL.
    Postgres(PgRow),
}

/// A Rust type that a column reads as.
pub trait Cell: FromSql + for<'r> sqlx::Decode<'r, Postgres> + Type<Postgres> {}
impl<T> Cell for T where T: FromSql + for<'r> sqlx::Decode<'r, Postgres> + Type<Postgres> {}

impl Row {
    /// The column `name`, as `T` (`Option<T>` for a column that may be `NULL`).
    ///
    /// # Errors
    /// [`Error::Sqlx`] or [`Error::Sqlite`] when there is no such column or it holds another type: a bug of the caller.
    pub fn get<T: Cell>(&self, name: &str) -> Result<T> {
        Ok(match self {
            Row::Sqlite(row) => row.get(name)?,
            Row::Postgres(row) => row.try_get(name)?,
        })
    }

    /// A required JSON column.
    ///
    /// # Errors
    /// As [`Row::get`], and [`Error::Corrupt`] when the stored text is not what `T` expects.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let text: String = self.get(name)?;
        serde_json::from_str(&text)
            .map_err(|source| Error::Corrupt { column: name.to_owned(), reason: source.to_string() })
    }

    /// A JSON column that may be `NULL`.
    ///
    /// # Errors
    /// As [`Row::json`].
    pub fn json_opt<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let text: Option<String> = self.get(name)?;
        text.map(|t| {
            serde_json::from_str(&t)
                .map_err(|source| Error::Corrupt { column: name.to_owned(), reason: source.to_string() })
        })
        .transpose()
    }

    /// A required text column, parsed (ids, enumerations).
    ///
    /// # Errors
    /// As [`Row::get`], and [`Error::Corrupt`] when the text does not parse.
    pub fn parse<T>(&self, name: &str) -> Result<T>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let text: String = self.get(name)?;
        text.parse().map_err(|e: T::Err| Error::Corrupt { column: name.to_owned(), reason: e.to_string() })
    }

    /// A text column that may be `NULL`, parsed.
    ///
    /// # Errors
    /// As [`Row::parse`].
    pub fn parse_opt<T>(&self, name: &str) -> Result<Option<T>>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let text: Option<String> = self.get(name)?;
        text.map(|t| t.parse().map_err(|e: T::Err| Error::Corrupt { column: name.to_owned(), reason: e.to_string() }))
            .transpose()
    }

    /// Names of the columns, in order.
    pub fn columns(&self) -> Vec<String> {
        match self {
            Row::Sqlite(row) => (0..row.names.ends.len()).map(|i| row.names.at(i).to_owned()).collect(),
            Row::Postgres(row) => row.columns().iter().map(|c| c.name().to_owned()).collect(),
        }
    }
}

/// A row of SQLite, copied out of its statement, so that the connection is free while somebody looks at it.
#[derive(Clone, Debug)]
pub struct SqliteRow {
    names: Arc<Names>,
    cells: Box<[Stored]>,
}

impl SqliteRow {
    /// Copies the row that a statement is at; `names` are those of the rows before it, or will be those of the next ones.
    pub(super) fn copy(row: &rusqlite::Row<'_>, names: &mut Option<Arc<Names>>) -> rusqlite::Result<Self> {
        // Not before there is a row: only then the statement is surely of the schema that the file has now.
        let names = names.get_or_insert_with(|| Arc::new(Names::of(row.as_ref()))).clone();
        let cells = (0..names.ends.len()).map(|i| row.get(i)).collect::<rusqlite::Result<_>>()?;
        Ok(Self { names, cells })
    }

    fn get<T: FromSql>(&self, name: &str) -> rusqlite::Result<T> {
        let place = self.names.find(name).ok_or_else(|| rusqlite::Error::InvalidColumnName(name.to_owned()))?;
        let value = ValueRef::from(&self.cells[place]);
        T::column_result(value).map_err(|error| match error {
            FromSqlError::InvalidType => rusqlite::Error::InvalidColumnType(place, name.to_owned(), value.data_type()),
            FromSqlError::OutOfRange(number) => rusqlite::Error::IntegralValueOutOfRange(place, number),
            other => rusqlite::Error::FromSqlConversionFailure(place, value.data_type(), Box::new(other)),
        })
    }
}

/// The names of a result's columns, which its rows share. In one piece: they are made for each result.
#[derive(Debug, Default)]
pub(super) struct Names {
    text: String,
    /// Where each name ends, in bytes of `text`.
    ends: Vec<usize>,
}

impl Names {
    fn of(statement: &rusqlite::Statement<'_>) -> Self {
        let mut names = Self::default();
        for name in statement.column_names() {
            names.text.push_str(name);
            names.ends.push(names.text.len());
        }
        names
    }

    fn at(&self, place: usize) -> &str {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[place]]
    }

    /// Of several columns of one name the last one, as with PostgreSQL.
    fn find(&self, name: &str) -> Option<usize> {
        (0..self.ends.len()).rev().find(|place| self.at(*place) == name)
    }
}
