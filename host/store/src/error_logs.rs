//! What clients reported, and what went wrong in the host.

use quarterdeck_model::{Timestamp, UserId};
use serde_json::Value as Json;

use crate::error::Result;
use crate::set;
use crate::sql::{Row, Sql, Stmt};

/// An entry.
#[derive(Clone, Debug)]
pub struct ErrorLogRow {
    /// Its id, a UUID.
    pub id: String,
    /// When.
    pub created_at: Timestamp,
    /// `critical`, `error` or `warning`.
    pub severity: String,
    /// Which program.
    pub source: String,
    /// Whom it happened to; `None` for what concerns the host alone.
    pub user: Option<UserId>,
    /// Somebody has seen it.
    pub is_read: bool,
    /// Its user needs it no more.
    pub is_cleared: bool,
    /// What happened.
    pub message: String,
    /// The language that `context_env` and `traceback` speak.
    pub context_lang: String,
    /// Whatever the source found worth telling.
    pub context_env: Json,
    /// The request that failed.
    pub request_url: Option<String>,
    /// How it was answered.
    pub request_status: Option<i64>,
    /// Where in the program.
    pub traceback: Option<String>,
}

/// Which entries somebody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Every entry.
    All,
    /// Those of the members of a domain's projects.
    Domain(String),
    /// A user's own that aren't cleared.
    User(UserId),
}

impl Sight {
    /// The condition, and what is to be bound as `$1`.
    fn condition(&self) -> (&'static str, String) {
        match self {
            Self::All => ("$1 = ''", String::new()),
            Self::Domain(name) => (
                "user_id IN (SELECT m.user_id FROM project_members m JOIN projects p ON p.id = m.project_id \
                 WHERE p.domain_name = $1)",
                name.clone(),
            ),
            Self::User(id) => ("user_id = $1 AND NOT is_cleared", id.to_string()),
        }
    }
}

fn row(row: &Row) -> Result<ErrorLogRow> {
    Ok(ErrorLogRow {
        id: row.get("id")?,
        created_at: Timestamp(row.get("created_at")?),
        severity: row.get("severity")?,
        source: row.get("source")?,
        user: row.parse_opt("user_id")?,
        is_read: row.get("is_read")?,
        is_cleared: row.get("is_cleared")?,
        message: row.get("message")?,
        context_lang: row.get("context_lang")?,
        context_env: row.json("context_env")?,
        request_url: row.get("request_url")?,
        request_status: row.get("request_status")?,
        traceback: row.get("traceback")?,
    })
}

/// Adds an entry.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn insert<S: Sql>(sql: &mut S, entry: &ErrorLogRow) -> Result<()> {
    sql.execute(
        Stmt::new(
            "INSERT INTO error_logs (id, created_at, severity, source, user_id, is_read, is_cleared, message, \
             context_lang, context_env, request_url, request_status, traceback) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(&entry.id)
        .bind(entry.created_at.micros())
        .bind(&entry.severity)
        .bind(&entry.source)
        .bind(entry.user.map(|u| u.to_string()))
        .bind(entry.is_read)
        .bind(entry.is_cleared)
        .bind(&entry.message)
        .bind(&entry.context_lang)
        .bind(&entry.context_env)
        .bind(entry.request_url.clone())
        .bind(entry.request_status)
        .bind(entry.traceback.clone()),
    )
    .await?;
    Ok(())
}

/// A page of entries, newest first.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn page<S: Sql>(sql: &mut S, sight: &Sight, limit: i64, offset: i64) -> Result<Vec<ErrorLogRow>> {
    let (condition, bound) = sight.condition();
    let stmt = Stmt::assembled(format!(
        "SELECT * FROM error_logs WHERE {condition} ORDER BY created_at DESC, id DESC \
         LIMIT CAST($2 AS BIGINT) OFFSET CAST($3 AS BIGINT)"
    ));
    sql.fetch_all(stmt.bind(bound).bind(limit).bind(offset)).await?.iter().map(row).collect()
}

/// How many entries there are.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn count<S: Sql>(sql: &mut S, sight: &Sight) -> Result<i64> {
    let (condition, bound) = sight.condition();
    let stmt = Stmt::assembled(format!("SELECT COUNT(*) AS n FROM error_logs WHERE {condition}"));
    sql.fetch_one(stmt.bind(bound)).await?.get("n")
}

/// Notes that these entries were seen.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn mark_read<S: Sql>(sql: &mut S, ids: &[String]) -> Result<u64> {
    let among = set::among(sql.dialect(), "$2");
    let stmt = Stmt::assembled(format!("UPDATE error_logs SET is_read = $1 WHERE id {among}"));
    sql.execute(stmt.bind(true).bind(set::array(ids))).await
}

/// Clears an entry within sight, or one of a user's own that was cleared before; how many there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn clear<S: Sql>(sql: &mut S, sight: &Sight, id: &str) -> Result<u64> {
    let (condition, bound) = match sight {
        Sight::User(id) => ("user_id = $1", id.to_string()),
        sight => sight.condition(),
    };
    let stmt = Stmt::assembled(format!("UPDATE error_logs SET is_cleared = $2 WHERE {condition} AND id = $3"));
    sql.execute(stmt.bind(bound).bind(true).bind(id)).await
}

/// Drops entries from before `horizon`.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn drop_before<S: Sql>(sql: &mut S, horizon: Timestamp) -> Result<u64> {
    sql.execute(Stmt::new("DELETE FROM error_logs WHERE created_at < $1").bind(horizon.micros())).await
}
