//! Open connections to services of sessions.

use quarterdeck_model::{KernelId, SessionId, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// Names it.
    pub id: Uuid,
    /// The session.
    pub session: SessionId,
    /// The kernel.
    pub kernel: KernelId,
    /// The service.
    pub app: String,
    /// When something last passed.
    pub seen_at: Timestamp,
}

/// Writes connections as they are now. Those of sessions that are gone are passed over.
///
/// # Errors
/// Database errors.
pub async fn write<S: Sql>(sql: &mut S, rows: &[ConnectionRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let list: Vec<Value> = rows
        .iter()
        .map(|r| json!({"i": r.id, "s": r.session, "k": r.kernel, "p": set::clean(&r.app), "a": r.seen_at.0}))
        .collect();
    let stmt = Stmt::assembled(format!(
        "INSERT INTO app_connections (id, session_id, kernel_id, app, seen_at)
         SELECT x.i, x.s, x.k, x.p, x.a FROM {} WHERE EXISTS (SELECT 1 FROM sessions WHERE sessions.id = x.s)
         ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
        set::rows(sql.dialect(), "$1", &[("i", "text"), ("s", "text"), ("k", "text"), ("p", "text"), ("a", "bigint")])
    ));
    sql.execute(stmt.bind(Value::Array(list))).await?;
    Ok(())
}

/// Removes a connection.
///
/// # Errors
/// Database errors.
pub async fn remove<S: Sql>(sql: &mut S, id: Uuid) -> Result<()> {
    sql.execute(Stmt::new("DELETE FROM app_connections WHERE id = $1").bind(id.to_string())).await?;
    Ok(())
}

/// Whether there are connections without traffic since `before`.
///
/// # Errors
/// Database errors.
pub async fn any_before<S: Sql>(sql: &mut S, before: Timestamp) -> Result<bool> {
    let stmt = Stmt::new("SELECT 1 AS one FROM app_connections WHERE seen_at < $1 LIMIT 1").bind(before.0);
    Ok(sql.fetch_optional(stmt).await?.is_some())
}

/// Removes connections without traffic since `before`; their sessions.
///
/// # Errors
/// Database errors.
pub async fn remove_before<S: Sql>(sql: &mut S, before: Timestamp) -> Result<Vec<SessionId>> {
    let stmt = Stmt::new("DELETE FROM app_connections WHERE seen_at < $1 RETURNING session_id").bind(before.0);
    let rows = sql.fetch_all(stmt).await?;
    let mut sessions = rows.iter().map(|row| row.parse("session_id")).collect::<Result<Vec<SessionId>>>()?;
    sessions.sort();
    sessions.dedup();
    Ok(sessions)
}

/// Those of these sessions that have no connection.
///
/// # Errors
/// Database errors.
pub async fn without<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let stmt = Stmt::among(
        "SELECT id FROM sessions s WHERE id IN {list}
         AND NOT EXISTS (SELECT 1 FROM app_connections c WHERE c.session_id = s.id)",
        sessions,
    );
    let rows = sql.fetch_all(stmt).await?;
    rows.iter().map(|row| row.parse("id")).collect()
}
