//! `UPDATE`s that leave out what is to stay.

use crate::changes::{self, Watched};
use crate::error::Result;
use crate::sql::{Sql, Stmt, Value};

/// Assignments of one `UPDATE`, assembled from fixed column names and bound values.
#[derive(Debug)]
pub(crate) struct Update {
    table: &'static str,
    columns: Vec<&'static str>,
    args: Vec<Value>,
}

impl Update {
    pub(crate) fn new(table: &'static str) -> Self {
        Self { table, columns: Vec::new(), args: Vec::new() }
    }

    /// Assigns `value` to `column`.
    pub(crate) fn set(mut self, column: &'static str, value: impl Into<Value>) -> Self {
        self.columns.push(column);
        self.args.push(value.into());
        self
    }

    /// Assigns only when there is a value: `None` leaves the column unchanged.
    pub(crate) fn maybe<V: Into<Value>>(self, column: &'static str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.set(column, value),
            None => self,
        }
    }

    /// Changes the row of a watched table, and notes what it did to it; how many there were (0 or 1).
    ///
    /// # Errors
    /// Those of the statement.
    pub(crate) async fn run<S: Sql>(self, sql: &mut S, what: &Watched, key: impl Into<Value>) -> Result<u64> {
        debug_assert_eq!(self.table, what.table());
        let key = key.into();
        changes::execute(sql, what, what.row(key.clone()), self.filter(what.key(), key)).await
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The statement, for the rows whose `column` equals `key`.
    pub(crate) fn filter(self, column: &'static str, key: impl Into<Value>) -> Stmt {
        let list: Vec<String> = self.columns.iter().enumerate().map(|(i, c)| format!("{c} = ${}", i + 1)).collect();
        let sql = format!("UPDATE {} SET {} WHERE {column} = ${}", self.table, list.join(", "), self.columns.len() + 1);
        Stmt::assembled(sql).bind_all(self.args).bind(key)
    }
}
