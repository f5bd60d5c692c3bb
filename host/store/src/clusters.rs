//! The key pairs by which the kernels of a session reach each other.

use std::collections::HashMap;

use quarterdeck_model::SessionId;

use crate::error::Result;
use crate::set;
use crate::sql::{Sql, Stmt};

/// The key pairs of those of these sessions that have one: (public, private).
///
/// # Errors
/// Database errors.
pub async fn keys<S: Sql>(sql: &mut S, sessions: &[SessionId]) -> Result<HashMap<SessionId, (String, String)>> {
    if sessions.is_empty() {
        return Ok(HashMap::new());
    }
    let stmt = Stmt::assembled(format!(
        "SELECT session_id, public_key, private_key FROM cluster_keys WHERE session_id {}",
        set::among(sql.dialect(), "$1")
    ));
    let rows = sql.fetch_all(stmt.bind(set::array(sessions))).await?;
    rows.iter().map(|row| Ok((row.parse("session_id")?, (row.get("public_key")?, row.get("private_key")?)))).collect()
}

/// Gives a session a key pair, unless it has one; the one that it has then.
///
/// # Errors
/// Database errors.
pub async fn keep<S: Sql>(sql: &mut S, session: SessionId, public: &str, private: &str) -> Result<(String, String)> {
    let stmt = Stmt::new(
        "INSERT INTO cluster_keys (session_id, public_key, private_key) VALUES ($1, $2, $3)
         ON CONFLICT (session_id) DO NOTHING",
    );
    sql.execute(stmt.bind(session.to_string()).bind(public).bind(private)).await?;
    let stmt = Stmt::new("SELECT public_key, private_key FROM cluster_keys WHERE session_id = $1");
    let row = sql.fetch_one(stmt.bind(session.to_string())).await?;
    Ok((row.get("public_key")?, row.get("private_key")?))
}

/// Forgets the key pairs of sessions that have ended.
///
/// # Errors
/// Database errors.
pub async fn forget_ended<S: Sql>(sql: &mut S) -> Result<u64> {
    sql.execute(Stmt::new(
        "DELETE FROM cluster_keys WHERE session_id IN (
             SELECT id FROM sessions WHERE status IN ('TERMINATED', 'CANCELLED') AND id IN (SELECT session_id FROM cluster_keys))",
    ))
    .await
}
