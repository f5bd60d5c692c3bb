//! The shared configuration tree: one row a key, components percent-quoted and joined by `/`.

use crate::changes::{self, CONFIG, Rows};
use crate::error::Result;
use crate::sql::{Dialect, Row, Sql, Stmt};

/// A key below `$1`: the key itself, or one of its descendants. `LIKE` would take `_` and `%` in keys for wildcards.
macro_rules! subtree {
    ($head:literal) => {
        concat!($head, " WHERE name = $1 OR substr(name, 1, length($1) + 1) = $1 || '/'")
    };
}

fn pair(row: &Row) -> Result<(String, String)> {
    Ok((row.get("name")?, row.get("value")?))
}

fn pairs_json(pairs: &[(String, String)]) -> serde_json::Value {
    pairs.iter().map(|(name, value)| serde_json::json!([name, value])).collect()
}

/// The rows of these keys.
fn named(dialect: Dialect, pairs: &[(String, String)]) -> Rows {
    let condition = match dialect {
        Dialect::Sqlite => "name IN (SELECT value FROM json_each($1))",
        Dialect::Postgres => "name IN (SELECT jsonb_array_elements_text(CAST($1 AS jsonb)))",
    };
    // No stored text has a NUL, and PostgreSQL couldn't read a list that has.
    let names = pairs.iter().map(|(name, _)| name.as_str()).filter(|name| !name.contains('\0'));
    Rows::with(condition, serde_json::Value::from(names.collect::<Vec<_>>()))
}

/// The value of one key.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, key: &str) -> Result<Option<String>> {
    let row = sql.fetch_optional(Stmt::new("SELECT value FROM config WHERE name = $1").bind(key)).await?;
    row.map(|r| r.get("value")).transpose()
}

/// Key and value of `key` and of everything below it.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn subtree<S: Sql>(sql: &mut S, key: &str) -> Result<Vec<(String, String)>> {
    sql.fetch_all(Stmt::new(subtree!("SELECT name, value FROM config")).bind(key)).await?.iter().map(pair).collect()
}

/// The whole tree.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn all<S: Sql>(sql: &mut S) -> Result<Vec<(String, String)>> {
    sql.fetch_all(Stmt::new("SELECT name, value FROM config")).await?.iter().map(pair).collect()
}

/// Writes keys over whatever they hold.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set<S: Sql>(sql: &mut S, pairs: &[(String, String)]) -> Result<()> {
    let stmt = Stmt::dialect(
        "INSERT INTO config (name, value) SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') \
         FROM json_each($1) WHERE true ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        "INSERT INTO config (name, value) SELECT e ->> 0, e ->> 1 FROM jsonb_array_elements(CAST($1 AS jsonb)) AS e \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    );
    changes::execute(sql, &CONFIG, named(sql.dialect(), pairs), stmt.bind(pairs_json(pairs))).await?;
    Ok(())
}

/// Writes those keys that hold nothing yet; how many.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn set_absent<S: Sql>(sql: &mut S, pairs: &[(String, String)]) -> Result<u64> {
    let stmt = Stmt::dialect(
        "INSERT INTO config (name, value) SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') \
         FROM json_each($1) WHERE true ON CONFLICT (name) DO NOTHING",
        "INSERT INTO config (name, value) SELECT e ->> 0, e ->> 1 FROM jsonb_array_elements(CAST($1 AS jsonb)) AS e \
         ON CONFLICT (name) DO NOTHING",
    );
    changes::execute(sql, &CONFIG, named(sql.dialect(), pairs), stmt.bind(pairs_json(pairs))).await
}

/// Removes one key; its children stay.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete<S: Sql>(sql: &mut S, key: &str) -> Result<u64> {
    let stmt = Stmt::new("DELETE FROM config WHERE name = $1").bind(key);
    changes::execute(sql, &CONFIG, CONFIG.row(key), stmt).await
}

/// Removes a key and everything below it.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete_subtree<S: Sql>(sql: &mut S, key: &str) -> Result<u64> {
    let rows = Rows::with("name = $1 OR substr(name, 1, length($1) + 1) = $1 || '/'", key);
    changes::execute(sql, &CONFIG, rows, Stmt::new(subtree!("DELETE FROM config")).bind(key)).await
}
