//! Reading a database of the reference: one snapshot of its tables, each row as a JSON document.
//!
//! PostgreSQL makes the documents, so that enumerations, arrays, addresses and instants of a schema that isn't ours need no
//! types of ours, and a column that a release lacks is simply not there.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::error::{Error, Result};
use crate::schema::quoted;

/// An open database of the reference, in one snapshot that nobody writes to.
#[derive(Debug)]
pub struct Source {
    connection: PgConnection,
    tables: BTreeSet<String>,
}

impl Source {
    /// Connects to `postgres://…` and takes a snapshot.
    ///
    /// # Errors
    /// [`Error::BadUrl`] for another scheme; [`Error::Sqlx`].
    pub async fn open(url: &str) -> Result<Self> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            return Err(Error::BadUrl(scheme.to_owned()));
        }
        let mut connection = PgConnection::connect(url).await?;
        // Documents look alike whatever the server's settings are.
        for statement in
            ["SET TIME ZONE 'UTC'", "SET bytea_output = 'hex'", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"]
        {
            sqlx::query(statement).execute(&mut connection).await?;
        }
        let list = "SELECT CAST(table_name AS TEXT) AS name FROM information_schema.tables \
                    WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'";
        let rows = sqlx::query(list).fetch_all(&mut connection).await?;
        let tables = rows.iter().map(|row| row.try_get("name")).collect::<std::result::Result<_, _>>()?;
        Ok(Self { connection, tables })
    }

    /// The tables there are.
    pub fn tables(&self) -> &BTreeSet<String> {
        &self.tables
    }

    /// All rows of a table, in an order that stays the same; none of a table that isn't there.
    ///
    /// # Errors
    /// [`Error::Sqlx`]; [`Error::Corrupt`] for a document that can't be read.
    pub async fn rows(&mut self, table: &str) -> Result<Vec<Json>> {
        if !self.tables.contains(table) {
            return Ok(Vec::new());
        }
        // A table without a key is in the order of its documents.
        let query = format!("SELECT CAST(to_jsonb(t) AS TEXT) AS document FROM {} t ORDER BY 1", quoted(table));
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut self.connection).await?;
        rows.iter()
            .map(|row| {
                let text: String = row.try_get("document")?;
                serde_json::from_str(&text)
                    .map_err(|e| Error::Corrupt { column: table.to_owned(), reason: e.to_string() })
            })
            .collect()
    }
}
